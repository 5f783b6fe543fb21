"""Networks, data and monitors of one's own, given as a README reader would give them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY, TINY_NIMA, Cli

WORDS = [word for word in TINY if not word.startswith("net.")] + ["gamma=0", "epochs=1"]

PACKAGE = """
import numpy as np
from torch import nn
from torch.nn import functional as F

from datamodules.pairs import PairsDataModule
from datamodules.sample import SamplePairs


class Net(nn.Module):
    def __init__(self, scale: int = 2, width: int = 4):
        super().__init__()
        self.scale = scale
        self.convs = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1))

    def forward(self, lr):
        return self.convs(F.interpolate(lr, scale_factor=self.scale))


class Fixed(Net):
    def __init__(self, width: int = 4):
        super().__init__(2, width)


class Mine(SamplePairs):
    description = "mine"


class Empty(PairsDataModule):
    description = "nothing"

    def photos(self, split, degradation):
        return self.in_memory([], [], degradation)
"""


@pytest.fixture
def package(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A package in the working directory that holds the module `parts`; no other test knows it."""
    name = f"package_{abs(hash(request.node.name)) % 10**8}"
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    (folder / name / "parts.py").write_text(PACKAGE)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
    if str(folder) in sys.path:
        sys.path.remove(str(folder))


@pytest.mark.slow
def test_a_class_alone_replaces_a_network(cli: Cli, package: str) -> None:
    words = [*WORDS, f"net._target_={package}.parts.Net", f"trusted=[{package}]"]
    done = cli(*words, "+net.width=3", "name=a")
    assert done.code == 0, done.err
    refused = cli(*words, "net.num_features=8", "name=b")
    assert refused.err == (
        "error: net.num_features: Net has no such argument; allowed are scale, width\n"
    )
    shown = cli(*words, "--help")
    assert f"{package}.parts.Net" in shown.out
    assert "num_blocks" not in shown.out


@pytest.mark.slow
def test_a_class_without_scale_is_told_what_to_leave_out(cli: Cli, package: str) -> None:
    words = [*WORDS, f"net._target_={package}.parts.Fixed", f"trusted=[{package}]"]
    refused = cli(*words, "name=a")
    reason = "Fixed has no such argument; allowed are width; ~net.scale removes it"
    assert refused.err == f"error: net.scale: {reason}\n"
    refused = cli(*words, "~net.scale", "scale=3", "name=a")
    assert refused.err.splitlines()[-1] == "error: scale=3: this Fixed is for x2"
    done = cli(*words, "~net.scale", "name=a")
    assert done.code == 0, done.err


def test_the_optimizer_alone_is_replaced(cli: Cli) -> None:
    done = cli(*TINY, "gamma=0", "optim.optimizer._target_=torch.optim.SGD", "name=a")
    assert "no such argument" not in done.err  # betas are Adam's


@pytest.mark.slow
def test_training_and_checkpoints_ask_to_trust_the_same(cli: Cli, package: str) -> None:
    words = [*WORDS, f"net._target_={package}.parts.Net", "name=a"]
    assert f"trusted=[{package}] allows it" in cli(*words).err
    own_data = f"data._target_={package}.parts.Mine"
    assert cli(*words, f"trusted=[{package}]", own_data).code == 0
    refused = cli("evaluate", "checkpoint=outputs/sample_edsr/a")
    assert f"(trusted=[{package}], if you trust its code)" in refused.err
    assert cli(*TINY, "gamma=0", own_data, "name=b").code == 0
    refused = cli("evaluate", "checkpoint=outputs/sample_edsr/b")
    assert f"{package}.parts.Mine; trusted=[{package}] allows it" in refused.err


def test_data_without_photos_are_said_to_have_none(cli: Cli, package: str) -> None:
    done = cli(*TINY, "gamma=0", f"data._target_={package}.parts.Empty", "name=a")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "error: data: there are no photos to train on"


@pytest.mark.parametrize("monitor", ["val/psnrr", "psnr", "val/score", "val/psnr/x2"])
def test_monitors_that_do_not_exist_are_named_before_training(cli: Cli, monitor: str) -> None:
    done = cli(*TINY, "gamma=0", "name=a", f"callbacks.checkpoint.monitor={monitor}")
    assert done.code == 2
    expected = f"callbacks.checkpoint.monitor={monitor}: no such metric; there are val/l2, val/loss"
    assert expected in done.err
    assert not Path("outputs").exists()


def test_monitors_of_scorers_are_named_before_training(cli: Cli) -> None:
    done = cli(*TINY_NIMA, "name=a", "callbacks.checkpoint.monitor=val/psnr")
    assert done.code == 2
    assert "no such metric; there are val/accuracy, val/emd, val/emd_batch" in done.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize("monitor", ["val/l2", "val/psnr_bicubic", "train/loss"])
def test_monitors_that_exist_are_taken(cli: Cli, monitor: str) -> None:
    done = cli(*TINY, "gamma=0", "name=a", "epochs=1", f"callbacks.checkpoint.monitor={monitor}")
    assert done.code == 0, done.err

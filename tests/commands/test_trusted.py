"""Networks of the user's own, in a module that the configuration trusts."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_modules.checkpoint import load_network, load_scorer
from tests.conftest import TINY, TINY_NIMA, Cli, launch

# Computes with values in its constructor, as SwinIR and others do for their drop rates.
MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, scale: int = 2, width: int = 4, rates: dict | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.body = nn.Conv2d(3, width, 3, padding=1)
        last = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.up = nn.Sequential(last, nn.PixelShuffle(scale))

    def forward(self, lr):
        return self.up(torch.relu(self.body(lr)))


class Forgetful(Net):
    def __init__(self, scale: int = 2, width: int = 4, pretrained: str = "") -> None:
        super().__init__(scale, width if pretrained else 2 * width)


class Scaleless(nn.Module):
    def __init__(self, scale: int = 2) -> None:
        super().__init__()
"""
WORDS = [word for word in TINY if not word.startswith(("net.", "callbacks.photo_table"))]
OWN = ["~net.num_blocks", "~net.num_features", "~net.res_scale", "gamma=0"]


@pytest.fixture
def module(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A module in the working directory, with a name that no other test has imported."""
    name = f"own_{abs(hash(request.node.name)) % 10**8}"
    (folder / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))


@pytest.mark.slow
def test_a_network_of_ones_own_goes_through_every_command(
    cli: Cli, module: str, scorer_file: Path
) -> None:
    trusted = f"trusted=[{module}]"
    net = [f"net._target_={module}.Net", *OWN]
    done = cli(*WORDS, *net, trusted, "name=a")
    assert done.code == 0, done.err
    best = "outputs/sample_edsr/a/checkpoints/best.ckpt"
    assert Path("outputs/sample_edsr/a/images/photos.json").exists()
    loaded, record = load_network(best, trusted=[module])
    assert record.net == {"_target_": f"{module}.Net", "scale": 2}
    assert loaded.scale == 2

    raters = [f"scorer.checkpoint={scorer_file}", "judge.checkpoint=null", "data.limit=1"]
    photo = "input=outputs/sample_edsr/a/images/crops/coffee_x2_lr.png"
    commands = {
        "evaluate": [f"checkpoint={best}", *raters],
        "interpolate": [f"checkpoints=[{best},{best}]", "steps=2", *raters],
        "enhance": [f"checkpoint={best}", photo],
        "export": [f"checkpoint={best}", "output=own.safetensors"],
    }
    for command, words in commands.items():
        refused = cli(command, *words)
        assert refused.code == 2, refused.err
        assert f"trusted=[{module}]" in refused.err
        assert len(refused.err.strip().splitlines()) == 1
        done = cli(command, *words, trusted)
        assert done.code == 0, done.err
    assert load_network("own.safetensors", trusted=[module])
    with pytest.raises(ValueError, match=f"asks for {module}.Net; only networks"):
        load_network("own.safetensors")

    assert "already finished" in cli(*WORDS, *net, trusted, "name=a").out
    more = cli(*WORDS, *net, trusted, "name=a", "resume=true", "epochs=3")
    assert more.code == 0, more.err
    assert cli(*WORDS, *net, trusted, "name=b", f"init_from={best}").code == 0


@pytest.mark.slow
def test_a_sweep_takes_networks_of_ones_own(cli: Cli, module: str) -> None:
    words = [*WORDS, "callbacks.photo_table=null", *OWN, f"net._target_={module}.Net"]
    done = cli("-m", *words, f"trusted=[{module}]", "+net.width=2,3", "epochs=1")
    assert done.code == 0, done.err
    assert len(list(Path("outputs/sweeps").rglob("result.json"))) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["net._target_={module}.Net"], "trusted=[{module}] allows it"),
        (["net._target_=torch.nn.PixelShuffle"], "trusted=[torch] allows it"),
        (["net._target_={module}.Net", "trusted=[json]"], "trusted=[{module}]"),
        (["net._target_={module}.Absent", "trusted=[{module}]"], "cannot be imported"),
        (["net._target_={module}.Net", "trusted={module}"], "trusted={module}: should be a valid"),
        (["net._target_={module}.Net", "trusted=[__main__]"], "trusted: __main__"),
        (["trusted=[no_such_module]"], "no module named no_such_module"),
        (["trusted=[a/b.py]"], "a/b.py is not the name of a module"),
        (
            ["net._target_={module}.Net", "trusted=[{module}]", "+net.rates={{1:2}}"],
            "net.rates: a checkpoint can store only",
        ),
        (
            ["net._target_={module}.Net", "trusted=[{module}]", "+net.rates._target_=a.B"],
            "net.rates: is an object that Hydra builds",
        ),
        (["net._target_={module}.Net", "trusted=[{module}]", "+net._args_=[2]"], "net._args_"),
        (["net._target_={module}.Scaleless", "trusted=[{module}]"], "has no `scale`"),
        (
            ["net._target_={module}.Forgetful", "trusted=[{module}]", "+net.pretrained=x"],
            "its checkpoints could not be loaded again: not the weights of this Forgetful",
        ),
    ],
)  # fmt: skip
def test_what_could_not_be_loaded_again_is_refused_before_training(
    cli: Cli, module: str, words: list[str], reason: str
) -> None:
    given = [word.format(module=module) for word in words]
    done = cli(*WORDS, *OWN, *given, "name=a")
    assert done.code == 2, done.out
    assert reason.format(module=module) in done.err
    assert "Traceback" not in done.err
    assert not Path("outputs/sample_edsr/a/run.json").exists()


HOARDERS = """
from lightning.pytorch.callbacks import Callback
from lightning_modules.enhancement import EnhancementModule


class Plain(EnhancementModule):
    def __init__(self, **options):
        super().__init__(**options)


class Hoarder(EnhancementModule):
    def __init__(self, **options):
        super().__init__(**options)
        self.save_hyperparameters()


class Keeper(Callback):
    def state_dict(self):
        return {"kept": self}
"""


@pytest.mark.filterwarnings("ignore:Attribute .* is an instance of `nn.Module`:UserWarning")
@pytest.mark.slow
def test_states_that_could_not_be_read_again_are_refused_before_training(
    cli: Cli, folder: Path, module: str
) -> None:
    (folder / f"{module}.py").write_text(HOARDERS)
    words = [*TINY, "gamma=0", "epochs=1"]
    for words_of_one, name in (
        ([f"model._target_={module}.Hoarder"], "Hoarder"),
        ([f"+callbacks.mine._target_={module}.Keeper"], "Keeper"),
    ):
        done = cli(*words, *words_of_one, "name=a", "overwrite=true")
        assert done.code == 2, done.out
        assert "could not be loaded again" in done.err
        assert f"({name})" in done.err
        assert "epoch 1" not in done.out
        assert not list(Path("outputs/sample_edsr/a/checkpoints").glob("*"))
    done = cli(*words, f"model._target_={module}.Plain", "name=b")
    assert done.code == 0, done.err
    assert len(list(Path("outputs/sample_edsr/b/checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_a_scorer_of_ones_own_class_keeps_its_class(cli: Cli, folder: Path, module: str) -> None:
    (folder / f"{module}.py").write_text(
        "from networks.nima import NIMA\n\n\n\nclass Mine(NIMA):\n    pass\n"
    )
    words = [*TINY_NIMA, f"scorer._target_={module}.Mine", "name=a", "epochs=1"]
    assert f"trusted=[{module}]" in cli(*words).err
    done = cli(*words, f"trusted=[{module}]")
    assert done.code == 0, done.err
    best = "outputs/sample_nima/a/checkpoints/best.ckpt"
    with pytest.raises(ValueError, match=f"asks for {module}.Mine"):
        load_scorer(best)
    assert type(load_scorer(best, trusted=[module])).__name__ == "Mine"
    enhancer = [*WORDS, "callbacks.photo_table=null", "gamma=0.1", "epochs=1", "name=b"]
    enhancer = [word for word in enhancer if not word.startswith("scorer")]
    enhancer += [f"scorer.checkpoint={best}", f"judge.checkpoint={best}"]
    refused = cli(*enhancer)
    assert refused.code == 2, refused.out
    assert f"trusted=[{module}]" in refused.err
    done = cli(*enhancer, f"trusted=[{module}]")
    assert done.code == 0, done.err
    about = json.loads(Path("outputs/sample_edsr/b/run.json").read_text())
    assert f"{module}.py" in about["code"]


@pytest.mark.slow
def test_a_network_in_this_folder_is_found_by_a_process_of_its_own(
    folder: Path, module: str
) -> None:
    (folder / "networks.py").write_text("1 / 0")  # hides none of ours
    net = [f"net._target_={module}.Net", *OWN, f"trusted=[{module}]", "callbacks.photo_table=null"]
    process = launch(folder, *WORDS, *net, "epochs=1", "trainer=ddp_cpu", "trainer.devices=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

"""What is read off a class's source agrees with what importing it says."""

import re

import pytest

from configuration.signatures import locate, text_type
from configuration.source import has_argument, is_number
from tests.conftest import ROOT, Cli

CONF = "\n".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
TARGETS = sorted(set(re.findall(r"^ *_target_: ([\w.]+)$", CONF, flags=re.MULTILINE)))


@pytest.mark.parametrize("target", [name for name in TARGETS if "optuna" not in name])
def test_the_source_agrees_with_the_class(target: str) -> None:
    found, parameters = locate(target)
    if not isinstance(found, type):
        return  # functions are asked by importing them
    for name, parameter in parameters.items():
        assert has_argument(target, name) in (True, None)
        assert not (is_number(target, name) and text_type(parameter.annotation))
    assert has_argument(target, "no_such_argument") in (False, None)


def test_classes_of_others_are_read_through_their_packages() -> None:
    assert has_argument("lightning.pytorch.Trainer", "val_check_interval") is True
    assert has_argument("lightning.pytorch.Trainer", "gama") is False
    assert is_number("torch.optim.Adam", "lr")
    assert not is_number("networks.nima.NIMA", "pretrained")  # text or null
    assert has_argument("no_such_module.Net", "scale") is None


@pytest.mark.parametrize("target", ["damaged_net.Net", "__main__.Net", "5"])
def test_a_damaged_module_is_no_bug_of_ours(cli: Cli, target: str) -> None:
    with open("damaged_net.py", "w") as file:
        file.write("def (")
    done = cli(f"net._target_={target}", "net.num_blocks=1=2")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err

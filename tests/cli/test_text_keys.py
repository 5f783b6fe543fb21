"""Paths are text: what looks like a number, a list or nothing to YAML is the name of a file."""

from pathlib import Path

import pytest
from hydra import compose

from cli import command_line as command_line
from cli.composing import loaded


def read(command: str, key: str, *words: str) -> object:
    call = command_line.parse([command, *words])
    with loaded():
        cfg = compose(command, call.overrides)
    value = cfg
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(
    "name",
    ["2024", "1e3", "3.14", "true", "null", "nan", "007", "1_1_1", "[2024] trip/*.png", "it's",
     'say "cheese"', "cost ${5}", "back\\slash", "end\\", "new\nline", "{x}", "*", "trailing ",
     "#Dia 2", "a=b", "c:d", "zdjęcia", "-1", "(1)"],
)  # fmt: skip
def test_text_as_typed(folder: Path, name: str) -> None:
    assert read("enhance", "input", f"input={name}") == name


def test_names_with_commas_in_lists(folder: Path) -> None:
    Path("a,b.safetensors").touch()
    words = "checkpoint=[a,b.safetensors,run (1)/best.ckpt,epoch=3-step=87.ckpt]"
    wanted = ["a,b.safetensors", "run (1)/best.ckpt", "epoch=3-step=87.ckpt"]
    assert read("evaluate", "checkpoint", words) == wanted


def test_keys_of_classes_and_optional_ones(folder: Path) -> None:
    own = ["data=photos", "data.train_hr=2024", "data.val_hr=1e3", "name=2024", "init_from=null"]
    assert read("train", "data.train_hr", *own) == "2024"
    assert read("train", "data.val_hr", *own) == "1e3"
    assert read("train", "name", *own) == "2024"
    assert read("train", "init_from", *own) is None
    assert read("train", "gamma", "gamma=1e-1") == 0.1
    assert command_line.parse(["-m", "init_from=null,a=1.ckpt"]).overrides == [
        'init_from=null,"a=1.ckpt"'
    ]

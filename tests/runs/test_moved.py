"""Runs that were made before a class moved are still the same runs."""

import importlib
import json
from pathlib import Path

import pytest
import skimage.data

from lightning_modules.moved import MOVED, present_names
from tests.conftest import TINY, Cli


@pytest.mark.parametrize("target", sorted(MOVED.values()))
def test_the_present_name_is_a_class(target: str) -> None:
    module, _, name = target.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), type)


def test_names_are_replaced_at_any_depth() -> None:
    old, new = next(iter(MOVED.items()))
    content = {"data": {"_target_": old, "other": [old, 1, None]}, "net": "networks.edsr.EDSR"}
    assert present_names(content) == {
        "data": {"_target_": new, "other": [new, 1, None]},
        "net": "networks.edsr.EDSR",
    }


@pytest.mark.slow
def test_a_run_with_former_names_goes_on(cli: Cli, folder: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    source = Path(skimage.data.__file__).parent / "chelsea.png"
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(source.read_bytes())
    words = [*TINY, "data=photos", "data.train_hr=photos", "data.val_hr=photos", "gamma=0"]
    words += ["name=mine", "data.limit=1"]
    done = cli(*words)
    assert done.code == 0, done.err
    run = folder / "outputs" / "photos" / "mine"
    for path in (run / "run.json", run / "result.json"):
        text = path.read_text().replace("datamodules.folders.", "datamodules.div2k.")
        assert json.loads(text)["config"]["data"]["_target_"] == "datamodules.div2k.PhotoFolders"
        path.write_text(text)
    done = cli(*words)
    assert done.code == 0, done.err
    assert "already finished" in done.out
    done = cli("report", "runs=outputs")
    assert done.code == 0, done.err
    assert "datamodules.div2k" not in (folder / "outputs/report/report.html").read_text()

"""A scorer on a backbone of timm through the commands: trained, resumed, used in a loss."""

import json
from pathlib import Path

import pytest
import torch

from networks.tensor_files import load_plain
from tests.conftest import TINY, TINY_NIMA, Cli, kill_when, launch

CONVNEXT = ["scorer=timm", "scorer.backbone=test_convnext", "scorer.resize=null"]
TRAIN = [*TINY_NIMA, *CONVNEXT, "model.layer_decay=0.75", "scorer.drop_path=0.1"]
LAST = Path("outputs/sample_nima/part/checkpoints/last.ckpt")


@pytest.mark.slow
def test_a_timm_scorer_from_training_to_a_loss(cli: Cli, folder: Path) -> None:
    done = cli(*TRAIN, "name=whole")
    assert done.code == 0, done.err
    assert "test_convnext of timm, with its own resize 67, mean [0.5, 0.5, 0.5], " in done.out
    run = json.loads((folder / "outputs/sample_nima/whole/result.json").read_text())
    assert run["config"]["scorer"]["resize"] == run["config"]["data"]["resize"] == 67  # 64 / 0.95

    kill_when(launch(folder, *TRAIN, "name=part"), LAST.exists)
    assert cli(*TRAIN, "name=part").code == 0
    whole = load_plain(Path(str(LAST).replace("part", "whole")))["state_dict"]
    for name, value in load_plain(LAST)["state_dict"].items():
        assert torch.equal(value, whole[name]), name

    done = cli("evaluate", "checkpoint=outputs/sample_nima/whole", "probe_photos=1", "name=own")
    assert done.code == 0, done.err
    measured = json.loads((folder / "outputs/evaluate/own/result.json").read_text())["metrics"]
    assert measured["emd"] == pytest.approx(run["metrics"]["val/emd"], abs=1e-5)
    photo = "outputs/evaluate/own/images/ratings_means.png"
    done = cli("export", "checkpoint=outputs/sample_nima/whole", "output=s.safetensors")
    assert done.code == 0, done.err
    done = cli("score", f"input={photo}", "checkpoint=s.safetensors", "output=s.csv")
    assert done.code == 0, done.err
    words = [word for word in TINY if "scorer" not in word]
    done = cli(*words, "gamma=0.4", "scorer.checkpoint=s.safetensors", "epochs=1", "name=loss")
    assert done.code == 0, done.err
    assert "val/aesthetic" in (folder / "outputs/sample_edsr/loss/metrics.csv").read_text()


def test_mistakes_name_what_is_meant(cli: Cli) -> None:
    for words, message in (
        (["scorer=timm"], "scorer.backbone: is required"),
        (["scorer=timm", "scorer.backbone=convnext_tyni"], "did you mean convnext_tiny?"),
        (["model.layer_decay=0.75"], "mnasnet_0_5 does not group its layers by depth"),
    ):
        done = cli(*TINY_NIMA, *words)
        assert done.code == 2
        assert message in done.err

"""What is measured: on which photos, beside which baseline, and what counts as equal."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.checkpoint import read_checkpoint, sealed
from lightning_modules.record import Record
from tests.conftest import ROOT, TINY, TINY_NIMA, Cli

QUIET = ["scorer.checkpoint=null", "judge.checkpoint=null", "pictures=0"]
EDSR = ROOT / "weights" / "edsr_x2_gamma_0.safetensors"


def photos(folder: Path, num: int, seed: int) -> None:
    """Smooth random photos."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for k in range(num):
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((70, 66), Image.Resampling.BICUBIC).save(folder / f"{k}.png")


def result(folder: Path, name: str) -> dict[str, float]:
    """The metrics of a measurement."""
    text = (folder / "outputs" / "evaluate" / name / "result.json").read_text()
    metrics: dict[str, float] = json.loads(text)["metrics"]
    return metrics


def test_a_blank_page_leaves_the_means_finite(cli: Cli, folder: Path) -> None:
    photos(folder / "val", 2, 0)
    Image.new("RGB", (70, 66), (250, 250, 250)).save(folder / "val" / "blank.png")
    words = ["evaluate", f"checkpoint={EDSR}", "data=photos", "data.val_hr=val", "name=x", *QUIET]
    done = cli(*words)
    assert done.code == 0, done.err
    assert "bicubic restores 1 of 3 photos exactly; in the means each counts as 100 dB" in done.out
    assert "inf" not in done.out
    values = result(folder, "x")
    rows = (folder / "outputs" / "evaluate" / "x" / "per_image.csv").read_text().splitlines()
    psnr = [float(row.split(",")[3]) for row in rows if ",bicubic," in row]
    assert values["psnr/bicubic"] == pytest.approx(np.mean(psnr))
    assert max(psnr) == 100
    own = [float(row.split(",")[3]) for row in rows if ",EDSR gamma=0," in row]
    gains = [b - a for a, b in zip(psnr, own, strict=True) if a < 100]
    assert f"over bicubic on the other photos: EDSR gamma=0 {np.mean(gains):+.2f} dB" in done.out
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.slow
def test_a_run_folder_is_measured_on_its_own_photos(cli: Cli, folder: Path) -> None:
    for name, seed in (("train", 0), ("val", 1), ("other", 2)):
        photos(folder / name, 3, seed)
    base = [*(word for word in TINY if not word.startswith("data.limit")), "gamma=0", "epochs=1"]
    base += ["data=photos", "data.train_hr=train"]
    for name, val in (("one", "val"), ("two", "other")):
        done = cli(*base, f"data.val_hr={val}", f"name={name}")
        assert done.code == 0, done.err
    runs = [*(folder / "outputs").glob("*/one"), *(folder / "outputs").glob("*/two")]
    one, two = (str(run.relative_to(folder)) for run in runs)

    done = cli("evaluate", f"checkpoint={one}", "name=own", *QUIET)
    assert done.code == 0, done.err
    assert "photos of train, validated on val" in done.out
    assert "best.ckpt (x2) on" in done.out
    trained = json.loads((folder / one / "result.json").read_text())["metrics"]
    assert result(folder, "own")["psnr/EDSR gamma=0"] == pytest.approx(
        trained["val/psnr"], abs=0.01
    )
    assert result(folder, "own")["psnr/bicubic"] == pytest.approx(trained["val/psnr_bicubic"])

    done = cli("evaluate", f"checkpoint={one}", "data.limit=1", "name=first", *QUIET)
    assert "    0 │" in done.out
    assert "    1 │" not in done.out
    done = cli("evaluate", f"checkpoint=[{one},{EDSR}]", "name=both", *QUIET)
    assert "validated on val" in done.out  # an exported file does not say its photos
    done = cli("evaluate", f"checkpoint=[{one},{two}]", "name=two", *QUIET)
    assert done.code == 2
    assert "was validated with data.val_hr=val, " in done.err
    assert "choose the photos to measure on by data=..." in done.err
    done = cli("evaluate", f"checkpoint={one}", "data=sample_pairs", "name=sample", *QUIET)
    assert "built-in photos" in done.out
    done = cli("interpolate", f"checkpoints=[{one},{one}]", "steps=2", "name=mixed", *QUIET[:2])
    assert "validated on val" in done.out, done.err


@pytest.mark.slow
def test_a_scorers_run_folder_is_measured_on_its_own_ratings(cli: Cli, folder: Path) -> None:
    assert cli(*TINY_NIMA, "epochs=1", "name=mine").code == 0
    done = cli("evaluate", "checkpoint=outputs/sample_nima/mine", "probe_photos=1", "name=own")
    assert done.code == 0, done.err
    trained = json.loads((folder / "outputs/sample_nima/mine/result.json").read_text())["metrics"]
    assert result(folder, "own")["emd"] == pytest.approx(trained["val/emd"], abs=1e-5)
    assert result(folder, "own")["emd_constant"] == pytest.approx(trained["val/emd_constant"])


@pytest.mark.parametrize(
    "target", ["os.system", "datamodules.store.os.system", "datamodules.store.np.load"]
)
def test_a_foreign_checkpoint_chooses_no_class(cli: Cli, folder: Path, target: str) -> None:
    state, record = read_checkpoint(EDSR)
    assert record is not None
    data = {"_target_": target, "command": "touch ran"}
    raw = record.plain() | {"config": {"data": data}}
    record = sealed(Record.parse(raw, "foreign.ckpt"), torch.nn.Identity(), state)
    weights = {f"net.{name}": value for name, value in state.items()}
    content = {"state_dict": weights, "record": record.plain()}
    torch.save(content, folder / "foreign.ckpt")
    done = cli("evaluate", "checkpoint=foreign.ckpt", *QUIET)
    assert done.code == 2
    assert f"foreign.ckpt: was validated on {target}" in done.err
    assert not (folder / "ran").exists()

"""evaluate, enhance, score and export through the real command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import read_image, to_bytes, to_unit
from lightning_modules.checkpoint import load_network, save_safetensors
from networks.edsr import EDSR
from networks.nima import NIMA
from tests.conftest import TINY_NIMA, Finished

Cli = Callable[..., Finished]


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("enhancer") / "edsr.safetensors"
    spec = {"_target_": "networks.edsr.EDSR", "scale": 2, "num_blocks": 1, "num_features": 4}
    record: dict[str, Any] = {"kind": "enhancer", "net": spec, "data": "nothing", "gamma": 0.0}
    save_safetensors(path, EDSR(2, num_blocks=1, num_features=4), record)
    return path


@pytest.fixture
def photos(folder: Path) -> Path:
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (40, 30)), ("a.jpg", (24, 50))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / name)
    return folder / "photos"


def test_evaluate_an_enhancer(cli: Cli, enhancer: Path, scorer_file: Path) -> None:
    words = ["evaluate", f"checkpoint={enhancer}", f"scorer.checkpoint={scorer_file}"]
    done = cli(*words, "name=here")
    assert done.code == 0, done.err
    folder = Path("outputs/evaluate/here")
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["psnr/bicubic"] == pytest.approx(31.36, abs=0.01)
    assert 1 <= result["metrics"]["score/HR"] <= 10
    with open(folder / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["net"]) for r in rows[:3]] == [
        ("chelsea", "bicubic"),
        ("chelsea", "EDSR gamma=0"),
        ("chelsea", "HR"),
    ]
    # The picture and the saved output agree with the checkpoint.
    net, _ = load_network(enhancer)
    lr = read_image(folder / "images" / "chelsea_lr.png")
    with torch.no_grad():
        expected = to_bytes(net(to_unit(lr)[None])[0])
    assert torch.equal(read_image(folder / "images" / "chelsea_sr.png"), expected)
    assert Image.open(folder / "images" / "coffee.png").width > 1000
    assert "PSNR (DIV2K)" in done.out
    assert "RGB, border of scale + 6" in done.out

    before = (folder / "result.json").stat().st_mtime_ns
    again = cli(*words, "name=here")
    assert again.code == 0
    assert "PSNR (DIV2K)" in again.out
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_evaluate_without_scorer_and_with_the_wrong_data(cli: Cli, enhancer: Path) -> None:
    done = cli("evaluate", f"checkpoint={enhancer}", "scorer.checkpoint=null", "data.limit=1")
    assert done.code == 0, done.err
    assert "score" not in done.out.partition("over bicubic")[0]
    done = cli("evaluate", f"checkpoint={enhancer}", "data=sample_rated")
    assert done.code == 2
    assert "data=sample_pairs does" in done.err
    done = cli("evaluate", f"checkpoint={enhancer}", "scale=3")
    assert done.code == 2
    assert "is for x2" in done.err


def test_evaluate_a_scorer(cli: Cli, scorer_file: Path) -> None:
    words = ["data=sample_rated", "data.limit=8", "name=here"]
    done = cli("evaluate", f"checkpoint={scorer_file}", *words)
    assert done.code == 0, done.err
    metrics = json.loads(Path("outputs/evaluate/here/result.json").read_text())["metrics"]
    assert {"emd", "emd_batch", "emd_r1", "accuracy", "emd_constant"} <= metrics.keys()
    assert "SYNTHETIC" in done.out


def test_enhance_gives_the_networks_pixels(cli: Cli, enhancer: Path, photos: Path) -> None:
    done = cli("enhance", "input=photos", f"checkpoint={enhancer}", "output=out")
    assert done.code == 0, done.err
    net, _ = load_network(enhancer)
    for name in ("a.jpg", "b.png"):
        with torch.no_grad():
            expected = to_bytes(net(to_unit(read_image(photos / name))[None])[0])
        assert torch.equal(read_image(f"out/{Path(name).stem}_x2.png"), expected)


def test_enhance_goes_on_past_bad_files_and_never_overwrites(
    cli: Cli, enhancer: Path, photos: Path
) -> None:
    (photos / "aa.png").write_bytes(b"no image")
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=out"]
    done = cli(*words)
    assert done.code == 1
    assert "1 not enhanced:" in done.out
    assert "aa.png: not an image file" in done.out
    assert sorted(p.name for p in Path("out").iterdir()) == ["a_x2.png", "b_x2.png"]
    Image.new("RGB", (8, 8)).save(photos / "a.png")  # would become a_x2.png, as a.jpg does
    twice = cli(*words, "overwrite=true")
    assert "has become out/a_x2.png already" in twice.out
    (photos / "a.png").unlink()
    again = cli(*words)
    assert again.code == 1
    assert again.out.count("exists: overwrite=true") == 2
    assert "1 not enhanced" in cli(*words, "overwrite=true").out


def test_score_writes_table_and_csv(cli: Cli, scorer_file: Path, photos: Path) -> None:
    (photos / "c.png").write_bytes(b"")
    words = ["score", "input=photos", f"checkpoint={scorer_file}", "output=scores.csv"]
    done = cli(*words)
    assert done.code == 1
    assert "c.png" in done.out.partition("not scored")[2]
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "mean", "std", *(f"p{k}" for k in range(1, 11))]
    scorer, _ = load_network(scorer_file)
    assert isinstance(scorer, NIMA)
    for row in rows:
        p = np.array([float(row[f"p{k}"]) for k in range(1, 11)])
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert float(row["mean"]) == pytest.approx((p * np.arange(1, 11)).sum(), abs=1e-4)
        image = to_unit(read_image(row["image"]))[None]
        assert scorer.score(image).item() == pytest.approx(float(row["mean"]), abs=1e-5)
    means = [float(line.split("│")[2]) for line in done.out.splitlines() if "│" in line]
    assert means == sorted(means, reverse=True)
    assert cli(*words).code == 2


def test_score_says_that_the_sample_scorer_is_synthetic(cli: Cli, photos: Path) -> None:
    done = cli("score", "input=photos/b.png")
    assert done.code == 0, done.err
    assert "SYNTHETIC" in done.out


def test_export_a_training_checkpoint(cli: Cli) -> None:
    assert cli(*TINY_NIMA, "name=here").code == 0
    best = "outputs/sample_nima/here/checkpoints/best.ckpt"
    words = ["export", f"checkpoint={best}", "output=a.safetensors"]
    assert cli(*words).code == 0
    exported, record = load_network("a.safetensors")
    trained, _ = load_network(best)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(exported(image), trained(image), atol=5e-3)
    assert "config" not in record
    done = cli(*words)
    assert done.code == 2
    assert "overwrite=true" in done.err

"""`evaluate` of scorers shows robustness and monotony, of photos with and without ratings."""

import csv
import json
from pathlib import Path

import pytest
import torch

from datamodules.sample import photo
from images.pixels import to_unit
from images.reading import read_image
from images.writing import write_image
from lightning_modules.checkpoint import load_scorer
from lightning_modules.robustness import STRENGTHS
from networks.nima import mean_score
from runs.probing import signed
from tests.conftest import Cli
from tests.runs.test_matrix import save_scorer

BOTH = "checkpoint=[a.safetensors,b.safetensors]"


@pytest.fixture
def photos(folder: Path) -> list[Path]:
    """Two scorers, and three photos; the first is larger than a patch."""
    save_scorer(folder / "a.safetensors", num_buckets=10, resize=48, crop=48)
    save_scorer(folder / "b.safetensors", num_buckets=7, resize=40, crop=32)
    paths = []
    for k, name in enumerate(("chelsea.png", "coffee.png", "astronaut.png")):
        paths.append(folder / "photos" / f"{k}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        write_image(paths[-1], photo(name)[:, : 260 - 90 * k, : 240 - 40 * k], overwrite=True)
    return paths


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_photos_need_no_ratings(cli: Cli, folder: Path, photos: list[Path]) -> None:
    done = cli("evaluate", BOTH, "data=photos", "data.val_hr=photos", "name=x")
    assert done.code == 0, done.err
    assert "on patches of 3 photos" in done.out
    assert "no ratings to compare with: data=rated " in done.out
    out = folder / "outputs/evaluate/x"
    a, b = (load_scorer(folder / f"{name}.safetensors") for name in "ab")
    gains = {
        tuple(row.values())[:4]: float(row["score"]) for row in rows_of(out / "robustness.csv")
    }
    assert len(gains) == 2 * 3 * 2 * 2
    # The first photo's middle, and the others enlarged, as the loss sees them.
    added = []
    for path in photos:
        image = to_unit(read_image(path))[None]
        top, left = (max(0, side - 192) // 2 for side in image.shape[-2:])
        x = image[..., top : top + 192, left : left + 192].clone().requires_grad_()

        def view(patch: torch.Tensor) -> torch.Tensor:
            ratio = 192 / min(192, *patch.shape[-2:])
            size = [round(ratio * side) for side in patch.shape[-2:]]
            return torch.nn.functional.interpolate(patch, size=size, mode="bilinear")

        (g,) = torch.autograd.grad(mean_score(a(view(x))).sum(), x)
        moved = (x + 0.77 / 255 * g / g.square().mean().sqrt()).clamp(0, 1)
        with torch.no_grad():
            added.append(
                [mean_score(net(view(moved))) - mean_score(net(view(x))) for net in (a, b)]
            )
    for k, rater in enumerate("ab"):
        expected = sum(row[k] for row in added) / 3
        key = ("mnasnet_0_5 (a)", "0.77", "False", f"mnasnet_0_5 ({rater})")
        assert gains[key] == pytest.approx(expected, rel=0.02, abs=1e-5)
    shares = rows_of(out / "monotony.csv")
    assert len(shares) == 2 * 6 * 2 * len(STRENGTHS)
    assert {float(row["below_clean"]) * 3 for row in shares} <= {0, 1, 2, 3}
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    (row,) = (
        row
        for row in shares
        if list(row.values())[:4] == ["mnasnet_0_5 (b)", "noise", "whole photo", "0.5"]
    )
    assert metrics["falls/noise/mnasnet_0_5 (b)"] == float(row["below_clean"])
    assert "gain_sds/0.77/mnasnet_0_5 (a)" in metrics
    markdown = (out / "probes.md").read_text()
    assert markdown.startswith("## mnasnet_0_5 (a)\n\nRobustness: ")
    assert markdown.count("| underexposure | patch | ") == 2


def test_rated_photos_are_probed_at_full_resolution(
    cli: Cli, folder: Path, photos: list[Path]
) -> None:
    table = "\n".join(f"{path.name},{2 + k}" for k, path in enumerate(photos))
    (folder / "means.csv").write_text(f"image,mean\n{table}\n")
    (folder / "val.txt").write_text("0.png\n2.png\n")
    words = ["checkpoint=b.safetensors", "probe_photos=1", "name=one"]
    rated = ["data=rated", "data.ratings=means.csv", "data.images=photos"]
    done = cli("evaluate", *words, *rated, "data.val_list=val.txt")
    assert done.code == 0, done.err
    out = folder / "outputs/evaluate/one"
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    assert {"srcc", "gain_sds/0.77", "falls/blur"} <= metrics.keys()
    assert "srcc" in done.out
    assert "share of 1 photo scored lower" in done.out
    # The same photo without ratings has the same numbers.
    words = [*words[:1], "data=photos", "data.val_hr=photos/0.png", "name=same"]
    assert cli("evaluate", *words).code == 0
    for name in ("robustness.csv", "monotony.csv", "probes.md"):
        assert (out / name).read_text() == (out.parent / "same" / name).read_text()


def test_mistakes(cli: Cli, photos: list[Path]) -> None:
    words = ["evaluate", "checkpoint=a.safetensors"]
    done = cli(*words, "probe_photos=0")
    assert done.code == 2
    assert "probe_photos=0: without ratings there is nothing else to measure" in done.err
    assert "probe_photos=-1: " in cli(*words, "probe_photos=-1").err
    assert "did you mean probe_photos" in cli(*words, "probe_photo=3").err
    assert not Path("outputs").exists()


def test_zeros_have_no_sign() -> None:
    assert [signed(value, 2) for value in (0.774, -0.006, -0.004, 0.0)] == [
        *("+0.77", "-0.01", "0.00", "0.00")
    ]

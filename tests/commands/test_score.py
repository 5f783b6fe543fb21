"""score and import_weights through the real command line; load_scorer as an API."""

import csv
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.checkpoint import load_scorer
from lightning_modules.scoring import rate_files
from networks.nima import NIMA, mean_score, std_score
from tests.conftest import SAMPLE_SCORER, SHIPPED_SCORER, Cli
from tests.networks.test_weights import keras_layers, write_keras


@pytest.fixture
def photos(folder: Path) -> Path:
    """Eleven photos of many sizes and kinds, one of them damaged."""
    root = folder / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for k in range(10):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(
            (90 + 31 * k, 300 - 17 * k), Image.Resampling.BICUBIC
        )
        image.save(root / f"p{k}.{('png', 'jpg', 'webp')[k % 3]}")
    (root / "q.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return root


def test_odd_names_are_written_as_they_are(cli: Cli, photos: Path) -> None:
    names = ["[red]a.png", "new\nline.png", "umläut ü.png", "b,c=d.png"]
    for name in names:
        Image.new("RGB", (64, 64), "teal").save(photos / name)
    Image.new("RGB", (64, 64)).save(photos / "plain.png")
    bad = os.fsencode(photos) + b"/\xff\xfe.png"
    os.rename(photos / "plain.png", bad)
    os.mkfifo(photos / "pipe.png")
    done = cli("score", "input=photos", "output=a.csv", "sheet=a.png")
    assert done.code == 1
    assert "photos/pipe.png: cannot be read as an image (not a regular file)" in done.out + done.err
    assert "[red]a.png" in done.out
    rows = Path("a.csv").read_text(errors="surrogateescape")
    assert os.fsdecode(b"\xff\xfe.png") in rows
    assert {path.name for path in Path.cwd().iterdir()} == {"a.csv", "a.png", "photos"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sheet=photos/p0.png"], "sheet=photos/p0.png: is one of the photos"),
        (["sheet=photos/sheet.png"], "would be rated as a photo next time"),
        (["output=photos/q.jpg/x.csv"], "is a file; a folder is needed"),
    ],
)
def test_nothing_is_written_over_or_among_the_photos(
    cli: Cli, photos: Path, words: list[str], message: str
) -> None:
    done = cli("score", "input=photos", "overwrite=true", *words)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("nonsense", "message"),
    [
        (torch.rand(3, 8, 8), "B x 3 x H x W"),
        (torch.rand(1, 4, 8, 8), "B x 3 x H x W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "float images"),
        (torch.full((1, 3, 8, 8), 200.0), "from 200 to 200"),
        (torch.full((1, 3, 8, 8), float("nan")), "in \\[0, 1\\] are needed"),
        (5, "a path or a tensor"),
        ("absent.png", "absent.png: no such file"),
    ],
)
def test_what_is_no_image_is_refused(nonsense: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        load_scorer(SAMPLE_SCORER).score(nonsense)


def test_one_photo_too_narrow_does_not_stop_the_others(photos: Path) -> None:
    Image.new("RGB", (20_000, 1)).save(photos / "line.png")
    scorer = NIMA("mnasnet_0_5", resize_rule="short_side", resize=64, crop=64).eval()
    paths = sorted(photos.glob("[lp]*"))
    found = list(rate_files(scorer, paths, device=torch.device("cpu")))
    assert [rating.path for rating in found] == paths
    assert [rating.path.name for rating in found if rating.problem] == ["line.png"]
    assert "too narrow" in str(found[0].problem)
    assert torch.get_num_threads() == 1  # as tests have it
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # type: ignore[arg-type]
    torch.set_num_threads(2)
    list(rate_files(scorer, paths[1:3], device=torch.device("cpu")))
    thread.start()
    thread.join()
    assert found[-1] == 2  # type: ignore[comparison-overlap]


def table(path: str) -> dict[str, dict[str, float]]:
    with open(path, newline="") as file:
        return {
            row.pop("image"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)
        }


def test_three_lines_of_python_score_like_the_command(cli: Cli, photos: Path) -> None:
    done = cli("score", "input=photos", "output=scores.csv")
    assert done.code == 1  # the damaged one
    assert "1 not scored" in done.out + done.err
    scores = table("scores.csv")
    assert len(scores) == 10
    scorer = load_scorer(SHIPPED_SCORER)
    for name, row in scores.items():
        p = scorer.rate(name)
        assert scorer.score(name) == pytest.approx(row["mean"], abs=1e-5)
        assert [row[f"p{k}"] for k in range(1, 11)] == pytest.approx(p.tolist(), abs=1e-6)
        assert mean_score(p[None]).item() == pytest.approx(row["mean"], abs=1e-5)
        assert std_score(p[None]).item() == pytest.approx(row["std"], abs=1e-5)
    with pytest.raises(ValueError, match=r"q\.jpg"):
        scorer.score(photos / "q.jpg")


@pytest.mark.slow
def test_numbers_are_the_same_alone_in_a_batch_and_for_any_number_of_workers(
    cli: Cli, photos: Path
) -> None:
    for workers in (1, 3):
        cli("score", "input=photos", f"output={workers}.csv", f"num_workers={workers}")
    together = table("1.csv")
    assert together == table("3.csv")
    for name in ("p0.png", "p7.jpg"):
        assert cli("score", f"input=photos/{name}", f"output={name}.csv").code == 0
        assert table(f"{name}.csv")[f"photos/{name}"] == together[f"photos/{name}"]


@pytest.mark.slow
def test_files_of_all_kinds_say_the_same(cli: Cli, photos: Path) -> None:
    for suffix in ("csv", "json", "jsonl"):
        assert cli("score", "input=photos/p*", f"output=a.{suffix}").code == 0
    listed = json.loads(Path("a.json").read_text())
    assert [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()] == listed
    assert list(listed[0]) == ["image", "mean", "std", *(f"p{k}" for k in range(1, 11))]
    assert {row.pop("image"): row for row in listed} == table("a.csv")
    assert cli("score", "input=photos/p*", "output=a.json").code == 2
    assert cli("score", "input=photos/p*", "output=a.json", "overwrite=true").code == 0


@pytest.mark.slow
def test_the_table_is_sorted_and_short(cli: Cli, photos: Path) -> None:
    done = cli("score", "input=photos/p*", "rows=4", "output=a.csv")
    ranked = sorted(table("a.csv").items(), key=lambda item: -item[1]["mean"])
    names = [name for name, _ in ranked]
    places = [done.out.find(name) for name in names]
    assert places[:2] == sorted(places[:2])
    assert places[-2:] == sorted(places[-2:])
    assert places[0] < places[1] < places[-2]
    assert set(places[2:-2]) == {-1}
    assert "6 more" in done.out
    assert all(name in cli("score", "input=photos/p*", "rows=null").out for name in names)


def test_the_contact_sheet_shows_every_photo(cli: Cli, photos: Path) -> None:
    done = cli("score", "input=photos/p*", "sheet=sheet.png")
    assert done.code == 0, done.err
    assert Image.open("sheet.png").width > 600
    done = cli("score", "input=photos/p*", "sheet=sheet.pdf", "output=b.txt")
    assert done.code == 2
    assert "sheet=sheet.pdf: must end in .png or .jpg" in done.err
    assert "output=b.txt: must end in .csv or .json or .jsonl" in done.err


@pytest.mark.slow
def test_bfloat16_moves_scores_by_less_than_a_hundredth(cli: Cli, photos: Path) -> None:
    for precision in ("float32", "bfloat16"):
        cli("score", "input=photos/p*", f"output={precision}.csv", f"precision={precision}")
    one, two = table("float32.csv"), table("bfloat16.csv")
    changes = [abs(one[name]["mean"] - two[name]["mean"]) for name in one]
    assert 0 < max(changes) < 0.01


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["input=absent"], "input=absent: no such file or folder"),
        (["input=photos", "precision=half"], "precision=half: should be 'float32' or 'bfloat16'"),
        (["input=photos", "rows=-1"], "rows=-1"),
        (["input=photos", "num_workers=0"], "num_workers=0"),
        (["input=photos", "checkpoint=absent.ckpt"], "checkpoint=absent.ckpt: no such file"),
    ],
)
def test_mistakes(cli: Cli, photos: Path, words: list[str], message: str) -> None:
    done = cli("score", *words)
    assert done.code == 2
    assert message in done.err


@pytest.mark.slow
def test_import_weights_gives_a_scorer_to_score_and_to_start_from(cli: Cli, folder: Path) -> None:
    write_keras(folder / "nima.hdf5", keras_layers())
    words = ["import_weights", "input=nima.hdf5", "output=nima.safetensors", "trained_on=AVA"]
    done = cli(*words)
    assert done.code == 0, done.err
    scorer = load_scorer("nima.safetensors")
    assert (scorer.num_buckets, scorer.resize, scorer.crop) == (5, 224, 224)
    assert (scorer.resize_rule, scorer.resize_filter) == ("squash", "nearest")
    Image.new("RGB", (300, 200), "orange").save("a.png")
    done = cli("score", "input=a.png", "checkpoint=nima.safetensors")
    assert "trained on AVA (imported from nima.hdf5)" in done.out
    done = cli("export", "checkpoint=nima.safetensors", "output=half.safetensors")
    assert done.code == 0, done.err
    assert load_scorer("half.safetensors").score("a.png") == pytest.approx(
        scorer.score("a.png"), abs=0.01
    )
    done = cli(*words)
    assert done.code == 2
    assert "exists" in done.err
    (folder / "bad.h5").write_bytes(b"nothing")
    done = cli("import_weights", "input=bad.h5", "output=b.safetensors")
    assert done.code == 2
    assert "bad.h5: not a Keras file" in done.err
    done = cli("import_weights", "input=a.png", "output=b.pt")
    assert "input=a.png: must end in .h5 or .hdf5" in done.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_scores_the_same(cli: Cli, photos: Path) -> None:
    for device in ("cpu", "cuda"):
        cli("score", "input=photos/p*", f"output={device}.csv", f"device={device}")
    one, two = table("cpu.csv"), table("cuda.csv")
    assert all(abs(one[name]["mean"] - two[name]["mean"]) < 0.005 for name in one)

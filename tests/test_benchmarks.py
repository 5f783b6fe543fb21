"""The benchmarks still run: each is imported, and measures something tiny in this process."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli import checks as config
from datamodules.sample import photo
from images.pixels import to_unit
from networks.nima import NIMA
from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They import each other as scripts do; their names are common, so they do not stay."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in NAMES:
            del sys.modules[name]


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", NAMES)
def test_import(name: str) -> None:
    assert benchmark(name).__doc__


def test_every_benchmark_has_a_short_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in benchmark("all").NAMES:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
        with pytest.raises(SystemExit, match="0"):
            benchmark(name).main()
        told = capsys.readouterr().out
        assert "--short" in told, name
        assert "--json" in told, name


SCRIPTS = {
    "fails": "raise ValueError('one | two')",
    "hangs": "import subprocess; subprocess.run(['sleep', '1234'])",
    "measures": """rows=[
        {"what": "steps, s", "ours": 1234.56, "reference": 2469.0, "asked": "at most 0.6"},
        {"what": "photos", "ours": 0.01234, "before": "0.02", "ratio": "twice"},
    ]""",
    "silent": "print('nothing')",
    "skips": "skipped='needs a GPU'",
}


def test_all_names_what_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SCRIPTS.items():
        if "=" in text:
            text = f"import json, sys; open(sys.argv[-1], 'w').write(json.dumps(dict({text})))"
        (folder / f"{name}.py").write_text(text)
    runner = benchmark("all")
    monkeypatch.setattr(runner, "FOLDER", folder)
    monkeypatch.setattr(runner, "NAMES", list(SCRIPTS))
    monkeypatch.setattr(runner, "LIMIT", 2)
    monkeypatch.setattr(sys, "argv", ["all.py", "--output", "table.md"])
    with pytest.raises(SystemExit, match="failed: fails, hangs, silent"):
        runner.main()
    table = Path("table.md").read_text().splitlines()
    assert table[table.index("|---|---:|---:|---:|---|---|") + 1 :] == [
        "| **fails failed**: exit code 1, ValueError: one / two | | | | | |",
        "| **hangs failed**: stopped after 2 s | | | | | |",
        "| steps, s | 1,230 | 2,470 | 0.50 | at most 0.6 |  |",
        "| photos | 0.0123 |  | twice |  | 0.02 |",
        "| **silent failed**: handed over no rows, nothing | | | | | |",
        "| skips: skipped, needs a GPU | | | | | |",
    ]
    monkeypatch.setattr(sys, "argv", ["all.py", "measures", "skips", "--output", "table.md"])
    runner.main()
    monkeypatch.setattr(sys, "argv", ["all.py", "mesures"])
    with pytest.raises(SystemExit, match="2"):
        runner.main()


def test_make_demo_installs_no_extras() -> None:
    words = ["make", "--dry-run", "--always-make", "--directory", str(ROOT)]
    told = {
        goal: [line for line in out.splitlines() if "pip install" in line]
        for goal in ("demo", "test")
        for out in [subprocess.run([*words, goal], capture_output=True, text=True).stdout]
    }
    assert [line.rpartition(" ")[2] for line in told["demo"]] == ["."]
    assert [line.rpartition(" ")[2] for line in told["test"]] == ["'.[dev]'"]


@pytest.fixture
def photos(folder: Path) -> Path:
    (folder / "in").mkdir()
    for k, name in enumerate(("chelsea.png", "coffee.png")):
        pixels = photo(name)[:, :240, :320].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "in" / f"{k}.jpg")
    return folder / "in"


def test_report(folder: Path) -> None:
    report = benchmark("report")
    report.publish(report.heading("Title", "a remark"), folder / "out.md")
    assert (folder / "out.md").read_text().startswith("# Title")


def test_augmented_crops(photos: Path) -> None:
    benchmark("augmented_crops").main([str(photos), "--output", "crops", "--num", "3"])
    assert len(list(Path("crops/images").iterdir())) == 3
    assert Path("crops/val.txt").read_text().split() == ["000000.jpg", "000002.jpg"]


def test_backbones() -> None:
    times = benchmark("backbones").photo_and_loss(
        NIMA("mnasnet_0_5").eval(), torch.device("cpu"), torch.float32
    )
    assert min(times) > 0


def test_enhancing() -> None:
    enhancing = benchmark("enhancing")
    for way in enhancing.WAYS:
        assert enhancing.measure(way, 20, 24)["seconds"] > 0
    for way in enhancing.FOLDER_WAYS:
        assert enhancing.measure_folder(way, 2, 20, 24)["seconds"] > 0


def test_launching() -> None:
    launching = benchmark("launching")
    for words in launching.WAYS.values():
        given = [word for word in words if word != "-m"]
        config.check("train", [*launching.JOB, *given], multirun="-m" in words)


def test_grid() -> None:
    words = [word for word in benchmark("grid").JOB if word != "trainer=gpu"]  # checked for a GPU
    config.check("train", [*words, "hydra.launcher.share=4"], multirun=True)


def test_loop(folder: Path) -> None:
    loop = benchmark("loop")
    words = [word for word in loop.GPU if word != "trainer=gpu"]  # checked for a GPU
    config.check("train", words, multirun=False)
    loop.measure(2, 1, *loop.CPU)
    assert [len(loop.FOUND[way]) for way in (loop.OURS, loop.BARE, loop.EMPTY)] == [1, 1, 1]


def test_oasis() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ [1.0, 2.0, 3.0] + 5
    assert np.allclose(benchmark("oasis").fitted(x, y, 1e-9, x), y, atol=1e-4)


@pytest.mark.slow
def test_other_ways_and_data_loading(photos: Path) -> None:
    loading, other = benchmark("data_loading"), benchmark("other_ways")
    paths = sorted(photos.iterdir())
    for exact in (True, False):
        (crop,) = other.EachPhoto(paths, exact=exact)[0]
        assert crop.shape == (3, 192, 192)
    (photos.parent / "rated").symlink_to(photos)
    for name in ("HR", "LR"):
        (photos.parent / name).mkdir()
        for path in paths:
            size = (480, 400) if name == "HR" else (240, 200)
            Image.open(path).resize(size).save(photos.parent / name / f"{path.stem}.png")
    module = loading.pairs(photos.parent, 48)
    batches = loading.endless(module.train_dataloader())
    work = loading.pull(batches, loading.finisher(module, torch.device("cpu")))
    assert work() == loading.BATCH
    assert len(loading.measure({"ours": work}, 0.01)["ours"]) == loading.ROUNDS
    assert "JPEG, by Pillow" in loading.rated_photos(photos.parent, 0.01)
    table = loading.on_device(photos.parent, 0.01)
    assert "cpu" in table


@pytest.mark.slow
def test_scoring(photos: Path, monkeypatch: pytest.MonkeyPatch, scorer_file: Path) -> None:
    scoring = benchmark("scoring")
    monkeypatch.setattr(scoring, "MANY", 2)
    monkeypatch.setattr(scoring, "BATCH", 1)
    monkeypatch.setattr(scoring, "PATCH", 64)
    for name in ("plain", "command", "command_bf16", "decode", "decode_alone"):
        assert getattr(scoring, name)(str(photos))["ms"] > 0, name
    assert scoring.bfloat16_error(str(photos), str(scorer_file))["largest"] < 0.1
    assert scoring.gradient(str(photos), "folded, channels-last")["ms"] > 0


def test_prepare() -> None:
    prepare = benchmark("prepare")
    for case in prepare.CASES:
        tiny = case._replace(num=2, width=48, height=40)
        ours, reference = prepare.measure(tiny, 1, 1)
        assert min(*ours[0], *reference[0]) > 0


def test_sensitivity() -> None:
    images = to_unit(photo("chelsea.png")[None, :, :64, :64])
    parts = benchmark("sensitivity").sensitivity(NIMA("mnasnet_0_5").eval(), images)
    assert all(part.isfinite().all() for part in parts)


def numbers(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """The JSON that was printed; messages may stand between, where another test shows them."""
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines if line[:1] in "{0123456789"]


@pytest.mark.parametrize("gamma", ["plain", 0, 0.4])
def test_training_step(
    gamma: float | str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = benchmark("training_step")
    monkeypatch.setattr(step, "BATCH", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    step.serve(12, "float32", gamma)
    error, seconds = numbers(capsys)
    assert error == 0 < seconds


@pytest.mark.filterwarnings("ignore:CUDA is not available, disabling CUDA profiling:UserWarning")
@pytest.mark.parametrize(("net", "gamma"), [("edsr", 0.1), ("mdsr", 0.0), ("nima", 0.0)])
def test_gpu(
    net: str, gamma: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark("gpu")
    monkeypatch.setattr(sys, "stdin", io.StringIO("steps 1\nprofile 1\n"))
    gpu.serve(gpu.Way(net, 64 if net == "nima" else 12, 2, "32", gamma=gamma))
    counted, measured, profiled = numbers(capsys)
    assert counted["flops"] > 1e6
    assert measured["seconds"] > 0
    assert profiled["kernels"] == {}

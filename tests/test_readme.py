"""What the README and the docs show works as written."""

import csv
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from cli import checks as config
from cli import command_line as command_line
from tests.conftest import ROOT, TINY, Forked

README = (ROOT / "README.md").read_text()
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "weights").glob("*.md"))]
DOCS = README + "".join(path.read_text() for path in PAGES)
VARIABLES = dict(re.findall(r'^    ([A-Z]+)="(.*)"$', DOCS, flags=re.MULTILINE))  # of the shell
COMMANDS = {  # each once, without what a comment says of it
    Template(line).safe_substitute(VARIABLES).partition("  # ")[0].strip()
    for line in re.findall(r"python run\.py [^`\n]*=[^`\n]*", DOCS)
}
RECIPES = ROOT / "examples" / "recipes"
EXTENDING = (ROOT / "docs" / "extending.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.slow if re.search(r" -m |sweep=", line) else ())
        for line in sorted(COMMANDS)
    ],
)
def test_commands_have_no_mistakes(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder: what a reader of the docs has already run here does not count."""
    monkeypatch.setenv("SERVE_PASSWORD", "secret" if "user=" in line else "")
    if line.startswith("python run.py [command]"):
        return  # a pattern
    if "--config-dir" in line:
        return  # tests/cli/test_recipes.py makes the folder
    call = command_line.parse(shlex.split(line, comments=True)[2:])
    try:
        config.check(call.command, call.overrides, multirun=call.is_multirun)
    except ValueError as error:
        rest = [text for text in str(error).splitlines() if "no such file" not in text]
        allowed = [
            *("mistakes in the configuration", "no GPU", "trains them", "by srun"),
            "Address already in use",  # somebody serves here
            *("_target_=mynet.Net: cannot be imported", "no module named mynet"),
            *("mypackage.edges.edges: cannot be imported", "mymetrics.edges cannot be imported"),
            "lpips: could not download",  # without a network
        ]
        assert all(any(word in text for word in allowed) for text in rest), rest


def test_recipes_are_shown_as_they_are() -> None:
    files = [path for path in sorted(RECIPES.rglob("*")) if path.suffix in (".py", ".yaml")]
    assert len(files) == 6
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", EXTENDING, flags=re.DOTALL)
    assert sorted(blocks) == sorted(path.read_text() for path in files)
    assert (RECIPES / "mypackage/edges.py").read_text() in README
    for path in files:
        assert f"`{path.relative_to(RECIPES)}`" in EXTENDING
        assert len([line for line in path.read_text().splitlines() if line]) <= 15
        assert not (ROOT / path.relative_to(RECIPES)).exists()


def enlarged(lr_CHW: NDArray[np.float64], weight: Any, bias: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """MyNet in NumPy: bilinear x2 with half-pixel centres, then a convolution of 3 x 3."""
    x_CHW = lr_CHW
    for axis in (1, 2):
        num = x_CHW.shape[axis]
        place = np.maximum((np.arange(2 * num) + 0.5) / 2 - 0.5, 0)
        low = np.floor(place).astype(int)
        share = (place - low).reshape((-1, 1) if axis == 1 else (1, -1))
        first, second = (x_CHW.take(np.minimum(k, num - 1), axis) for k in (low, low + 1))
        x_CHW = first * (1 - share) + second * share
    padded = np.pad(x_CHW, ((0, 0), (1, 1), (1, 1)))
    height, width = x_CHW.shape[1:]
    out = np.zeros_like(x_CHW) + np.asarray(bias)[:, None, None]
    for i, j in itertools.product(range(3), range(3)):
        part = padded[:, i : i + height, j : j + width]
        out += np.einsum("oc,chw->ohw", np.asarray(weight)[:, :, i, j], part)
    return out


def edges(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    x = 255 * (sr - hr)
    return float(sum(np.abs(np.diff(x, axis=axis)).mean() for axis in (1, 2)))


@pytest.mark.slow
def test_recipes_run_as_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of one's own: with a learning rate of zero all weights are the checkpoint's."""
    copy, _, train = re.findall(r"^    (cp -r .*|cd mine|nima .*)$", EXTENDING, re.M)
    assert copy == "cp -r CLONE/examples/recipes mine"
    here = folder / "mine"
    shutil.copytree(RECIPES, here)
    monkeypatch.chdir(here)
    for k, name in enumerate(("chelsea", "coffee", "astronaut")):
        photo = Image.open(Path(skimage.data.__file__).parent / f"{name}.png").resize((96, 64))
        photo.save(here / f"{name}.png")
        for split in ("train", "val"):
            (here / split).mkdir(exist_ok=True)
            if (split == "val") == (k == 1):
                np.save(here / split / f"{name}.npy", np.array(photo))

    def run(line: str, *more: str) -> None:
        words = [sys.executable, str(ROOT / "run.py"), *shlex.split(line)[1:], *more]
        process = Forked(
            words, cwd=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = process.communicate()
        assert process.returncode == 0, output

    small = [word for word in TINY if not word.startswith(("net.", "epochs="))]
    run(train, *small, "epochs=1", "gamma=0.4", "seed=3", "optim.optimizer.lr=0.0", "name=mine")
    run_folder = here / "outputs" / "sample_edsr" / "mine"
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    weights = (state["net.conv.weight"].double().numpy(), state["net.conv.bias"].double().numpy())

    # What was trained on, through the data module in a plain loop.
    source = importlib.util.spec_from_file_location("photos", RECIPES / "mypackage/photos.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    options = {"patch_size": 16, "num_steps": 2, "batch_size": 4, "limit": 2, "seed": 3}
    data = module.MyPhotos(2, **options)
    with open(run_folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 2
    for row, batch in zip(steps, data.train_dataloader(), strict=True):
        lr, hr = (part.double().numpy() for part in batch.to_unit())
        pairs = [(enlarged(x, *weights), y) for x, y in zip(lr, hr, strict=True)]
        l1 = 255 * np.mean([np.abs(x - y) for x, y in pairs])
        mine = np.mean([edges(x, y) for x, y in pairs])
        assert float(row["train/l1"]) == pytest.approx(l1, rel=1e-5)
        assert float(row["train/edges"]) == pytest.approx(mine, rel=1e-5)
        total = l1 + 0.5 * mine + 0.4 * float(row["train/aesthetic"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    (shares,) = [row for row in rows if row["train/weight/edges"]]
    assert float(shares["train/weight/edges"]) == 0.5
    assert 0.05 < float(shares["train/grad_share/edges"]) < 0.95
    metrics = json.loads((run_folder / "result.json").read_text())["metrics"]
    (batch,) = data.val_dataloader()
    lr, hr = (part[0].double().numpy() for part in batch.to_unit())
    sr = enlarged(lr, *weights)
    assert metrics["val/edges"] == pytest.approx(edges(sr, hr), rel=1e-5)
    assert metrics["val/aesthetic"] == pytest.approx(10 - metrics["val/score"], rel=1e-5)
    total = metrics["val/l1"] + 0.5 * metrics["val/edges"] + 0.4 * metrics["val/aesthetic"]
    assert metrics["val/loss"] == pytest.approx(total, rel=1e-5)
    assert not [name for name in {*rows[0], *metrics} if name.endswith("/l2")]
    seen = np.rint(255 * sr.clip(0, 1))
    cast = np.linalg.norm(seen.mean(axis=(1, 2)) - (255 * hr).mean(axis=(1, 2)))
    assert metrics["val/cast"] == pytest.approx(cast, rel=1e-3)

    # Another photo, through the checkpoint.
    words = [f"checkpoint={checkpoint.relative_to(here)}", "trusted=[mypackage]"]
    run("nima enhance input=coffee.png", *words)
    with Image.open(here / "outputs/enhanced/coffee_x2.png") as image:
        result = np.array(image).astype(float)
    lr = np.array(Image.open(here / "coffee.png")).transpose(2, 0, 1) / 255
    exact = 255 * enlarged(lr, *weights).clip(0, 1).transpose(1, 2, 0)
    assert result.shape == exact.shape == (128, 192, 3)
    assert np.abs(result - exact).max() <= 0.501

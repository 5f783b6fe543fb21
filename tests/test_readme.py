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
from runs.code_identity import OURS
from tests.conftest import ROOT, TINY

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
    if line.startswith("python run.py [command]") or "net=mynet" in line:
        return  # a pattern; and what another test runs
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
        ]
        assert all(any(word in text for word in allowed) for text in rest), rest


def test_recipes_are_shown_as_they_are() -> None:
    files = [path for path in sorted(RECIPES.rglob("*")) if path.suffix in (".py", ".yaml")]
    assert len(files) == 4
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", EXTENDING, flags=re.DOTALL)
    assert sorted(blocks) == sorted(path.read_text() for path in files)
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


def charbonnier(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    return float(np.sqrt((255 * (sr - hr)) ** 2 + 1).mean())


@pytest.mark.slow
def test_recipes_run_as_printed(folder: Path) -> None:
    """In a copy: a file added here would change the code hash under the other tests.

    With a learning rate of zero the weights of every step are those of the checkpoint.
    """
    for part in (*OURS, "conf", "weights"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copytree(RECIPES, folder / "examples" / "recipes")
    shutil.copy(ROOT / "run.py", folder)
    for k, name in enumerate(("chelsea", "coffee", "astronaut")):
        photo = Image.open(Path(skimage.data.__file__).parent / f"{name}.png").resize((96, 64))
        photo.save(folder / f"{name}.png")
        for split in ("train", "val"):
            (folder / split).mkdir(exist_ok=True)
            if (split == "val") == (k == 1):
                np.save(folder / split / f"{name}.npy", np.array(photo))
    copy, train = re.findall(r"^    (cp -r .*|python run\.py net=mynet .*)$", EXTENDING, re.M)

    def run(line: str, *more: str) -> None:
        words = [sys.executable if word == "python" else word for word in shlex.split(line)]
        done = subprocess.run([*words, *more], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run(copy)
    small = [word for word in TINY if not word.startswith(("net.", "epochs="))]
    run(train, *small, "epochs=1", "gamma=0.4", "seed=3", "optim.optimizer.lr=0.0", "name=mine")
    here = folder / "outputs" / "sample_edsr" / "mine"
    checkpoint = here / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    weights = (state["net.conv.weight"].double().numpy(), state["net.conv.bias"].double().numpy())

    # What was trained on, through the data module in a plain loop.
    source = importlib.util.spec_from_file_location("mydata", RECIPES / "datamodules/mydata.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    options = {"patch_size": 16, "num_steps": 2, "batch_size": 4, "limit": 2, "seed": 3}
    data = module.MyPhotos(2, **options)
    with open(here / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 2
    for row, batch in zip(steps, data.train_dataloader(), strict=True):
        lr, hr = (part.double().numpy() for part in batch.to_unit())
        expected = np.mean(
            [charbonnier(enlarged(x, *weights), y) for x, y in zip(lr, hr, strict=True)]
        )
        assert float(row["train/charbonnier"]) == pytest.approx(expected, rel=1e-5)
        total = expected + 0.4 * float(row["train/aesthetic"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
    metrics = json.loads((here / "result.json").read_text())["metrics"]
    (batch,) = data.val_dataloader()
    lr, hr = (part[0].double().numpy() for part in batch.to_unit())
    sr = enlarged(lr, *weights)
    assert metrics["val/charbonnier"] == pytest.approx(charbonnier(sr, hr), rel=1e-5)
    assert metrics["val/aesthetic"] == pytest.approx(10 - metrics["val/score"], rel=1e-5)
    total = metrics["val/charbonnier"] + 0.4 * metrics["val/aesthetic"]
    assert metrics["val/loss"] == pytest.approx(total, rel=1e-5)
    assert not [name for name in {*rows[0], *metrics} if name.endswith("/l2")]

    # Another photo, through the checkpoint.
    run("python run.py enhance input=coffee.png", f"checkpoint={checkpoint.relative_to(folder)}")
    with Image.open("outputs/enhanced/coffee_x2.png") as image:
        result = np.array(image).astype(float)
    lr = np.array(Image.open("coffee.png")).transpose(2, 0, 1) / 255
    exact = 255 * enlarged(lr, *weights).clip(0, 1).transpose(1, 2, 0)
    assert result.shape == exact.shape == (128, 192, 3)
    assert np.abs(result - exact).max() <= 0.501

"""What a command imports: nothing heavy before it is known to be right, and only what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data

from tests.conftest import ROOT

HEAVY = {"torch", "torchvision", "lightning", "torchmetrics", "matplotlib", "PIL", "wandb"}
PHOTO = Path(skimage.data.__file__).parent / "color.png"
EDSR = ROOT / "weights" / "edsr_x2_gamma_0.safetensors"


def heavy_imports(words: list[str], folder: Path, code: int) -> set[str]:
    """The heavy packages that a command imports, as Python itself reports them."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    imported = re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    assert "hydra" in imported
    return HEAVY & {name.partition(".")[0] for name in imported}


@pytest.mark.parametrize(
    "line",
    [
        "gama=0.1",
        "net=foo gama=1",
        "epochs=-1 optim.optimizer.lr=1e-4 net.num_blocks=x=y",
        "trainer.val_check_interval=0.5",
        "init_from=absent.ckpt",
        "-m gamma=0,x",
        "evaluate checkpoint=absent.ckpt",
        "interpolate checkpoints=[a,b]",
        "prepare dataset=div2",
        "prepare dataset=photos root=absent",
        "enhance input=absent",
        "enhance input=. device=tpu",
        "score input=absent",
        "export checkpoint=a output=b.txt",
        "import_weights input=a.h5 output=b.safetensors",
        "report runs=absent",
        "serve port=x",
        "dashboard photos=3",
    ],
)
def test_mistakes_are_refused_without_heavy_imports(line: str, tmp_path: Path) -> None:
    assert heavy_imports(line.split(), tmp_path, 2) == set()


@pytest.mark.parametrize("line", ["--help", "score --help", "prepare --help", "serve --help"])
def test_help_needs_no_heavy_imports(line: str, tmp_path: Path) -> None:
    assert heavy_imports(line.split(), tmp_path, 0) == set()


def test_enhancing_a_photo_imports_pytorch_and_pillow_alone(tmp_path: Path) -> None:
    words = ["enhance", f"input={PHOTO}", f"checkpoint={EDSR}", "output=out"]
    assert heavy_imports(words, tmp_path, 0) == {"torch", "PIL"}


def test_scoring_a_photo_imports_what_its_network_needs(tmp_path: Path) -> None:
    found = heavy_imports(["score", f"input={PHOTO}"], tmp_path, 0)
    assert found == {"torch", "torchvision", "PIL"}

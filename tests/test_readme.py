"""What the README and the docs show works as written."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import numpy as np
import pytest
import skimage.data
from PIL import Image

from commands import cli as command_line
from commands import config
from tests.conftest import ROOT, TINY

README = (ROOT / "README.md").read_text()
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "weights").glob("*.md"))]
DOCS = README + "".join(path.read_text() for path in PAGES)
VARIABLES = dict(re.findall(r'^    ([A-Z]+)="(.*)"$', DOCS, flags=re.MULTILINE))  # of the shell
COMMANDS = [
    Template(line).safe_substitute(VARIABLES)
    for line in re.findall(r"python run\.py [^`\n]*=[^`\n]*", DOCS)
]
BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+).*?\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_commands_have_no_mistakes(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder: what a reader of the docs has already run here does not count."""
    monkeypatch.setenv("SERVE_PASSWORD", "secret" if "user=" in line else "")
    if line.startswith("python run.py [command]"):
        return
    call = command_line.parse(shlex.split(line, comments=True)[2:])
    try:
        config.check(call.command, call.overrides, multirun=call.is_multirun)
    except ValueError as error:
        rest = [text for text in str(error).splitlines() if "no such file" not in text]
        allowed = ("mistakes in the configuration", "no GPU", "net=mynet", "trains them", "by srun")
        allowed += ("Address already in use",)  # somebody serves here
        assert all(any(word in text for word in allowed) for text in rest), rest


@pytest.mark.slow
def test_extensions_work_as_shown(folder: Path) -> None:
    """In a copy: a file added here would change the code hash under the other tests."""
    assert len(BLOCKS) == 4
    imports = {
        "networks/mynet.py": "from torch import Tensor, nn\n",
        "lightning_modules/myloss.py": "from torch import Tensor, nn\n"
        "from lightning_modules.losses import HybridLoss\n",
        "datamodules/mydata.py": "from pathlib import Path\n"
        "import numpy as np\n"
        "from datamodules.degradations import Degradation\n"
        "from datamodules.div2k import PairsDataModule, Photos\n"
        "from datamodules.images import to_tensor\n",
    }
    parts = ("commands", "conf", "networks", "lightning_modules", "datamodules", "weights")
    for part in parts:
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "run.py", folder)
    (folder / "photos").mkdir()
    for name in ("chelsea", "coffee", "astronaut"):
        photo = Image.open(Path(skimage.data.__file__).parent / f"{name}.png")
        photo.resize((96, 64)).save(folder / "photos" / f"{name}.png")
        for split in ("train", "val"):
            (folder / split).mkdir(exist_ok=True)
            np.save(folder / split / f"{name}.npy", np.array(photo.resize((96, 64))))
    for name, text in BLOCKS:
        assert len(text.splitlines()) <= 10, name
        (folder / name).write_text(imports.get(name, "") + text)

    def run(*arguments: str) -> None:
        command = [sys.executable, "run.py", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    base = [word for word in TINY if not word.startswith("net.")]
    loss = "model.loss._target_=lightning_modules.myloss.Charbonnier"
    run(*base, "net=mynet", "data._target_=datamodules.mydata.MyPhotos", loss)
    (best,) = folder.rglob("best.ckpt")
    run("enhance", "input=photos/coffee.png", f"checkpoint={best.relative_to(folder)}")
    assert Image.open("outputs/enhanced/coffee_x2.png").size == (192, 128)

"""What a run's code is: the modules that it imports, ours and the user's own, and nothing else."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runs import code_identity
from runs.code_identity import changed_code, code_files, conflicting
from tests.conftest import ROOT, SAMPLE_SCORER, TINY, Cli

FILES = {
    "commands/__init__.py": "",
    "commands/train.py": "import os, torch\nfrom networks import edsr\nfrom . import trust as t\n",
    "commands/trust.py": "def f():\n    import networks.deep.er as x\n",
    "commands/unused.py": "import networks.can",
    "networks/__init__.py": "",
    "networks/edsr.py": "from networks.scales import *\nfrom networks.scales import check",
    "networks/scales.py": "import networks.edsr  # a circle",
    "networks/can.py": "",
    "networks/deep/__init__.py": "",
    "networks/deep/er.py": "from ..mdsr import MDSR\nfrom .. import srcnn, absent",
    "networks/mdsr.py": "",
    "networks/srcnn.py": "syntax error",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "project", FILES)
    monkeypatch.setattr(code_identity, "ROOT", tmp_path / "project")
    return tmp_path / "project"


def test_imports_are_followed_through_our_packages(project: Path) -> None:
    found = code_files(["commands.train"])
    assert list(found) == sorted(FILES.keys() - {"commands/unused.py", "networks/can.py"})
    sha256 = hashlib.sha256((project / "networks/edsr.py").read_bytes()).hexdigest()
    assert found["networks/edsr.py"] == sha256
    assert "networks/can.py" in code_files(["commands.train", "networks.can.CAN"])


def test_a_new_file_that_nothing_imports_changes_nothing(project: Path) -> None:
    before = code_files(["commands.train"])
    write(project, {"networks/new.py": '"""A lone docstring."""\n', "commands/unused.py": "1"})
    assert code_files(["commands.train"]) == before
    write(project, {"networks/edsr.py": "import networks.scales, networks.new"})
    after = code_files(["commands.train"])
    assert changed_code(before, after) == "the code (networks/edsr.py, networks/new.py)"


@pytest.mark.slow
def test_modules_of_the_user_are_followed_and_installed_ones_are_not(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "mine",
        {
            "ownloss.py": "import numpy, owntools\nfrom ownpackage.sub import part\n",
            "owntools.py": "",
            "ownpackage/__init__.py": "",
            "ownpackage/other.py": "",
            "ownpackage/sub/part.py": "from . import absent",
        },
    )
    write(tmp_path / "lib" / "site-packages", {"installed.py": "import owntools"})
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    monkeypatch.syspath_prepend(str(tmp_path / "lib" / "site-packages"))
    found = code_files(["ownloss.Loss", "installed.Thing", "torch.optim.Adam", "__main__.Net"])
    mine = {"ownloss.py", "owntools.py", "ownpackage/__init__.py", "ownpackage/sub/part.py"}
    assert found.keys() == mine
    assert "ownloss" not in sys.modules


@pytest.mark.slow
def test_nothing_that_a_run_imports_is_forgotten() -> None:
    names = ["commands.train", "networks.mdsr.MDSR", "lightning_modules.nima.NIMAModule"]
    modules = "commands.train, networks.mdsr, lightning_modules.nima"
    script = f"import sys, {modules}; print(*(getattr(m, '__file__', None) or '' for m in "
    script += "list(sys.modules.values())), sep='\\n')"
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    ours = [Path(line) for line in out.split() if Path(line).is_relative_to(ROOT)]
    files = {file.relative_to(ROOT).as_posix() for file in ours if ".venv" not in file.parts}
    assert len(files) > 20
    assert files <= code_files(names).keys()


def test_it_is_fast() -> None:
    code_identity.imported.cache_clear()
    began = time.process_time()
    code_files(["commands.train", "networks.edsr.EDSR"])
    assert time.process_time() - began < 1  # 0.15 s on a machine at rest


def test_long_lists_of_changes_are_cut() -> None:
    many = {f"{k}.py": "" for k in range(9)}
    assert changed_code({}, many) == "the code (0.py, 1.py, 2.py, 3.py and 5 more)"
    assert changed_code(None, many) == "the code"  # of version 0.1
    assert conflicting([{"a": "1", "b": "1"}, {"b": "2"}, {"a": "1", "c": "1"}]) == ["b"]


@pytest.mark.slow
def test_a_second_scorer_belongs_to_the_identity(cli: Cli, scorer_file: Path) -> None:
    """Even if it only rates; what is trusted does not."""
    target = "lightning_modules.loss_terms.AestheticLoss"
    term = f"_target_:{target},weight:0,score_always:true,trusted:${{trusted}}"
    words = [*TINY, "gamma=0", "name=a", "epochs=1"]

    def second(scorer: Path) -> str:
        return f"+loss.second={{{term},scorer:'{scorer}'}}"

    done = cli(*words, second(SAMPLE_SCORER))
    assert done.code == 0, done.err
    assert "already finished" in cli(*words, second(SAMPLE_SCORER), "trusted=[json]").out
    refused = cli(*words, second(scorer_file))
    assert refused.code == 2
    assert "loss.second.scorer" in refused.err


@pytest.mark.slow
def test_an_edited_loss_of_the_user_is_named(cli: Cli, folder: Path) -> None:
    loss = folder / "own_loss_of_a_test.py"
    loss.write_text("def bias(sr, hr):\n    return (sr - hr).mean().abs()\n")
    words = [*TINY, "gamma=0", "name=a", f"+loss.own._target_={loss.stem}.bias", "epochs=1"]
    done = cli(*words)
    assert done.code == 0, done.err
    assert "already finished" in cli(*words).out
    loss.write_text(loss.read_text() + "\n\nWEIGHT = 2\n")
    refused = cli(*words)
    sys.path.remove(str(folder))
    assert refused.code == 2
    assert f"the code ({loss.name}) changed since; stale=rerun" in refused.err

"""Messages and help name the program as the user typed it."""

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from system.places import program
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("file", "spec", "name"),
    [
        ("/x/run.py", None, "python run.py"),
        ("/x/run.py", "run", "python -m run"),
        ("/x/bin/nima", None, "nima"),
        ("/x/pytest/__main__.py", "pytest.__main__", "python run.py"),
    ],
)
def test_program(file: str, spec: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    main.__file__ = file
    main.__spec__ = None if spec is None else ModuleSpec(spec, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert program() == name


@pytest.mark.slow
def test_help_of_the_installed_command(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "nima"  # as pip writes it
    script.parent.mkdir()
    script.write_text("import sys; from run import console; sys.exit(console())")
    done = subprocess.run(
        [sys.executable, str(script), "score", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "nima [command] [key=value ...]"
    assert any(line.startswith("# nima score input=FILE") for line in lines)
    assert any(line.startswith("nima COMMAND --cfg job ") for line in lines)
    assert "run.py" not in done.stdout

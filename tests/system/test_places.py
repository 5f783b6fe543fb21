"""The name of the program in messages is what the user typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NIMA = "import sys; from run import console; sys.exit(console())"  # the script that pip writes


@pytest.mark.parametrize("program", ["python run.py", "python -m run", "nima"])
def test_help_shows_the_program_as_typed(program: str, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "nima"
    script.parent.mkdir()
    script.write_text(NIMA)
    start = {
        "python run.py": [str(ROOT / "run.py")],
        "python -m run": ["-m", "run"],
        "nima": [str(script)],
    }[program]
    done = subprocess.run(
        [sys.executable, *start, "score", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"{program} [command] [key=value ...]"
    assert any(line.startswith(f"# {program} score input=FILE") for line in lines)
    assert any(line.startswith(f"{program} COMMAND --cfg job ") for line in lines)
    if program != "python run.py":
        assert "run.py" not in done.stdout

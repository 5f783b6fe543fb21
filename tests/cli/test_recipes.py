"""The files in docs/recipes.md compose as they stand."""

import re
from pathlib import Path

from cli import command_line as command_line
from tests.conftest import ROOT


def test_recipes_compose(folder: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    names = re.findall(r"^`(mine/[\w/]+\.yaml)`", text, re.MULTILINE)
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(names) == len(blocks) == 3
    for name, block in zip(names, blocks, strict=True):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(block)
    command_line.parse(["--config-dir=mine", "experiment=small"]).check()
    command_line.parse(["--config-dir=mine", "experiment=small", "sweep=rates"]).check()

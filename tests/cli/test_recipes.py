"""The files in docs/recipes.md compose as they stand."""

import re
from pathlib import Path

import pytest

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


def test_alias_bombs_are_refused_before_they_expand(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bomb.yaml: stands for"):
        command_line.parse(["--config-dir=mine", "experiment=bomb"]).check()

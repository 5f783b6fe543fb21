"""Folders of configuration files that are missing or damaged."""

from pathlib import Path

import pytest

from cli import command_line as command_line


@pytest.mark.parametrize("key", ["hydra.searchpath", "--config-dir"])
def test_folders_that_are_not_there(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}=gone: no such folder$"):
        command_line.parse([f"{key}=gone", "gamma=0"]).check()


def test_a_damaged_file_is_named(folder: Path) -> None:
    Path("mine/net").mkdir(parents=True)
    Path("mine/net/own.yaml").write_text("num_blocks: [1")
    with pytest.raises(ValueError, match=r"cannot be read as YAML: .*mine/net/own\.yaml"):
        command_line.parse(["--config-dir=mine", "net=own", "gamma=0"]).check()

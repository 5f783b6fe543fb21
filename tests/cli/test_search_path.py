"""Folders of configuration files from elsewhere are looked through before Hydra reads them."""

from pathlib import Path

import pytest

from cli import command_line as command_line

# Ten values, ten times, and so on: 10 ** 9 values in some hundred bytes.
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("where", ["[mine]", "[file://HERE/mine]", "[good,mine]"])
@pytest.mark.parametrize("shown", [(), ("--cfg", "job")])
def test_alias_bombs_in_the_search_path(folder: Path, where: str, shown: tuple[str, ...]) -> None:
    for name in ("mine/net", "good/net"):
        Path(name).mkdir(parents=True)
    Path("good/net/small.yaml").write_text("_target_: networks.edsr.EDSR\n")
    Path("mine/net/bomb.yaml").write_text(BOMB)
    words = [f"hydra.searchpath={where.replace('HERE', str(folder))}", "gamma=0", *shown]
    with pytest.raises(ValueError, match=r"net/bomb\.yaml: stands for 1,234,567,909 values"):
        command_line.parse(words).check()
    Path("mine/net/bomb.yaml").unlink()
    command_line.parse(words).check()


@pytest.mark.parametrize("key", ["hydra.searchpath", "--config-dir"])
def test_folders_that_are_not_there(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}=gone: no such folder$"):
        command_line.parse([f"{key}=gone", "gamma=0"]).check()


def test_a_damaged_file_is_named(folder: Path) -> None:
    Path("mine/net").mkdir(parents=True)
    Path("mine/net/own.yaml").write_text("num_blocks: [1")
    with pytest.raises(ValueError, match=r"mine/net/own\.yaml: cannot be read as YAML"):
        command_line.parse(["--config-dir=mine", "net=own", "gamma=0"]).check()

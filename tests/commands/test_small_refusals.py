"""Values that once passed the checks, or were refused with the wrong reason."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from datamodules.folders import PhotoFolders
from images.finding import search
from lightning_modules.checkpoint import read_checkpoint
from runs.requirements import require_file
from system.places import expanded
from tests.conftest import TINY, Cli
from web.uploads import above


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("callbacks.checkpoint.monitor=-1", "=-1: should be a metric, such as val/psnr"),
        ("callbacks.checkpoint.monitor=", "=: should be a metric, such as val/psnr"),
        ("callbacks.checkpoint.dirpath={}", "={}: checkpoints are part of the run folder"),
        ("callbacks.checkpoint.dirpath=elsewhere", "=elsewhere: checkpoints are part of the run"),
        ("optim.optimizer._partial_=null", "=null: should be true or false"),
        ("optim.optimizer._partial_=3", "=3: should be true or false"),
        ("optim.optimizer._partial_=false", "=false: true, because the network's parameters"),
    ],
)
def test_values_that_fail_later_are_refused_at_once(
    cli: Cli, folder: Path, word: str, message: str
) -> None:
    done = cli(*TINY, word)
    assert done.code == 2
    assert done.err.strip().startswith(f"error: {word.partition('=')[0]}{message}")
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize("words", [["gamma=${nothing}"], ["scale=${gamma}", "gamma=${nothing}"]])
def test_what_cannot_be_resolved_is_named_where_it_was_set(cli: Cli, words: list[str]) -> None:
    done = cli(*TINY, *words)
    assert done.code == 2
    assert done.err.strip() == "error: gamma: Interpolation key 'nothing' not found"


def as_nobody(action: Callable[[], bool]) -> bool:
    """Return whether an action succeeds without root's right to read everything."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            code = 0 if action() else 1
        finally:  # whatever is raised, no second pytest goes on
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_checkpoint_in_a_closed_folder_is_not_called_missing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    path = closed / "a.ckpt"
    path.touch()
    closed.chmod(0)

    def said() -> bool:
        try:
            read_checkpoint(path)
        except ValueError as error:
            reading = str(error) == f"{path}: cannot be read (Permission denied)"
        else:
            reading = False
        expected = f"checkpoint={path}: cannot be read (Permission denied)"
        return reading and list(require_file("checkpoint", str(path))) == [expected]

    assert as_nobody(said)
    closed.chmod(0o755)
    (missing,) = require_file("checkpoint", str(closed / "b.ckpt"))
    assert missing.endswith("b.ckpt: no such file")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read; those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_folders_that_cannot_be_read_are_named(open_folder: Path) -> None:
    for name in ("a", "b"):
        (open_folder / name).mkdir()
    Image.new("RGB", (4, 4)).save(open_folder / "x.png")
    one, two = open_folder / "a", open_folder / "b"

    def said(folders: str) -> bool:
        return search(str(open_folder)).summary() == f"1 photo; left out: {folders}"

    one.chmod(0)
    assert as_nobody(lambda: said(f"1 folder that cannot be read ({one})"))
    two.chmod(0)
    assert as_nobody(lambda: said(f"2 folders that cannot be read ({one}, {two})"))


def test_a_home_of_nobody_is_the_name_of_a_file(folder: Path) -> None:
    assert expanded("~") == Path.home()
    assert expanded("~nouser/x") == Path("~nouser/x")
    with pytest.raises(ValueError, match=r"^~nouser/x\.ckpt: no such checkpoint"):
        read_checkpoint("~nouser/x.ckpt")
    with pytest.raises(ValueError, match=r"data\.val_hr=~nouser/x: no such file"):
        PhotoFolders(None, "~nouser/x", scale=2).hr_sources("val")
    assert list(require_file("checkpoint", "~nouser/x")) == ["checkpoint=~nouser/x: no such file"]


def test_no_other_code_expands_paths() -> None:
    root = Path(__file__).parents[2]
    files = [path for path in root.glob("[a-z]*/**/*.py") if path.parts[len(root.parts)] != "tests"]
    assert root / "system" / "places.py" in files
    assert [path for path in files if re.search(r"\.expanduser\(\)", path.read_text())] == []


@pytest.mark.parametrize(
    ("pixels", "limit", "expected"),
    [
        (1_001_000, 1, "1.001"),
        (1_040_000, 1, "1.04"),
        (1_000_001, 1, "1.000001"),
        (24e6, 4, "24.0"),
    ],
)
def test_too_many_megapixels_are_more_than_the_limit(
    pixels: float, limit: float, expected: str
) -> None:
    assert above(pixels / 1e6, limit) == expected

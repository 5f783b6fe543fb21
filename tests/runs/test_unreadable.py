"""Folders of other users, as root sees none: the system's answer is put in its place."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runs.requirements import require_folder


def test_an_output_below_a_folder_that_cannot_be_entered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`report runs=FOLDER` writes to FOLDER/report; it ended in a traceback."""
    (folder / "locked").mkdir()
    original = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:  # noqa: ANN401
        if str(path).startswith(str(folder / "locked" / "report")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert list(require_folder("output", "locked/report")) == []  # root may write there
    (folder / "file").touch()
    assert list(require_folder("output", "file/x")) == [
        f"output=file/x: {folder / 'file'} is a file; a folder is needed"
    ]

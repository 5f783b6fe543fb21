import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.folders import Decode
from datamodules.packing import Order, pack
from datamodules.store import Source
from system.locks import lock, locked
from system.places import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from system.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Start a process that holds a folder's lock for some time."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    with hold(tmp_path / "new" / "run", 60) as process:
        with (
            pytest.raises(ValueError, match="run: another process is running this"),
            locked(tmp_path / "new" / "run"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(tmp_path / "new" / "run"):
            pass


def test_waiting_for_another_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with hold(tmp_path, 1.0) as process:
        began = time.monotonic()
        with caplog.at_level("INFO"), locked(tmp_path, wait=True):
            assert time.monotonic() - began > 0.2
            assert process.wait() == 0
    assert f"waiting for another process that uses {tmp_path}" in caplog.text


def test_another_user_can_take_a_lock_where_the_umask_allows_it(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with locked(tmp_path):
            mode = (tmp_path / ".lock").stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_IMODE(mode) == 0o664


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path), locked(tmp_path, wait=True), open(tmp_path / "a", "wb") as file:
        assert lock(file)


def test_a_complete_store_is_read_from_a_read_only_disk(tmp_path: Path, small_disk: Path) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    for name, photo in zip("ab", photos, strict=True):
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        os.utime(tmp_path / f"{name}.png", (1e9, 1e9))
    sources = [Source(name, str(tmp_path / f"{name}.png")) for name in "ab"]
    orders = [Order("HR", sources, Decode(), "photos")]
    pack(small_disk, orders, per_shard=2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    (packed,) = pack(small_disk, orders, per_shard=2)
    assert (packed[1] == photos[1]).all()
    with pytest.raises(ValueError, match=r"Read-only file system\); data\.store=FOLDER puts"):
        pack(small_disk, orders, per_shard=1)

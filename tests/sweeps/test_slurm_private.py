"""submitit's files are pickles: nobody else may write where they are read from."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from sweeps.job import Job, JobState

slurm: Any = pytest.importorskip("sweeps.slurm", exc_type=ImportError)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_the_folder_is_private_whatever_the_umask(folder: Path, umask: int) -> None:
    root = slurm.root_of(folder / "sweeps" / "gamma" / ".submitit" / "%j")
    assert root == folder / "sweeps" / "gamma" / ".submitit"
    before = os.umask(umask)
    try:
        slurm.make_private(root)
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o777 == 0o700
    slurm.make_private(root)  # it is found again


def test_folders_of_earlier_sweeps_are_closed(folder: Path) -> None:
    root = folder / ".submitit"
    root.mkdir()
    root.chmod(0o755)
    slurm.make_private(root)
    assert root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o775, 0o707, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    root = folder / ".submitit"
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(ValueError, match=r"submitit_folder=.*others can write there"):
        slurm.make_private(root)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a folder another's")
def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    root = folder / ".submitit"
    root.mkdir(mode=0o700)
    os.chown(root, 65534, 65534)
    with pytest.raises(ValueError, match="others can write there"):
        slurm.make_private(root)


def test_a_sweep_folder_that_others_can_write_to_is_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.chmod(0o777)
    slurm.make_private(folder / ".submitit")
    assert "others can write there, and so replace .submitit" in caplog.text
    caplog.clear()
    folder.chmod(0o1777)  # as /tmp
    slurm.make_private(folder / ".submitit")
    assert not caplog.text


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


@pytest.mark.parametrize(("mode", "read"), [(0o700, True), (0o777, False)])
def test_a_planted_result_is_not_read(
    folder: Path, mode: int, read: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cluster = slurm.SlurmExecutor(
        submitit_folder=str(folder / ".submitit" / "%j"),
        max_num_timeout=1,
        stop_at_failure=False,
        wait=True,
    )
    job = Job(["train"], folder / "a", name="a")
    job.folder.mkdir()
    (job.folder / "console.log").write_text("")
    (job.folder / "slurm.json").write_text("{}")
    cluster.submitted[job.folder] = slurm.SlurmJob("12", 1, cluster.folder)
    result = slurm.JobPaths(cluster.folder, "12", 0).result_pickle
    result.parent.mkdir(parents=True)
    result.write_bytes(pickle.dumps(("success", Trap())))
    (folder / ".submitit").chmod(mode)
    cluster.end(job)
    assert (folder / "trapped").exists() == read
    assert job.state is (JobState.DONE if read else JobState.FAILED)

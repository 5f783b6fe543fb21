"""Sweeps on a real SLURM: `tests/slurm/cluster up` makes one of this machine."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_train import assert_same_curve
from tests.conftest import TINY, Finished, kill_when, launch

Cli = Callable[..., Finished]


def answers() -> bool:
    """Whether there is a SLURM here that takes jobs."""
    command = ["sinfo", "--noheader", "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(state in done.stdout for state in ("idle", "mixed", "allocated", "completing"))


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(not answers(), reason="no SLURM answers; tests/slurm/cluster up starts one"),
]

SLURM = [
    *("-m", *TINY, "gamma=0", "hydra/launcher=slurm", "trainer=slurm", "trainer.accelerator=cpu"),
    *("trainer.devices=2", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=5"),
]
LONG = ["epochs=12", "data.num_steps=20"]


def results(folder: str = "outputs/sweeps") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder).rglob("result.json"))]


def queued(folder: Path) -> list[str]:
    """Numbers of the SLURM jobs that this folder's sweeps have submitted and that are not over."""
    numbers = {json.loads(path.read_text())["job_id"] for path in folder.rglob("slurm.json")}
    listed = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True).stdout
    return sorted(numbers & set(listed.split()))


def test_a_sweep_of_jobs_of_two_ranks(folder: Path, cli: Cli) -> None:
    words = [*SLURM, "epochs=1", "optim.optimizer.lr=1e-4,1e-3,1e30"]
    output, _ = (process := launch(folder, *words)).communicate(timeout=400)
    assert process.returncode == 1, output
    assert "optim.optimizer.lr=1e+30: exit code 2: val/psnr of photo 1" in output
    found = results()
    assert [r["world_size"] for r in found] == [2, 2]
    assert sorted(r["config"]["optim"]["optimizer"]["lr"] for r in found) == [1e-4, 1e-3]
    assert not queued(folder)
    # The same as without SLURM.
    local = ["-m", *TINY, "gamma=0", "epochs=1", "optim.optimizer.lr=1e-4,1e-3"]
    assert cli(*local, "paths.output_dir=local", "trainer=ddp_cpu").code == 0
    for one, two in zip(results(), results("local"), strict=True):
        assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-6)
    again = cli(*SLURM, "epochs=1", "optim.optimizer.lr=1e-4,1e-3")
    assert again.code == 0
    assert "finished already: " in again.out
    assert "submitted" not in again.out


def test_a_preempted_job_goes_on_and_ends_the_same(folder: Path, cli: Cli) -> None:
    """The sweep's own process is killed, too; the same command looks after the job again."""
    process = launch(folder, *SLURM, *LONG)
    kill_when(process, lambda: bool(list(folder.rglob("last.ckpt"))))
    (number,) = queued(folder)
    (last,) = folder.rglob("last.ckpt")
    run = last.parent.parent
    assert not (run / "result.json").exists()
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    process = launch(folder, *SLURM, *LONG)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert f"(SLURM job {number})" in output
    assert "attached " in output
    assert "submitted " not in output
    assert (run / "console.log").read_text().count("continuing in ") == 1
    local = cli(*TINY, "gamma=0", *LONG, "paths.output_dir=local", "trainer=ddp_cpu")
    assert local.code == 0, local.err
    (other,) = Path("local").glob("*/*")
    assert_same_curve(run, other)
    one, two = (json.loads((path / "result.json").read_text()) for path in (run, other))
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-6)


def test_an_interrupt_cancels_the_jobs(folder: Path) -> None:
    process = launch(folder, *SLURM, "epochs=500", "seed=1,2,3")
    deadline = time.monotonic() + 120
    while not list(folder.rglob("last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(queued(folder)) == 3
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.count("stopped ") >= 3
    assert not queued(folder)


def test_jobs_that_are_only_submitted(folder: Path, cli: Cli) -> None:
    words = [*SLURM, "epochs=1", "trainer.devices=1"]
    done = cli(*words, "hydra.launcher.wait=false")
    assert done.code == 0, done.err
    assert " queued " in done.out
    assert len(queued(folder)) == 1
    output, _ = (process := launch(folder, *words)).communicate(timeout=400)
    assert process.returncode == 0, output
    assert "attached " in output or "finished already: " in output
    assert [r["world_size"] for r in results()] == [1]


def test_what_slurm_refuses_is_said(cli: Cli) -> None:
    done = cli(*SLURM, "hydra.launcher.partition=nowhere")
    assert done.code == 2
    assert "SLURM refuses " in done.err
    assert "invalid partition" in done.err.lower()
    done = cli(*SLURM, "trainer.devices=-1")
    assert done.code == 2
    assert "trainer.devices=-1: a number is needed, per machine" in done.err

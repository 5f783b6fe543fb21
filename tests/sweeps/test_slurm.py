"""Sweeps on a real SLURM: `tests/slurm/cluster up` makes one of this machine."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from runs.code_identity import OURS
from tests.commands.test_train import assert_same_curve, on_two_ranks
from tests.conftest import ROOT, TINY, Cli, kill_when, launch
from tests.runs.test_interruptions import epoch_of
from tests.sweeps.conftest import files_named, results, wait_for


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


def queued(folder: Path) -> list[str]:
    """Numbers of the SLURM jobs that this folder's sweeps have submitted and that are not over."""
    numbers = {json.loads(path.read_text())["job_id"] for path in files_named("slurm.json", folder)}
    listed = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True).stdout
    return sorted(numbers & set(listed.split()))


def wait_while_running(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    def holds() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return condition()

    wait_for(holds, 300)


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


def test_a_preempted_job_goes_on_and_ends_the_same(folder: Path) -> None:
    """The sweep's own process is killed, too; the same command looks after the job again."""
    process = launch(folder, *SLURM, *LONG)
    kill_when(process, lambda: bool(files_named("last.ckpt", folder)))
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
    other = on_two_ranks(folder, "gamma=0", *LONG)
    assert_same_curve(run, other)
    one, two = (json.loads((path / "result.json").read_text()) for path in (run, other))
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-6)


def test_a_job_that_is_preempted_on_a_plateau_repeats_no_full_epoch(folder: Path) -> None:
    """The first epoch stays the best one; each attempt goes on after the last full epoch."""
    words = ["epochs=8", "data.num_steps=20", "callbacks.checkpoint.monitor=val/l2"]
    words += ["callbacks.checkpoint.mode=max"]
    process = launch(folder, *SLURM, *words)
    for attempt in range(1, 4):
        wait_while_running(process, partial(printed, folder, r"^epoch \d+/8 ", 2 * attempt))
        (number,) = queued(folder)
        subprocess.run(["scancel", "--signal=USR2", number], check=True)
        wait_while_running(process, partial(printed, folder, "continuing in ", attempt))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    done = re.findall(r"^epoch (\d+)/8 ", console_of(folder), re.M)
    # A line is printed before its checkpoint is on the disk, so a kill may come between.
    assert len(done) <= 8 + 3
    assert sorted(set(done)) == [str(epoch) for epoch in range(1, 9)]
    (last,) = folder.rglob("last.ckpt")
    run, other = last.parent.parent, on_two_ranks(folder, "gamma=0", *words)
    assert_same_curve(run, other)
    assert (epoch_of(run, "best"), epoch_of(run, "last")) == (1, 8)
    one, two = (json.loads((path / "result.json").read_text()) for path in (run, other))
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-6)


def console_of(folder: Path) -> str:
    """What the only job has printed."""
    return "".join(path.read_text() for path in folder.rglob("console.log"))


def printed(folder: Path, pattern: str, count: int) -> bool:
    return len(re.findall(pattern, console_of(folder), re.M)) >= count


def test_a_job_that_an_urgent_one_preempts(folder: Path) -> None:
    """SLURM tells it by SIGTERM; `overwrite=true` does not begin it anew a second time."""
    process = launch(folder, *SLURM, *LONG, "overwrite=true")
    wait_while_running(process, lambda: bool(files_named("last.ckpt", folder)))
    urgent = ["sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "requeued " in output
    (console,) = folder.rglob("console.log")
    assert console.read_text().count("training in ") == 1
    assert console.read_text().count("continuing in ") == 1
    assert [r["epochs"] for r in results()] == [12]


def test_a_rank_that_fails_takes_the_job_along(folder: Path) -> None:
    """It is not taken for a preempted one, and another checkout's code is that of its jobs."""
    for part in (*OURS, "conf", "weights"):
        shutil.copytree(ROOT / part, folder / "checkout" / part)
    fails = "import os\nif os.environ.get('SLURM_PROCID') == '1':\n    sys.exit('rank 1 fails')\n"
    text = (ROOT / "run.py").read_text()
    (folder / "checkout" / "run.py").write_text(
        text.replace("import sys\n", f"import sys\n{fails}")
    )
    command = [sys.executable, str(folder / "checkout" / "run.py"), *SLURM, *LONG]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1, done.stdout + done.stderr
    assert ": exit code 1: " in done.stdout
    assert "requeued" not in done.stdout
    (console,) = folder.rglob("console.log")
    assert console.read_text().count("rank 1 fails") == 1
    assert not queued(folder)


def test_an_interrupt_cancels_the_jobs(folder: Path) -> None:
    process = launch(folder, *SLURM, "epochs=500", "seed=1,2,3")
    wait_while_running(process, lambda: bool(files_named("last.ckpt", folder)))
    assert len(queued(folder)) == 3
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.count("│ stopped │") == 3
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
    assert "trainer.devices=-1: means all GPUs" in done.err


def test_an_older_result_is_not_that_of_a_job_that_was_cancelled(folder: Path) -> None:
    """Somebody cancels a job in the queue that was to train on a finished run."""
    process = launch(folder, *SLURM, "epochs=1", "trainer.devices=1")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    blocker = ["sbatch", "--parsable", "-n4", "--output=/dev/null", "--wrap=sleep 60"]
    number = subprocess.run(blocker, capture_output=True, text=True, check=True).stdout.strip()
    try:
        process = launch(folder, *SLURM, "epochs=1", "trainer.devices=1", "overwrite=true")
        wait_while_running(process, lambda: bool(queued(folder)))
        subprocess.run(["scancel", *queued(folder)], check=True)
        output, _ = process.communicate(timeout=120)
    finally:
        subprocess.run(["scancel", number], check=True)
    assert process.returncode == 1, output
    assert "ended without a result" in output

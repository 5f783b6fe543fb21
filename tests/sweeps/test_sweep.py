"""Sweeps: jobs as processes of their own on a pool of devices."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from sweeps import pool, sweep
from sweeps.job import Job, JobState
from sweeps.pool import PoolExecutor, job_environment
from sweeps.table import summary
from system.locks import locked
from system.places import CONF
from tests.conftest import ROOT, TINY, Cli, kill_when, launch
from tests.sweeps.conftest import QUIET, files_named, processes_of, results, wait_for


def test_a_job_sees_its_own_devices_and_nothing_of_other_ranks() -> None:
    outer = {
        "HOME": "/h",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_PORT": "29500",
        "SLURM_NTASKS": "2",
        "OMPI_MCA_plm": "isolated",
    }
    one, two, cpu = (
        job_environment(outer, gpus, threads=3, lifeline=5) for gpus in (["7"], ["4", "7"], [])
    )
    assert one["HOME"] == "/h"
    assert not {"RANK", "LOCAL_RANK", "SLURM_NTASKS"} & one.keys()
    assert one["OMPI_MCA_plm"] == "isolated"  # a setting of this machine, unless mpirun gave it
    by_mpirun = job_environment(outer | {"OMPI_COMM_WORLD_SIZE": "2"}, [], threads=1, lifeline=5)
    assert not {"OMPI_MCA_plm", "OMPI_COMM_WORLD_SIZE"} & by_mpirun.keys()
    assert [e["CUDA_VISIBLE_DEVICES"] for e in (one, two, cpu)] == ["7", "4,7", ""]
    assert one["MASTER_PORT"] != "29500"
    assert one["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("given", "told", "ready"), [("3", None, 3), ("3", 2, 2), ("", None, 4), ("0", None, 4)]
)
def test_threads_of_jobs(
    monkeypatch: pytest.MonkeyPatch, given: str, told: int | None, ready: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(pool, "num_cores", lambda: 8)
    executor = PoolExecutor(jobs=2, threads=told)
    with executor.session([Job(["a"], Path("a"))]):
        assert executor.rank_threads == ready


@pytest.fixture
def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Jobs whose run.py is a few lines of Python: a name, and what it does."""
    monkeypatch.setattr(pool, "ROOT", folder)
    (folder / "run.py").write_text("import sys\nexec(sys.argv[1])\n")
    return lambda name, code, num_gpus=0: Job([code], folder / name, name=name, num_gpus=num_gpus)


@pytest.mark.parametrize("share", [1, 2])
def test_jobs_run_side_by_side_as_far_as_there_are_devices(
    pretend: Callable[..., Job], share: int
) -> None:
    code = (
        "import os, time; begin = time.time(); time.sleep(0.5); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], begin, time.time(), sep=';')"
    )
    todo = [pretend(f"job{k}", code, num_gpus) for k, num_gpus in enumerate((1, 2, 3, 2, 1, 1))]
    assert PoolExecutor(list("0123"), share=share).run(todo) is None
    assert {job.state for job in todo} == {JobState.DONE}
    spans = []
    for job in todo:
        used, first, last = job.console.read_text().strip().split(";")
        assert len(set(used.split(","))) == job.num_gpus
        spans.append((used.split(","), float(first), float(last)))
    together = 0
    for _, begin, _ in spans:
        running = [gpus for gpus, first, last in spans if first <= begin < last]
        in_use = Counter(gpu for gpus in running for gpu in gpus)
        assert max(in_use.values()) <= share
        together = max(together, len(running))
    assert together >= 2


def test_a_failing_job_does_not_lose_the_others(pretend: Callable[..., Job]) -> None:
    todo = [
        pretend("a", "pass"),
        pretend("b", "print('error: no luck'); sys.exit(2)"),
        pretend("c", "pass"),
    ]
    PoolExecutor().run(todo)
    assert [job.state for job in todo] == [JobState.DONE, JobState.FAILED, JobState.DONE]
    assert todo[1].note == "exit code 2: no luck"
    assert "b: exit code 2: no luck" in summary(todo)


def test_a_failing_job_stops_those_that_wait(pretend: Callable[..., Job]) -> None:
    todo = [pretend("a", "sys.exit(1)"), pretend("b", "pass")]
    PoolExecutor(stop_at_failure=True).run(todo)
    assert [job.state for job in todo] == [JobState.FAILED, JobState.STOPPED]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, "import time; time.sleep(60)"),
        (signal.SIGTERM, "import time; time.sleep(60)"),
        # Does not listen, and has a child.
        (
            signal.SIGTERM,
            "import signal, subprocess; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            "subprocess.run(['sleep', '61'])",
        ),
    ],
)
def test_signals_stop_all_jobs_with_their_children(
    pretend: Callable[..., Job], number: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "GRACE", 1.0)
    todo = [pretend("a", code), pretend("b", code), pretend("c", code)]
    begin = time.monotonic()
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    assert PoolExecutor(jobs=2).run(todo) == number
    assert time.monotonic() - begin < 10
    assert [job.state for job in todo] == [JobState.STOPPED] * 3
    assert not subprocess.run(["pgrep", "-f", "sleep 61"], capture_output=True).stdout
    assert signal.getsignal(number) is not None


@pytest.mark.slow
def test_a_job_ends_with_the_process_of_its_sweep(folder: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from sweeps.lifeline import follow_sweep\n\n"
        "follow_sweep()\n"
        "child = subprocess.Popen(['sleep', '62'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "child.wait()\n"
    )
    (folder / "run.py").write_text(code)
    parent = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from sweeps import pool\n"
        "pool.ROOT = Path.cwd()\n"
        "pool.PoolExecutor().run([pool.Job([], Path('job'), name='job')])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=folder, text=True)
    kill_when(process, lambda: (folder / "pids").exists() and bool((folder / "pids").read_text()))
    pids = [int(text) for text in (folder / "pids").read_text().split()]
    wait_for(lambda: not any(alive(pid) for pid in pids), 10)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


SECOND = (
    "+loss.second={_target_:lightning_modules.loss_terms.AestheticLoss,weight:0.1,"
    "scorer:${scorer.checkpoint}}"
)


@pytest.mark.parametrize(
    ("words", "num_combinations", "num_jobs"),
    [
        (["sweep=gamma", "scorer.checkpoint=x"], 12, 12),
        (["sweep=gamma_seeds", "experiment=sample_tone"], 15, 15),
        (["sweep=scale", "gamma=0"], 6, 4),
        (["sweep=backbone", "experiment=nima_mnasnet"], 3, 3),
        (["gamma=0,0.1,0.2,0.4", "scale=2,3,4", "net=edsr,mdsr"], 24, 16),
        (["gamma=0,.0", "scorer.checkpoint=a.ckpt,b.ckpt"], 4, 1),  # no scorer is read
        (["loss=[l1],[l2,color]", "gamma=0"], 2, 2),
        (["gamma=0", "loss.aesthetic=null", "scorer.checkpoint=a.ckpt,b.ckpt"], 2, 1),
        (["gamma=0", "loss=[l2,color]", "loss.color=null", "seed=1,2"], 2, 2),
        (["gamma=0", SECOND, "scorer.checkpoint=a.ckpt,b.ckpt"], 2, 2),  # which reads it as well
        (["gamma=0,0.1", "loss.aesthetic.mode=linear,hinge"], 4, 3),
        (["gamma=1", "loss.aesthetic.noise=1,2", "loss.aesthetic.num_views=2,4"], 4, 1),
        (["gamma=1", "loss.aesthetic.noise=1,2", "loss.aesthetic.views=[noise],[flip]"], 4, 3),
        (["gamma=1", "loss.aesthetic.target=hr,7", "loss.aesthetic.mode=linear,hinge"], 4, 3),
        (["gamma=1", "loss.aesthetic.reduce=mean,min", "scorer.checkpoint=a,[a,b]"], 4, 3),
    ],
)
def test_equal_jobs_are_one(words: list[str], num_combinations: int, num_jobs: int) -> None:
    configs = combinations(words)
    assert len(configs) == num_combinations
    assert len({sweep.plan_job("train", config).folder for config in configs}) == num_jobs


def combinations(words: list[str]) -> list[Any]:
    """The configurations that Hydra's sweeper would hand over."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        files = [word for word in words if word.startswith("sweep=")]
        cfg = compose("train", files, return_hydra_config=True)
        params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*params, *words])
        (batch,) = BasicSweeper.split_arguments(parsed, None)
        return [compose("train", job, return_hydra_config=True) for job in batch]


def test_jobs_larger_than_the_pool_are_refused() -> None:
    (config,) = combinations(["trainer=ddp", "trainer.devices=3"])
    assert pool.num_gpus(config, list("0123")) == 3
    with pytest.raises(ValueError, match=r"trainer\.devices=3: the sweep has 2 GPUs"):
        pool.num_gpus(config, list("01"))
    (config,) = combinations(["trainer=ddp"])
    assert pool.num_gpus(config, list("0123")) == 4


@pytest.mark.slow
def test_sweep_skips_what_is_finished_and_reports_what_failed(cli: Cli) -> None:
    words = ["-m", *TINY, "epochs=1", "gamma=0", "net=edsr,mdsr", "scale=2,3"]
    done = cli(*words, "hydra.launcher.jobs=2", "data.limit=2")
    assert done.code == 0, done.err
    assert "3 jobs in outputs/sweeps/sample_edsr" in done.out
    assert "1 of 4 combinations differ from others only in settings" in done.out
    found = results()
    assert sorted(str(r["config"]["scale"]) for r in found) == ["2", "3", "None"]
    again = cli(*words, "data.limit=2")
    assert again.code == 0
    assert "finished already: net=edsr scale=2, net=edsr scale=3, net=mdsr" in again.out
    assert results() == found
    # Another learning rate has its own folder, or is refused where that has been named.
    failed = cli("-m", *TINY, "epochs=1", "gamma=0", "optim.optimizer.lr=1e-4,1e30")
    assert failed.code == 1, failed.out
    assert "optim.optimizer.lr=1e+30: exit code 2: val/psnr of photo 1" in failed.out
    assert "2 jobs" in failed.out
    assert len(results()) == 4


@pytest.mark.slow
def test_sweep_on_a_local_ray(folder: Path) -> None:
    pytest.importorskip("ray")
    words = ["-m", *TINY, "epochs=1", "gamma=0", "hydra/launcher=ray", "hydra.launcher.threads=1"]
    process = launch(folder, *words, "optim.optimizer.lr=1e-4,1e-3,1e30")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "optim.optimizer.lr=1e+30: exit code 2: val/psnr of photo 1" in output
    found = results()
    assert sorted(r["config"]["optim"]["optimizer"]["lr"] for r in found) == [1e-4, 1e-3]
    process = launch(folder, *words, "optim.optimizer.lr=1e-4,1e-3", "trainer=ddp_cpu")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "finished already: " in output
    assert results() == found


@pytest.mark.slow
def test_an_interrupt_stops_the_jobs_of_a_local_ray(folder: Path) -> None:
    pytest.importorskip("ray")
    words = ["-m", *TINY, "epochs=500", "gamma=0", "hydra/launcher=ray", "seed=1,2,3"]
    process = launch(folder, *words)
    wait_for(lambda: len(files_named("last.ckpt", Path("outputs"))) >= 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "interrupted; the same command resumes" in output
    assert output.count("\nstopped ") >= 1  # those that ran; in the table there are all
    assert output.count("│ stopped │") == 3
    assert not processes_of(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer=ddp_cpu", "trainer.num_nodes=2"], "this launcher's jobs have one machine each"),
        (["hydra/launcher=ray", "trainer=ddp_cpu", "trainer.num_nodes=2"], "jobs have one machine"),
        (["hydra/launcher=ray", "hydra.launcher.threads=0"], "hydra.launcher.threads=0: should be"),
        (["hydra/launcher=slurm", "hydra.launcher.timeout_min=abc"], "hydra.launcher.timeout_min="),
        (["hydra/launcher=slrm"], "no such launcher; did you mean slurm?"),
        (["hydra.launcher.gpus=[7]"], "hydra.launcher.gpus=[7]: 0 GPUs are visible"),
        (["hydra.launcher.gpus=0"], "hydra.launcher.gpus=0: should be a valid list"),
        (["hydra.launcher.jobs=0"], "hydra.launcher.jobs=0: should be greater than 0"),
        (["hydra.launcher.jobs=two"], "hydra.launcher.jobs=two: "),
        (["hydra.launcher.job=2"], "hydra.launcher.job: no such key; did you mean jobs?"),
        (["hydra.launcher.on_failure=stopp"], "hydra.launcher.on_failure=stopp: should be"),
        (["+name=a", "seed=1,2"], "+name=a in a multirun: the runs would share one folder"),
        (["hydra/sweeper=optuna", "gamma=interval(0,-1)"], "gamma=-1.0: "),
        (["hydra/sweeper=optuna", "gamma=interval(0,1)", "hydra.sweeper.n_trials=0"], "n_trials=0"),
        (["hydra/sweeper=optuna", "gamma=0,1", "hydra.sweeper.direction=up"], "direction=up: "),
        (["hydra/sweeper=optuna", "gamma=0"], "nothing to search: give choices"),
        (
            ["hydra/sweeper=optuna", "gamma=0,1", "hydra.sweeper.custom_search_space=no.such"],
            "hydra.sweeper.custom_search_space=no.such: ",
        ),
        (["paths.output_dir=/proc/x", "gamma=0"], "paths.output_dir=/proc/x: /proc cannot be wri"),
    ],
)
def test_what_a_sweep_refuses(cli: Cli, words: list[str], message: str) -> None:
    done = cli("-m", *TINY, *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.out + done.err
    assert not list(Path().rglob("run.json"))


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_ranks_of_others_do_not_run_sweeps(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for given in ("SLURM_NTASKS", name):  # the first is in the environment of batch scripts, too
        assert not sweep.one_of_several_ranks()
        monkeypatch.setenv(given, "2")
    done = cli("-m", *TINY, "gamma=0,0.1")
    assert done.code == 2
    assert "each rank would run the sweep" in done.err


def test_a_second_sweep_leaves_running_jobs_alone(
    pretend: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    """The lock lasts from before the job's own imports until the last of its ranks has ended."""
    caplog.set_level(logging.INFO)
    job, same = (pretend("a", "pass") for _ in range(2))
    console = pool.lock_console(job)
    assert console is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, stdout=console)
    console.write(b"of the first\n")
    console.close()  # the sweep's own process may end first
    assert pool.is_running(same)
    PoolExecutor().run([same])
    assert same.state is JobState.ELSEWHERE
    assert caplog.messages == ["running elsewhere: a"]
    assert job.console.read_text() == "of the first\n"
    child.communicate(b"\n")
    assert not pool.is_running(same)
    with locked(job.folder):  # by hand
        PoolExecutor().run([again := pretend("a", "pass")])
    assert again.state is JobState.ELSEWHERE
    assert job.console.read_text() == "of the first\n"


@pytest.mark.slow
def test_the_same_sweep_twice_at_a_time(cli: Cli, folder: Path) -> None:
    words = ["-m", *TINY, *QUIET, "gamma=0", "seed=1,2", "epochs=500", "hydra.launcher.jobs=2"]
    process = launch(folder, *words)
    consoles = "outputs/sweeps/sample_edsr/*/console.log"
    wait_for(lambda: len(list(folder.glob(consoles))) == 2)
    second = cli(*words)
    assert second.code == 1
    assert "running elsewhere, left alone: seed=1, seed=2\n" in second.out
    assert second.out.count("│ running elsewhere │") == 2
    assert "started" not in second.out
    wait_for(lambda: len(files_named("last.ckpt", folder)) == 2)
    assert all("training in " in path.read_text() for path in folder.glob(consoles))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert output.count("│ stopped │") == 2


@pytest.mark.parametrize(
    ("seen", "attached"),
    [
        (["COMPLETING", "COMPLETING", "PENDING"], True),  # it was preempted, and is queued again
        (["COMPLETING", None], False),  # it has ended
        ([None], False),
        (["RUNNING"], True),
    ],
)
def test_a_job_that_slurm_is_clearing_away_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seen: list[str | None], attached: bool
) -> None:
    slurm = pytest.importorskip("sweeps.slurm", exc_type=ImportError)
    cluster = slurm.SlurmExecutor(
        submitit_folder="logs", max_num_timeout=1, stop_at_failure=False, wait=True
    )
    job = Job(["a"], folder / "a", name="a")
    job.folder.mkdir()
    (job.folder / "slurm.json").write_text('{"job_id": "12", "submitit_folder": "logs"}')
    answers = iter([{} if state is None else {"12": state} for state in seen])
    monkeypatch.setattr(cluster, "query", lambda: next(answers))
    cluster.states = cluster.query()
    cluster.attach([job])
    assert (job.state is JobState.QUEUED) == attached
    assert next(answers, None) is None

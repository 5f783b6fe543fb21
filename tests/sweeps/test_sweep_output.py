"""What sweeps and long work say: the table of jobs, Ctrl-C, lines where there is no terminal."""

import logging
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from runs.naming import run_name
from sweeps import pool
from sweeps.job import Job, JobState
from sweeps.sweep import name_jobs
from sweeps.table import summary
from system import progress as progress_module
from system.progress import ProgressTimer, format_seconds, progress
from system.terminal import differing_part, shorten, shorten_cells, table_width
from tests.conftest import TINY, Cli

SWEEP = [  # two of the settings are the same in all jobs
    [
        *("train", f"gamma={gamma}", f"net={net}", "optim.optimizer.lr=1e-4", "epochs=300"),
        f"scorer.checkpoint=/data/someone/outputs/sweeps/backbone/{scorer}/checkpoints/best.ckpt",
    ]
    for gamma in (0.1, 0.4)
    for net in ("edsr", "mdsr_full")
    for scorer in ("scorer-mnasnet_1_0", "scorer-efficientnet_lite0")
]


def sweep_of(lists: list[list[str]]) -> list[Job]:
    todo = [
        Job(words, Path("outputs/sweeps/gamma") / run_name(words[1:], sweep=True))
        for words in lists
    ]
    name_jobs(todo, ["optim.optimizer.lr=1e-4"])
    for job in todo:
        job.state, job.seconds = JobState.STOPPED, 3723.0
    return todo


@pytest.mark.parametrize("width", [80, 100])
def test_table_of_jobs_fits_and_tells_them_apart(width: int) -> None:
    lines = summary(sweep_of(SWEEP), width).splitlines()
    assert lines[0] == "8 jobs in outputs/sweeps/gamma"
    rows = lines[2:]
    assert len(rows) == 2 + 8
    assert max(map(len, rows)) <= width
    assert len(set(rows[2:])) == 8
    assert [cell.strip() for cell in re.split("[┃]", rows[0])] == [
        *("gamma", "net", "checkpoint", "state", "metric", "time")
    ]
    assert [cell.strip() for cell in rows[2].split("│")] == [
        *("0.1", "edsr", "scorer-mnasnet_1_0", "stopped", "-", "1:02:03")
    ]


def test_folders_are_shown_where_there_is_room() -> None:
    todo = sweep_of([["train", f"gamma={gamma}"] for gamma in (0, 0.1)])
    assert "│ gamma-0.1" in summary(todo, 80)
    assert "│ gamma-0.1" not in summary(todo, 45)
    todo[1].state, todo[1].note = JobState.FAILED, "exit code 2: the disk is full"
    assert summary(todo, 80).endswith(
        "gamma=0.1: exit code 2: the disk is full (outputs/sweeps/gamma/gamma-0.1/console.log)"
    )


def test_settings_that_some_jobs_lack_and_one_job() -> None:
    text = summary(sweep_of([["train", "net=edsr", "scale=2"], ["train", "net=mdsr"]]), 80)
    assert re.search(r"^mdsr +│ +- +│ stopped", text, re.M)
    (only,) = sweep_of([["train", "net=edsr", "optim.optimizer.lr=1e-4"]])
    assert summary([only], 80).startswith("1 job in outputs/sweeps/gamma\n")


def test_cells_are_shortened_in_the_middle_only_as_far_as_needed() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 5) == "ab…ij"
    lines = [["name", "x"], ["a" * 30 + "b" * 30, "1"]]
    assert table_width(lines) == 64
    assert shorten_cells(lines, 64) == lines
    cut = shorten_cells(lines, 40)
    assert table_width(cut) == 40
    assert cut[1][0] == "a" * 18 + "…" + "b" * 17


def test_files_are_told_apart_by_what_differs(folder: Path) -> None:
    relative = "outputs/x/gamma-0/checkpoints/best.ckpt"
    absolute = f"{folder}/outputs/x/gamma-0.1/checkpoints/best.ckpt"
    elsewhere = "/data/photos/x/gamma-0.1/checkpoints/best.ckpt"
    assert [differing_part(p, [relative, absolute]) for p in (relative, absolute)] == [
        *("gamma-0", "gamma-0.1")
    ]
    for path in (relative, elsewhere):
        assert not differing_part(path, [relative, elsewhere]).startswith("/")
    # Run folders are no files with a suffix.
    folders = ["outputs/x/gamma-0.1", "outputs/x/gamma-0.2"]
    assert [differing_part(path, folders) for path in folders] == ["gamma-0.1", "gamma-0.2"]


def test_long_names_of_run_folders_show_the_settings_that_differ() -> None:
    same = [f"data.limit={k}" for k in (2,)] + ["net.num_blocks=16", "optim.optimizer.lr=1e-4"]
    more = [
        "data.num_steps=200",
        "data.patch_size=16",
        "data.batch_size=4",
        "loss.aesthetic.warmup=0",
    ]

    def shown(*tasks: list[str]) -> list[str]:
        paths = [f"outputs/s/{run_name(task, sweep=True)}/checkpoints/best.ckpt" for task in tasks]
        return [differing_part(path, paths) for path in paths]

    # Whole names with a path, which is reduced to its stem and a hash, and names that are cut.
    paths = ["/somewhere/a.ckpt", "/somewhere/else/b.ckpt"]
    with_path = shown(*([*same, f"scorer.checkpoint={path}"] for path in paths))
    assert [re.sub("[0-9a-f]{6}$", "#", part) for part in with_path] == [
        *("scorer.checkpoint-a-#", "scorer.checkpoint-b-#")
    ]
    cut = [["gamma=0.1", "seed=1", *same, *more], ["gamma=0.1", "seed=2", *same, *more]]
    assert all(len(run_name(task, sweep=True)) == 120 for task in cut)
    assert shown(*cut) == ["seed-1", "seed-2"]
    # They differ behind the cut: the hash is all that is left.
    last = [[*same, *more, "trainer.gradient_clip_val=1"], [*same, *more, "trainer.precision=x"]]
    last = [["gamma=0.1", "net=edsr", "scale=2", *task] for task in last]
    assert all(re.fullmatch("[0-9a-f]{8}", part) for part in shown(*last))


class Clock:
    """Seconds that only the test counts."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("total", "seconds", "expected"),
    [
        (100, 0.01, []),  # an epoch of a second
        (100, 1.0, [10, 20, 30, 40, 50, 60, 70, 80, 90]),  # every tenth
        (100, 0.2, [25, 50, 75]),  # not within 5 seconds
        (10_000, 1.0, list(range(30, 10_000, 30))),  # every 30 seconds
    ],
)
def test_pace(clock: Clock, total: int, seconds: float, expected: list[int]) -> None:
    timer, said = ProgressTimer(), []
    for done in range(1, total + 1):
        clock.now = round(done * seconds, 6)
        if timer.is_due(done, total):
            said.append(done)
            left = format_seconds((total - done) * seconds)
            assert timer.time_left(done, total) == f"{left} left"
    assert said == expected


def test_without_a_terminal_long_work_writes_lines(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in progress(range(4), "enhancing", 4):
        clock.now += 20
    assert caplog.messages == [
        *("enhancing  1/4  1:00 left", "enhancing  2/4  0:40 left", "enhancing  3/4  0:20 left")
    ]


@pytest.mark.slow
def test_a_training_in_a_pipe_writes_lines_within_an_epoch(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "MIN_INTERVAL", 0.0)
    words = [word for word in TINY if not word.startswith(("callbacks.progress", "epochs="))]
    done = cli(*words, "gamma=0", "epochs=2", "data.num_steps=20")
    assert done.code == 0, done.err
    lines = re.findall(
        r"^epoch ([12])/2  step (\d+)/20  train/loss [\d.]+  0:\d\d left$", done.out, re.M
    )
    assert [(int(epoch), int(step)) for epoch, step in lines] == [
        (epoch, step) for epoch in (1, 2) for step in range(2, 20, 2)
    ]
    assert re.search(r"^epoch 1/2  validation 1/2  0:\d\d left$", done.out, re.M)
    assert "━" not in done.out.partition("PSNR")[0] or "Epoch" not in done.out


def test_ctrl_c_says_what_happens_and_a_second_one_kills_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pool, "ROOT", folder)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    (folder / "run.py").write_text(deaf + "open('ready', 'w'); time.sleep(60)")
    began: list[float] = []

    def interrupt(*_: object) -> None:
        if (folder / "ready").exists():
            began.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)
        if len(began) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    todo = [Job(["train"], folder / name, name=name) for name in "ab"]
    for job in todo:
        job.folder.mkdir()
    assert pool.PoolExecutor().run(todo) == signal.SIGINT
    assert len(began) == 2
    assert time.monotonic() - began[1] < 1
    assert [job.state for job in todo] == [JobState.STOPPED] * 2
    assert [m for m in caplog.messages if "ing 1 job" in m] == [
        "stopping 1 job (their last full epoch is kept); Ctrl-C again kills",
        "killing 1 job",
    ]


@pytest.mark.slow
def test_a_sweep_names_the_report_and_fits_into_a_file(cli: Cli) -> None:
    words = ["-m", *TINY, "epochs=1", "gamma=0", "seed=1,2", "trainer.limit_train_batches=1"]
    done = cli(*words)
    assert done.code == 0, done.err
    table = done.out[done.out.index("2 jobs in outputs/sweeps/sample_edsr\n\n") :]
    assert max(map(len, table.splitlines())) <= 100
    prefix = "to compare them: python run.py "
    (line,) = [line for line in table.splitlines() if line.startswith(prefix)]
    assert cli(*shlex.split(line.removeprefix(prefix))).code == 0
    assert Path("outputs/sweeps/sample_edsr/report/report.html").exists()

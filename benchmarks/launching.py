"""Measures what the launcher of sweeps adds to its jobs, and what a pool of two saves.

    python benchmarks/launching.py [--short] [--rounds 3] [--output FILE.md]

Jobs are small trainings on the built-in photos. The launcher's share of a job is the time that four
jobs one after the other take longer than one, over three, less the time of the job's own command.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, command_line, hand_over, heading, publish, spread

RUN = Path(__file__).resolve().parent.parent / "run.py"
JOB = [
    *("gamma=0", "net.num_blocks=2", "data.num_steps=20", "epochs=2"),
    *("callbacks.progress=null", "callbacks.before_after=null", "callbacks.photo_table=null"),
]
WAYS = {
    "the job's own command": ["seed=1"],
    "a sweep of it alone": ["-m", "seed=1"],
    "a sweep of 4, one after the other": ["-m", "seed=1,2,3,4", "hydra.launcher.threads=1"],
    "a sweep of 4, on a pool of 2": ["-m", "seed=1,2,3,4", "hydra.launcher.jobs=2"],
    "the same again, all 4 finished": [],
}


def seconds(words: list[str], folder: Path) -> float:
    """How long a command takes."""
    begin = time.perf_counter()
    command = [sys.executable, str(RUN), *JOB, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as the launcher's jobs have
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def main() -> None:
    """Measures every way in turns."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.short:
        with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as sweep:
            reference, ours = (
                seconds(WAYS[name], Path(folder))
                for name, folder in (("the job's own command", own), ("a sweep of it alone", sweep))
            )
        what = "a small training as a sweep of one job (reference: by its own command), s"
        publish([f"{what}: {ours:.1f} ({reference:.1f})"], arguments.output)
        hand_over([Row(what, ours, reference, before="16.3 / 10.8 = 1.51")], arguments.json)
        return
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(arguments.rounds):
        folder = Path("/nowhere")
        for name, words in WAYS.items():
            with tempfile.TemporaryDirectory() as fresh:
                folder = Path(fresh)
                if not words:  # once to make them, once to find them
                    words = WAYS["a sweep of 4, on a pool of 2"]
                    seconds(words, folder)
                times[name].append(seconds(words, folder))
    alone, one, four, pool, again = times.values()
    each = [(b - a) / 3 for a, b in zip(one, four, strict=True)]
    added = statistics.median(each) - statistics.median(alone)
    started = statistics.median(one) - statistics.median(alone)
    faster = statistics.median(four) / statistics.median(pool)
    lines = heading(
        "Launching sweeps",
        f"{os.cpu_count()} cores; jobs of one thread each",
        f"medians of {arguments.rounds} rounds (lowest-highest)",
        "`python benchmarks/launching.py`",
    )
    lines += ["| | seconds |", "|---|---|"]
    lines += [f"| {name} | {spread(values, 1)} |" for name, values in times.items()]
    lines += [
        "",
        f"A job takes {added:+.1f} s longer by the launcher than by itself, and the sweep "
        f"{started:.1f} s more,",
        "once: its own start, which looks at the folders and composes the configurations.",
        f"A pool of two does four jobs {faster:.2f} times as fast.",
        f"Four finished jobs are found in {statistics.median(again):.1f} s.",
    ]
    publish(lines, arguments.output)


if __name__ == "__main__":
    main()

"""Measures a grid of twelve small trainings on one GPU: in turns, sharing it, and by NVIDIA's MPS.

    python benchmarks/grid.py [--short] [--steps 1000] [--output FILE.md] [key=value ...]

EDSR baseline at the paper's patches, 24 -> 48, batch 16, bf16. Each way is a sweep in a folder of
its own, from the command until all jobs have ended. Further settings are those of the jobs, such as
`model.compile=reduce-overhead`. MPS runs for its way only; it needs `nvidia-cuda-mps-control`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from report import Row, command_line, hand_over, heading, publish, skip

RUN = Path(__file__).resolve().parent.parent / "run.py"
NUM_JOBS = 12
JOB = [
    *("trainer=gpu", "trainer.precision=bf16-mixed", "net=edsr", "gamma=0", "epochs=1"),
    *(
        "data.batch_size=16",
        "data.patch_size=24",
        "data.on_device=true",
        "hydra.launcher.threads=1",
    ),
    *("callbacks.progress=null", "callbacks.before_after=null", "callbacks.photo_table=null"),
]
# Jobs at a time, and whether MPS runs.
WAYS = {
    "one after the other": (1, False),
    "share=4": (4, False),
    "share=12": (12, False),
    "share=4, MPS": (4, True),
    "share=12, MPS": (12, True),
}
SHORT = ("one after the other", "share=4", "share=4, MPS")


@contextmanager
def mps(folder: Path) -> Iterator[dict[str, str]]:
    """Run the server, and yield the variables by which jobs find it."""
    places = {f"CUDA_MPS_{name}_DIRECTORY": str(folder / name.lower()) for name in ("PIPE", "LOG")}
    for place in places.values():
        Path(place).mkdir()
    control = ["nvidia-cuda-mps-control"]
    subprocess.run([*control, "-d"], check=True, env=os.environ | places)
    try:
        yield places
    finally:
        subprocess.run(control, input="quit\n", text=True, check=True, env=os.environ | places)


def sweep(
    share: int, steps: int, num_jobs: int, settings: list[str], more: dict[str, str]
) -> float:
    """Seconds of a sweep."""
    seeds = ",".join(map(str, range(num_jobs)))
    words = [f"seed={seeds}", f"hydra.launcher.share={share}", f"data.num_steps={steps}"]
    command = [sys.executable, str(RUN), "-m", *JOB, *words, *settings]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, env=os.environ | more)
        return time.perf_counter() - begin


def main() -> None:
    """Measure every way once."""
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    if shutil.which("nvidia-smi") is None:
        skip("there is no GPU", options.json)
    num_jobs, steps = (4, 200) if options.short else (NUM_JOBS, options.steps)
    times: dict[str, float] = {}
    for way in SHORT if options.short else WAYS:
        share, with_mps = WAYS[way]
        if not with_mps:
            times[way] = sweep(share, steps, num_jobs, options.settings, {})
        elif shutil.which("nvidia-cuda-mps-control"):
            with tempfile.TemporaryDirectory() as folder, mps(Path(folder)) as places:
                times[way] = sweep(share, steps, num_jobs, options.settings, places)
    reference = times["one after the other"]
    lines = heading(
        f"A grid of {num_jobs} trainings on one GPU",
        f"{steps} steps each, {os.cpu_count()} cores; {' '.join(options.settings)}",
        "from the command until all jobs have ended, their starts included",
    )
    lines += ["| | seconds | steps a second, all jobs | times faster |", "|---|---:|---:|---:|"]
    for way, seconds in times.items():
        rate = num_jobs * steps / seconds
        lines.append(f"| {way} | {seconds:.0f} | {rate:.0f} | {reference / seconds:.2f} |")
    publish(lines, options.output)
    fastest = min(times, key=lambda way: times[way])
    what = f"a grid on one GPU, {fastest} (reference: one after the other), s"
    hand_over([Row(what, times[fastest], reference)], options.json)


if __name__ == "__main__":
    main()

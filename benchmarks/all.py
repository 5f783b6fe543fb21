"""Run every benchmark in its short way, and write one dated table.

    python benchmarks/all.py [NAME ...] [--output FILE.md]

Each benchmark is a process of its own, one after the other, with `LIMIT` seconds. One that fails or
takes longer is named in the table and makes the exit code 1. Those that cannot run on this machine
say why. The short ways are for noticing a change; the scripts' own reports are more exact.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from report import Row, heading, publish

FOLDER = Path(__file__).resolve().parent
NOT_BENCHMARKS = ("all", "report", "other_ways", "augmented_crops", "biq_halves")
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - set(NOT_BENCHMARKS))
LIMIT = 300  # seconds for each; most take 10 to 40 on two idle cores


def number(value: float | None) -> str:
    """Three significant digits."""
    return "" if value is None else f"{float(f'{value:.3g}'):,.12g}"


def cells(row: Row) -> str:
    """A row of the table."""
    ratio = row.ratio
    if not ratio and row.reference is not None:
        ratio = f"{row.ours / row.reference:.2f}"
    values = [row.what, number(row.ours), number(row.reference), ratio, row.asked, row.before]
    return f"| {' | '.join(values)} |"


def run(name: str, folder: Path) -> tuple[list[str], bool]:
    """Run one benchmark.

    Returns:
        Its rows of the table, and whether it succeeded.
    """
    file, log = folder / f"{name}.json", folder / f"{name}.txt"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--short", "--json", str(file)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            cwd=FOLDER.parent,
            env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(FOLDER.parent)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be stopped with the processes that it started
        )
        try:
            problem = f"exit code {code}" if (code := process.wait(LIMIT)) else ""
        except subprocess.TimeoutExpired:
            problem = f"stopped after {LIMIT} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if problem or not file.exists():
        lines = log.read_text().splitlines()
        print("\n".join(lines[-30:]), file=sys.stderr)
        reason = [problem or "handed over no rows", *lines[-1:]]
        return [f"| **{name} failed**: {', '.join(reason).replace('|', '/')} | | | | | |"], False
    found = json.loads(file.read_text())
    if "skipped" in found:
        return [f"| {name}: skipped, {found['skipped']} | | | | | |"], True
    return [cells(Row(**row)) for row in found["rows"]], True


def main() -> None:
    """Run what was asked for and write the table."""
    default = FOLDER / f"bench_{date.today()}.md"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, default=default, metavar="FILE.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmarks: {', '.join(sorted(unknown))}; allowed: {', '.join(NAMES)}")
    begin = time.monotonic()
    rows, failed = [], []
    for name in options.names or NAMES:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            lines, succeeded = run(name, Path(folder))
        rows += lines
        failed += [] if succeeded else [name]
        print(f"{name}: {time.monotonic() - start:.0f} s", *lines, sep="\n", flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    remarks = (
        f"every benchmark in its short way, {(time.monotonic() - begin) / 60:.1f} minutes, "
        f"{(used.ru_utime + used.ru_stime) / 60:.1f} of CPU; "
        f"load average {os.getloadavg()[0]:.1f} at the end",
        "`ours` and `reference` come from one run, `ratio` is ours / reference unless it says "
        "otherwise, `asked` is its limit, and `0.1` what version 0.1 reached",
        "`make bench`, or `python benchmarks/all.py`",
    )
    head = ["| what | ours | reference | ratio | asked | 0.1 |", "|---|---:|---:|---:|---|---|"]
    publish([*heading("Benchmarks", *remarks), *head, *rows], options.output)
    print(f"wrote {options.output}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

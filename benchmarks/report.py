"""What the benchmarks share: options, the machine, spreads, and where results go."""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table that `benchmarks/all.py` writes.

    Attributes:
        what: the quantity and its unit.
        ours: measured with this project.
        reference: measured with what it is compared with, in the same run.
        asked: the limit, as text, of `ratio` where there is one, else of `ours`.
        before: what version 0.1 reached, as text.
        ratio: `ours / reference` unless the script says it another way.
    """

    what: str
    ours: float
    reference: float | None = None
    asked: str = ""
    before: str = ""
    ratio: str = ""


def command_line(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="measure less, in under a minute")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="also write the report here")
    parser.add_argument("--json", type=Path, help="hand the rows over to benchmarks/all.py")
    return parser


def hand_over(rows: Sequence[Row], file: Path | None) -> None:
    """Write the rows of a benchmark for `benchmarks/all.py`, if it asked for them."""
    if file is not None:
        file.write_text(json.dumps({"rows": [row._asdict() for row in rows]}))


def skip(reason: str, file: Path | None) -> None:
    """End a benchmark that cannot run on this machine: not an error."""
    print(f"skipped: {reason}")
    if file is not None:
        file.write_text(json.dumps({"skipped": reason}))
    sys.exit()


def heading(title: str, *remarks: str) -> list[str]:
    """Return the title with today's date, the machine, and remarks on how it was measured."""
    import torch  # here, since a benchmark may run this file without it

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = platform.processor() or platform.machine()
    return [
        f"# {title}, {date.today()}",
        "",
        f"- {machine}, {torch.get_num_threads()} threads; GPU: {gpu}; PyTorch {torch.__version__}",
        *(f"- {remark}" for remark in remarks),
        "",
    ]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return median, lowest and highest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def publish(lines: Sequence[str], output: Path | None) -> None:
    """Print the report, and write it where it was asked for."""
    report = "\n".join(lines) + "\n"
    print(report)
    if output is not None:
        output.write_text(report)

"""What the benchmarks' reports share: the machine, spreads, and where a report goes."""

import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path


def heading(title: str, *remarks: str) -> list[str]:
    """The title with today's date, the machine, and remarks on how it was measured."""
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
    """Median, lowest and highest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def publish(lines: Sequence[str], output: Path | None) -> None:
    """Prints the report, and writes it where it was asked for."""
    report = "\n".join(lines) + "\n"
    print(report)
    if output is not None:
        output.write_text(report)

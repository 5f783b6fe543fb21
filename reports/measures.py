"""Which image metrics runs have, and how reports show them."""

from collections.abc import Sequence
from typing import NamedTuple

from lightning_modules.metric_catalogue import DEFAULT, DOWN, METRICS, Direction
from reports.run_table import Run

LONGEST = 60  # characters of a metric's name


class Measure(NamedTuple):
    """An image metric of some runs.

    Attributes:
        name: in logs, such as `val/lpips`.
        title: such as `LPIPS`, with an arrow if lower values are better.
        digits: decimals in tables.
        better: which values are better; None if unknown.
        unit: of the values, if any.
        protocol: what is compared, if known.
    """

    name: str
    title: str
    digits: int = 4
    better: Direction | None = None
    unit: str = ""
    protocol: str = ""

    @property
    def label(self) -> str:
        """Return the name in logs, with an arrow if lower values are better."""
        return self.name + (f" {DOWN}" if self.better == "lower" else "")


def measure_of(name: str, better: Direction | None = None) -> Measure:
    """Describe an image metric by its name: from the catalogue, or as a metric of a user's own."""
    if name in METRICS:
        about = METRICS[name]
        title = about.title + about.arrow
        return Measure(f"val/{name}", title, about.digits, about.better, about.unit, about.protocol)
    arrow = f" {DOWN}" if better == "lower" else ""
    return Measure(f"val/{name}", name + arrow, better=better)


def added_measures(runs: Sequence[Run]) -> list[Measure]:
    """Return the image metrics that runs have beside the default ones."""
    found = {
        name: better
        for run in runs
        for name, better in run.result.better.items()
        if name.isidentifier() and len(name) <= LONGEST
    }
    return [measure_of(name, better) for name, better in found.items() if name not in DEFAULT]

"""Tabulate what each term of the loss does to the SR pixels."""

from collections.abc import Iterable, Sequence

from reports.measures import LONGEST
from reports.run_table import Run, Setting, Spread, axis_name, mean_and_std, unique
from reports.tables import Cell, Table, number_cell, spread_cell, text_cell

TITLE = "Gradients of the terms"
NOTE = (
    "Share: the norm of a term's weighted gradient at the SR pixels, divided by the sum over all "
    "terms. Alignment: the cosine between what the term would do to the pixels and HR - SR, 1 for "
    "l2 and about 0 for a term that knows no way to the original; of 8 x 8 means, which are tone "
    "rather than detail, in the last column. Means and standard deviations over seeds, of the last "
    "epoch with a measurement."
)
KINDS = {
    "val/grad_share": "share of the gradient",
    "val/alignment": "alignment",
    "val/alignment_8x8": "alignment of 8 x 8 means",
}


def gradient_table(settings: Iterable[Setting]) -> Table:
    """Build a table with a row for each setting and term; without rows if nothing was measured."""
    rows = []
    shown = unique(settings)
    for setting in shown:
        for term in terms_of(setting.runs):
            cells: list[Cell] = [
                text_cell(setting.net),
                text_cell(", ".join(f"{key}={value}" for key, value in setting.variant)),
                number_cell(setting.gamma, "g"),
                number_cell(len(setting.runs)),
                text_cell(term),
            ]
            cells += [spread_cell(last_of(setting.runs, f"{kind}/{term}"), 4) for kind in KINDS]
            rows.append(cells)
    names = ["net", "other settings", axis_name(shown), "runs", "term", *KINDS.values()]
    return Table.of(TITLE, names, rows)


def terms_of(runs: Sequence[Run]) -> list[str]:
    """Return the terms whose gradients were measured."""
    start = "val/grad_share/"
    columns = dict.fromkeys(name for run in runs for row in run.rows for name in row)
    found = [name.removeprefix(start) for name in columns if name.startswith(start)]
    return [term for term in found if term.isidentifier() and len(term) <= LONGEST]


def last_of(runs: Sequence[Run], name: str) -> Spread | None:
    """Return the spread over runs of a metric in the last epoch that has it."""
    curves = [run.curve(name)[1] for run in runs]
    return mean_and_std([values[-1] for values in curves if values])

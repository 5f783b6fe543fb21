"""Style and output of a report's figures; `reports.plots` draws the panels.

Each network has a colour (Okabe and Ito's palette, which is safe for colour-blind readers) and a
marker; its variants differ in dashes. Figures are written as PNG and SVG. Inside the HTML page,
their colours follow the page's light or dark theme.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.run_table import Setting
from system.files import replacing

# Okabe and Ito, "Color Universal Design" (2008), in the order that keeps neighbours apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.")
INK, MUTED, GRID = "#1b1f25", "#66707c", "#dfe3e8"
IN_PAGE = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--c{k}" for k, colour in enumerate(PALETTE)
}

WIDTH, HEIGHT = 4.7, 3.3  # of a panel in inches: text stays legible at the width of a phone
DPI = 200
LEGEND_LINE = 52  # characters of a legend that fit the width of a panel
MAX_LABEL = 300  # characters of an entry of a legend
FRONT = "Pareto front"

Panel = Callable[[Axes], None]


def style() -> AbstractContextManager[None]:
    """Set Matplotlib's options while figures are drawn or written."""
    return matplotlib.rc_context(
        {
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.formatter.useoffset": False,
            "grid.color": GRID,
            "text.color": INK,
            "text.parse_math": False,  # file names may contain dollar signs
            "xtick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.color": MUTED,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.6,
            "svg.fonttype": "none",  # keep text as text
            "svg.hashsalt": "figures",  # makes the files reproducible
        }
    )


class Look(NamedTuple):
    """Colour, marker and dash of a line."""

    colour: str
    marker: str
    dash: str


def look(k: int, dash: int) -> Look:
    """Return the look of the k-th network, with one of the dashes."""
    return Look(PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)], DASHES[dash % len(DASHES)])


class LineStyles:
    """Colours, markers and dashes of lines, the same in all figures.

    Networks differ in colour and marker, and the variants of a network in dashes. If there is only
    one network, its variants differ in colour and marker.

    Args:
        settings: everything that will be drawn.
    """

    def __init__(self, settings: Iterable[Setting]) -> None:
        lines: dict[str, list[str]] = {}
        for net, line in sorted({(setting.net, setting.line) for setting in settings}):
            lines.setdefault(net, []).append(line)
        self.offsets = {  # of a line: in colours and markers, and in dashes
            line: (0, k) if len(lines) > 1 else (k, 0)
            for names in lines.values()
            for k, line in enumerate(names)
        }
        self.nets = list(lines)

    def __getitem__(self, setting: Setting) -> Look:
        """Return the look of a setting: colour and marker by network, dash by variant."""
        shift, dash = self.offsets[setting.line]
        return look(self.nets.index(setting.net) + shift, dash)


def compose(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Arrange panels in a grid, with one legend below."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), dpi=DPI, layout="constrained")
        entries = {}
        for k, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, k + 1)
            panel(axes)
            handles, labels = axes.get_legend_handles_labels()
            entries.update(dict(zip(labels, handles, strict=True)))
        if FRONT in entries:
            entries[FRONT] = entries.pop(FRONT)  # after the networks
        if entries:
            names = [textwrap.fill(name[:MAX_LABEL], LEGEND_LINE * columns) for name in entries]
            longest = max(len(line) for name in names for line in name.split("\n"))
            across = columns * (
                4 if longest < 9 else 3 if longest < 18 else 2 if longest < 30 else 1
            )
            across = across if longest <= LEGEND_LINE else 1
            height = sum(name.count("\n") + 1 for name in names) / min(across, len(names))
            figure.set_figheight(HEIGHT * rows + 0.19 * math.ceil(height))
            figure.legend(
                list(entries.values()),
                names,
                loc="outside lower center",
                ncols=across,
                handlelength=2.5,
            )
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name.png` and `name.svg`; each is whole or absent."""
    for suffix in ("png", "svg"):
        with replacing(folder / f"{name}.{suffix}") as temporary:
            temporary.write_bytes(rendered(figure, suffix))


def rendered(figure: Figure, suffix: str, *, transparent: bool = False) -> bytes:
    """Return the content of a figure's file, which is reproducible."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {}
    background = {"transparent": True} if transparent else {"facecolor": "white"}
    with style():
        figure.savefig(buffer, format=suffix, metadata=metadata, **background)
    return buffer.getvalue()


def for_page(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element with unique ids and the colours of the page.

    Args:
        figure: the figure.
        name: prefix of the ids.
        description: text for screen readers.
    """
    text = rendered(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in IN_PAGE.items():
        text = text.replace(colour, f"var({variable})")
    width, height = figure.get_size_inches() * 72
    label = html.escape(description)
    head = f'<svg role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{label}"'
    return head + text[text.index(">") :].replace("\n", " ")

"""Figures that compare runs: metrics by gamma and by epoch, and the plane of PSNR and score.

A network has a colour (Okabe and Ito's, which colour-blind people can tell apart) and a marker,
its variants have dashes, a scale has a panel of its own. Lines are means over seeds. A figure is
written as PNG and SVG; in a page its colours follow the page's, also in the dark.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.run_table import Run, Setting, mean_and_std, pareto

# Okabe and Ito, "Color Universal Design" (2008), in the order that keeps neighbours apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.")
INK, MUTED, GRID = "#1b1f25", "#66707c", "#dfe3e8"
IN_PAGE = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--c{k}" for k, colour in enumerate(PALETTE)
}

WIDTH, HEIGHT = 4.7, 3.3  # inches of a panel: text is legible where a phone shows one in its width
DPI = 200
LINE = 52  # characters of a legend in the width of a panel
MAX_LABEL = 300  # characters of a legend's entry
FAINT = 0.35  # opacity of the lowest gamma's line, of 1 for the highest
FAR = 1.0  # a baseline further from the values than their range is named, not drawn
FEW_EPOCHS = 12  # up to which each has a marker
LEAST = 0.1  # dB or buckets that an axis spans at least: less is noise
MANY_LABELS = 30  # points of a plane; above it only the front is labelled
STYLE: Any = {  # rcParams
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
    "text.parse_math": False,  # a file's name may have dollars
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "figures",  # the same figure is the same file
}

FRONT = "Pareto front"

Panel = Callable[[Axes], None]


class Look:
    """Colour, marker and dash of each line, the same in all figures.

    Networks differ in colour and marker, their variants in dashes; variants of a single network
    differ in colour and marker, too.

    Args:
        settings: all that will be drawn.
    """

    def __init__(self, settings: Iterable[Setting]) -> None:
        lines: dict[str, list[str]] = {}
        for net, line in sorted({(setting.net, setting.line) for setting in settings}):
            lines.setdefault(net, []).append(line)
        self.places = {
            line: (0, k) if len(lines) > 1 else (k, 0)
            for names in lines.values()
            for k, line in enumerate(names)
        }
        self.nets = list(lines)

    def place(self, setting: Setting) -> int:
        """Which colour and marker."""
        return self.nets.index(setting.net) + self.places[setting.line][0]

    def colour(self, setting: Setting) -> str:
        """Of its network."""
        return PALETTE[self.place(setting) % len(PALETTE)]

    def marker(self, setting: Setting) -> str:
        """Of its network."""
        return MARKERS[self.place(setting) % len(MARKERS)]

    def dash(self, setting: Setting) -> str:
        """Of its variant."""
        return DASHES[self.places[setting.line][1] % len(DASHES)]


def lines_of(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that differ in gamma only, in order of gamma."""
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        lines.setdefault(setting.line, []).append(setting)
    return list(lines.values())


def by_gamma(
    settings: Sequence[Setting],
    metric: str,
    scale: int,
    look: Look,
    baseline: float | None = None,
    unit: str = "",
    source: str = "",
) -> Panel:
    """A metric over gamma: a line of means, a band of one standard deviation, a point per seed.

    Args:
        settings: of one scale and the same validation photos.
        metric: such as `val/psnr`.
        scale: of the settings.
        look: colours.
        baseline: the metric of bicubic, if it is known.
        unit: of the metric.
        source: the scorer, where there are several.
    """

    def draw(axes: Axes) -> None:
        everything = []
        for line in lines_of(settings):
            found = [(s, spread) for s in line if (spread := s.spread(metric)) is not None]
            if not found:
                continue
            colour = look.colour(line[0])
            gammas = [s.gamma for s, _ in found]
            means = [mean for _, (mean, _, _) in found]
            spreads = [std or 0.0 for _, (_, std, _) in found]
            low = [mean - std for mean, std in zip(means, spreads, strict=True)]
            high = [mean + std for mean, std in zip(means, spreads, strict=True)]
            if any(spreads):
                axes.fill_between(gammas, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                gammas,
                means,
                color=colour,
                linestyle=look.dash(line[0]),
                marker=look.marker(line[0]),
                markersize=5,
                label=line[0].line,
            )
            for setting, _ in found:
                values = setting.values(metric)
                everything += values
                if len(values) > 1:
                    axes.plot(
                        [setting.gamma] * len(values),
                        values,
                        color=colour,
                        linestyle="",
                        marker=look.marker(line[0]),
                        markersize=3,
                        alpha=0.5,
                    )
            everything += [*low, *high]
        if baseline is not None and everything:
            draw_baseline(axes, baseline, min(everything), max(everything), "bicubic")
        least_range(axes)
        gamma_axis(axes, sorted({setting.gamma for setting in settings}))
        axes.set_ylabel(f"{metric} in {unit}" if unit else metric)
        axes.set_title(f"x{scale}, {source}" if source else f"x{scale}", loc="left")

    return draw


def draw_baseline(axes: Axes, value: float, low: float, high: float, name: str) -> None:
    """A dashed line, or its number at the edge where it would flatten everything else."""
    reach = FAR * max(high - low, 0.1)
    text = f"{name} {value:.3f}" if abs(value) < 10 else f"{name} {value:.2f}"
    style: Any = {"textcoords": "offset points", "fontsize": 9, "color": MUTED}
    if low - reach <= value <= high + reach:
        axes.axhline(value, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.2)
        place = axes.get_yaxis_transform()
        axes.annotate(text, (1, value), xycoords=place, xytext=(-2, 3), ha="right", **style)
    elif value < low:  # metrics that fall with gamma leave these corners free
        text = f"\N{DOWNWARDS ARROW} {text}"
        axes.annotate(text, (0, 0), xycoords="axes fraction", xytext=(4, 4), **style)
    else:
        text = f"\N{UPWARDS ARROW} {text}"
        axes.annotate(text, (1, 1), xycoords="axes fraction", xytext=(-2, 4), ha="right", **style)


def least_range(axes: Axes) -> None:
    """Keeps noise of the last digits from filling the vertical axis."""
    axes.set_ylim(widened(axes.get_ylim()))


def widened(limits: tuple[float, float]) -> tuple[float, float]:
    """The limits of an axis, or wider ones around their middle."""
    low, high = limits
    missing = max(0.0, LEAST - (high - low)) / 2
    return low - missing, high + missing


def gamma_axis(axes: Axes, gammas: Sequence[float]) -> None:
    """An axis that begins at 0 and has a tick at each gamma, as far as they do not touch."""
    largest = max(gammas, default=0) or 1.0
    smallest = min((gamma for gamma in gammas if gamma), default=largest)
    axes.set_xlabel("gamma")
    if largest / smallest > 50:  # evenly by magnitude, and 0 stays on it
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.4)
        axes.set_xlim(-0.2 * smallest, 1.3 * largest)
        axes.set_xticks([0.0, *(g for g in gammas if g)])
        axes.set_xticklabels([f"{g:g}" for g in [0.0, *(g for g in gammas if g)]])
        axes.minorticks_off()
        return
    axes.set_xlim(-0.05 * largest, 1.05 * largest)
    ticks = [0.0]
    for gamma in gammas:
        if gamma - ticks[-1] > 0.07 * largest:
            ticks.append(gamma)
    axes.set_xticks(ticks)
    axes.set_xticklabels([f"{tick:g}" for tick in ticks])


def by_epoch(settings: Sequence[Setting], metric: str, scale: int, look: Look, unit: str) -> Panel:
    """A metric over epochs: a line for each network and gamma, a band from lowest to highest seed.

    The higher gamma, the stronger the line. Unfinished runs have thin lines of their own.
    """

    def draw(axes: Axes) -> None:
        gammas = sorted({setting.gamma for setting in settings})
        shades = {gamma: shade(gamma, gammas) for gamma in gammas}
        drawn = []
        for setting in settings:
            colour, dash, alpha = look.colour(setting), look.dash(setting), shades[setting.gamma]
            done = [run for run in setting.runs if run.state == "finished"]
            for run in setting.runs:
                if run not in done:
                    axes.plot(*run.curve(metric, scale), color=colour, linewidth=0.8, alpha=alpha)
            curve = mean_curve(done, metric, scale)
            if not curve:
                continue
            means = [sum(values) / len(values) for values in curve.values()]
            marker = look.marker(setting) if len(curve) <= FEW_EPOCHS else ""
            axes.plot(
                list(curve),
                means,
                color=colour,
                alpha=alpha,
                linestyle=dash,
                marker=marker,
                markersize=3.5,
            )
            if len(done) > 1:
                lowest, highest = map(min, curve.values()), map(max, curve.values())
                axes.fill_between(
                    list(curve),
                    list(lowest),
                    list(highest),
                    color=colour,
                    alpha=0.15 * alpha,
                    linewidth=0,
                )
            drawn += means
        # One entry for each network and one for each gamma, not one for each pair.
        for line in lines_of(settings):
            colour, dash = look.colour(line[0]), look.dash(line[0])
            marker, name = look.marker(line[0]), line[0].line
            axes.plot([], [], color=colour, linestyle=dash, marker=marker, markersize=5, label=name)
        for gamma in gammas if len(gammas) > 1 else ():
            axes.plot([], [], color=INK, alpha=shades[gamma], label=f"gamma {gamma:g}")
        if metric == "val/psnr":
            least_range(axes)
        epoch_axis(axes)
        training = metric.startswith("train/")
        if training and drawn and 0 < 10 * min(drawn) < max(drawn):
            axes.set_yscale("log")
        axes.set_ylabel(f"{metric} in {unit}" if unit else metric)
        axes.set_title(f"x{scale}, training" if training else f"x{scale}", loc="left")

    return draw


def shade(gamma: float, gammas: Sequence[float]) -> float:
    """Opacity of a gamma's line: evenly by its place among the others, the highest is 1."""
    if len(gammas) == 1:
        return 1.0
    return FAINT + (1 - FAINT) * gammas.index(gamma) / (len(gammas) - 1)


def epoch_axis(axes: Axes) -> None:
    """Whole epochs, also where there is one only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, (left + right) / 2 - 0.5), max(right, (left + right) / 2 + 0.5))
    axes.set_xlabel("epoch")


def mean_curve(runs: Iterable[Run], metric: str, scale: int | None) -> dict[int, list[float]]:
    """Values of all runs by epoch, in order."""
    curve: dict[int, list[float]] = {}
    for run in runs:
        for epoch, value in zip(*run.curve(metric, scale), strict=True):
            curve.setdefault(epoch, []).append(value)
    return dict(sorted(curve.items()))


def plane(settings: Sequence[Setting], metric: str, scale: int, look: Look) -> Panel:
    """PSNR against a score: means with standard deviations, seeds faint, and the Pareto front.

    Higher is better in both, so the best is at the upper right. Labels are gammas.
    """

    def draw(axes: Axes) -> None:
        points = plane_points(settings, metric)
        axes.margins(0.12)
        for setting, (x, x_std), (y, y_std) in points:
            colour, marker = look.colour(setting), look.marker(setting)
            axes.errorbar(
                x,
                y,
                xerr=x_std,
                yerr=y_std,
                color=colour,
                marker=marker,
                markersize=6,
                markerfacecolor=colour if look.dash(setting) == "-" else "none",
                elinewidth=1,
                alpha=0.9,
                linestyle="",
                label=setting.line,
            )
            for run in setting.runs if len(setting.runs) > 1 else ():
                one, two = run.value("val/psnr", scale), run.value(metric, scale)
                if one is not None and two is not None:
                    axes.plot(one, two, color=colour, marker=marker, markersize=3, alpha=0.4)
        least_range(axes)
        axes.set_xlim(widened(axes.get_xlim()))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        places = [(x, y) for _, (x, _), (y, _) in points]
        front = pareto(places)
        if front:
            left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
            best = [places[k] for k in front]
            axes.plot(
                [left, *(x for x, _ in best), best[-1][0]],
                [best[0][1], *(y for _, y in best), bottom],
                drawstyle="steps-pre",
                color=MUTED,
                linestyle=(0, (5, 3)),
                linewidth=1.2,
                zorder=1,
                label=FRONT,
            )
            axes.set_xlim(left, axes.get_xlim()[1])
            axes.set_ylim(bottom, axes.get_ylim()[1])
        shown = range(len(points)) if len(points) <= MANY_LABELS else front
        texts = {k: f"{points[k][0].gamma:g}" for k in shown}
        put_labels(axes, places, texts)
        axes.set_xlabel("val/psnr in dB")
        axes.set_ylabel(metric)
        axes.set_title(f"x{scale}", loc="left")

    return draw


Spread = tuple[float, float | None]


def plane_points(settings: Sequence[Setting], metric: str) -> list[tuple[Setting, Spread, Spread]]:
    """Mean and standard deviation of PSNR and score; settings without a score are left out.

    A run that belongs to several lines is one point.
    """
    points = []
    seen = set()
    for setting in settings:
        x, y = setting.spread("val/psnr"), setting.spread(metric)
        folders = tuple(run.folder for run in setting.runs)
        if x is not None and y is not None and folders not in seen:
            seen.add(folders)
            points.append((setting, x[:2], y[:2]))
    return points


def put_labels(axes: Axes, places: Sequence[tuple[float, float]], texts: dict[int, str]) -> None:
    """Writes a text beside points, each where it covers least of points and other texts."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    dots: Any = axes.transData.transform(places) * (72 / figure.dpi) if places else []
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]  # points of the page
    for k, text in texts.items():
        width, height = 5.6 * len(text), 8.0  # of a 9-point font

        def box(offset: tuple[int, int], k: int = k, w: float = width, h: float = height) -> Box:
            x, y = dots[k][0] + offset[0], dots[k][1] + offset[1]
            left = x if offset[0] > 0 else x - w if offset[0] < 0 else x - w / 2
            return left, y - h / 2, left + w, y + h / 2

        best = min(OFFSETS, key=lambda o: sum(overlap(box(o), other) for other in taken))
        taken.append(box(best))
        axes.annotate(
            text,
            places[k],
            xytext=best,
            textcoords="offset points",
            ha="left" if best[0] > 0 else "right" if best[0] < 0 else "center",
            va="center",
            fontsize=9,
        )


Box = tuple[float, float, float, float]
OFFSETS = (
    *((6, 6), (-6, 6), (6, -7), (-6, -7), (8, 0), (-8, 0), (0, 10), (0, -10)),
    *((14, 14), (-14, 14), (14, -14), (-14, -14)),
)


def overlap(one: Box, two: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0.0) * max(height, 0.0)


def scorers_by_epoch(groups: dict[str, Sequence[Run]], metric: str) -> Panel:
    """A metric of scorers over epochs: a line for each backbone or variant, seeds averaged."""

    def draw(axes: Axes) -> None:
        constants = set()
        for k, (name, runs) in enumerate(groups.items()):
            curve = mean_curve(runs, metric, None)
            colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
            epochs = sorted(curve)
            spreads = [mean_and_std(curve[epoch]) for epoch in epochs]
            means = [spread[0] for spread in spreads if spread is not None]
            dash = DASHES[k // len(PALETTE) % len(DASHES)]
            axes.plot(
                epochs,
                means,
                color=colour,
                marker=marker if len(epochs) <= FEW_EPOCHS else "",
                markersize=3.5,
                linestyle=dash,
                label=name,
            )
            constants |= {round(v, 4) for run in runs if (v := run.value(f"{metric}_constant"))}
        low, high = axes.get_ylim()
        for value in sorted(constants):
            draw_baseline(axes, value, low, high, "constant predictor")
        epoch_axis(axes)
        axes.set_ylabel(metric)

    return draw


def compose(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Panels side by side, with one legend below."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
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
            names = [textwrap.fill(name[:MAX_LABEL], LINE * columns) for name in entries]
            longest = max(len(line) for name in names for line in name.split("\n"))
            across = columns * (
                4 if longest < 9 else 3 if longest < 18 else 2 if longest < 30 else 1
            )
            across = across if longest <= LINE else 1
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
    """Writes `name.png` and `name.svg`; each is whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        path = folder / f"{name}.{suffix}"
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(rendered(figure, suffix))
        temporary.replace(path)


def rendered(figure: Figure, suffix: str) -> bytes:
    """A figure as the content of a file, the same at any time."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {}
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=suffix, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def for_page(figure: Figure, name: str, description: str) -> str:
    """A figure as an SVG element whose colours are the page's, with ids of its own."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in IN_PAGE.items():
        text = text.replace(colour, f"var({variable})")
    width, height = figure.get_size_inches() * 72
    label = html.escape(description)
    head = f'<svg role="img" viewBox="0 0 {width:g} {height:g}" aria-label="{label}"'
    return head + text[text.index(">") :].replace("\n", " ")

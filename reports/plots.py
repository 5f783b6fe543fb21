"""The plots in a report's figures: metrics by gamma and by epoch, and PSNR against score.

Lines are means over seeds; each scale has its own panel. `reports.figures` puts them together.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures import FRONT, INK, MUTED, PALETTE, LineStyles, Look, Panel, look
from reports.run_table import Run, Setting, Spread, axis_name, pareto, unique

FAINT = 0.35  # opacity of the line with the lowest gamma; the highest has 1
FAR = 1.0  # a baseline further from the values than this multiple of their range is only named
FEW_EPOCHS = 12  # up to this number, each epoch has a marker
LEAST = 0.1  # dB or buckets that an axis spans at least: smaller differences are noise
NOISY = ("val/psnr", "val/psnr_y", "val/score", "val/score_judge")  # metrics that LEAST is for
MANY_LABELS = 30  # with more points than this, only those on the Pareto front are labelled


def lines_of(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Group settings that differ only in gamma, in order of gamma."""
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        lines.setdefault(setting.line, []).append(setting)
    return list(lines.values())


def by_gamma(
    settings: Sequence[Setting],
    metric: str,
    scale: int,
    styles: LineStyles,
    baseline: float | None = None,
    unit: str = "",
    source: str = "",
) -> Panel:
    """Plot a metric over gamma: a line of means, a band of one standard deviation, all seeds.

    Args:
        settings: of one scale and the same validation photos.
        metric: such as `val/psnr`.
        scale: of the settings.
        styles: colours, markers and dashes.
        baseline: the metric of bicubic, if known.
        unit: of the metric.
        source: the scorer, if there are several.
    """

    def draw(axes: Axes) -> None:
        drawn = [y for line in lines_of(settings) for y in draw_line(axes, line, metric, styles)]
        if baseline is not None and drawn:
            draw_baseline(axes, baseline, min(drawn), max(drawn), "bicubic")
        if metric in NOISY:
            least_range(axes)
        gamma_axis(axes, sorted({setting.gamma for setting in settings}), axis_name(settings))
        axes.set_ylabel(f"{metric} in {unit}" if unit else metric)
        axes.set_title(f"x{scale}, {source}" if source else f"x{scale}", loc="left")

    return draw


def draw_line(axes: Axes, line: Sequence[Setting], metric: str, styles: LineStyles) -> list[float]:
    """Draw the line of one network or variant over gamma; return all values drawn.

    Args:
        axes: where to draw.
        line: settings that differ only in gamma.
        metric: such as `val/psnr`.
        styles: colours, markers and dashes.
    """
    found = [(s, spread) for s in line if (spread := s.spread(metric)) is not None]
    if not found:
        return []
    look = styles[line[0]]
    gammas = [s.gamma for s, _ in found]
    means = [mean for _, (mean, _, _) in found]
    spreads = [std or 0.0 for _, (_, std, _) in found]
    low = [mean - std for mean, std in zip(means, spreads, strict=True)]
    high = [mean + std for mean, std in zip(means, spreads, strict=True)]
    if any(spreads):
        axes.fill_between(gammas, low, high, color=look.colour, alpha=0.15, linewidth=0)
    plot(axes, gammas, means, look, size=5, label=line[0].line)
    drawn = [*low, *high]
    for setting, _ in found:
        values = setting.values(metric)
        drawn += values
        if len(values) > 1:
            same = [setting.gamma] * len(values)
            plot(axes, same, values, look._replace(dash=""), size=3, alpha=0.5)
    return drawn


def plot(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    look: Look,
    *,
    size: float = 3.5,
    alpha: float | None = None,
    label: str | None = None,
) -> None:
    """Plot a line with markers of a size in points."""
    axes.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=size,
        alpha=alpha,
        label=label,
    )


def draw_baseline(axes: Axes, value: float, low: float, high: float, name: str) -> None:
    """Draw a dashed line, or only its value at the edge if it is far from all other values."""
    reach = FAR * max(high - low, 0.1)
    text = f"{name} {value:.3f}" if abs(value) < 10 else f"{name} {value:.2f}"
    note = partial(axes.annotate, textcoords="offset points", fontsize=9, color=MUTED)
    if low - reach <= value <= high + reach:
        axes.axhline(value, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.2)
        note(text, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(-2, 3), ha="right")
    elif value < low:  # metrics that fall with gamma leave this corner and the opposite one free
        below = f"\N{DOWNWARDS ARROW} {text}"
        note(below, (0, 0), xycoords="axes fraction", xytext=(4, 4))
    else:
        above = f"\N{UPWARDS ARROW} {text}"
        note(above, (1, 1), xycoords="axes fraction", xytext=(-2, 4), ha="right")


def least_range(axes: Axes) -> None:
    """Widen the vertical axis to `LEAST`, so that noise does not fill it."""
    axes.set_ylim(widened(axes.get_ylim()))


def widened(limits: tuple[float, float]) -> tuple[float, float]:
    """Return limits of an axis that span at least `LEAST` around the same middle."""
    low, high = limits
    missing = max(0.0, LEAST - (high - low)) / 2
    return low - missing, high + missing


def gamma_axis(axes: Axes, gammas: Sequence[float], name: str = "gamma") -> None:
    """Start the horizontal axis at 0, with a tick at each gamma unless they would overlap."""
    largest = max(gammas, default=0) or 1.0
    smallest = min((gamma for gamma in gammas if gamma), default=largest)
    axes.set_xlabel(name)
    if largest / smallest > 50:  # logarithmic, but including 0
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


def by_epoch(
    settings: Sequence[Setting], metric: str, scale: int, styles: LineStyles, unit: str
) -> Panel:
    """Plot a metric by epoch: a line per network and gamma, a band from lowest to highest seed.

    Lines are more opaque for higher gammas. Unfinished runs have separate thin lines.
    """

    def draw(axes: Axes) -> None:
        gammas = sorted({setting.gamma for setting in settings})
        shades = {gamma: shade(gamma, gammas) for gamma in gammas}
        axis = axis_name(settings)
        drawn = []
        for setting in settings:
            drawn += draw_curves(axes, setting, metric, scale, styles, shades[setting.gamma])
        # One legend entry per network and one per gamma, instead of one per pair.
        for line in lines_of(settings):
            plot(axes, [], [], styles[line[0]], size=5, label=line[0].line)
        for gamma in gammas if len(gammas) > 1 else ():
            axes.plot([], [], color=INK, alpha=shades[gamma], label=f"{axis} {gamma:g}")
        if metric == "val/psnr":
            least_range(axes)
        epoch_axis(axes)
        training = metric.startswith("train/")
        if training and drawn and 0 < 10 * min(drawn) < max(drawn):
            axes.set_yscale("log")
        axes.set_ylabel(f"{metric} in {unit}" if unit else metric)
        axes.set_title(f"x{scale}, training" if training else f"x{scale}", loc="left")

    return draw


def draw_curves(
    axes: Axes, setting: Setting, metric: str, scale: int, styles: LineStyles, alpha: float
) -> list[float]:
    """Draw the curves of a setting by epoch; return the means of its finished runs."""
    look = styles[setting]
    done = [run for run in setting.runs if run.state == "finished"]
    for run in setting.runs:
        if run not in done:
            axes.plot(*run.curve(metric, scale), color=look.colour, linewidth=0.8, alpha=alpha)
    curve = mean_curve(done, metric, scale)
    if not curve:
        return []
    epochs, means = list(curve), [sum(values) / len(values) for values in curve.values()]
    plot(axes, epochs, means, without_crowd(look, epochs), alpha=alpha)
    if len(done) > 1:
        low, high = [min(values) for values in curve.values()], [max(v) for v in curve.values()]
        axes.fill_between(epochs, low, high, color=look.colour, alpha=0.15 * alpha, linewidth=0)
    return means


def without_crowd(look: Look, epochs: Sequence[int]) -> Look:
    """Return a look without a marker if there are many epochs."""
    return look if len(epochs) <= FEW_EPOCHS else look._replace(marker="")


def shade(gamma: float, gammas: Sequence[float]) -> float:
    """Return the opacity of a gamma's line by its rank; the highest gamma has 1."""
    if len(gammas) == 1:
        return 1.0
    return FAINT + (1 - FAINT) * gammas.index(gamma) / (len(gammas) - 1)


def epoch_axis(axes: Axes) -> None:
    """Label the horizontal axis with whole epochs, even if there is only one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, (left + right) / 2 - 0.5), max(right, (left + right) / 2 + 0.5))
    axes.set_xlabel("epoch")


def mean_curve(runs: Iterable[Run], metric: str, scale: int | None) -> dict[int, list[float]]:
    """Return the values of all runs by epoch, in order."""
    curve: dict[int, list[float]] = {}
    for run in runs:
        for epoch, value in zip(*run.curve(metric, scale), strict=True):
            curve.setdefault(epoch, []).append(value)
    return dict(sorted(curve.items()))


def lower_is_better(panel: Panel) -> Panel:
    """Say at the vertical axis of a panel that lower values are better."""

    def draw(axes: Axes) -> None:
        panel(axes)
        axes.set_ylabel(f"{axes.get_ylabel()}, lower is better")

    return draw


def plane(
    settings: Sequence[Setting], metric: str, scale: int, styles: LineStyles, *, lower: bool = False
) -> Panel:
    """Plot PSNR against a metric: means with deviations, faint seeds, and the Pareto front.

    The best settings are at the upper right: an axis on which lower is better points down. Labels
    are gammas.
    """

    def draw(axes: Axes) -> None:
        points = plane_points(settings, metric)
        axes.margins(0.12)
        for setting, (x, x_std, _), (y, y_std, _) in points:
            look = styles[setting]
            axes.errorbar(
                x,
                y,
                xerr=x_std,
                yerr=y_std,
                color=look.colour,
                marker=look.marker,
                markersize=6,
                markerfacecolor=look.colour if look.dash == "-" else "none",
                elinewidth=1,
                alpha=0.9,
                linestyle="",
                label=setting.line,
            )
            for run in setting.runs if len(setting.runs) > 1 else ():
                one, two = run.value("val/psnr", scale), run.value(metric, scale)
                if one is not None and two is not None:
                    plot(axes, [one], [two], look._replace(dash="-"), size=3, alpha=0.4)
        if metric in NOISY:
            least_range(axes)
        if lower:
            axes.invert_yaxis()
        axes.set_xlim(widened(axes.get_xlim()))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        places = [(x.mean, y.mean) for _, x, y in points]
        front = pareto([(x, -y if lower else y) for x, y in places])
        if front:
            draw_front(axes, [places[k] for k in front])
        shown = range(len(points)) if len(points) <= MANY_LABELS else front
        texts = {k: f"{points[k][0].gamma:g}" for k in shown}
        put_labels(axes, places, texts)
        axes.set_xlabel("val/psnr in dB")
        axes.set_ylabel(f"{metric}, lower is better" if lower else metric)
        axes.set_title(f"x{scale}", loc="left")

    return draw


def draw_front(axes: Axes, best: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front through its points, to the left and lower edge of the panel."""
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
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


def plane_points(settings: Sequence[Setting], metric: str) -> list[tuple[Setting, Spread, Spread]]:
    """Return the spreads of PSNR and score of settings that have a score.

    A setting that belongs to several lines is one point.
    """
    spreads = ((s, s.spread("val/psnr"), s.spread(metric)) for s in unique(settings))
    return [(s, x, y) for s, x, y in spreads if x is not None and y is not None]


def put_labels(axes: Axes, places: Sequence[tuple[float, float]], texts: dict[int, str]) -> None:
    """Label points, placing each text where it overlaps points and other texts least."""
    if not places:
        return
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    dots = axes.transData.transform(places) * (72 / figure.dpi)
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]  # in points
    for k, text in texts.items():
        width, height = 5.6 * len(text), 8.0  # in a 9-point font

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
    """Return the area that two boxes share."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0.0) * max(height, 0.0)


def scorers_by_epoch(groups: Mapping[str, Sequence[Run]], metric: str) -> Panel:
    """Plot a scorer metric by epoch: a line for each backbone or variant, averaged over seeds."""

    def draw(axes: Axes) -> None:
        constants = set()
        for k, (name, runs) in enumerate(groups.items()):
            curve = mean_curve(runs, metric, None)
            epochs, means = list(curve), [fmean(values) for values in curve.values()]
            style = without_crowd(look(k, k // len(PALETTE)), epochs)
            plot(axes, epochs, means, style, label=name)
            constants |= {round(v, 4) for run in runs if (v := run.value(f"{metric}_constant"))}
        low, high = axes.get_ylim()
        for value in sorted(constants):
            draw_baseline(axes, value, low, high, "constant predictor")
        epoch_axis(axes)
        axes.set_ylabel(metric)

    return draw

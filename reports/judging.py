"""Gains over gamma 0 by several judges, with intervals, and who is better by most of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from lightning_modules.metric_catalogue import digits, direction, is_score, judges_among
from reports.comparison import Block, Comparison, drawn
from reports.evaluations import Evaluation
from reports.figures import MUTED, LineStyles, Panel
from reports.measures import measure_of
from reports.plots import gamma_axis, lines_of, lower_is_better, plot
from reports.run_table import Run, Setting, unique
from reports.tables import Cell, Table, number_cell, text_cell
from runs.paired import Gain, Seeds, paired_gains
from runs.verdicts import Verdict, verdict
from system.places import display_path

STEP = 4.0  # points between the intervals of lines at the same gamma
SHOWN = ("psnr", "score")  # plotted beside the judges


@dataclass(frozen=True)
class Judged:
    """A setting's gains over the same training at gamma 0 by measure, and the verdict."""

    setting: Setting
    gains: Mapping[str, Gain]
    dependent: Mapping[str, str]
    verdict: Verdict | None


def add_judges(comparison: Comparison, evaluations: Sequence[Evaluation]) -> None:
    """Insert a block for each evaluation of a comparison's runs, after the first block."""
    blocks = []
    for k, evaluation in enumerate(evaluations, 1):
        judged = {
            scale: list(judge(settings, evaluation, scale))
            for scale, settings in comparison.settings.items()
        }
        if any(judged.values()):
            name = f"{comparison.prefix}judges{k if k > 1 else ''}"
            found = judges_block(judged, evaluation, comparison.folder, name, comparison.styles)
            blocks.append(found)
    comparison.blocks[1:1] = blocks


def judge(settings: Sequence[Setting], evaluation: Evaluation, scale: int) -> Iterator[Judged]:
    """Compare each setting with the same training at gamma 0, as far as both were evaluated."""
    for line in lines_of(settings):
        plain = [run for setting in line if setting.gamma == 0 for run in setting.runs]
        theirs = seeds_of(plain, evaluation, scale)
        for setting in line:
            ours = seeds_of(setting.runs, evaluation, scale)
            if setting.gamma == 0 or not ours or not theirs:
                continue
            gains = paired_gains(ours, theirs, scale, evaluation.values)
            dependent = evaluation.dependent(setting.runs)
            better = evaluation.run.result.better
            ruling = verdict(gains, better, evaluation.criteria, dependent)
            yield Judged(setting, gains, dependent, ruling)


def seeds_of(runs: Sequence[Run], evaluation: Evaluation, scale: int) -> Seeds:
    """Return the networks of runs in an evaluation, by seed."""
    found = {run.seed: evaluation.names.get(run.about.config_hash) for run in runs}
    return {
        seed: name
        for seed, name in found.items()
        if name is not None and (name, scale) in evaluation.values
    }


def judges_block(
    judged: Mapping[int, Sequence[Judged]],
    evaluation: Evaluation,
    folder: Path,
    name: str,
    styles: LineStyles,
) -> Block:
    """Plot the gains by gamma, one panel for each judge and scale, and tabulate them."""
    judges = judges_among(evaluation.measures)
    measures = [m for m in evaluation.measures if m in SHOWN or m in judges]
    better = evaluation.run.result.better
    panels: dict[str, Panel] = {}
    for measure in measures:
        for scale, rows in judged.items():
            if any(measure in row.gains for row in rows):
                panel = gains_by_gamma(rows, measure, scale, styles)
                lower = direction(measure, better) == "lower"
                text = f"gain in {measure} by gamma at x{scale}"
                panels[text] = lower_is_better(panel) if lower else panel
    place, criteria = display_path(evaluation.run.folder), evaluation.criteria
    note = (
        f"Differences from gamma 0 on the photos of {place}, paired over photos and seeds, with "
        "bootstrapped 95 % intervals; filled points: the interval excludes zero. A setting is "
        f"better if at least {100 * criteria.judges:g} % of the judges gain and at most "
        f"{criteria.against} lose, with intervals beyond zero"
    )
    lost = criteria.psnr_loss
    note += "." if lost is None else f", and PSNR loses at most {lost:g} dB."
    reasons = {
        f"* {judge} does not count: {why}."
        for rows in judged.values()
        for row in rows
        for judge, why in row.dependent.items()
    }
    note = " ".join([note, *sorted(reasons), "; ".join(evaluation.judges)])
    block = drawn("Judges", note, folder, name, panels)
    block.table = table_of(judged, measures)
    return block


def gains_by_gamma(rows: Sequence[Judged], measure: str, scale: int, styles: LineStyles) -> Panel:
    """Plot the gains in a measure over gamma, with intervals, a line for each training."""

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=MUTED, linewidth=1)
        lines = lines_of([row.setting for row in rows if measure in row.gains])
        gains = {row.setting: row.gains[measure] for row in rows if measure in row.gains}
        figure = axes.get_figure()
        assert figure is not None
        for k, line in enumerate(lines):
            shift = STEP * (k - (len(lines) - 1) / 2) / 72
            place = axes.transData + ScaledTranslation(shift, 0, figure.dpi_scale_trans)
            look = styles[line[0]]
            for setting in line:
                gain = gains[setting]
                axes.errorbar(
                    [setting.gamma],
                    [gain.mean],
                    yerr=[[gain.mean - gain.low], [gain.high - gain.mean]],
                    color=look.colour,
                    marker=look.marker,
                    markersize=5,
                    markerfacecolor=look.colour if gain.excludes_zero else "none",
                    elinewidth=1.2,
                    capsize=2,
                    transform=place,
                )
            axes.plot(
                [0.0, *(setting.gamma for setting in line)],
                [0.0, *(gains[setting].mean for setting in line)],
                color=look.colour,
                linestyle=look.dash,
                marker="",
                linewidth=1,
                alpha=0.6,
                transform=place,
            )
            plot(axes, [], [], look, size=5, label=line[0].line)
        # Artists that are shifted do not count for the limits.
        axes.update_datalim([(s.gamma, end) for s, g in gains.items() for end in (g.low, g.high)])
        axes.autoscale_view(scalex=False)
        gamma_axis(axes, sorted({0.0, *(row.setting.gamma for row in rows)}))
        axes.set_xlabel(axis_of(rows))
        star = "*" if any(measure in row.dependent for row in rows) else ""
        axes.set_ylabel(f"gain in {measure}{star}")
        axes.set_title(f"x{scale}", loc="left")

    return draw


def axis_of(rows: Iterable[Judged]) -> str:
    """Return what `gamma` of the settings is: `gamma`, or with gamma=auto `share`."""
    runs = (run for row in rows for run in row.setting.runs)
    return " or ".join(sorted({"share" if run.key("gamma") == "auto" else "gamma" for run in runs}))


def table_of(judged: Mapping[int, Sequence[Judged]], measures: Sequence[str]) -> Table:
    """Tabulate the gains of each setting, with intervals, and the verdicts."""
    rows = []
    for scale, found in judged.items():
        kept = unique(row.setting for row in found)
        for row in found:
            if row.setting not in kept:
                continue
            setting = row.setting
            label = ", ".join(f"{key}={value}" for key, value in setting.variant)
            num_seeds = max((gain.num_seeds for gain in row.gains.values()), default=0)
            cells = [
                text_cell(setting.net),
                text_cell(label),
                number_cell(scale, text=f"x{scale}"),
                number_cell(setting.gamma, "g"),
                number_cell(num_seeds),
                text_cell("-" if row.verdict is None else row.verdict.text),
            ]
            rows.append([*cells, *(gain_cell(row, measure) for measure in measures)])
    axis = axis_of(row for found in judged.values() for row in found)
    names = ["net", "other settings", "scale", axis, "seeds", "better than gamma 0"]
    return Table.of("Judges", [*names, *(heading(name) for name in measures)], rows)


def gain_cell(row: Judged, measure: str) -> Cell:
    """Return the cell of a gain with its interval; a star marks judges that do not count."""
    if measure not in row.gains:
        return number_cell(None)
    gain = row.gains[measure]
    text = gain.text(digits(measure) + (2 if is_score(measure) else 1))
    return number_cell(gain.mean, text=text + ("*" if measure in row.dependent else ""))


def heading(measure: str) -> str:
    """Return the heading of a measure."""
    return measure if is_score(measure) else measure_of(measure).title

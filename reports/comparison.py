"""Compare enhancers that were validated on the same photos."""

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_modules.metric_catalogue import DEFAULT, DOWN
from reports import figures, gradients, plots
from reports.measures import Measure, added_measures, measure_of
from reports.run_table import (
    Run,
    Setting,
    axis_name,
    change,
    joined,
    label_of,
    newest_of_equal,
    pareto,
    settings_of,
    unique,
    variant_keys,
    variant_of,
)
from reports.tables import SCORES, Table, number_cell, plural, spread_cell, text_cell

# Names of figures that a report writes.
OURS = re.compile(r"(data\d+_)?(gamma|epoch|plane_[a-zA-Z]\w*|scorers|judges\d*)\.(png|svg)")
SAME = 0.005  # dB or buckets: if a mean over photos is this near the run's, it covers all photos
SCORER_METRICS = ("val/emd", "val/emd_r1", "val/srcc", "val/lcc", "val/accuracy")


@dataclass
class Block:
    """A figure or table of the page, with a note on how to read it or why it is missing."""

    title: str
    note: str
    panels: list[str] = field(default_factory=list)
    table: Table | None = None
    files: str = ""
    columns: int = 3


class Comparison:
    """Finished enhancers that were validated on the same photos.

    Args:
        runs: the runs.
        groups: all such groups, to describe how this one differs.
        everything: all enhancers, including unfinished ones, whose curves are plotted too.
        folder: for figures.
        prefix: of the figures' names.
        epoch: see `build`.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        groups: Sequence[Sequence[Run]],
        everything: Sequence[Run],
        folder: Path,
        prefix: str,
        epoch: int | None,
    ) -> None:
        self.runs, self.folder, self.prefix = runs, folder, prefix
        self.description = runs[0].result.data or data_of(runs[0])
        own, validations = runs[0].validation, [group[0].validation for group in groups]
        self.difference = ", ".join(
            f"{key}={own.get(key, '')}"
            for key in sorted({key for validation in validations for key in validation})
            if any(validation.get(key) != own.get(key) for validation in validations)
        )
        scales = {scale for run in runs for scale in run.scales}
        # A short validation may have no photo at one of the scales of a network.
        empty = {s for s in scales if all(run.value("val/psnr", s) is None for run in runs)}
        self.scales = sorted(scales - empty or scales)
        others = [
            run
            for run in everything
            if run.state == "unfinished" and run.rows and run.validation == runs[0].validation
        ]
        self.keys = variant_keys([*runs, *others])
        self.settings = {scale: settings_of(runs, scale, self.keys) for scale in self.scales}
        self.axis = axis_name(s for group in self.settings.values() for s in group)
        self.begun = {
            scale: settings_of([*runs, *others], scale, self.keys) for scale in self.scales
        }
        self.metrics = [
            metric
            for metric in SCORES
            if any(run.value(metric, s) is not None for run in runs for s in run.scales)
        ]
        self.added = added_measures(runs)
        self.num_unfinished = len(others)
        self.styles = figures.LineStyles(s for group in self.begun.values() for s in group)
        monitors = {run.result.monitor for run in runs}
        which = f"the best epoch by {' or '.join(sorted(monitors))}"
        if epoch is not None:
            which = f"epoch {epoch}, whether runs were finished or not"
        self.protocol = (
            "val/psnr is measured in RGB, without a border of scale + 6 pixels, per photo, and "
            f"averaged; the values are of {which}."
        )
        if described := [measure.protocol for measure in self.added if measure.protocol]:
            self.protocol = " ".join([self.protocol, *described])
        self.best = list(self.best_lines())
        self.scored_by = self.scored() if self.metrics else ""
        self.blocks = [self.by_gamma(), self.by_epoch(), *self.planes(), self.spreads()]
        table = gradients.gradient_table(s for group in self.settings.values() for s in group)
        if table.rows:
            self.blocks.append(Block(table.title, gradients.NOTE, table=table))

    def only(self, runs: Sequence[Run], scale: int) -> list[Setting]:
        """Return the settings, reduced to these runs; settings without any are dropped."""
        parts = (
            replace(setting, runs=tuple(run for run in setting.runs if run in runs))
            for setting in self.settings[scale]
        )
        return [part for part in parts if part.runs]

    def best_lines(self) -> Iterator[tuple[str, list[dict[str, str]]]]:
        """Yield each scale with its best runs."""
        for scale in self.scales:
            facts = []
            measures = [Measure(name, title, 3, "higher") for name, title in SCORES.items()]
            measures = [measure_of("psnr"), *measures, *(m for m in self.added if m.better)]
            for metric, name, digits, better, *_ in measures:
                extreme = min if better == "lower" else max
                for rater, runs in self.by_rater(metric, scale).items():
                    values = {run: run.value(metric, scale) for run in runs}
                    top = extreme(value for value in values.values() if value is not None)
                    run = next(run for run in runs if values[run] == top)
                    value = f"{top:.{digits}f}"
                    if metric == "val/psnr":
                        value = f"{top:.2f} dB"
                        if (base := baseline([run], metric, scale)) is not None:
                            kind = "bicubic" if scale > 1 else "the input"
                            value += f" ({top - base:+.2f} over {kind})"
                    which = "lowest" if better == "lower" else "highest"
                    what = f"{which} {name.removesuffix(f' {DOWN}')}"
                    what += "" if rater is None else f" by {rater}"
                    facts.append({"what": what, "value": value, "run": label_of(run, self.keys)})
            if facts:
                yield f"x{scale}", facts

    def by_rater(self, metric: str, scale: int) -> dict[str | None, list[Run]]:
        """Group runs that have a metric by the scorer that computed it; None for PSNR."""
        groups: dict[str | None, list[Run]] = {}
        for run in self.runs:
            if run.value(metric, scale) is not None:
                rater = run.rater(metric) if metric in SCORES else None
                groups.setdefault(rater, []).append(run)
        return groups

    def by_gamma(self) -> Block:
        """Plot PSNR, and scores if there are any, by gamma."""
        title = f"By {self.axis}"
        gammas = {setting.gamma for group in self.settings.values() for setting in group}
        if len(gammas) < 2:
            return Block(title, f"All runs have {self.axis} {min(gammas, default=0):g}.")
        panels = {}
        shown = [measure_of("psnr"), *(Measure(name, name) for name in self.metrics), *self.added]
        for metric, _, _, better, unit, _ in shown:
            for scale in self.scales:
                raters = self.by_rater(metric, scale)
                for rater, runs in raters.items():
                    base = baseline(runs, metric, scale)
                    source = rater if rater is not None and len(raters) > 1 else ""
                    panel = plots.by_gamma(
                        self.only(runs, scale), metric, scale, self.styles, base, unit, source
                    )
                    panels[f"{metric} by gamma at x{scale} {source}".strip()] = (
                        plots.lower_is_better(panel) if better == "lower" else panel
                    )
        note = (
            "Lines join the means over seeds, bands show one sample standard deviation to each "
            f"side, and small points are single seeds. {self.protocol}"
        )
        if self.scored_by:
            note += f" {self.scored_by}"
        name, columns = f"{self.prefix}gamma", len(self.scales)
        return drawn(title, note, self.folder, name, panels, columns)

    def scored(self) -> str:
        """Describe which scorers computed the scores, and how many runs have none."""
        texts = []
        for metric, name in SCORES.items():
            raters = {run.rater(metric) for run in self.runs if metric in scored_by(run)}
            if raters:
                texts.append(f"{metric} is given by {' and '.join(sorted(map(str, raters)))}.")
            without = sum(metric not in scored_by(run) for run in self.runs)
            if raters and without:
                reason = "gamma 0 uses no scorer" if name == "score" else "no judge was set"
                texts.append(f"{plural(without, 'run')} without it: {reason}.")
        if "val/score" in self.metrics and "val/score_judge" not in self.metrics:
            texts.append("judge.checkpoint=FILE scores runs at gamma 0 too.")
        return " ".join(texts)

    def by_epoch(self) -> Block:
        """Plot loss, PSNR and added metrics by epoch, one row per scale."""
        title = "By epoch"
        shown = [Measure("train/loss", "loss"), measure_of("psnr"), *self.added]
        panels = {}
        for scale in self.scales:
            for metric, _, _, better, unit, _ in shown:
                panel = plots.by_epoch(self.begun[scale], metric, scale, self.styles, unit)
                panels[f"{metric} by epoch at x{scale}"] = (
                    plots.lower_is_better(panel) if better == "lower" else panel
                )
        if not any(run.rows for run in self.runs):
            return Block(title, "No run has a readable metrics.csv.")
        note = (
            "Lines are means over seeds, more opaque for higher gammas; bands range from the "
            "lowest to the highest seed. train/loss is the epoch mean of the loss that "
            "was minimised, so it is comparable only between runs with the same terms and weights."
        )
        if any(len(run.scales) > 1 for run in self.runs):
            note += " The loss of a network with several scales covers all of them."
        if self.num_unfinished:
            note += f" Thin lines: {plural(self.num_unfinished, 'unfinished run')}."
        return drawn(
            title, note, self.folder, f"{self.prefix}epoch", panels, columns=min(3, len(shown))
        )

    def planes(self) -> Iterator[Block]:
        """Plot PSNR against each score: one block per scorer, one panel per scale."""
        title = "PSNR and score"
        for measure in (measure for measure in self.added if measure.better):
            yield self.plane_of(measure)
        if not self.metrics:
            yield Block(title, "No run has a score: runs at gamma 0 without a judge have none.")
        for metric in self.metrics:
            panels: dict[str | None, dict[str, figures.Panel]] = {}
            for scale in self.scales:
                for rater, runs in self.by_rater(metric, scale).items():
                    panels.setdefault(rater, {})[f"val/psnr and {metric} at x{scale}"] = (
                        plots.plane(self.only(runs, scale), metric, scale, self.styles)
                    )
            for k, (rater, by_scale) in enumerate(panels.items()):
                note = (
                    f"{metric} by {rater}. Points are means over seeds with one standard "
                    "deviation, labelled with gamma. Dashed: the Pareto front; no other setting is "
                    "better in both."
                )
                name = f"{self.prefix}plane_{SCORES[metric]}{f'_{k}' if k else ''}"
                which = f": {SCORES[metric]}" if len(self.metrics) > 1 else ""
                yield drawn(f"{title}{which}", note, self.folder, name, by_scale)

    def plane_of(self, measure: Measure) -> Block:
        """Plot PSNR against an added metric, one panel per scale."""
        metric, lower = measure.name, measure.better == "lower"
        panels = {
            f"val/psnr and {metric} at x{scale}": plots.plane(
                self.only(runs, scale), metric, scale, self.styles, lower=lower
            )
            for scale in self.scales
            for runs in self.by_rater(metric, scale).values()
        }
        note = "Points are means over seeds with one standard deviation, labelled with gamma."
        note += f" {'Lower' if lower else 'Higher'} values of {metric} are better, and further up."
        note += " Dashed: the Pareto front; no other setting is better in both."
        name = f"{self.prefix}plane_{metric.removeprefix('val/')}"
        return drawn(f"PSNR and {measure.title}", note, self.folder, name, panels)

    def spreads(self) -> Block:
        """Tabulate means and spreads over seeds."""
        scores = [Measure(name, name, 3) for name in self.metrics]
        measures = {m.name: m for m in (*map(measure_of, DEFAULT), *self.added, *scores)}
        metrics = {name: measure.digits for name, measure in measures.items()}
        shown = [
            metric
            for metric in metrics
            if any(s.values(metric) for group in self.settings.values() for s in group)
        ]
        changes = ["val/psnr", *(measure.name for measure in self.added), *self.metrics]
        rows = []
        for scale in self.scales:
            front = self.on_front(scale)
            for setting in unique(self.settings[scale]):
                label = ", ".join(f"{key}={value}" for key, value in setting.variant)
                cells = [
                    text_cell(setting.net),
                    text_cell(label),
                    number_cell(scale, text=f"x{scale}"),
                    number_cell(setting.gamma, "g"),
                    number_cell(len(setting.runs)),
                ]
                for metric in shown:
                    cells.append(spread_cell(setting.spread(metric), metrics[metric]))
                    if metric in changes:
                        gained = change(setting, self.settings[scale], metric)
                        # Pairing by seed makes it more precise than the metric itself.
                        cells.append(spread_cell(gained, metrics[metric] + 1, "+"))
                cells.append(text_cell("yes" if setting in front else ""))
                rows.append(cells)
        names = ["net", "other settings", "scale", self.axis, "runs"]
        for metric in shown:
            names.append(measures[metric].label)
            names += [f"{metric} over gamma 0"] if metric in changes else []
        names.append("Pareto front")
        note = (
            "Mean ± sample standard deviation of runs that differ only in the seed. Gains over "
            "gamma 0 are paired by seed, then averaged."
        )
        title = "Mean and spread over seeds"
        return Block(title, note, table=Table.of(title, names, rows))

    def on_front(self, scale: int) -> list[Setting]:
        """Return the settings on the Pareto front of PSNR and a score."""
        found = []
        for metric in self.metrics:
            for runs in self.by_rater(metric, scale).values():
                points = plots.plane_points(self.only(runs, scale), metric)
                for k in pareto([(x.mean, y.mean) for _, x, y in points]):
                    folders = {run.folder for run in points[k][0].runs}
                    found += [
                        s for s in self.settings[scale] if folders & {r.folder for r in s.runs}
                    ]
        return found


def drawn(
    title: str,
    note: str,
    folder: Path,
    name: str,
    panels: dict[str, figures.Panel],
    columns: int = 3,
) -> Block:
    """Write a figure's files; return a block with its panels one by one."""
    figures.save(figures.compose(list(panels.values()), columns), folder, name)
    shown = [
        figures.for_page(figures.compose([panel]), f"{name}{k}", text)
        for k, (text, panel) in enumerate(panels.items())
    ]
    return Block(title, note, shown, files=f"figures/{name}", columns=columns)


def data_of(run: Run) -> str:
    """Describe the data of a run whose result does not."""
    given = run.key("data.val_hr") or []
    names = [Path(str(text)).name for text in (given if isinstance(given, list) else [given])]
    return " ".join(filter(None, [run.about.choices.get("data"), *names]))


def scored_by(run: Run) -> set[str]:
    """Return the scores that a run has."""
    return {m for m in SCORES for s in run.scales if run.value(m, s) is not None}


def baseline(runs: Sequence[Run], metric: str, scale: int) -> float | None:
    """Return a metric of the baseline: bicubic, or the unchanged input at scale 1.

    Results of version 0.1 do not contain it. It is then computed from photos.json, if that covers
    all validation photos.
    """
    name = metric.removeprefix("val/")
    for run in runs:
        for kind in ("bicubic", "input"):
            if (found := run.value(f"{metric}_{kind}", scale)) is not None:
                return found
        photos = [photo.values for photo in run.photos if photo.scale == scale]
        known = [
            (v[name], v[f"{name}_bicubic"]) for v in photos if {name, f"{name}_bicubic"} <= v.keys()
        ]
        whole = run.value(metric, scale)
        if known and len(known) == len(photos) and whole is not None:
            mean, base = map(statistics.fmean, zip(*known, strict=True))
            if abs(mean - whole) < SAME:
                return base
    return None


def scorer_section(scorers: Sequence[Run], folder: Path) -> Block | None:
    """Plot scorer metrics by epoch and backbone; return None without scorers."""
    with_rows = [run for run in newest_of_equal(scorers) if run.rows]
    if not with_rows:
        return None
    keys = variant_keys(with_rows)
    groups: dict[str, list[Run]] = {}
    for run in with_rows:
        groups.setdefault(joined(run.net, variant_of(run, keys)), []).append(run)
    panels: dict[str, figures.Panel] = {}
    for metric in ("val/emd", "val/srcc"):
        if any(metric in row for run in with_rows for row in run.rows):
            panels[f"{metric} by epoch"] = plots.scorers_by_epoch(groups, metric)
    if not panels:
        return None
    data = sorted({run.result.data for run in with_rows if run.result.data})
    note = f"Means over seeds. Lower is better for val/emd, higher for val/srcc. {'; '.join(data)}"
    return drawn("Scorers by epoch", note, folder, "scorers", panels)

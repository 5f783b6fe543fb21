"""The W&B workspace that compares enhancers by gamma, scale and network.

Metrics and settings have the names that `train` logs. Needs the package `wandb-workspaces`.
"""

import math
from collections.abc import Sequence

from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr
from wandb_workspaces.reports.v2.interface import PanelTypes as Panel

from lightning_modules.metric_catalogue import DEFAULT, METRICS

NET, SCALE, GAMMA, SEED = "choices.net", "choices.scale", "gamma", "seed"
SETTINGS = (NET, SCALE, GAMMA, SEED)
# Metrics of the best checkpoint: a score only if gamma > 0, a judge's only if there is a judge.
PSNR, SCORE, JUDGE = "best/val/psnr", "best/val/score", "best/val/score_judge"
BEST = {PSNR: "PSNR", SCORE: "score", JUDGE: "score by the judge"}
MAX_RUNS = 100  # lines in a plot: W&B's default of ten is too few for a sweep over several settings
COLUMNS = 3  # panels side by side

READING = """\
**PSNR and SSIM** are means over the validation photos, and for MDSR also over its scales, so
compare EDSR with MDSR's `val/psnr/x2`, `/x3` or `/x4`.
**Score** is given by the scorer in the loss: only runs with gamma > 0 have one, and an enhancer can
learn to please it. **Judge** is the score of a second scorer, in all runs with `judge.checkpoint`.
Metrics under `best/` are those of the best checkpoint, all others those of the epoch.
"""


def workspace(
    name: str,
    *,
    project: str,
    entity: str | None,
    group: str | None,
    photos: Sequence[str],
    metrics: Sequence[str],
) -> ws.Workspace:
    """Return the workspace.

    Args:
        name: its name in W&B.
        project: where the runs are.
        entity: user or team; None: the account's default.
        group: only the runs of this sweep or experiment; None: all runs.
        photos: names of validation photos to browse.
        metrics: names of image metrics in logs.
    """
    return ws.Workspace(
        entity=entity or "",
        project=project,
        name=name,
        sections=[*score_sections(metrics), *training_sections(photos)],
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=runs(group),
    )


def runs(group: str | None) -> ws.RunsetSettings:
    """Select training runs, of a group if given, with the best PSNR first."""
    filters = [expr.Metric("JobType") == "train"]
    if group is not None:
        filters.append(expr.Metric("Group") == group)
    return ws.RunsetSettings(
        filters=expr.And(*filters),
        order=[expr.Ordering(expr.Summary(PSNR), ascending=False)],
        pinned_columns=[*map(column, SETTINGS), *(f"summary:{name}" for name in BEST)],
    )


def column(name: str) -> str:
    """Return the column of a setting: `config:choices.value.net` for `choices.net`."""
    first, *rest = name.split(".")
    return "config:" + ".".join([first, "value", *rest])


def score_sections(metrics: Sequence[str]) -> list[ws.Section]:
    """Return the sections that compare PSNR, other image metrics and scores."""
    others = [name for name in metrics if name != "psnr"]
    added = {f"best/val/{name}": title_of(name) for name in others if name not in DEFAULT}
    return [
        section(
            "Fidelity and score",
            lines("PSNR, each run", "val/psnr"),
            lines("Score, each run", "val/score"),
            lines("Score by the judge, each run", "val/score_judge"),
            lines("PSNR by network: mean and range", "val/psnr", groupby=NET),
            lines("Score by network: mean and range", "val/score", groupby=NET),
            lines("Score by the judge, by network", "val/score_judge", groupby=NET),
            lines("PSNR of MDSR at each scale", "val/psnr/x2", "val/psnr/x3", "val/psnr/x4"),
            *(lines(title_of(name), f"val/{name}") for name in others),
            wr.MarkdownPanel(markdown=READING),
        ),
        section(
            "By gamma",
            *(scatter(f"{title} by gamma", wr.Config(GAMMA), name) for name, title in BEST.items()),
            *(
                scatter(f"{title} by gamma", wr.Config(GAMMA), name)
                for name, title in added.items()
            ),
            *(
                scatter(f"PSNR against {title}", wr.SummaryMetric(PSNR), name)
                for name, title in added.items()
            ),
            scatter("PSNR against score", wr.SummaryMetric(PSNR), SCORE),
            scatter("PSNR against score by the judge", wr.SummaryMetric(PSNR), JUDGE),
            scatter("Score against score by the judge", wr.SummaryMetric(SCORE), JUDGE),
            bars("PSNR of the best checkpoint", PSNR),
            bars("Score of the best checkpoint", SCORE),
            bars("Score by the judge of the best checkpoint", JUDGE),
        ),
        section(
            "What matters",
            # A run without one of the values has no line, so there is a plot for PSNR alone.
            parallel("To PSNR", PSNR),
            parallel("To PSNR and score (gamma > 0)", PSNR, SCORE),
            parallel("To PSNR and score by the judge", PSNR, JUDGE),
            *(wr.ParameterImportancePlot(with_respect_to=name) for name in BEST),
        ),
    ]


def title_of(name: str) -> str:
    """Return the title of an image metric's plots, which says whether lower values are better."""
    if name == "psnr_y":
        return "PSNR of the Y channel"
    about = METRICS.get(name)
    if about is None:
        return name
    return f"{about.title} (lower is better)" if about.better == "lower" else about.title


def training_sections(photos: Sequence[str]) -> list[ws.Section]:
    """Return the sections about the loss, photos and scorers."""
    steps = "trainer/global_step"
    return [
        section(
            "Loss",
            lines("Loss", "train/loss", x=steps),
            lines("Fidelity term", "train/l2", "train/l1", x=steps),
            lines("Aesthetic term", "train/aesthetic", x=steps),
            lines("Validation loss", "val/loss"),
            lines("Gradient at the SR pixels: aesthetic / fidelity", "val/grad_ratio"),
            lines("Weight of the aesthetic term", "train/weight/aesthetic", x=steps),
            lines("Alignment of the aesthetic gradient with HR - SR", "val/alignment/aesthetic"),
            lines("The same, of 8 x 8 means", "val/alignment_8x8/aesthetic"),
            lines("Drift of contrast", "val/contrast_drift"),
            lines("Drift of saturation", "val/saturation_drift"),
        ),
        section(
            "Before and after",
            *map(before_after, photos),
            wr.WeavePanelSummaryTable(table_name="photos"),
            columns=1,
        ),
        section(
            "Scorers",
            lines("EMD", "val/emd", "val/emd_batch", "val/emd_r1"),
            lines("Rank correlation of the mean", "val/srcc"),
            lines("Linear correlation of the mean", "val/lcc"),
            lines("Rank correlation of the spread", "val/srcc_std"),
            lines("Linear correlation of the spread", "val/lcc_std"),
            lines("Accuracy", "val/accuracy"),
            is_open=False,
        ),
    ]


def section(name: str, *panels: Panel, columns: int = COLUMNS, is_open: bool = True) -> ws.Section:
    """Create a section that shows all its panels on one page."""
    layout = ws.SectionLayoutSettings(columns=columns, rows=math.ceil(len(panels) / columns))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def lines(title: str, *metrics: str, x: str = "epoch", groupby: str | None = None) -> Panel:
    """Plot metrics, one line per run or, with `groupby`, per value of a setting."""
    plot = wr.LinePlot(title=title, x=x, y=list(metrics), max_runs_to_show=MAX_RUNS)
    if groupby is None:
        plot.legend_fields = [column(name) for name in SETTINGS]
    else:
        plot.groupby, plot.groupby_aggfunc = wr.Config(groupby), "mean"
        plot.groupby_rangefunc = "minmax"
    return plot


def scatter(title: str, x: wr.Config | wr.SummaryMetric, y: str) -> Panel:
    """Create a scatter plot with one point per run, coloured by gamma."""
    return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), z=wr.Config(GAMMA))


def bars(title: str, metric: str) -> Panel:
    """Create a bar plot of the mean over runs for each network."""
    return wr.BarPlot(
        title=f"{title}, by network",
        metrics=[metric],
        groupby=wr.Config(NET),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=MAX_RUNS,
    )


def parallel(title: str, *metrics: str) -> Panel:
    """Create a parallel-coordinates plot, from settings to metrics."""
    axis = wr.ParallelCoordinatesPlotColumn
    columns = [
        axis(wr.Config(name), display_name=name.removeprefix("choices.")) for name in SETTINGS
    ]
    columns += [axis(wr.SummaryMetric(name), display_name=name) for name in metrics]
    return wr.ParallelCoordinatesPlot(title=title, columns=columns)


def before_after(photo: str) -> Panel:
    """Create a browser for the pictures of a photo, with runs side by side and all scales."""
    keys = [f"before_after/{photo}{suffix}" for suffix in ("", "_x2", "_x3", "_x4")]
    return wr.MediaBrowser(title=photo, media_keys=keys, gallery_axis="run", num_columns=2)

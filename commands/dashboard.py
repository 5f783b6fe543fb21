"""python run.py dashboard: a W&B workspace that compares enhancers by gamma, scale and network.

Metrics and settings have the names that `train` logs, see commands/train.py. W&B's app represents
workspaces as JSON, which `wandb-workspaces` generates and saves.
"""

import logging
import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict

from runs.invocation import Invocation
from runs.requirements import check_output
from system.json_files import write_json
from system.places import expanded

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.reports.v2.interface import PanelTypes as Panel

log = logging.getLogger(__name__)

NET, SCALE, GAMMA, SEED = "choices.net", "choices.scale", "gamma", "seed"
# Metrics of the best checkpoint: a score only if gamma > 0, a judge's only if there is a judge.
PSNR, SCORE, JUDGE = "best/val/psnr", "best/val/score", "best/val/score_judge"
MAX_RUNS = 100  # lines in a plot: W&B's default of ten is too few for a sweep over several settings
COLUMNS = 3  # panels side by side

READING = """\
**PSNR and SSIM** are means over the validation photos, and for MDSR also over its scales, so
compare EDSR with MDSR's `val/psnr/x2`, `/x3` or `/x4`.
**Score** is given by the scorer in the loss: only runs with gamma > 0 have one, and an enhancer can
learn to please it. **Judge** is the score of a second scorer, in all runs with `judge.checkpoint`.
Metrics under `best/` are those of the best checkpoint, all others those of the epoch.
"""


class Options(BaseModel):
    """Keys of conf/dashboard.yaml."""

    model_config = ConfigDict(strict=True)

    project: str
    entity: str | None
    name: str
    group: str | None
    photos: list[str | int]
    output: str | None
    offline: bool
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Yield the mistakes that the types do not catch."""
    yield from check_output(cfg, ".json")
    for key in ("project", "entity", "name", "group"):
        if cfg[key] is not None and not cfg[key].strip():
            yield f"{key}={cfg[key]}: a name is needed"
    symbols = {c for c in cfg.name if unicodedata.category(c).startswith("S")}  # includes emoji
    if symbols:
        yield f"name={cfg.name}: W&B takes no symbols in it, such as {min(symbols)}"


def run(cfg: DictConfig, _: Invocation) -> None:
    """Save the workspace to W&B, or write it as JSON.

    Raises:
        ValueError: if the extra is missing, the file exists, or W&B reports an error.
    """
    import wandb

    try:
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise ValueError(
            f"dashboard needs {error.name}: pip install 'wandb-workspaces>=0.4.8'"
        ) from error
    account = None
    if not cfg.offline:
        # With silent=True, W&B does not prompt for a key but raises UsageError if there is none.
        wandb.setup(settings=wandb.Settings(silent=True))
        try:
            account = wandb.Api()
        except wandb.errors.UsageError:
            log.info("not logged in to W&B (wandb login): writing the workspace to a file")
        except Exception as error:
            raise refusal(error) from error
    workspace = ws.Workspace(
        entity=cfg.entity or "",
        project=cfg.project,
        name=cfg.name,
        sections=sections([str(photo) for photo in cfg.photos]),
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=runs(cfg.group),
    )
    if account is not None:
        try:
            workspace.entity = cfg.entity or account.default_entity or ""
            workspace.save()  # type: ignore[no-untyped-call]
            log.info("%s", workspace.url)
        except Exception as error:
            raise refusal(error) from error
    if account is None or cfg.output is not None:
        write(workspace, cfg)


def refusal(error: Exception) -> ValueError:
    """Convert an error of any kind from W&B's packages into one line for users."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"W&B: {reason}; output=dashboard.json offline=true writes a file instead")


def write(workspace: "ws.Workspace", cfg: DictConfig) -> None:
    """Write the view that `save` would send as JSON.

    Raises:
        ValueError: if the file exists.
    """
    path = expanded(cfg.output or Path(cfg.paths.output_dir) / "dashboard.json")
    if path.exists() and not cfg.overwrite:
        raise ValueError(f"{path} exists: overwrite=true replaces it")
    write_json(path, workspace._to_model().model_dump(by_alias=True, exclude_none=True))
    log.info("%s", path)


def runs(group: str | None) -> "ws.RunsetSettings":
    """Select training runs, of a group if given, with the best PSNR first."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.workspaces as ws

    filters = [expr.Metric("JobType") == "train"]
    if group is not None:
        filters.append(expr.Metric("Group") == group)
    settings = [column(name) for name in (NET, SCALE, GAMMA, SEED)]
    return ws.RunsetSettings(
        filters=expr.And(*filters),
        order=[expr.Ordering(expr.Summary(PSNR), ascending=False)],
        pinned_columns=[*settings, *(f"summary:{name}" for name in (PSNR, SCORE, JUDGE))],
    )


def column(name: str) -> str:
    """Return the column of a setting: `config:choices.value.net` for `choices.net`."""
    first, *rest = name.split(".")
    return "config:" + ".".join([first, "value", *rest])


def sections(photos: Sequence[str]) -> list["ws.Section"]:
    """Return the sections of the workspace, from top to bottom.

    Args:
        photos: names of the validation photos to browse.
    """
    import wandb_workspaces.reports.v2 as wr

    pictures = [before_after(photo) for photo in photos]
    table = wr.WeavePanelSummaryTable(table_name="photos")
    return [
        *sections_of_scores(),
        section(
            "Loss",
            by_step("Loss", "train/loss"),
            by_step("Fidelity term", "train/l2", "train/l1"),
            by_step("Aesthetic term", "train/aesthetic"),
            by_epoch("Validation loss", "val/loss"),
            by_epoch("Gradient at the SR pixels: aesthetic / fidelity", "val/grad_ratio"),
            by_epoch("Drift of contrast", "val/contrast_drift"),
            by_epoch("Drift of saturation", "val/saturation_drift"),
        ),
        section("Before and after", *pictures, table, columns=1),
        section(
            "Scorers",
            by_epoch("EMD", "val/emd", "val/emd_batch", "val/emd_r1"),
            by_epoch("Rank correlation of the mean", "val/srcc"),
            by_epoch("Linear correlation of the mean", "val/lcc"),
            by_epoch("Rank correlation of the spread", "val/srcc_std"),
            by_epoch("Linear correlation of the spread", "val/lcc_std"),
            by_epoch("Accuracy", "val/accuracy"),
            is_open=False,
        ),
    ]


def sections_of_scores() -> list["ws.Section"]:
    """Return the sections that compare PSNR and scores."""
    import wandb_workspaces.reports.v2 as wr

    best = {PSNR: "PSNR", SCORE: "score", JUDGE: "score by the judge"}
    return [
        section(
            "Fidelity and score",
            by_epoch("PSNR, each run", "val/psnr"),
            by_epoch("Score, each run", "val/score"),
            by_epoch("Score by the judge, each run", "val/score_judge"),
            by_epoch("PSNR by network: mean and range", "val/psnr", groupby=NET),
            by_epoch("Score by network: mean and range", "val/score", groupby=NET),
            by_epoch("Score by the judge, by network", "val/score_judge", groupby=NET),
            by_epoch("PSNR of MDSR at each scale", "val/psnr/x2", "val/psnr/x3", "val/psnr/x4"),
            by_epoch("PSNR of the Y channel", "val/psnr_y"),
            by_epoch("SSIM", "val/ssim"),
            wr.MarkdownPanel(markdown=READING),
        ),
        section(
            "By gamma",
            *(scatter(f"{title} by gamma", wr.Config(GAMMA), name) for name, title in best.items()),
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
            *(wr.ParameterImportancePlot(with_respect_to=name) for name in best),
        ),
    ]


def section(
    name: str, *panels: "Panel", columns: int = COLUMNS, is_open: bool = True
) -> "ws.Section":
    """Create a section that shows all its panels on one page."""
    import wandb_workspaces.workspaces as ws

    layout = ws.SectionLayoutSettings(columns=columns, rows=math.ceil(len(panels) / columns))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def by_epoch(title: str, *metrics: str, groupby: str | None = None) -> "Panel":
    """Plot metrics by epoch, one line per run or, with `groupby`, per value of a setting."""
    return lines(title, "epoch", metrics, groupby)


def by_step(title: str, *metrics: str) -> "Panel":
    """Plot metrics by optimizer step, one line per run."""
    return lines(title, "trainer/global_step", metrics)


def lines(title: str, x: str, metrics: Sequence[str], groupby: str | None = None) -> "Panel":
    """Create a line plot."""
    import wandb_workspaces.reports.v2 as wr

    more: dict[str, Any] = {"legend_fields": [column(name) for name in (NET, SCALE, GAMMA, SEED)]}
    if groupby is not None:
        more = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        more |= {"groupby": wr.Config(groupby)}
    return wr.LinePlot(title=title, x=x, y=list(metrics), max_runs_to_show=MAX_RUNS, **more)


def scatter(title: str, x: Any, y: str) -> "Panel":  # noqa: ANN401
    """Create a scatter plot with one point per run, coloured by gamma."""
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), z=wr.Config(GAMMA))


def bars(title: str, metric: str) -> "Panel":
    """Create a bar plot of the mean over runs for each network."""
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title=f"{title}, by network",
        metrics=[metric],
        groupby=wr.Config(NET),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=MAX_RUNS,
    )


def parallel(title: str, *metrics: str) -> "Panel":
    """Create a parallel-coordinates plot, from settings to metrics."""
    import wandb_workspaces.reports.v2 as wr

    axis = wr.ParallelCoordinatesPlotColumn
    columns = [
        axis(wr.Config(name), display_name=name.removeprefix("choices."))
        for name in (NET, SCALE, GAMMA, SEED)
    ]
    columns += [axis(wr.SummaryMetric(name), display_name=name) for name in metrics]
    return wr.ParallelCoordinatesPlot(title=title, columns=columns)


def before_after(photo: str) -> "Panel":
    """Create a browser for the pictures of a photo, with runs side by side and all scales."""
    import wandb_workspaces.reports.v2 as wr

    keys = [f"before_after/{photo}{suffix}" for suffix in ("", "_x2", "_x3", "_x4")]
    return wr.MediaBrowser(title=photo, media_keys=keys, gallery_axis="run", num_columns=2)

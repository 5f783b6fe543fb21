"""Build the page of a report."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from reports.album import fill_album
from reports.comparison import SCORER_METRICS, Comparison, scorer_section
from reports.evaluations import evaluations_of
from reports.judging import add_judges
from reports.run_table import Run, label_of, newest_of_equal
from reports.tables import Metric, all_runs, enhancer_columns, plural
from runs.code_identity import conflicting
from system.places import display_path

HERE = Path(__file__).parent


def build(
    runs: Sequence[Run], title: str, folder: Path, num_photos: int | None, epoch: int | None = None
) -> tuple[dict[str, str], set[str]]:
    """Write the figures; return the page, its tables in Markdown, and the figures' names.

    Args:
        runs: all runs, of any command and in any state.
        title: heading of the page.
        folder: for figures.
        num_photos: validation photos per run and scale; None: all that the runs have kept.
        epoch: after which runs are compared; None: their best epoch.
    """
    trained = [run for run in runs if run.command == "train"]
    enhancers = [run for run in trained if run.kind == "enhancer"]
    scorers = [run for run in trained if run.kind == "scorer"]
    unknown = [run for run in trained if run.kind is None]
    finished = newest_of_equal([run for run in enhancers if run.state == "finished"])
    groups = same_photos(finished)
    comparisons = [
        Comparison(group, groups, enhancers, folder, f"data{k}_" if k > 1 else "", epoch)
        for k, group in enumerate(groups, 1)
    ]
    evaluations = evaluations_of(runs) if epoch is None else []  # of the best epoch
    for comparison in comparisons:
        add_judges(comparison, evaluations)
    album = fill_album(finished, num_photos)
    tables = [
        all_runs("Enhancers", enhancers, enhancer_columns(enhancers)),
        all_runs("Scorers", scorers, [Metric(name, name) for name in SCORER_METRICS]),
        all_runs("Unreadable", unknown, []),
    ]
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
    )
    scorer_block = scorer_section(scorers, folder)
    blocks = [block for comparison in comparisons for block in comparison.blocks]
    blocks += [] if scorer_block is None else [scorer_block]
    content = dict(
        title=title,
        css=(HERE / "report.css").read_text(),
        js=(HERE / "report.js").read_text(),
        made=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        states=count_states(runs),
        remarks=remarks(trained, enhancers, finished),
        comparisons=comparisons,
        scorers=scorer_block,
        album=album,
        tables=[table for table in tables if table.rows],
        warnings=[
            (label_of(run), text)
            for run in enhancers
            for text in [*run.result.warnings, *run.bad_pictures]
        ],
        others=[(run.command, str(display_path(run.folder))) for run in runs if run not in trained],
    )
    names = ("report.html", "report.md")
    pages = {name: environment.get_template(name).render(content) for name in names}
    return pages, {block.files for block in blocks if block.files}


def count_states(runs: Sequence[Run]) -> str:
    """Count runs by sweep and state, in a sentence."""
    trained = [run for run in runs if run.command == "train"]
    sweeps = {(run.folder.parent, run.sweep) for run in trained if run.sweep is not None}
    single = sum(run.sweep is None for run in trained)
    parts = [plural(len(sweeps), "sweep")] if sweeps else []
    parts += [plural(single, "single run")] if single and sweeps else []
    source = f" of {' and '.join(parts)}" if parts else ""
    states = [
        f"{number} {state}"
        for state in ("finished", "unfinished", "broken")
        if (number := sum(run.state == state for run in trained)) or state == "finished"
    ]
    return f"{plural(len(trained), 'run')}{source}: {', '.join(states)}."


def remarks(trained: Sequence[Run], enhancers: Sequence[Run], finished: Sequence[Run]) -> list[str]:
    """Return remarks that a reader should know before comparing."""
    lines = []
    repeated = sum(run.state == "finished" for run in enhancers) - len(finished)
    if repeated:
        what = "run repeats another" if repeated == 1 else "runs repeat others"
        lines.append(
            f"{repeated} {what} with the same settings, seed and inputs: means and figures use "
            "only the newest."
        )
    if enhancers and not finished:
        lines.append("No enhancer has finished yet: figures and photos appear with the first.")
    abouts = [run.about for run in trained if run.state == "finished"]
    codes = [about.code for about in abouts if about.code]
    earlier = {about.code_hash for about in abouts if not about.code}
    if files := conflicting(codes):
        lines.append(
            f"The runs were made with different versions of the code ({', '.join(files[:5])})."
        )
    elif len(earlier) + bool(codes) > 1:
        lines.append("The runs were made with different versions of the code.")
    return lines


def same_photos(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs that were validated on the same photos, the largest group first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.validation), []).append(run)
    return sorted(groups.values(), key=len, reverse=True)

"""python run.py report: compare runs in one HTML page, with figures and Markdown tables.

The page is self-contained. It reads nothing but run folders, and lists unfinished and broken runs
with the reason. Runs share a plot only if they were measured on the same validation photos at the
same scale, and scores only if they come from the same scorer.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pydantic import BaseModel, NonNegativeInt, PositiveInt

from runs.invocation import Invocation
from runs.requirements import require_folder
from system.files import replacing
from system.places import display_path, expanded

log = logging.getLogger(__name__)


class Options(BaseModel, strict=True):
    """Keys of conf/report.yaml."""

    runs: str | list[str]
    output: str | None
    title: str | None
    epoch: PositiveInt | None
    photos: NonNegativeInt | None
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    from reports.run_reading import find_folders

    try:
        find_folders(patterns_of(cfg))
    except ValueError as error:
        yield str(error)
    folder = output_of(cfg)
    wrong = list(require_folder("output", str(folder)))
    yield from wrong
    if not wrong and (folder / "report.html").exists() and not cfg.overwrite:
        yield f"output={folder}: contains a report.html; overwrite=true replaces it"


def patterns_of(cfg: DictConfig) -> list[str]:
    """Return the given folders and globs."""
    return [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)


def output_of(cfg: DictConfig) -> Path:
    """Return the folder of the report."""
    if cfg.output is not None:
        return expanded(cfg.output)
    patterns = patterns_of(cfg)
    if len(patterns) == 1 and (folder := expanded(patterns[0])).is_dir():
        return folder / "report"
    return Path(cfg.paths.output_dir) / "report"


def run(cfg: DictConfig, _: Invocation) -> None:
    """Write report.html, report.md and figures/, and log what could not be read."""
    from reports.comparison import OURS
    from reports.page import build, count_states
    from reports.run_reading import read_runs

    patterns = patterns_of(cfg)
    runs = read_runs(patterns, cfg.epoch)
    folder = output_of(cfg)
    title = cfg.title or ", ".join(str(display_path(pattern)) for pattern in patterns)
    pages, written = build(runs, title, folder / "figures", cfg.photos, cfg.epoch)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        with replacing(folder / name) as temporary:
            # A folder's name need not be UTF-8.
            temporary.write_text(text, encoding="utf-8", errors="replace")
    path = folder / "report.html"
    for figure in folder.glob("figures/*"):
        is_ours = OURS.fullmatch(figure.name) and figure.is_file()
        if is_ours and f"figures/{figure.stem}" not in written:
            figure.unlink()  # of the report that was replaced
    for run in runs:
        if run.state == "broken":
            log.warning("broken: %s: %s", display_path(run.folder), run.note)
        for problem in run.bad_pictures:
            log.warning("broken picture: %s: %s", display_path(run.folder), problem)
    log.info("%s", count_states(runs))
    log.info("%s  %.1f MB", path, path.stat().st_size / 1e6)

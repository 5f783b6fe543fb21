"""python run.py score: rate image files."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig
from pydantic import BaseModel, PositiveInt

from images.file_names import printable_name
from images.finding import SearchResult, search
from networks.views import Precision
from runs.invocation import Invocation
from runs.requirements import check_output, require_file
from system.device import pick_device
from system.files import replacing
from system.places import display_path, expanded
from system.progress import progress
from system.terminal import format_table
from system.workers import num_cores

if TYPE_CHECKING:
    from lightning_modules.scoring import Rating

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """A line of the table: a photo with its score."""

    image: str
    mean: float
    std: float
    p: list[float]

    def cells(self) -> dict[str, object]:
        """Return the columns of a file, with the distribution as p1, p2 and so on."""
        moments: dict[str, object] = {"image": self.image, "mean": self.mean, "std": self.std}
        return moments | {f"p{k}": p for k, p in enumerate(self.p, 1)}


class Options(BaseModel, strict=True):
    """Keys of conf/score.yaml."""

    input: str | list[str]
    checkpoint: str
    output: str | None
    sheet: str | None
    rows: PositiveInt | None
    precision: Precision
    batch_size: PositiveInt
    num_workers: PositiveInt | None
    trusted: list[str]
    device: str
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    yield from require_file("checkpoint", cfg.checkpoint)
    paths = []
    try:
        paths = find(cfg).paths
    except ValueError as error:
        yield str(error).replace("\n", "\n  ")
    yield from check_output(cfg, *WRITERS)
    yield from check_output(cfg, ".png", ".jpg", key="sheet")
    if paths and cfg.sheet is not None:
        sheet = Path(os.path.realpath(expanded(cfg.sheet)))
        if str(sheet) in map(os.path.realpath, paths):
            yield f"sheet={cfg.sheet}: is one of the photos"
        elif any(sheet.is_relative_to(folder) for folder in folders(cfg.input)) and (
            not sheet.is_relative_to(os.path.realpath(expanded(cfg.paths.output_dir)))
        ):
            yield f"sheet={cfg.sheet}: would be rated as a photo next time; choose another folder"
    if cfg.output is not None and (
        os.path.realpath(expanded(cfg.output)) in map(os.path.realpath, paths)
    ):
        yield f"output={cfg.output}: is one of the photos"


def find(cfg: DictConfig) -> SearchResult:
    """Find the input photos, without the pictures of runs.

    Raises:
        ValueError: if there are none.
    """
    return search(cfg.input, exclude=[expanded(cfg.paths.output_dir)])


def folders(where: str | Sequence[str]) -> list[Path]:
    """Return the folders among the paths given as `input`."""
    paths = [expanded(text) for text in ([where] if isinstance(where, str) else where)]
    return [Path(os.path.realpath(path)) for path in paths if path.is_dir()]


def run(cfg: DictConfig, invocation: Invocation) -> "list[Rating]":
    """Rate every photo, print a table, best first, and list bad files at the end."""
    from lightning_modules.checkpoint import load_network
    from lightning_modules.scoring import rate_files
    from networks.nima import NIMA

    device = pick_device(cfg.device)
    scorer, record = load_network(cfg.checkpoint, "scorer", cfg.trusted)
    assert isinstance(scorer, NIMA)
    found = find(cfg)
    paths = found.paths
    log.info("%s", found.summary())
    ratings = []
    rated = rate_files(
        scorer,
        paths,
        device=device,
        precision=cfg.precision,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers or num_cores(),
    )
    rows: list[Row] = []
    for rating in progress(rated, "scoring", len(paths)):
        ratings.append(rating)
        if rating.p_K is None:
            continue
        for note in rating.notes:
            log.warning("%s: %s", printable_name(rating.path), note)
        rows.append(Row(str(rating.path), rating.mean, rating.std, rating.p_K.tolist()))
    if rows:
        title = f"scorer: {display_path(cfg.checkpoint)}, trained on {record.data}"
        best_first = sorted(rows, key=lambda row: -row.mean)
        log.info("%s", ranking(best_first, title, scorer.num_buckets, cfg.rows))
        if cfg.output is not None:
            write(expanded(cfg.output), rows)
        if cfg.sheet is not None:
            from lightning_modules.pictures import save_contact_sheet  # needs Matplotlib

            sheet = expanded(cfg.sheet)
            save_contact_sheet([(row.image, row.mean) for row in best_first], sheet, title)
            log.info("%s", sheet)
    bad = [rating.problem for rating in ratings if rating.problem is not None]
    if bad:
        log.error("%d not scored:\n  %s", len(bad), "\n  ".join(bad))
    return ratings


def ranking(rows: Sequence[Row], title: str, num_buckets: int, limit: int | None) -> str:
    """Format a table of all images, or of the first and last `limit / 2` of them."""
    lines = [
        [str(place), printable_name(row.image), f"{row.mean:.3f}", f"{row.std:.3f}"]
        for place, row in enumerate(rows, 1)
    ]
    if limit is not None and len(lines) > limit:
        left_out = len(lines) - limit
        top, bottom = lines[: (limit + 1) // 2], lines[len(lines) - limit // 2 :]
        lines = [*top, ["", f"... {left_out} more (rows=null shows all) ...", "", ""], *bottom]
    return format_table(title, ["", "image", f"mean (1..{num_buckets})", "std"], lines)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the requested file, either completely or not at all."""
    text = WRITERS[path.suffix](rows)
    with replacing(path) as temporary:
        # A file's name need not be UTF-8; its bytes are written as they are.
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    log.info("%s", path)


def as_csv(rows: Sequence[Row]) -> str:
    """Format as CSV: a header and a line for each image."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].cells()))
    writer.writeheader()
    writer.writerows(row.cells() for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """Format as a JSON list of objects."""
    return json.dumps([row.cells() for row in rows], indent=1) + "\n"


def as_jsonl(rows: Sequence[Row]) -> str:
    """Format as JSON Lines: one object per line."""
    return "".join(json.dumps(row.cells()) + "\n" for row in rows)


WRITERS = {".csv": as_csv, ".json": as_json, ".jsonl": as_jsonl}

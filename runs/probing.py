"""Measure the robustness and monotony of scorers, which needs photos but no ratings."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ShardedDataModule
from datamodules.graded import GRADED
from datamodules.rated import RatedDataModule, StoredRatings
from datamodules.tables import RatedTables
from images.pixels import to_tensor, to_unit
from images.reading import read_image
from lightning_modules.robustness import (
    STRENGTHS,
    Gain,
    centre,
    falls,
    monotony,
    patch_score,
    robustness,
    whole_score,
)
from networks.nima import NIMA
from runs.measuring import Measurement, write_csv
from system.files import writing
from system.progress import progress
from system.terminal import format_table

MAX_SIDE = 1024  # pixels; of larger photos the centre is used, at full resolution
VIEWS = {"whole photo": whole_score, "patch": patch_score}
MIDDLE = STRENGTHS.index(0.5)  # the strength whose shares are printed, and recorded as metrics
ROBUSTNESS = "Robustness: what one step along the gradient adds to scores, on patches of {}"
MONOTONY = "Monotony: share of {} scored lower than without degradation"
Falls = dict[tuple[tuple[str, str], str], tuple[list[float], list[float]]]


def probe(
    scorers: Mapping[str, NIMA],
    data: ShardedDataModule,
    num: int,
    folder: Path,
    device: torch.device,
    *,
    seed: int,
) -> Measurement:
    """Measure the scorers; write robustness.csv, monotony.csv and probes.md.

    Args:
        scorers: by name. Each follows its gradient, and all rate the result.
        data: photos with or without ratings, after `setup("validate")`.
        num: number of validation photos to use.
        folder: for the files.
        device: where scores are computed.
        seed: of the noise.
    """
    photos = whole_photos(data, num)
    count = f"{len(photos)} photo{'' if len(photos) == 1 else 's'}"
    views = {
        (name, view): make(net, device)
        for name, net in scorers.items()
        for view, make in VIEWS.items()
    }
    patches = {name: views[name, "patch"] for name in scorers}
    steps = progress([centre(photo).to(device) for photo in photos], "robustness", len(photos))
    gains = robustness(patches, steps)
    steps = progress(photos, "monotony", len(photos))
    found = {key: falls(scores) for key, scores in monotony(views, steps, seed=seed).items()}
    write_csv(folder / "robustness.csv", list(Gain._fields), [gain._asdict() for gain in gains])
    rows = [
        {"scorer": name, "degradation": kind, "seen": view, "strength": strength}
        | {"below_clean": clean, "below_weaker": weaker}
        for ((name, view), kind), shares in found.items()
        for strength, clean, weaker in zip(STRENGTHS, *shares, strict=True)
    ]
    write_csv(folder / "monotony.csv", list(rows[0]), rows)
    with writing(folder / "probes.md"):
        (folder / "probes.md").write_text(as_markdown(gains, found, count))
    end = {name: f"/{name}" if len(scorers) > 1 else "" for name in scorers}
    own = [gain for gain in gains if gain.rater == gain.scorer and not gain.rounded]
    metrics = {f"gain_sds/{gain.levels:g}{end[gain.scorer]}": gain.sds for gain in own}
    for ((name, view), kind), (clean, _) in found.items():
        if view == "whole photo":
            metrics[f"falls/{kind}{end[name]}"] = clean[MIDDLE]
    text = as_text(gains, found, count)
    return Measurement(text, metrics, ["robustness.csv", "monotony.csv", "probes.md"])


def whole_photos(data: Any, num: int) -> list[Tensor]:  # noqa: ANN401
    """Return `num` validation photos at full resolution, evenly spaced; 1 x 3 x H x W each.

    Rated photos that are not in files are returned as the scorer sees them.
    """
    rated = isinstance(data, RatedDataModule)
    total = len(data.val if rated else data.val.hr)
    places = np.unique(np.linspace(0, total - 1, min(num, total)).round().astype(int)).tolist()
    if not rated:
        found = [to_tensor(data.val.hr.read(place)) for place in places]
    elif isinstance(data, RatedTables | StoredRatings):
        found = [read_image(Path(path_of(data, data.val.names[place]))) for place in places]
    else:
        found = [data.val.picture(place) for place in places]
    return [centre(to_unit(photo)[None], MAX_SIDE) for photo in found]


def path_of(data: RatedTables | StoredRatings, name: str) -> str:
    """Return the file of a rated photo; photos of several tables are named `table/name`."""
    if isinstance(data, RatedTables):
        table, _, name = name.partition("/")
        data = data.modules[table]
    paths, _ = data.found
    return paths[name]


def gain_rows(gains: Sequence[Gain]) -> list[list[str]]:
    """Return a heading and a row for each step, with a column for each scorer that rates it."""
    raters = list(dict.fromkeys(gain.rater for gain in gains))
    rows: dict[tuple[str, float, bool], list[str]] = {}
    for gain in gains:
        sds = "" if math.isnan(gain.sds) else f" ({signed(gain.sds, 2)} sd)"
        rows.setdefault(gain[:3], []).append(f"{signed(gain.score, 3)}{sds}")
    return [["gradient of", "grey levels", "rounded", *raters]] + [
        [scorer, f"{levels:g}", "8 bits" if rounded else "no", *cells]
        for (scorer, levels, rounded), cells in rows.items()
    ]


def signed(value: float, digits: int) -> str:
    """Format a number with its sign, unless it is rounded to zero."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def as_text(gains: Sequence[Gain], found: Falls, count: str) -> str:
    """Format robustness, and monotony at the middle strength, for the terminal."""
    columns, *rows = gain_rows(gains)
    text = format_table(ROBUSTNESS.format(count), columns, rows)
    lines = [
        [*key, *(f"{found[key, kind][0][MIDDLE]:.0%}" for kind in GRADED)]
        for key in dict.fromkeys(key for key, _ in found)
    ]
    title = f"{MONOTONY.format(count)}, at the middle strength (others: monotony.csv)"
    return f"{text}\n{format_table(title, ['scorer', 'seen', *GRADED], lines)}\n"


def as_markdown(gains: Sequence[Gain], found: Falls, count: str) -> str:
    """Format everything in sections, one for each scorer, as the cards of the weights have it."""
    parts = []
    for scorer in dict.fromkeys(gain.scorer for gain in gains):
        table = gain_rows([gain for gain in gains if gain.scorer == scorer])
        parts += [f"## {scorer}", ROBUSTNESS.format(count) + ".", lines_of(table)]
        table = [["degradation", "seen", *(f"{strength:g}" for strength in STRENGTHS)]]
        for ((name, view), kind), shares in found.items():
            if name == scorer:
                cells = [f"{a:.0%} ({b:.0%})" for a, b in zip(*shares, strict=True)]
                table.append([kind, view, *cells])
        title = f"{MONOTONY.format(count)} (than at the strength before), by strength."
        parts += [title, lines_of(table)]
    return "\n\n".join(parts) + "\n"


def lines_of(table: list[list[str]]) -> str:
    """Format a table, whose first row is its heading, as Markdown."""
    columns, *rows = table
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""python run.py enhance: enhance image files."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from omegaconf import DictConfig
from pydantic import BaseModel, Field, PositiveInt
from rich.progress import TaskProgressColumn
from torch import nn

from images.file_names import printable_name
from images.finding import SearchResult, search
from images.formats import SUFFIXES
from images.reading import read_photo
from images.writing import check_side, write_photo
from lightning_modules.enhancing import enhanced, load_enhancer
from networks.scales import scales_of
from networks.tiling import SelfEnsemble, num_tiles
from runs.invocation import Invocation
from runs.requirements import require_file, require_folder
from system.device import pick_device
from system.files import remove_abandoned
from system.places import display_path, expanded
from system.progress import Bar
from system.terminal import told

log = logging.getLogger(__name__)


class Options(BaseModel, strict=True):
    """Keys of conf/enhance.yaml."""

    input: str | list[str]
    checkpoint: str
    output: str = Field(min_length=1)
    scale: Literal[1, 2, 3, 4] | None
    tile: PositiveInt | Literal["auto"] | None
    self_ensemble: bool
    precision: Literal["float32", "bfloat16", "float16"]
    format: str
    trusted: list[str]
    device: str
    existing: Literal["refuse", "skip"]
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    yield from require_file("checkpoint", cfg.checkpoint)
    if f".{cfg.format}" not in SUFFIXES:
        yield f"format={cfg.format}: allowed are {', '.join(s[1:] for s in SUFFIXES)}"
    if cfg.overwrite and cfg.existing == "skip":
        yield "existing=skip keeps results that exist and overwrite=true replaces them: choose one"
    yield from require_folder("output", cfg.output)
    try:
        find(cfg)
    except ValueError as error:
        yield str(error).replace("\n", "\n  ")


def find(cfg: DictConfig) -> SearchResult:
    """Find the input photos, without the output of earlier runs.

    Raises:
        ValueError: if there are none.
    """
    written = [expanded(folder) for folder in (cfg.output, cfg.paths.output_dir)]
    return search(cfg.input, exclude=written, results=False)


class Enhanced(NamedTuple):
    """What became of a photo: the file with its result, or the reason why there is none."""

    path: Path
    target: Path
    problem: str | None = None
    kept: bool = False  # the result existed before


def run(cfg: DictConfig, invocation: Invocation) -> list[Enhanced]:
    """Enhance every file, and list bad ones at the end."""
    device = pick_device(cfg.device)
    net = load_enhancer(cfg.checkpoint, cfg.scale, cfg.trusted)
    scale, kind = scales_of(net)[0], type(getattr(net, "net", net)).__name__
    net = (SelfEnsemble(net) if cfg.self_ensemble else net).to(device)
    found = find(cfg)
    log.info(
        "%s x%d of %s, on %s: %s",
        kind,
        scale,
        display_path(cfg.checkpoint),
        device,
        found.summary(),
    )
    remove_abandoned(expanded(cfg.output))
    results: list[Enhanced] = []
    done: dict[Path, Enhanced] = {}
    with Bar("enhancing", len(found.photos), TaskProgressColumn()) as bar:
        for number, (path, below, _) in enumerate(found.photos, 1):
            target = expanded(cfg.output) / below.parent
            target /= f"{below.stem}_x{scale}.{cfg.format}"
            count, on_tile = f"[{number}/{len(found.photos)}]", partial(move, bar, number)
            kept, problem = False, None
            try:
                kept = is_kept(path, target, done.get(target), cfg)
                if not kept:
                    enhance_file(
                        net, path, target, cfg, count=count, device=device, on_tile=on_tile
                    )
            except Exception as error:  # one bad photo does not stop the others
                problem = reason(error, path, target)
            results.append(Enhanced(path, target, problem, kept))
            if problem is None:
                done[target] = results[-1]
    num_kept = sum(result.kept for result in results)
    if num_kept:
        log.info("%d skipped: their results exist", num_kept)
    bad = [result.problem for result in results if result.problem is not None]
    if bad:
        log.error("%d not enhanced:\n  %s", len(bad), "\n  ".join(bad))
    return results


def is_kept(path: Path, target: Path, earlier: Enhanced | None, cfg: DictConfig) -> bool:
    """Return whether a photo is skipped because its result exists.

    Args:
        path: the photo.
        target: the file of its result.
        earlier: another photo with the same target, or None.
        cfg: the configuration.

    Raises:
        ValueError: if its result cannot be written.
    """
    name, result = printable_name(path), printable_name(target)
    if earlier is not None and earlier.kept:
        raise ValueError(f"{name}: {result} may be the result of {printable_name(earlier.path)}")
    if earlier is not None:
        raise ValueError(f"{name}: {printable_name(earlier.path)} already became {result}")
    if target.exists() and cfg.existing == "refuse" and not cfg.overwrite:
        raise ValueError(
            f"{name}: {result} exists: overwrite=true replaces it, existing=skip keeps it"
        )
    return target.exists() and not cfg.overwrite


def reason(error: Exception, path: Path, target: Path) -> str:
    """Describe in one line why a photo was not enhanced."""
    name = printable_name(path)
    log.debug("%s", name, exc_info=error)
    text = told(error).partition("\n")[0] or type(error).__name__
    return text if name in text or printable_name(target) in text else f"{name}: {text}"


def move(bar: Bar, number: int, done: int, total: int) -> None:
    """Move the progress bar to the finished share of a photo's tiles."""
    bar.update(number - 1 + done / total)


def enhance_file(
    net: nn.Module,
    path: Path,
    target: Path,
    cfg: DictConfig,
    *,
    count: str,
    device: torch.device,
    on_tile: Callable[[int, int], None],
) -> None:
    """Enhance one file, and log its name, size and target first.

    Raises:
        ValueError: if it cannot be read, or its result cannot be written.
    """
    photo = read_photo(path)
    scale = scales_of(net)[0]
    height, width = photo.pixels.shape[1:]
    check_side(target, height * scale, width * scale)
    tiles = num_tiles(net, height, width, cfg.tile)
    size = f"{width} x {height}, {tiles} tile{'' if tiles == 1 else 's'}"
    names = count, printable_name(path), size, printable_name(target)
    log.info("%s %s  %s -> %s  %d x %d", *names, width * scale, height * scale)
    precision = getattr(torch, cfg.precision)
    result = enhanced(
        net, photo, device=device, tile=cfg.tile, precision=precision, on_tile=on_tile
    )
    for note in (*photo.notes, *write_photo(target, result, overwrite=cfg.overwrite)):
        log.warning("%s: %s", printable_name(path), note)

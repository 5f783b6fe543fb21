"""python run.py enhance: enhance image files."""

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig
from pydantic import BaseModel, Field, PositiveInt

from images.finding import SearchResult, search
from images.formats import SUFFIXES
from lightning_modules.tasks import TaskName
from runs.invocation import Invocation
from runs.requirements import require_file, require_folder
from system.device import keep_memory, pick_device
from system.files import remove_abandoned
from system.places import display_path, expanded

if TYPE_CHECKING:
    from runs.enhancing import Enhanced

log = logging.getLogger(__name__)

# The bundled enhancer for each task, in `paths.weights`.
BUNDLED = {
    None: "mdsr_gamma_0.safetensors",  # enlarges x2, x3 or x4
    "super-resolution": "mdsr_gamma_0.safetensors",
}


class Options(BaseModel, strict=True):
    """Keys of conf/enhance.yaml."""

    input: str | list[str]
    task: TaskName | None
    checkpoint: str | None
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
    if cfg.checkpoint is None and cfg.task not in BUNDLED:
        yield f"task={cfg.task}: no model for it is bundled; give checkpoint=FILE"
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


def run(cfg: DictConfig, invocation: Invocation) -> "list[Enhanced]":
    """Enhance every file, and list bad ones at the end."""
    from rich.progress import TaskProgressColumn

    from lightning_modules.enhancing import load_enhancer
    from networks.scales import scales_of
    from networks.tiling import SelfEnsemble
    from networks.weights import name_of
    from runs.enhancing import Pipeline, Task
    from system.progress import Bar

    keep_memory()
    device = pick_device(cfg.device)
    path = cfg.checkpoint or f"{cfg.paths.weights}/{BUNDLED[cfg.task]}"
    net = load_enhancer(path, cfg.scale, cfg.trusted, task=cfg.task)
    scale, kind = scales_of(net)[0], name_of(getattr(net, "net", net))
    net = (SelfEnsemble(net) if cfg.self_ensemble else net).to(device)
    found = find(cfg)
    log.info(
        "%s x%d of %s, on %s: %s",
        kind,
        scale,
        display_path(path),
        device,
        found.summary(),
    )
    remove_abandoned(expanded(cfg.output))
    tasks = [
        Task(path, expanded(cfg.output) / below.parent / f"{below.stem}_x{scale}.{cfg.format}")
        for path, below, _ in found.photos
    ]
    began = time.perf_counter()
    with Bar("enhancing", len(tasks), TaskProgressColumn()) as bar:
        pipeline = Pipeline(net, cfg, device, bar)
        results = pipeline.run(tasks)
    seconds = time.perf_counter() - began
    num_kept = sum(result.kept for result in results)
    if num_kept:
        log.info("%d skipped: their results exist", num_kept)
    bad = [result.problem for result in results if result.problem is not None]
    if num_new := len(results) - num_kept - len(bad):
        speeds = num_new / seconds, pipeline.num_pixels / 1e6 / seconds
        log.info("%.3g photos and %.3g megapixels of results per second", *speeds)
    if bad:
        log.error("%d not enhanced:\n  %s", len(bad), "\n  ".join(bad))
    return results

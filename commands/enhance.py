"""python run.py enhance: enhances image files."""

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import nn

from commands.config import require_file, require_folder
from commands.device import pick_device
from datamodules.images import SUFFIXES, Photo, find_images, read_photo, write_photo
from datamodules.parallel import progress
from lightning_modules.checkpoint import load_network
from networks.bicubic import Upscale
from networks.scales import at_scale, scales_of
from networks.tiling import SelfEnsemble, restore

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Keys of conf/enhance.yaml."""

    model_config = ConfigDict(strict=True)

    input: str
    checkpoint: str
    output: str = Field(min_length=1)
    scale: Literal[1, 2, 3, 4] | None
    tile: PositiveInt | Literal["auto"] | None
    self_ensemble: bool
    precision: Literal["float32", "bfloat16", "float16"]
    format: str
    trusted: list[str]
    device: str
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that types do not show."""
    yield from require_file("checkpoint", cfg.checkpoint)
    if f".{cfg.format}" not in SUFFIXES:
        yield f"format={cfg.format}: allowed are {', '.join(s[1:] for s in SUFFIXES)}"
    yield from require_folder("output", cfg.output)
    try:
        find_images(cfg.input)
    except ValueError as error:
        yield str(error)


def enhance(cfg: DictConfig) -> None:
    """Enhances every file; bad ones are named at the end, with exit code 1."""
    device = pick_device(cfg.device)
    net = load_enhancer(cfg.checkpoint, cfg.scale, cfg.trusted)
    scale = int(net.scale)  # type: ignore[arg-type]
    net = (SelfEnsemble(net) if cfg.self_ensemble else net).to(device)
    folder = Path(cfg.output).expanduser()
    bad = []
    written: dict[Path, Path] = {}
    paths = find_images(cfg.input)
    for path in progress(paths, "enhancing", len(paths)):
        target = folder / f"{path.stem}_x{scale}.{cfg.format}"
        try:
            if target in written:
                raise ValueError(f"{path}: {written[target]} has become {target} already")
            written[target] = path
            if target.exists() and not cfg.overwrite:
                raise ValueError(f"{target} exists: overwrite=true replaces it")
            result = enhanced(
                net,
                read_photo(path),
                device=device,
                tile=cfg.tile,
                precision=getattr(torch, cfg.precision),
            )
            write_photo(target, result, overwrite=cfg.overwrite)
        except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory
            reason = str(error).partition("\n")[0]
            named = str(path) in reason or str(target) in reason
            bad.append(reason if named else f"{path}: {reason}")
            continue
        log.info("%s  %d x %d", target, result.pixels.shape[-1], result.pixels.shape[-2])
    if bad:
        log.error("%d not enhanced:\n  %s", len(bad), "\n  ".join(bad))
        sys.exit(1)


def load_enhancer(path: str, scale: int | None, trusted: Sequence[str] = ()) -> nn.Module:
    """The enhancer of a checkpoint for one scale; None is its only one, or the smallest.

    Raises:
        ValueError: if it is no enhancer, or lacks the scale.
    """
    net, _ = load_network(path, "enhancer", trusted)
    try:
        return at_scale(net, scales_of(net)[0] if scale is None else scale)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def enhanced(net: nn.Module, photo: Photo, **how: Any) -> Photo:  # noqa: ANN401
    """The photo as a network makes it, with its alpha channel, 16 bits and information.

    Args:
        net: an enhancer of one scale, on the device.
        photo: see `read_photo`.
        how: `device` and options of `restore`.
    """
    pixels = restore(net, photo.pixels, levels=photo.levels, **how)
    return photo._replace(pixels=pixels, alpha=enlarged_alpha(photo, int(net.scale)))  # type: ignore[arg-type]


def enlarged_alpha(photo: Photo, scale: int) -> torch.Tensor | None:
    """The alpha channel, enlarged bicubically: the networks know colours only."""
    if photo.alpha is None:
        return None
    return restore(Upscale(scale), photo.alpha, device=torch.device("cpu"), levels=photo.levels)

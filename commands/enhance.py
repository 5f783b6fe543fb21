"""python run.py enhance: enhances image files."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field

from commands.config import require_file
from commands.device import pick_device
from datamodules.images import SUFFIXES, find_images, read_image, to_bytes, to_unit, write_image
from datamodules.parallel import progress
from lightning_modules.checkpoint import load_network

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Keys of conf/enhance.yaml."""

    model_config = ConfigDict(strict=True)

    input: str
    checkpoint: str
    output: str = Field(min_length=1)
    format: str
    device: str
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that types do not show."""
    yield from require_file("checkpoint", cfg.checkpoint)
    if f".{cfg.format}" not in SUFFIXES:
        yield f"format={cfg.format}: allowed are {', '.join(s[1:] for s in SUFFIXES)}"
    if Path(cfg.output).expanduser().is_file():
        yield f"output={cfg.output}: is a file; a folder is needed"
    try:
        find_images(cfg.input)
    except ValueError as error:
        yield str(error)


def enhance(cfg: DictConfig) -> None:
    """Enhances every file; bad ones are named at the end, with exit code 1."""
    device = pick_device(cfg.device)
    net, _ = load_network(cfg.checkpoint, kind="enhancer")
    net.to(device)
    folder = Path(cfg.output).expanduser()
    bad = []
    written: dict[Path, Path] = {}
    paths = find_images(cfg.input)
    for path in progress(paths, "enhancing", len(paths)):
        target = folder / f"{path.stem}_x{net.scale}.{cfg.format}"
        try:
            if target in written:
                raise ValueError(f"{path}: {written[target]} has become {target} already")
            written[target] = path
            if target.exists() and not cfg.overwrite:
                raise ValueError(f"{target} exists: overwrite=true replaces it")
            lr_BCHW = to_unit(read_image(path))[None].to(device)
            with torch.inference_mode():
                sr = to_bytes(net(lr_BCHW)[0])
            write_image(target, sr, overwrite=cfg.overwrite)
        except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory
            reason = str(error).partition("\n")[0]
            bad.append(reason if isinstance(error, ValueError) else f"{path}: {reason}")
            continue
        log.info("%s  %d x %d", target, sr.shape[-1], sr.shape[-2])
    if bad:
        log.error("%d not enhanced:\n  %s", len(bad), "\n  ".join(bad))
        sys.exit(1)

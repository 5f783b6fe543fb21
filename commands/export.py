"""python run.py export: a checkpoint's network alone, in half precision."""

import logging
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict

from commands.config import check_output, require_file
from lightning_modules.checkpoint import load_network, save_safetensors

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Keys of conf/export.yaml."""

    model_config = ConfigDict(strict=True)

    checkpoint: str
    output: str
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that types do not show."""
    yield from require_file("checkpoint", cfg.checkpoint)
    yield from check_output(cfg, ".safetensors")


def export(cfg: DictConfig) -> None:
    """Writes the file."""
    network, record = load_network(cfg.checkpoint)
    path = Path(cfg.output).expanduser()
    keys = ("kind", "net", "data", "gamma", "metrics", "epoch", "config_hash")
    # Not the configuration, which names local paths; imported weights have no epoch.
    kept = {key: record[key] for key in keys if key in record}
    save_safetensors(path, network, kept)
    log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)

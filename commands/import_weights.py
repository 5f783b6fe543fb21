"""python run.py import_weights: convert a published scorer to a checkpoint of this project."""

import logging
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pydantic import BaseModel

from lightning_modules.record import Record
from networks import KERAS_SUFFIXES
from runs.invocation import Invocation
from runs.requirements import check_output, require_file
from system.places import expanded, program

log = logging.getLogger(__name__)


class Options(BaseModel, strict=True):
    """Keys of conf/import_weights.yaml."""

    input: str
    output: str
    trained_on: str | None
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that types do not reveal."""
    yield from require_file("input", cfg.input)
    if Path(cfg.input).suffix.lower() not in KERAS_SUFFIXES:
        yield f"input={cfg.input}: must end in {' or '.join(KERAS_SUFFIXES)}"
    yield from check_output(cfg, ".safetensors")


def run(cfg: DictConfig, _: Invocation) -> None:
    """Write the file in single precision, which keeps the weights exactly."""
    import torch

    from lightning_modules.checkpoint import NIMA_TARGET, save_safetensors
    from networks.nima import load_keras_nima

    source = expanded(cfg.input)
    scorer = load_keras_nima(source)
    record = Record(
        kind="scorer",
        net={"_target_": NIMA_TARGET, **scorer.arguments},
        data=f"{cfg.trained_on or 'unknown data'} (imported from {source.name})",
        gamma=None,
    )
    path = expanded(cfg.output)
    save_safetensors(path, scorer, record, dtype=torch.float32)
    log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)
    log.info("rate photos with it: %s score checkpoint=%s input=photos", program(), path)

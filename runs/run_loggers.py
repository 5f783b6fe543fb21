"""Build and close the loggers of a run: metrics.csv, W&B, TensorBoard."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from lightning_modules.callbacks import last_step
from lightning_modules.loggers import RunCSV
from runs.identity import Identity
from runs.invocation import Invocation
from runs.results import Result
from runs.run_folder import provenance, read_json
from system.json_files import JsonObject


def build_loggers(
    cfg: DictConfig, invocation: Invocation, identity: Identity, first_step: int
) -> list[Logger]:
    """Build the logger of metrics.csv and the loggers that are configured."""
    folder = invocation.folder
    loggers: list[Logger] = [RunCSV(folder, first_step)]
    about = provenance(invocation, cfg)
    for name, node in (cfg.logger or {}).items():
        if node is None:
            continue
        more = wandb_run(cfg, folder, about) if name == "wandb" else {}
        logger = instantiate(node, **more, _convert_="all")
        choices = {**about["choices"], "scale": scales_tag(cfg)}  # MDSR has no `scale` to plot over
        logger.log_hyperparams({**identity.config, "choices": choices})
        loggers.append(logger)
    return loggers


def scales_tag(cfg: DictConfig) -> str | None:
    """Format the scales of an enhancer: `x2`, or `x2-x3-x4` for MDSR; None for a scorer."""
    if not cfg.get("net"):
        return None
    return "-".join(f"x{scale}" for scale in cfg.net.get("scales", [cfg.scale]))


def wandb_run(cfg: DictConfig, folder: Path, about: JsonObject) -> JsonObject:
    """Return the W&B arguments by which a run is found, and found again when resumed."""
    choices = about["choices"]
    tags = [choices.get("net"), scales_tag(cfg), choices.get("scorer")]
    run = read_json(folder / "run.json") or {}
    save_dir = folder.absolute()  # W&B's service may have another working directory
    return {
        "id": run.get("run_id"),
        "resume": "allow",
        "name": folder.name,
        "group": about["sweep"] or os.environ.get("WANDB_SWEEP_ID") or choices["experiment"],
        "job_type": about["command"],
        "tags": [*filter(None, tags), *(cfg.logger.wandb.get("tags") or [])],
        "save_dir": str(save_dir),
    }


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[None]:
    """Make W&B stage the pictures of tables in this folder instead of the user's home."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


@rank_zero_only
def close_loggers(trainer: L.Trainer) -> None:
    """Finish the W&B run, so that the next one in this process does not write into it.

    TensorBoard's writer, which `log_best` has opened again, is closed.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.close()


def log_best(trainer: L.Trainer, folder: Path) -> None:
    """Log the metrics of the best checkpoint to W&B and TensorBoard, as `best/val/psnr` and so on.

    In the summary of a W&B run, metrics without `best/` are those of the last epoch.
    """
    result = Result.read(folder)
    metrics = {
        f"best/{name}": value
        for name, value in {**result.metrics, "epoch": result.best_epoch}.items()
        if value is not None and (name.startswith("val/") or name == "epoch")
    }
    for logger in trainer.loggers:
        if not isinstance(logger, RunCSV):
            logger.log_metrics(metrics, step=last_step(trainer))

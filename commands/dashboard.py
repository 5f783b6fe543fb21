"""python run.py dashboard: a W&B workspace that compares enhancers by gamma, scale and network."""

import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pydantic import BaseModel

from configuration.hints import nearest
from lightning_modules.metric_catalogue import METRICS
from runs.invocation import Invocation
from runs.requirements import check_output
from system.json_files import write_json
from system.places import expanded

log = logging.getLogger(__name__)


class Options(BaseModel, strict=True):
    """Keys of conf/dashboard.yaml."""

    project: str
    entity: str | None
    name: str
    group: str | None
    photos: list[str | int]
    metrics: list[str]
    output: str | None
    offline: bool
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Yield the mistakes that the types do not catch."""
    yield from check_output(cfg, ".json")
    for key in ("project", "entity", "name", "group"):
        if cfg[key] is not None and not cfg[key].strip():
            yield f"{key}={cfg[key]}: must not be empty"
    for name in cfg.metrics:
        if name not in METRICS and "." not in name:
            yield f"metrics: no such metric as {name}{nearest(name, METRICS)}"
    symbols = {c for c in cfg.name if unicodedata.category(c).startswith("S")}  # includes emoji
    if symbols:
        yield f"name={cfg.name}: W&B allows no symbols in names, such as {min(symbols)}"


def run(cfg: DictConfig, _: Invocation) -> None:
    """Save the workspace to W&B, or write it as JSON.

    Raises:
        ValueError: if the extra is missing, the file exists, or W&B reports an error.
    """
    import wandb

    try:
        from reports.wandb_workspace import workspace
    except ModuleNotFoundError as error:
        raise ValueError(
            f"dashboard needs {error.name}: pip install 'wandb-workspaces>=0.4.8'"
        ) from error
    account = None
    if not cfg.offline:
        # With silent=True, W&B does not prompt for a key but raises UsageError if there is none.
        wandb.setup(settings=wandb.Settings(silent=True))
        try:
            account = wandb.Api()
        except wandb.errors.UsageError:
            log.info("not logged in to W&B (wandb login): writing the workspace to a file")
        except Exception as error:
            raise refusal(error) from error
    view = workspace(
        cfg.name,
        project=cfg.project,
        entity=cfg.entity,
        group=cfg.group,
        photos=[str(photo) for photo in cfg.photos],
        metrics=[name.rpartition(".")[2] for name in cfg.metrics],
    )
    if account is not None:
        try:
            view.entity = cfg.entity or account.default_entity or ""
            view.save()  # type: ignore[no-untyped-call]
            log.info("%s", view.url)
        except Exception as error:
            raise refusal(error) from error
    if account is None or cfg.output is not None:
        path = expanded(cfg.output or Path(cfg.paths.output_dir) / "dashboard.json")
        if path.exists() and not cfg.overwrite:
            raise ValueError(f"{path} exists: overwrite=true replaces it")
        # What `save` would send.
        write_json(path, view._to_model().model_dump(by_alias=True, exclude_none=True))
        log.info("%s", path)


def refusal(error: Exception) -> ValueError:
    """Convert an error of any kind from W&B's packages into one line for users."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(f"W&B: {reason}; output=dashboard.json offline=true writes a file instead")

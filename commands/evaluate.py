"""python run.py evaluate: measure a checkpoint and its baseline on held-out photos."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from configuration.own_data import own_data
from configuration.parsing import changed
from lightning_modules.metric_catalogue import DEFAULT
from lightning_modules.record import Record, degradation_choice, degradation_summary
from runs.invocation import Invocation
from runs.measuring_options import MeasuringOptions, measuring_problems
from runs.metric_checks import metric_class_problems, metric_problems
from runs.requirements import require_kind
from runs.results import Result
from system.places import display_path
from system.terminal import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from datamodules.base import ShardedDataModule
    from runs.matrix import Scorer
    from runs.measuring import Measurement


class Options(MeasuringOptions):
    """Keys of conf/evaluate.yaml that are not groups."""

    checkpoint: str | list[str]
    self_ensemble: bool
    pictures: NonNegativeInt | None
    rows: PositiveInt | None
    metrics: list[str | dict[str, Any]] = Field(min_length=1)
    probe_photos: NonNegativeInt


def problems(cfg: DictConfig) -> Iterator[str]:
    """Check the name of the run, and that files exist."""
    paths = checkpoints(cfg)
    if not paths:
        yield "checkpoint=[]: one or several files"
    yield from measuring_problems(cfg, "checkpoint", paths)
    yield from metric_problems(cfg)


def class_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that the metrics can be computed."""
    yield from metric_class_problems(cfg)


def checkpoints(cfg: DictConfig) -> list[str]:
    """Return the checkpoints to measure."""
    return [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint)


def run(cfg: DictConfig, invocation: Invocation) -> Result:
    """Measure, write result.json, per_image.csv and pictures, and print a table."""
    paths = checkpoints(cfg)
    loaded = load_all(cfg, paths)
    records = [record for _, record in loaded]
    kind = records[0].kind
    cfg = changed(cfg, {"data": own_data(cfg, invocation.overrides, records, paths)})
    key = "checkpoint" if isinstance(cfg.checkpoint, str) else "checkpoint.{}"
    files = {key.format(k): path for k, path in enumerate(paths)}
    measure = run_enhancers if kind == "enhancer" else run_scorers
    return measure(cfg, invocation, loaded, paths, files)


def run_enhancers(
    cfg: DictConfig,
    invocation: Invocation,
    loaded: "list[tuple[nn.Module, Record]]",
    paths: list[str],
    files: dict[str, str],
) -> Result:
    """Measure enhancers, beside the baseline and HR."""
    from hydra.utils import instantiate

    from lightning_modules.image_metrics import ImageMetrics
    from runs.evaluation import evaluate_enhancers
    from runs.measuring import named, run_measurement, with_scale
    from runs.raters import class_names, load_raters, rater_files

    for problem in require_kind(cfg, "pairs"):
        raise ValueError(f"{paths[0]} is a checkpoint of kind enhancer; {problem}")
    cfg = with_scale(cfg, [net for net, _ in loaded], paths)
    raters = load_raters(cfg)
    metrics = ImageMetrics(instantiate(cfg.metrics, _convert_="all"))
    remarks = degradation_remarks(cfg, [record for _, record in loaded])

    def work(data: "ShardedDataModule", folder: Path, device: "torch.device") -> "Measurement":
        return evaluate_enhancers(
            named(loaded, paths),
            raters,
            data,
            folder,
            device,
            metrics,
            title=", ".join(str(display_path(path)) for path in paths),
            remarks=remarks,
            self_ensemble=cfg.self_ensemble,
            pictures=cfg.pictures,
            max_rows=cfg.rows,
        )

    classes = class_names(loaded, raters)
    return run_measurement(cfg, invocation, files | rater_files(cfg), "val", work, classes)


def run_scorers(
    cfg: DictConfig,
    invocation: Invocation,
    loaded: "list[tuple[nn.Module, Record]]",
    paths: list[str],
    files: dict[str, str],
) -> Result:
    """Measure one scorer, or several, on photos with or without ratings."""
    from runs.measuring import run_measurement
    from runs.raters import class_names

    rows = scorer_rows(cfg, loaded, paths)
    cfg = next(iter(rows.values())).config

    def work(data: "ShardedDataModule", folder: Path, device: "torch.device") -> "Measurement":
        return measure_scorers(cfg, rows, data, folder, device)

    # The constant predictor is the mean of the training data; nothing else needs that.
    split = None if has_ratings(cfg) else "val"
    return run_measurement(cfg, invocation, files, split, work, class_names(loaded, {}))


def measure_scorers(
    cfg: DictConfig,
    rows: "dict[str, Scorer]",
    data: "ShardedDataModule",
    folder: Path,
    device: "torch.device",
) -> "Measurement":
    """Compare scorers with ratings, where there are any, and measure robustness and monotony."""
    from runs.evaluation import evaluate_scorer
    from runs.matrix import evaluate_matrix
    from runs.measuring import Measurement
    from runs.probing import probe

    note = "no ratings to compare with: data=rated data.ratings=FILE data.images=FOLDER has some"
    measured = Measurement("", {}, [], note)
    if has_ratings(cfg):
        remarks = {name: split_remark(row.config, row.record) for name, row in rows.items()}
        if isinstance(cfg.checkpoint, str):
            ((name, row),) = rows.items()
            path, remark = cfg.checkpoint, remarks[name]
            measured = evaluate_scorer(row.net, path, remark, data, folder, device)
        else:
            notes = [f"{name} {remark}" for name, remark in remarks.items() if remark]
            measured = evaluate_matrix(rows, notes, folder, device)
    if not cfg.probe_photos:
        return measured
    nets = {name: row.net for name, row in rows.items()}
    probed = probe(nets, data, cfg.probe_photos, folder, device, seed=cfg.seed)
    return Measurement(
        f"{measured.text}\n{probed.text}" if measured.text else f"{probed.text}{note}\n",
        measured.metrics | probed.metrics,
        measured.files + probed.files,
        measured.note,
    )


def has_ratings(cfg: DictConfig) -> bool:
    """Return whether the data set has rated photos."""
    return not list(require_kind(cfg, "rated"))


def load_all(cfg: DictConfig, paths: list[str]) -> "list[tuple[nn.Module, Record]]":
    """Load the checkpoints.

    Raises:
        ValueError: if one cannot be read, or not all are of one kind.
    """
    from lightning_modules.checkpoint import load_network

    loaded = [load_network(path, trusted=cfg.trusted, scale=cfg.scale) for path in paths]
    if len({record.kind for _, record in loaded}) > 1:
        raise ValueError("checkpoint: measure enhancers and scorers separately")
    return loaded


def scorer_rows(
    cfg: DictConfig, loaded: "list[tuple[nn.Module, Record]]", paths: list[str]
) -> "dict[str, Scorer]":
    """Return the scorers by name, each with the configuration of the data as it sees them.

    Raises:
        ValueError: if settings do not apply to them, or they cannot be compared.
    """
    from networks.nima import NIMA
    from runs.matrix import Scorer, check_scales
    from runs.measuring import named

    rated = has_ratings(cfg)
    if not rated and not cfg.probe_photos:
        raise ValueError("probe_photos=0: without ratings there is nothing else to measure")
    rows = {}
    found = zip(named(loaded, paths).items(), loaded, paths, strict=True)
    for (name, net), (_, record), path in found:
        assert isinstance(net, NIMA)
        config = of_scorer(cfg, net, path)
        if not rated:
            config = changed(config, {"data.scale": 1})  # LR photos are not needed
        rows[name] = Scorer(net, record, config)
    if rated:
        check_scales(rows)
    return rows


def of_scorer(cfg: DictConfig, scorer: object, path: str) -> DictConfig:
    """Return the configuration with the view of a scorer that is measured.

    Raises:
        ValueError: if settings do not apply to it.
    """
    from networks.nima import NIMA
    from networks.views import VIEW_ARGUMENTS
    from runs.raters import view_of

    if cfg.self_ensemble:
        raise ValueError("self_ensemble=true: applies only to enhancers")
    if list(cfg.metrics) != list(DEFAULT):
        raise ValueError(f"metrics=[{','.join(map(str, cfg.metrics))}]: applies only to enhancers")
    for name, value in view_of(cfg, "judge").items():
        raise ValueError(f"judge.{name}={value}: a scorer has no judge")
    assert isinstance(scorer, NIMA)
    sizes = {name: getattr(scorer, name) for name in ("num_buckets", *VIEW_ARGUMENTS)}
    for name, value in sizes.items():
        if cfg.scorer[name] not in (None, value):
            raise ValueError(f"scorer.{name}={cfg.scorer[name]}, but {path} has {value}")
    return changed(cfg, {"scorer": {"checkpoint": None, **sizes}})


def degradation_remarks(cfg: DictConfig, records: list[Record]) -> list[str]:
    """Note the networks that were trained on LR photos degraded in another way.

    Raises:
        ValueError: if LR would be HR, at scale 1.
    """
    node = cfg.data.get("degradation")
    given = degradation_summary(node) if node else None
    made = not (cfg.data.get("val_lr") or cfg.data.get("root"))
    if cfg.scale == 1 and made and given and not any(given.values()):
        raise ValueError("scale 1: LR would equal HR; set the data.degradation to undo")
    remarks = []
    for record in records:
        trained = record.trained_degradation
        if not trained or not given:
            continue
        differing = [name for name in trained if (trained[name] or 0) != (given.get(name) or 0)]
        choice, trained_choice = map(degradation_choice, (given, trained))
        if choice is not None and trained_choice is None:
            remarks.append(f"{record.label} was trained without data.degradation={choice}")
        elif choice != trained_choice or differing:
            shown = " ".join(f"data.degradation.{name}={trained[name]}" for name in differing)
            if trained_choice is not None:
                shown = f"data.degradation={trained_choice}"
            remarks.append(f"{record.label} was trained with {shown}, not used here")
    return remarks


def split_remark(cfg: DictConfig, record: Record) -> str:
    """Warn if the scorer may have been trained on photos that it is now measured on.

    Args:
        cfg: the configuration, with the data to measure on.
        record: the scorer's record; that of an exported one lacks the split of its images.

    Returns:
        The warning; empty if there is no reason for one.
    """
    trained = record.data_config
    measured = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(measured, dict)
    if trained.get("_target_") != measured["_target_"] or measured.get("val_list") is not None:
        return ""  # a list was chosen by hand
    keys = ("split", "val_list", "test_list", "val_share", "split_seed")
    differing = [key for key in keys if trained.get(key) != measured.get(key)]
    if not differing:
        return ""
    shown = printable(" ".join(f"data.{key}={trained.get(key)}" for key in differing))
    return (
        f"was trained with {shown}, which is another split: if the images are the same, "
        "it was trained on some of those measured (data.val_list=FILE names the others)"
    )

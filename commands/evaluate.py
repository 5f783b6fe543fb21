"""python run.py evaluate: measure a checkpoint and its baseline on held-out photos."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from configuration.hints import nearest
from configuration.own_data import own_data
from configuration.parsing import changed
from lightning_modules.metric_catalogue import DEFAULT, JUDGE
from lightning_modules.record import Record, degradation_choice, degradation_summary
from runs.invocation import Invocation
from runs.measuring_options import (
    MeasuringOptions,
    judge_problems,
    judges_of,
    measuring_problems,
    runs_in,
)
from runs.metric_checks import metric_class_problems, metric_problems
from runs.requirements import require_kind
from runs.results import Result
from runs.verdicts import Criteria
from system.places import display_path
from system.terminal import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from datamodules.base import ShardedDataModule
    from runs.matrix import Scorer
    from runs.measuring import Measurement


MAX_PATHS = 4  # checkpoints that the title of the table lists


class Options(MeasuringOptions):
    """Keys of conf/evaluate.yaml that are not groups."""

    checkpoint: str | list[str]
    self_ensemble: bool
    pictures: NonNegativeInt | None
    rows: PositiveInt | None
    metrics: list[str | dict[str, Any]] = Field(min_length=1)
    probe_photos: NonNegativeInt
    judges: dict[str, str] | list[str] | None
    epoch: Literal["best", "last"]
    baseline: str | None
    criteria: Criteria


def problems(cfg: DictConfig) -> Iterator[str]:
    """Check the name of the run, and that files exist."""
    paths = checkpoints(cfg)
    if not paths:
        yield "checkpoint=[]: one or several files"
    yield from measuring_problems(cfg, "checkpoint", paths)
    yield from metric_problems(cfg)
    yield from judge_problems(cfg)
    yield from criteria_problems(cfg)


def criteria_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that what the criteria read is measured."""
    if cfg.baseline is None or any(not isinstance(name, str) for name in cfg.metrics):
        return
    known = [*cfg.metrics, *(JUDGE + name for name in judges_of(cfg))]
    known += ["score_judge"] if not cfg.judges and cfg.judge.checkpoint is not None else []
    for name in cfg.criteria.count or ():
        if name not in known:
            yield f"criteria.count: {name} is not measured{nearest(name, known)}"
    if cfg.criteria.psnr_loss is not None and "psnr" not in known:
        yield (
            f"criteria.psnr_loss={cfg.criteria.psnr_loss}: metrics does not list psnr; "
            "criteria.psnr_loss=null leaves it out"
        )


def typed_problems(cfg: DictConfig, words: list[str]) -> Iterator[str]:
    """Refuse settings of the single judge if there are several."""
    for word in words if cfg.judges else ():
        key = word.partition("=")[0]
        if key.startswith("judge."):
            yield f"{key}: has no effect: judges= takes the place of the judge"


def class_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that the metrics can be computed."""
    yield from metric_class_problems(cfg)


def checkpoints(cfg: DictConfig) -> list[str]:
    """Return the checkpoints to measure; a folder of runs stands for those of all."""
    given = [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else cfg.checkpoint
    return [path for item in given for path in runs_in(item, cfg.epoch)]


def run(cfg: DictConfig, invocation: Invocation) -> Result:
    """Measure, write result.json, per_image.csv and pictures, and print a table."""
    paths = checkpoints(cfg)
    if isinstance(cfg.checkpoint, str):  # a folder of runs has several
        cfg = changed(cfg, {"checkpoint": paths if len(paths) > 1 else paths[0]})
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
    """Measure enhancers, and compare them with `baseline` if there is one."""
    from hydra.utils import instantiate

    from lightning_modules.image_metrics import ImageMetrics
    from runs.comparing import contest_of
    from runs.evaluation import evaluate_enhancers
    from runs.measuring import named, run_measurement, with_scale
    from runs.raters import class_names, dependent_judges, load_raters, rater_files

    for problem in require_kind(cfg, "pairs"):
        raise ValueError(f"{paths[0]} is a checkpoint of kind enhancer; {problem}")
    if cfg.judges:
        cfg = changed(cfg, {"judges": judges_of(cfg), "judge.checkpoint": None})
    cfg = with_scale(cfg, [net for net, _ in loaded], paths)
    raters = load_raters(cfg)
    metrics = ImageMetrics(instantiate(cfg.metrics, _convert_="all"))
    for name in metrics.about.keys() & raters.keys():
        raise ValueError(f"metrics: {name}: is the name of a judge")
    records = [record for _, record in loaded]
    remarks = degradation_remarks(cfg, records)
    own = named(loaded, paths)
    dependent = {
        name: dependent_judges(record, raters, metrics.about)
        for name, record in zip(own, records, strict=True)
    }
    contest = contest_of(cfg, loaded, paths, dependent)

    def work(data: "ShardedDataModule", folder: Path, device: "torch.device") -> "Measurement":
        made = evaluate_enhancers(
            own,
            raters,
            data,
            folder,
            device,
            metrics,
            title=(
                ", ".join(str(display_path(path)) for path in paths)
                if len(paths) <= MAX_PATHS
                else f"{len(paths)} checkpoints"
            ),
            remarks=remarks,
            self_ensemble=cfg.self_ensemble,
            pictures=cfg.pictures,
            max_rows=cfg.rows,
            contest=contest,
        )
        hashes = {name: r.config_hash for name, r in zip(own, records, strict=True)}
        nets = {n: {"config_hash": hashes[n], "dependent": dependent[n]} for n in own}
        return made._replace(nets=nets)

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
    for name in ("judges", "baseline"):
        if cfg[name]:
            raise ValueError(f"{name}: applies only to enhancers")
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

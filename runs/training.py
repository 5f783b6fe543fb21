"""Train a scorer or an enhancer in a run folder, and resume it."""

import atexit
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from torch import nn

from configuration.model_kind import configured_kind, trains_scorer
from configuration.parsing import changed
from configuration.trust import rebuild_problems, targets
from datamodules.base import ShardedDataModule
from lightning_modules.attached import attached
from lightning_modules.base import TrainedModule
from lightning_modules.building import NOT_ARGUMENTS, build_network
from lightning_modules.callbacks import (
    AtOnce,
    Checkpoints,
    FreshMetrics,
    LogEachEpoch,
    ProgressFile,
    Watch,
    skip_empty_hooks,
)
from lightning_modules.checkpoint import check_kind, read_record
from lightning_modules.checkpoint_io import WholeFiles
from lightning_modules.independence import dependence
from lightning_modules.init_from import official_file, start_from
from lightning_modules.losses import AUTO
from lightning_modules.metric_catalogue import DEFAULT
from lightning_modules.metric_names import is_baseline
from lightning_modules.record import VERSION, Record
from lightning_modules.recording import WriteRecord
from lightning_modules.trial import TrialCheckpoint
from networks.lora import num_parameters
from networks.scales import at_scale
from networks.tensor_files import load_plain
from runs.code_identity import code_files
from runs.identity import Identity, derived_keys, not_read
from runs.invocation import Invocation
from runs.metrics_table import metrics_table
from runs.results import Result
from runs.resuming import ResumePoint, last_checkpoint
from runs.run_folder import BEST, State, decide, start
from runs.run_loggers import build_loggers, close_loggers, log_best, staging
from runs.scorers import expected_by_backbone, pretrained_file, scorer_files
from runs.training_checks import reads_scorer
from system.device import full_float32, keep_memory
from system.json_files import JsonObject
from system.locks import locked
from system.places import expanded

T = TypeVar("T")
log = logging.getLogger(__name__)


def with_scorer(cfg: DictConfig) -> DictConfig:
    """Return the configuration with the whole architecture of the scorer.

    That is the one that the file of the loss's first scorer names, or in trainings of scorers, what
    the backbone expects where the settings are null.
    """
    if trains_scorer(cfg):
        return changed(cfg, expected_by_backbone(cfg.scorer))
    if not reads_scorer(cfg):
        return cfg
    record = read_record(scorer_files(cfg)[0])
    arguments = record.net if record is not None else {}
    return changed(
        cfg, {f"scorer.{name}": value for name, value in arguments.items() if name in cfg.scorer}
    )


def train(cfg: DictConfig, invocation: Invocation) -> Result | None:
    """Train or continue a run, or print the result of a finished one.

    Returns:
        The result; None on all ranks but the first.
    """
    for problem in rebuild_problems(cfg):
        raise ValueError(problem)
    full_float32()
    keep_memory()
    folder = invocation.folder
    unplaced = with_scorer(cfg)  # without run_dir, which does not belong to the identity
    cfg = changed(unplaced, {"paths.run_dir": str(folder)})
    trainer = build_trainer(cfg, shares_process=invocation.shares_process)
    datamodule: ShardedDataModule = instantiate(cfg.data, _convert_="all")
    datamodule.reread = cfg.overwrite
    with contextlib.ExitStack() as held:

        def examine() -> tuple[Identity, State, ResumePoint | None]:
            # All ranks reach the same answer, but only rank 0 locks the folder.
            if trainer.is_global_zero:
                held.enter_context(locked(folder))
            identity = identify(unplaced, datamodule.fingerprint())  # packs the data
            options = {"resume": cfg.resume, "overwrite": cfg.overwrite, "stale": cfg.stale}
            state = decide(folder, identity, **options)
            resumes = state is State.CONTINUE
            return identity, state, last_checkpoint(folder, identity) if resumes else None

        identity, state, last = on_rank_zero_first(trainer, examine)
        if state is State.FINISHED:
            log.info("already finished; overwrite=true trains again")
            return report(folder)
        try:
            with staging(folder.absolute() / "wandb"):
                train_module(cfg, invocation, trainer, datamodule, state, identity, last)
        except SystemExit as error:  # raised by Lightning after a signal
            if not trainer.interrupted:
                raise
            saved = (folder / "checkpoints" / "last.ckpt").exists()
            then = "resumes after the last full epoch" if saved else "starts over"
            raise KeyboardInterrupt(f"the same command {then}") from error
        finally:
            close_loggers(trainer)
        return report(folder) if trainer.is_global_zero else None


def on_rank_zero_first(trainer: L.Trainer, function: Callable[[], T]) -> T:
    """Run a function on rank 0 and return its result on all ranks.

    SLURM and torchrun start all ranks at once, so the result is broadcast: otherwise the other
    ranks would read while rank 0 changes the folder or packs the data. Lightning starts the other
    ranks only after rank 0 is done; each of those calls the function for itself.

    Raises:
        ValueError: on the other ranks, if the function fails on rank 0.
    """
    if trainer.world_size == 1:
        return function()
    if isinstance(trainer.strategy.cluster_environment, LightningEnvironment):  # type: ignore[attr-defined]
        return function()
    trainer.strategy.setup_environment()  # connects the ranks; `trainer.fit` finds them connected
    if not trainer.is_global_zero:
        outcome: Any = trainer.strategy.broadcast((None, None))
        if outcome[1] is not None:
            torch.distributed.destroy_process_group()  # else its threads abort the process
            raise ValueError(outcome[1])
        return outcome[0]  # type: ignore[no-any-return]
    try:
        result = function()
    except Exception as error:
        trainer.strategy.broadcast((None, str(error)))
        torch.distributed.destroy_process_group()
        raise
    trainer.strategy.broadcast((result, None))
    return result


def identify(cfg: DictConfig, fingerprint: str | None) -> Identity:
    """Compute a run's identity: its settings and the hashes of its inputs and code.

    Args:
        cfg: the configuration as composed.
        fingerprint: fingerprint of the data.
    """
    config, files = read_settings(cfg)
    names = ["commands.train", *targets(config)]
    for key in files:
        is_network = key in ("scorer.checkpoint", "judge.checkpoint") or key.endswith(".scorer")
        paths = files[key] if is_network else []
        for path in [paths] if isinstance(paths, str) else paths:
            record = read_record(path)
            names += targets(record.net) if record is not None else ()
    return Identity(config, files, code_files(names), fingerprint, derived_keys(cfg))


def build_trainer(cfg: DictConfig, *, shares_process: bool) -> L.Trainer:
    """Build the Lightning trainer. Loggers follow once it is clear that the run starts.

    Args:
        cfg: the configuration.
        shares_process: whether the other jobs of a sweep run in this process too.
    """
    ranks, num_nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    if shares_process and (ranks, num_nodes) != (1, 1):
        raise ValueError(
            f"trainer.devices={ranks} in a multirun by this launcher: every rank would run the "
            "whole sweep; hydra/launcher=pool starts each job in a process of its own"
        )
    strategy = cfg.trainer.get("strategy", "auto")
    if strategy == "ddp" and {"scales", "arch"} & set(cfg.get("net") or {}):
        # A step trains one branch of MDSR, and not all parts of some of spandrel's architectures;
        # DDP would wait for the gradients of the others.
        strategy = "ddp_find_unused_parameters_true"
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c is not None]
    shown = cfg.callbacks.get("progress") is not None  # else Lightning adds one of its own
    built = {"callbacks": callbacks, "logger": False, "enable_progress_bar": shown}
    trainer: L.Trainer = instantiate(cfg.trainer, strategy=strategy, **built)
    trainer.strategy.checkpoint_io = WholeFiles()
    if trainer.strategy.root_device.type == "cpu":
        # Lightning has PyTorch look for GPUs by NVML. Adam looks in every step, and without a GPU
        # the library is searched for anew each time: 0.1 ms.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    if trainer.world_size > 1:
        # Gloo's threads need the interpreter to finish their last work. A thread that asks for it
        # during shutdown aborts the process, even a successful one (PyTorch issue 190489).
        atexit.register(time.sleep, 0.2)
    return trainer


def read_settings(cfg: DictConfig) -> tuple[JsonObject, dict[str, str | list[str]]]:
    """Return the settings that this run reads, and its input files by key."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    files: dict[str, Any] = {"init_from": config["init_from"]}
    if config["init_from"] == "official":
        files = {"init_from": str(official_file(cfg))}
    unread = not_read(cfg)  # runs that differ in nothing else are the same run
    if "share" in unread:
        config.pop("share", None)
    if not trains_scorer(cfg):
        if "scale" in unread:
            config["scale"] = None
        config["model"] = {
            key: value
            for key, value in config["model"].items()
            if key != "loss" and f"model.{key}" not in unread  # the former stands under `loss`
        }
        config["loss"] = {
            name: {key: value for key, value in term.items() if f"loss.{name}.{key}" not in unread}
            for name, term in config["loss"].items()
            if term is not None and (term.get("weight") != 0 or term.get("score_always"))
        }
        config["loss"].get("aesthetic", {}).pop("scorer", None)  # scorer.checkpoint
        for name, term in config["loss"].items():
            if str(term.get("_target_")).endswith(".AestheticLoss"):
                term.pop("trusted", None)
            for key, value in term.items():
                if are_files(value):
                    files[f"loss.{name}.{key}"] = value
        if "scorer" in unread:
            del config["scorer"]
        else:
            files["scorer.checkpoint"] = config["scorer"]["checkpoint"]
            config["scorer"] = {"checkpoint": config["scorer"]["checkpoint"]}
        files["judge.checkpoint"] = config["judge"]["checkpoint"]
    else:
        del config["loss"], config["judge"]
        del config["scorer"]["checkpoint"], config["model"]["net"]["checkpoint"]
        config["metrics"] = list(DEFAULT)  # of enhancers
        files["scorer.pretrained"] = pretrained_file(cfg.scorer)
    files = {key: path for key, path in files.items() if path is not None}
    return {str(key): value for key, value in config.items()}, files


def are_files(value: object) -> bool:
    """Return whether a setting is the name of a file or a list of such names."""
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and expanded(name).is_file() for name in names)


def train_module(
    cfg: DictConfig,
    invocation: Invocation,
    trainer: L.Trainer,
    datamodule: ShardedDataModule,
    state: State,
    identity: Identity,
    resume_point: ResumePoint | None,
) -> None:
    """Build the module, train it, from a checkpoint on if there is one, and write the result."""
    folder = invocation.folder
    L.seed_everything(cfg.seed, verbose=False)
    spec = module_spec(cfg, has_weights=cfg.init_from is not None or resume_point is not None)
    module = build_module(cfg, spec, identity)
    record = describe_training(cfg, spec["net"], datamodule, identity)
    monitor = checkpoint_of(trainer).monitor or ""
    check_monitor(monitor, module.metric_names(), datamodule.parts)
    check_rebuilt(module.net, record, cfg.trusted)
    if not trains_scorer(cfg) and "scales" not in cfg.net:
        at_scale(module.net, cfg.scale)  # refuses a class whose own scale is another
    if trainer.is_global_zero:  # nothing is touched before everything could be built
        start(invocation, state, identity, cfg)
    writer = WriteRecord(record, resume_point.seconds if resume_point else 0.0)
    progress = ProgressFile(folder / "progress.json", monitor)
    trial = TrialCheckpoint(folder / "checkpoints")
    mine = [FreshMetrics(), AtOnce(), LogEachEpoch(), progress, writer, trial]
    attached(trainer).callbacks += mine
    skip_empty_hooks(attached(trainer).callbacks)
    first_step = resume_point.step if resume_point else 0
    trainer.loggers = build_loggers(cfg, invocation, identity, first_step)
    verb = "continuing" if resume_point else "training"
    log.info("%s in %s: %s", verb, folder, datamodule.description)
    report_dependence(cfg)
    checkpoint = resume_point.path if resume_point else None
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        write_result(trainer, folder, identity, writer)
        log_best(trainer, folder)


def module_spec(cfg: DictConfig, *, has_weights: bool) -> JsonObject:
    """Return `cfg.model` as plain data, without the files of weights that are not loaded.

    Args:
        cfg: the configuration.
        has_weights: whether a checkpoint supplies all weights.
    """
    spec = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(spec, dict)
    if trains_scorer(cfg):
        spec["net"].pop("checkpoint", None)
    if has_weights:
        spec["net"].pop("pretrained", None)
    return {str(key): value for key, value in spec.items()}


def build_module(cfg: DictConfig, spec: JsonObject, identity: Identity) -> TrainedModule:
    """Build the LightningModule, and load the weights of `init_from` if it is given."""
    # _convert_: no ListConfig may reach a checkpoint
    module: TrainedModule = instantiate(spec, _convert_="all")
    if cfg.init_from is not None:
        path = str(identity.files["init_from"])
        if cfg.init_from == "official":
            log.info("init_from=official: %s", path)
        start_from(module.net, path)
        module.keep_weights()
    module.optimizer(list(module.net.parameters()))  # refuses wrong arguments before training
    return module


def describe_training(
    cfg: DictConfig, net: JsonObject, datamodule: ShardedDataModule, identity: Identity
) -> Record:
    """Return the record that every checkpoint of this training carries."""
    arguments = {name: value for name, value in net.items() if name not in NOT_ARGUMENTS}
    about = {
        "kind": configured_kind(cfg),
        "net": {**arguments, "_target_": net["_target_"]},
        "data": datamodule.description,
        "gamma": 0.0 if cfg.gamma == AUTO else cfg.gamma,  # `WriteRecord` adds what it came to
        "config": identity.config,
        "config_hash": identity.config_hash,
        "version": VERSION,
    }
    return Record.parse(about, "this training")


def report_dependence(cfg: DictConfig) -> None:
    """Log what the judge has in common with each scorer in the loss."""
    if trains_scorer(cfg) or not cfg.gamma or cfg.judge.checkpoint is None:
        return
    judge = read_record(cfg.judge.checkpoint)
    assert judge is not None  # it has been loaded already
    for scorer in map(read_record, scorer_files(cfg)):
        assert scorer is not None
        for line in dependence(scorer, judge):
            log.info("%s", line)


def check_monitor(monitor: str, known: Collection[str] | None, parts: Sequence[str] = ()) -> None:
    """Raise a ValueError if the metric that selects the best epoch will not be logged.

    Args:
        monitor: name of the metric.
        known: the metrics of validation, without `val/`; None if they are not known yet.
        parts: parts of the data that have the same metrics, `<metric>/<part>`.
    """
    name = monitor.removeprefix("val/")
    if known is not None:
        known = {*known, *(f"{metric}/{part}" for metric in known for part in parts)}
    if known is None or monitor.startswith("train/") or is_baseline(name):
        return
    if name == monitor or name not in known:
        raise ValueError(
            f"callbacks.checkpoint.monitor={monitor}: no such metric; there are "
            f"{', '.join(f'val/{metric}' for metric in sorted(known))}"
        )


def check_rebuilt(network: nn.Module, record: Record, trusted: Sequence[str]) -> None:
    """Rebuild the network from its record before training, as loading a checkpoint would.

    Raises:
        ValueError: if the record does not rebuild this network.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            build_network(record.net, trusted, state=network.state_dict())
        check_kind(network, record)
    except ValueError as error:
        raise ValueError(f"its checkpoints could not be loaded again: {error}") from error


def write_result(trainer: L.Trainer, folder: Path, identity: Identity, writer: WriteRecord) -> None:
    """Write result.json: the metrics of the best checkpoint and all that reproduces it."""
    checkpoint = checkpoint_of(trainer)
    net = trainer.lightning_module.net
    assert isinstance(net, nn.Module)
    best = folder / BEST
    if not best.exists():
        raise ValueError(
            f"{folder}: trained, but nothing was validated, so no epoch is the best one; "
            "resume=true epochs=... trains on, trainer.val_check_interval says when it validates"
        )
    record = load_plain(best)["record"]
    Result(
        folder=folder,
        metrics=record["metrics"],
        kind=record["kind"],
        warnings=[
            w for c in attached(trainer).callbacks if isinstance(c, Watch) for w in c.warnings
        ],
        monitor=checkpoint.monitor,
        best_epoch=record["epoch"] + 1,
        checkpoint=str(best.relative_to(folder)),
        data=record["data"],
        num_parameters=num_parameters(net),
        seed=identity.config["seed"],
        epochs=trainer.current_epoch,
        device=str(trainer.strategy.root_device),
        world_size=trainer.world_size,
        better=getattr(trainer.lightning_module, "better", None),
        wall_time_s=round(writer.elapsed(), 1),
    ).write(identity)


def checkpoint_of(trainer: L.Trainer) -> Checkpoints:
    """Return the callback that keeps best.ckpt and last.ckpt."""
    return next(c for c in attached(trainer).callbacks if isinstance(c, Checkpoints))


def report(folder: Path) -> Result:
    """Print the result of a finished run and return it."""
    result = Result.read(folder)
    title = f"epoch {result.best_epoch} of {result.epochs}, the best by {result.monitor}"
    metrics = {
        name.removeprefix("val/"): value
        for name, value in result.metrics.items()
        if name.startswith("val/") and name != "val/loss"
    }
    log.info("\n%s", metrics_table(title, metrics))
    log.info("data: %s", result.data)
    log.info("%s", folder / "result.json")
    log.info("%s", result.best)
    return result

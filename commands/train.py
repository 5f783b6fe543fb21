"""python run.py [train]: trains what the experiment says, in a run folder that can be resumed."""

import atexit
import contextlib
import copy
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import nn

from commands.code_identity import code_files
from commands.config import check_name, require_file, require_kind
from commands.device import keep_memory
from commands.run_folder import (
    BEST,
    Identity,
    State,
    current,
    decide,
    derived_keys,
    finish,
    flatten,
    is_setting,
    locked,
    not_read,
    provenance,
    read_json,
    scores_always,
    start,
)
from commands.signatures import locate
from commands.terminal import metrics_table
from commands.trust import rebuild_problems, targets
from datamodules.sampling import ShardedDataModule
from lightning_modules.building import NOT_ARGUMENTS, build_network
from lightning_modules.callbacks import (
    AtOnce,
    Checkpoints,
    FreshMetrics,
    LogEachEpoch,
    ProgressFile,
    Watch,
    last_step,
)
from lightning_modules.checkpoint import WriteRecord, check_kind, dependence, read_checkpoint
from lightning_modules.checkpoint_io import WholeFiles, ends_an_epoch, read_whole
from lightning_modules.compiling import WITH_GRAPHS
from lightning_modules.loggers import RunCSV, read_rows
from lightning_modules.metric_names import is_baseline
from lightning_modules.record import VERSION, Record
from lightning_modules.trial import TrialCheckpoint
from networks.backbones import BACKBONES
from networks.edsr import EDSR
from networks.nima import VIEW
from networks.scales import at_scale
from networks.tensor_files import load_plain
from networks.weights import fetch_official, load_weights, packaged

log = logging.getLogger(__name__)

T = TypeVar("T")
Weights = dict[str, torch.Tensor]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # weights and metrics are float32 in all


class Options(BaseModel):
    """Keys of conf/train.yaml that are not groups."""

    model_config = ConfigDict(strict=True)

    seed: NonNegativeInt
    epochs: PositiveInt
    gamma: float | None = Field(ge=0, allow_inf_nan=False)
    scale: Literal[1, 2, 3, 4] | None
    init_from: str | None
    name: str | None
    trusted: list[str]
    resume: bool
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that neither types nor signatures show."""
    if cfg.init_from != "official":
        yield from require_file("init_from", cfg.init_from)
    elif trains_scorer(cfg):
        yield "init_from=official: is for enhancers; scorer.pretrained=imagenet starts a scorer"
    judge = cfg.judge.checkpoint
    missing = list(require_file("judge.checkpoint", judge))
    yield from missing
    if judge is not None and not missing:
        yield from check_is_scorer("judge.checkpoint", judge)
    yield from rebuild_problems(cfg)
    wanted = "rated" if trains_scorer(cfg) else "pairs"
    yield from require_kind(cfg, wanted)
    data, _ = locate(cfg.data._target_)
    if data.kind == wanted and not data.trains:
        yield f"data: {data.__name__} has no photos to train on; it is for evaluate"
    if cfg.data.get("train_hr", "") is None:
        yield "data.train_hr=null: there are no photos to train on"
    if cfg.trainer.accelerator not in ("cpu", "gpu"):
        yield f"trainer.accelerator={cfg.trainer.accelerator}: cpu or gpu"
    if cfg.trainer.precision not in PRECISIONS:
        yield f"trainer.precision={cfg.trainer.precision}: {', '.join(PRECISIONS)}"
    if cfg.trainer.precision == "16-mixed" and cfg.trainer.accelerator == "cpu":
        yield "trainer.precision=16-mixed: is for GPUs; a CPU has bf16-mixed"
    clip = cfg.trainer.gradient_clip_val
    if isinstance(clip, int | float) and clip <= 0:
        yield f"trainer.gradient_clip_val={clip}: above 0, or null for none"
    yield from check_callbacks(cfg)
    for name in ("checkpoint", "reseed"):
        if cfg.callbacks.get(name) is None:
            yield f"callbacks.{name}=null: without it a run could not be continued exactly"
    if cfg.trainer.max_epochs != cfg.epochs:
        yield f"trainer.max_epochs={cfg.trainer.max_epochs}: set epochs={cfg.trainer.max_epochs}"
    yield from check_name(cfg)
    for name in ("limit_train_batches", "limit_val_batches"):
        if cfg.trainer[name] == 0:
            yield f"trainer.{name}=0: there would be nothing to train or to compare"
    every = cfg.trainer.get("check_val_every_n_epoch", 1)
    if isinstance(every, int) and not 1 <= every <= cfg.epochs:
        yield (
            f"trainer.check_val_every_n_epoch={every}: from 1 to epochs={cfg.epochs}, else nothing "
            "is validated"
        )
    interval = cfg.trainer.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        yield f"trainer.val_check_interval={interval}: above 0"
    ranks = cfg.trainer.devices
    if ranks == -1:
        ranks = max(1, torch.cuda.device_count())
    ranks = (ranks if isinstance(ranks, int) else 1) * cfg.trainer.get("num_nodes", 1)
    parts = max(1, ranks) * max(1, cfg.trainer.accumulate_grad_batches)
    if cfg.trainer.accumulate_grad_batches < 1 or ranks < 1 or cfg.data.batch_size < 1:
        yield "trainer.devices, trainer.accumulate_grad_batches, data.batch_size: 1 or more each"
    elif cfg.data.batch_size % parts:
        yield (
            f"data.batch_size={cfg.data.batch_size}: is the size over all ranks and must divide by "
            f"{parts} (trainer.devices x trainer.num_nodes x trainer.accumulate_grad_batches)"
        )
    if cfg.model.compile in WITH_GRAPHS and cfg.trainer.accumulate_grad_batches > 1:
        yield (
            f"model.compile={cfg.model.compile}: CUDA graphs overwrite the gradients of a batch "
            "with the next ones, so trainer.accumulate_grad_batches=1 goes with it, or "
            "model.compile=true"
        )
    if trains_scorer(cfg):
        for name in ("num_buckets", *VIEW):
            if name in cfg.data and cfg.data[name] != cfg.scorer[name]:
                yield f"data.{name}={cfg.data[name]}: set scorer.{name}, which the data follow"
        if cfg.scorer.pretrained not in (None, "imagenet"):
            yield from require_file("scorer.pretrained", cfg.scorer.pretrained)
        if cfg.scorer.checkpoint is not None:
            yield "scorer.checkpoint is for the loss of enhancers; init_from= starts from a scorer"
    elif cfg.net is None:
        yield "net=null: an enhancer needs a network"
    elif "scales" not in cfg.net and cfg.net.get("scale", cfg.scale) != cfg.scale:
        yield f"net.scale={cfg.net.scale}: set scale, which data and network follow"
    elif cfg.model.loss.get("gamma", cfg.gamma) != cfg.gamma:
        yield f"model.loss.gamma={cfg.model.loss.gamma}: set gamma, which the loss follows"
    elif cfg.scale == 1 and "scales" not in cfg.net and undegraded(cfg):
        yield "scale=1: LR would be HR; data.degradation.blur, .noise or .jpeg makes it worth it"
    elif "scale" in cfg.data and cfg.data.scale != cfg.net.get("scales", cfg.scale):
        yield f"data.scale={cfg.data.scale}: set scale, which data and network follow"
    elif cfg.net._target_.endswith(".Bicubic"):
        yield "net=bicubic has nothing to train; evaluate shows it beside every network"
    elif cfg.gamma is None or (cfg.scale is None and "scales" not in cfg.net):
        yield f"gamma={cfg.gamma} scale={cfg.scale}: an enhancer needs both"
    elif cfg.gamma == 0 and not scores_always(cfg):
        pass  # the scorer is not read
    elif cfg.scorer.checkpoint is None:
        what, instead = f"gamma={cfg.gamma}", "gamma=0"
        if cfg.gamma == 0:
            what, instead = ("model.loss.score_always" + end for end in ("", "=false"))
        yield f"{what} needs a scorer: give scorer.checkpoint=FILE, or {instead}"
    else:
        yield from require_scorer(cfg)


def machine_problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes only where the training runs on this machine, not somewhere in a cluster."""
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        yield "trainer: no GPU that PyTorch can use on this machine; trainer=cpu runs without"
    if cfg.trainer.get("plugins") is not None and "SLURM_PROCID" not in os.environ:
        yield "trainer=slurm: is for ranks that SLURM starts, by -m hydra/launcher=slurm or by srun"


def undegraded(cfg: DictConfig) -> bool:
    """Whether LR photos are made from HR, and nothing is done to them."""
    degradation = cfg.data.get("degradation")
    given = cfg.data.get("train_lr") or cfg.data.get("root")
    return (
        degradation is not None
        and not given
        and not any(degradation.get(name) for name in ("blur", "noise", "jpeg"))
    )


def check_callbacks(cfg: DictConfig) -> Iterator[str]:
    """One problem if the callbacks are those of the other kind of training."""
    other, choice = (
        ("BeforeAfter", "nima") if trains_scorer(cfg) else ("RatingPictures", "enhancement")
    )
    targets = [node._target_ for node in cfg.callbacks.values() if node is not None]
    if any(str(target).endswith(f".{other}") for target in targets):
        yield f"callbacks: {other} goes with another model; callbacks={choice} goes with this one"


def check_is_scorer(key: str, path: str) -> Iterator[str]:
    """One problem if a file is no scorer's checkpoint."""
    try:
        _, record = read_checkpoint(path)
    except ValueError as error:
        yield f"{key}={error}"
        return
    if record is None or record.kind != "scorer":
        yield f"{key}={path}: not a scorer"


def reads_scorer(cfg: DictConfig) -> bool:
    """Whether this is the training of an enhancer that needs a scorer's file."""
    return not trains_scorer(cfg) and (cfg.gamma != 0 or scores_always(cfg))


def typed_problems(cfg: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """Overrides that say another scorer than the file does, which knows all about itself.

    Args:
        cfg: the configuration.
        words: the overrides, as typed; what an experiment says gives way to the file.
    """
    typed = {word.partition("=")[0].lstrip("+") for word in words}
    if not reads_scorer(cfg) or not any(key.partition(".")[0] == "scorer" for key in typed):
        return
    path = cfg.scorer.checkpoint
    if not isinstance(path, str) or list(require_scorer(cfg)):
        return  # which `problems` says
    _, record = read_checkpoint(path)
    assert record is not None
    if "scorer" in typed and record.backbone != cfg.scorer.backbone:
        yield (
            f"scorer.checkpoint={path}: a {record.backbone}, but scorer={cfg.scorer.backbone} was "
            "asked for; leave scorer= out, or train one by python run.py experiment=sample_nima "
            f"scorer={cfg.scorer.backbone}"
        )
    for name, value in record.net.items():
        given = cfg.scorer.get(name)
        if f"scorer.{name}" in typed and given != value:
            yield f"scorer.{name}={given}: {path} has {value}; leave scorer.{name}= out"


def adopt_scorer(cfg: DictConfig) -> None:
    """Let the file of the scorer in the loss say what the scorer is: backbone, buckets, view."""
    if not reads_scorer(cfg):
        return
    _, record = read_checkpoint(cfg.scorer.checkpoint)
    for name, value in record.net.items() if record is not None else ():
        if name in cfg.scorer:
            cfg.scorer[name] = value


def require_scorer(cfg: DictConfig) -> Iterator[str]:
    """One problem if the file of the scorer in the loss is missing or no scorer."""
    missing = list(require_file("scorer.checkpoint", cfg.scorer.checkpoint))
    yield from missing or check_is_scorer("scorer.checkpoint", cfg.scorer.checkpoint)


def trains_scorer(cfg: DictConfig) -> bool:
    """Whether the run trains a scorer, not an enhancer."""
    return str(cfg.model._target_).endswith(".NIMAModule")


def train(cfg: DictConfig) -> float | None:
    """Trains, continues, or prints the result of a finished run.

    Returns:
        The best value of the monitored metric, for Hydra's sweepers.
    """
    for problem in rebuild_problems(cfg):
        raise ValueError(problem)
    adopt_scorer(cfg)
    keep_memory()
    folder = current()
    unplaced = copy.deepcopy(cfg)  # without run_dir: where a run lies does not count
    cfg.paths.run_dir = str(folder)
    trainer = build_trainer(cfg)
    datamodule: ShardedDataModule = instantiate(cfg.data, _convert_="all")
    datamodule.reread = cfg.overwrite
    with contextlib.ExitStack() as held:

        def examine() -> tuple[Identity, State, Earlier | None]:
            # The other ranks come to the same answer, but rank 0 alone holds the folder.
            if trainer.is_global_zero:
                held.enter_context(locked(folder))
            identity = identify(unplaced, datamodule.fingerprint())  # packs the data
            options = {"resume": cfg.resume, "overwrite": cfg.overwrite, "stale": cfg.stale}
            state = decide(folder, identity, **options)
            goes_on = state is State.CONTINUE
            return identity, state, last_checkpoint(folder, identity) if goes_on else None

        identity, state, last = on_rank_zero_first(trainer, examine)
        if state is State.FINISHED:
            log.info("already finished; overwrite=true trains again")
            return report(folder)
        try:
            with staging(folder.absolute() / "wandb"):
                fit(cfg, trainer, datamodule, folder, state, identity, last)
        except SystemExit as error:  # how Lightning ends after a signal
            if not trainer.interrupted:
                raise
            saved = (folder / "checkpoints" / "last.ckpt").exists()
            then = "goes on after the last full epoch" if saved else "begins again"
            raise KeyboardInterrupt(f"the same command {then}") from error
        finally:
            close_loggers(trainer)
        return report(folder) if trainer.is_global_zero else None


def on_rank_zero_first(trainer: L.Trainer, function: Callable[[], T]) -> T:
    """What rank 0 comes to, for all ranks.

    Ranks that SLURM or torchrun has started, all at a time, are told it: else they would look while
    rank 0 changes the folder or packs the data. Those that Lightning starts come when rank 0 has
    done so, and look for themselves.

    Raises:
        ValueError: on the other ranks, where rank 0 fails.
    """
    if trainer.world_size == 1:
        return function()
    if isinstance(trainer.strategy.cluster_environment, LightningEnvironment):  # type: ignore[attr-defined]
        return function()
    trainer.strategy.setup_environment()  # connects the ranks; `fit` finds them connected
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


class Earlier(NamedTuple):
    """Where an interrupted run resumes: the checkpoint, its optimizer steps, and seconds so far."""

    path: Path
    step: int
    seconds: float


def last_checkpoint(folder: Path, identity: Identity) -> Earlier | None:
    """Find the checkpoint that a run resumes from: the last one, or the best if that is damaged.

    Returns:
        None if the run has not finished an epoch.

    Raises:
        ValueError: if there is no checkpoint to resume from, or it is of another run.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        # Killed in the first epoch, a run may have best.ckpt, which is written first, and not this.
        in_first = (read_json(folder / "progress.json") or {}).get("epoch") == 1
        if any(last.parent.glob("*.ckpt")) and not in_first:
            raise ValueError(
                f"{last}: is gone, so the run cannot go on; overwrite=true trains again"
            )
        return None
    damage = []
    for path in (last, folder / BEST):
        try:
            loaded = read_whole(path)
            found = Earlier(path, loaded["global_step"], loaded["record"]["wall_time_s"])
            if not ends_an_epoch(loaded):
                raise ValueError(f"{path}: was saved within an epoch")
        except (ValueError, KeyError, TypeError) as error:
            is_ours = isinstance(error, ValueError)
            damage.append(str(error) if is_ours else f"{path}: its content is damaged")
            continue
        check_same_run(path, loaded["record"], identity)
        read_rows(folder / "metrics.csv", found.step)
        if damage:
            log.warning("%s; resuming after epoch %d", damage[0], loaded["record"]["epoch"] + 1)
        return found
    raise ValueError(f"{'; '.join(damage)}; overwrite=true trains again")


def check_same_run(path: Path, record: dict[str, Any], identity: Identity) -> None:
    """Raise a ValueError if a checkpoint's record is of a run with other settings than this one."""
    theirs = {key: value for key, value in flatten(record["config"]).items() if is_setting(key)}
    files = [key for key, value in identity.settings.items() if value == "(file)"]
    same = {key: identity.settings[key] for key in ("epochs", *files)}  # may differ
    changes = identity.changes(theirs | same)
    if changes:
        raise ValueError(
            f"{path}: is of another run: {', '.join(changes.values())}; put its own file "
            "back, or overwrite=true trains again"
        )


def identify(cfg: DictConfig, fingerprint: str | None) -> Identity:
    """What makes a run the one that it is.

    Args:
        cfg: as composed.
        fingerprint: of its data.
    """
    config, files = read_settings(cfg)
    names = ["commands.train", *targets(config)]
    for key in ("scorer.checkpoint", "judge.checkpoint"):
        record = read_checkpoint(files[key])[1] if key in files else None
        names += targets(record.net) if record is not None else ()
    return Identity(config, files, code_files(names), fingerprint, derived_keys(cfg))


def build_trainer(cfg: DictConfig) -> L.Trainer:
    """The Lightning trainer, without loggers, which come when the run is known to start."""
    ranks, num_nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    if HydraConfig.get().mode == RunMode.MULTIRUN and (ranks, num_nodes) != (1, 1):
        raise ValueError(
            f"trainer.devices={ranks} in a multirun by this launcher: every rank would run the "
            "whole sweep; hydra/launcher=pool starts each job in a process of its own"
        )
    if cfg.trainer.get("strategy") == "ddp" and "scales" in (cfg.get("net") or {}):
        # A step trains one branch; DDP would wait for the gradients of the others.
        cfg.trainer.strategy = "ddp_find_unused_parameters_true"
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c is not None]
    shown = cfg.callbacks.get("progress") is not None  # else Lightning adds one of its own
    trainer: L.Trainer = instantiate(
        cfg.trainer, callbacks=callbacks, logger=False, enable_progress_bar=shown
    )
    trainer.strategy.checkpoint_io = WholeFiles()
    if trainer.world_size > 1:
        # Gloo's threads need the interpreter to put down their last work. One that asks for it when
        # it is gone aborts the process, whatever that has come to (PyTorch issue 190489).
        atexit.register(time.sleep, 0.2)
    return trainer


def read_settings(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that this run reads, and its input files by key."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    files = {"init_from": config["init_from"]}
    if config["init_from"] == "official":
        files = {"init_from": str(official_file(cfg))}
    unread = not_read(cfg)  # runs that differ in nothing else are the same run
    if not trains_scorer(cfg):
        if "scale" in unread:
            config["scale"] = None
        for name in ("scorer", "mode", "warmup", "score_always"):
            if f"model.loss.{name}" in unread:
                config["model"]["loss"].pop(name, None)
        if "scorer" in unread:
            del config["scorer"]
        else:
            files["scorer.checkpoint"] = config["scorer"]["checkpoint"]
            config["scorer"] = {"checkpoint": config["scorer"]["checkpoint"]}
        files["judge.checkpoint"] = config["judge"]["checkpoint"]
    else:
        del config["scorer"]["checkpoint"], config["model"]["net"]["checkpoint"], config["judge"]
        package = BACKBONES[cfg.scorer.backbone].package
        if cfg.scorer.pretrained != "imagenet":
            files["scorer.pretrained"] = cfg.scorer.pretrained
        elif package is not None:
            files["scorer.pretrained"] = str(packaged(cfg.scorer.backbone, package))
    files = {key: path for key, path in files.items() if path is not None}
    return {str(key): value for key, value in config.items()}, files


def fit(
    cfg: DictConfig,
    trainer: L.Trainer,
    datamodule: ShardedDataModule,
    folder: Path,
    state: State,
    identity: Identity,
    earlier: Earlier | None,
) -> None:
    """Build the module, resume from a checkpoint if there is one, and write the result."""
    L.seed_everything(cfg.seed, verbose=False)
    spec = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(spec, dict)
    if trains_scorer(cfg):
        spec["net"].pop("checkpoint", None)
    if cfg.init_from is not None or earlier is not None:
        spec["net"].pop("pretrained", None)  # all weights come from there
    module: L.LightningModule = instantiate(
        spec, _convert_="all"
    )  # no ListConfig may reach a checkpoint
    if cfg.init_from is not None:
        path = identity.files["init_from"]
        if cfg.init_from == "official":
            log.info("init_from=official: %s", path)
        start_from(module.net, path)  # type: ignore[arg-type]
        module.constant_start = False  # type: ignore[assignment]  # its head knows more
    module.optimizer(list(module.net.parameters()))  # type: ignore[operator, union-attr]
    about = {
        "kind": "scorer" if trains_scorer(cfg) else "enhancer",
        "net": {name: value for name, value in spec["net"].items() if name not in NOT_ARGUMENTS},
        "data": datamodule.description,
        "gamma": cfg.gamma,
        "config": identity.config,
        "config_hash": identity.config_hash,
        "version": VERSION,
    }
    about["net"]["_target_"] = spec["net"]["_target_"]
    record = Record.parse(about, "this training")
    check_monitor(checkpoint_of(trainer).monitor or "", module.metric_names())  # type: ignore[operator]
    check_rebuilt(module.net, record, cfg.trusted)  # type: ignore[arg-type]
    if not trains_scorer(cfg) and "scales" not in cfg.net:
        at_scale(module.net, cfg.scale)  # type: ignore[arg-type]  # a class may have one of its own
    if trainer.is_global_zero:  # nothing is touched before everything could be built
        start(folder, state, identity, cfg)
    writer = WriteRecord(record, earlier.seconds if earlier else 0.0)
    progress = ProgressFile(folder / "progress.json", checkpoint_of(trainer).monitor or "")
    trial = TrialCheckpoint(folder / "checkpoints")
    mine = [FreshMetrics(), AtOnce(), LogEachEpoch(), progress, writer, trial]
    trainer.callbacks += mine  # type: ignore[attr-defined]
    trainer.loggers = build_loggers(cfg, folder, identity, earlier.step if earlier else 0)
    verb = "continuing" if earlier else "training"
    log.info("%s in %s: %s", verb, folder, datamodule.description)
    if not trains_scorer(cfg) and cfg.gamma and cfg.judge.checkpoint is not None:
        paths = (cfg.scorer.checkpoint, cfg.judge.checkpoint)
        scorer, judge = (read_checkpoint(path)[1] for path in paths)
        assert scorer is not None  # they are loaded already
        assert judge is not None
        for line in dependence(scorer, judge):
            log.info("%s", line)
    resumed = earlier.path if earlier else None
    trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)
    if trainer.is_global_zero:
        write_result(trainer, folder, identity, writer)
        log_best(trainer, folder)


def check_monitor(monitor: str, known: Collection[str] | None) -> None:
    """Raise a ValueError if the metric that chooses the best epoch will not be there.

    Args:
        monitor: its name.
        known: the metrics of validation, without `val/`; None where any may come.
    """
    name = monitor.removeprefix("val/")
    if known is None or monitor.startswith("train/") or is_baseline(name):
        return
    if name == monitor or name not in known:
        raise ValueError(
            f"callbacks.checkpoint.monitor={monitor}: no such metric; there are "
            f"{', '.join(f'val/{metric}' for metric in sorted(known))}"
        )


def check_rebuilt(network: nn.Module, record: Record, trusted: Sequence[str]) -> None:
    """Build the network a second time, as from a checkpoint, while nothing is lost yet.

    Raises:
        ValueError: if that gives no such network.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            build_network(record.net, trusted, state=network.state_dict())
        check_kind(network, record)
    except ValueError as error:
        raise ValueError(f"its checkpoints could not be loaded again: {error}") from error


def official_file(cfg: DictConfig) -> Path:
    """The published weights of the network that is configured."""
    net = cfg.net
    scale = tuple(net.scales) if "scales" in net else cfg.scale
    name = net._target_.rpartition(".")[2]
    return fetch_official(name, net.get("num_blocks"), net.get("num_features"), scale)


def start_from(network: nn.Module, path: str) -> None:
    """Loads the weights of `init_from`.

    An EDSR of another scale gives all but the upsampler, as x3 and x4 start in its paper.

    Raises:
        ValueError: if they are of another network; says which.
    """
    state, record = read_checkpoint(path)
    if isinstance(network, EDSR):
        own, theirs = (split_upsampler(weights) for weights in (network.state_dict(), state))
        if shapes(own[0]) != shapes(theirs[0]) and shapes(own[1]) == shapes(theirs[1]):
            state = theirs[1] | own[0]
            log.info("%s is of another scale: the upsampler starts anew", path)
    try:
        load_weights(network, state, path)
    except ValueError as error:
        if record is None:
            raise
        held = f"a {record.kind}, {record.backbone}"
        raise ValueError(f"init_from={error}; the file holds {held}") from error


def split_upsampler(state: Weights) -> tuple[Weights, Weights]:
    """The upsampler of an EDSR, and the rest."""
    upsampler = {name: value for name, value in state.items() if name.startswith("tail.0.")}
    return upsampler, {name: value for name, value in state.items() if name not in upsampler}


def shapes(state: Weights) -> dict[str, torch.Size]:
    """The shape of every tensor."""
    return {name: value.shape for name, value in state.items()}


def build_loggers(cfg: DictConfig, folder: Path, identity: Identity, first_step: int) -> list[Any]:
    """metrics.csv, and the loggers that were asked for."""
    loggers: list[Any] = [RunCSV(folder, first_step)]
    about = provenance(cfg)
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
    """The scales of an enhancer: `x2`, or `x2-x3-x4` of MDSR; None of a scorer."""
    if not cfg.get("net"):
        return None
    return "-".join(f"x{scale}" for scale in cfg.net.get("scales", [cfg.scale]))


def wandb_run(cfg: DictConfig, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """How a run is found in W&B, and found again when it goes on."""
    choices = about["choices"]
    tags = [choices.get("net"), scales_tag(cfg), choices.get("scorer")]
    run = read_json(folder / "run.json") or {}
    save_dir = folder.absolute()  # its service may have been started elsewhere
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
    """Where W&B keeps a table's pictures until `wandb sync`: here, not in the user's home."""
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
    """Ends the W&B run, else the next run of the process would write into it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def write_result(trainer: L.Trainer, folder: Path, identity: Identity, writer: WriteRecord) -> None:
    """result.json: the metrics of the best checkpoint, and everything needed to make it again."""
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
    finish(
        folder,
        identity,
        record["metrics"],
        warnings=[w for c in trainer.callbacks if isinstance(c, Watch) for w in c.warnings],  # type: ignore[attr-defined]
        monitor=checkpoint.monitor,
        best_epoch=record["epoch"] + 1,
        checkpoint=str(best.relative_to(folder)),
        data=record["data"],
        num_parameters=sum(p.numel() for p in net.parameters()),
        seed=identity.config["seed"],
        epochs=trainer.current_epoch,
        device=str(trainer.strategy.root_device),
        world_size=trainer.world_size,
        wall_time_s=round(writer.elapsed(), 1),
    )


def log_best(trainer: L.Trainer, folder: Path) -> None:
    """Tells W&B and TensorBoard the metrics of the best checkpoint, as `best/val/psnr` and so on.

    In W&B they are in the run's summary, where those without `best/` are of the last epoch.
    """
    result = read_json(folder / "result.json")
    assert result is not None
    metrics = {
        f"best/{name}": value
        for name, value in {**result["metrics"], "epoch": result["best_epoch"]}.items()
        if value is not None and (name.startswith("val/") or name == "epoch")
    }
    for logger in trainer.loggers:
        if not isinstance(logger, RunCSV):
            logger.log_metrics(metrics, step=last_step(trainer))


def checkpoint_of(trainer: L.Trainer) -> Checkpoints:
    """Return the callback that keeps best.ckpt and last.ckpt."""
    return next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]


def report(folder: Path) -> float | None:
    """Prints the result of a finished run and returns its main metric."""
    result = read_json(folder / "result.json")
    assert result is not None
    title = f"epoch {result['best_epoch']} of {result['epochs']}, the best by {result['monitor']}"
    metrics = {
        name.removeprefix("val/"): value
        for name, value in result["metrics"].items()
        if name.startswith("val/") and name != "val/loss"
    }
    log.info("\n%s", metrics_table(title, metrics))
    log.info("data: %s", result["data"])
    log.info("%s", folder / "result.json")
    log.info("%s", folder / result["checkpoint"])
    value = result["metrics"].get(result["monitor"])
    return None if value is None else float(value)

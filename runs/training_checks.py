"""Check the configuration of a training before it starts."""

import os
import re
from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from configuration.hints import nearest
from configuration.model_kind import trains_scorer
from configuration.parsing import plain
from configuration.signatures import locate
from configuration.trust import rebuild_problems
from lightning_modules.checkpoint import read_record
from lightning_modules.compiling import WITH_GRAPHS
from lightning_modules.losses import AUTO, build_term
from lightning_modules.record import degradation_summary
from lightning_modules.scorer_views import VIEWS
from lightning_modules.trainable import last_layers, no_tail
from networks.views import VIEW_ARGUMENTS
from runs.identity import uses_scorer
from runs.requirements import require_file, require_kind
from system.places import program

CHECKPOINTS = "${paths.run_dir}/checkpoints"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # weights and metrics are float32 in all


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that neither types nor signatures reveal."""
    yield from file_problems(cfg)
    yield from rebuild_problems(cfg)
    yield from data_problems(cfg)
    yield from trainer_problems(cfg)
    yield from callback_problems(cfg)
    yield from length_problems(cfg)
    yield from batch_problems(cfg)
    yield from scorer_problems(cfg) if trains_scorer(cfg) else enhancer_problems(cfg)


def file_problems(cfg: DictConfig) -> Iterator[str]:
    """Check what the files of `init_from` and of the judge are; that they exist is known."""
    if cfg.init_from == "official" and trains_scorer(cfg):
        yield "init_from=official: is for enhancers; scorer.pretrained=imagenet starts a scorer"
    if cfg.judge.checkpoint is not None:
        yield from check_is_scorer("judge.checkpoint", cfg.judge.checkpoint)


def data_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that the data set suits the kind of network and has a training split."""
    wanted = "rated" if trains_scorer(cfg) else "pairs"
    yield from require_kind(cfg, wanted)
    data, _ = locate(cfg.data._target_)
    if data.kind == wanted and not data.trains:
        yield f"data: {data.__name__} has no photos to train on; it is for evaluate"
    if cfg.data.get("train_hr", "") is None:
        yield "data.train_hr=null: there are no photos to train on"


def trainer_problems(cfg: DictConfig) -> Iterator[str]:
    """Check accelerator, precision, gradient clipping and optimizer."""
    if cfg.trainer.accelerator not in ("cpu", "gpu"):
        yield f"trainer.accelerator={cfg.trainer.accelerator}: cpu or gpu"
    if cfg.trainer.precision not in PRECISIONS:
        yield f"trainer.precision={cfg.trainer.precision}: {', '.join(PRECISIONS)}"
    if cfg.trainer.precision == "16-mixed" and cfg.trainer.accelerator == "cpu":
        yield "trainer.precision=16-mixed: needs a GPU; a CPU has bf16-mixed"
    clip = cfg.trainer.gradient_clip_val
    if isinstance(clip, int | float) and clip <= 0:
        yield f"trainer.gradient_clip_val={clip}: above 0, or null for none"
    if cfg.optim.optimizer.get("_partial_") is False:
        yield "optim.optimizer._partial_=false: true, because the network's parameters come later"


def callback_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that required callbacks are present and that none belongs to the other kind."""
    yield from check_callbacks(cfg)
    for name in ("checkpoint", "reseed"):
        if cfg.callbacks.get(name) is None:
            yield f"callbacks.{name}=null: without it a run could not be continued exactly"
    yield from check_checkpoint(cfg.callbacks.get("checkpoint"))


def length_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the numbers of epochs and batches, and the interval between validations."""
    if cfg.trainer.max_epochs != cfg.epochs:
        yield f"trainer.max_epochs={cfg.trainer.max_epochs}: set epochs={cfg.trainer.max_epochs}"
    for name in ("limit_train_batches", "limit_val_batches"):
        if cfg.trainer[name] == 0:
            yield f"trainer.{name}=0: there would be nothing to train or to compare"
    every = cfg.trainer.get("check_val_every_n_epoch", 1)
    if isinstance(every, int) and cfg.epochs >= 1 and not 1 <= every <= cfg.epochs:
        yield (
            f"trainer.check_val_every_n_epoch={every}: from 1 to epochs={cfg.epochs}, else nothing "
            "is validated"
        )
    interval = cfg.trainer.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        yield f"trainer.val_check_interval={interval}: above 0"


def batch_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that the global batch size can be divided among ranks and accumulated batches."""
    ranks = cfg.trainer.devices
    if ranks == -1:
        ranks = max(1, torch.cuda.device_count())
    ranks = (ranks if isinstance(ranks, int) else 1) * cfg.trainer.get("num_nodes", 1)
    parts = max(1, ranks) * max(1, cfg.trainer.accumulate_grad_batches)
    if cfg.trainer.accumulate_grad_batches < 1 or ranks < 1 or cfg.data.batch_size < 1:
        yield "trainer.devices, trainer.accumulate_grad_batches, data.batch_size: 1 or more each"
    elif cfg.data.batch_size % parts:
        yield (
            f"data.batch_size={cfg.data.batch_size}: is for all ranks and must be divisible by "
            f"{parts} (trainer.devices x trainer.num_nodes x trainer.accumulate_grad_batches)"
        )
    if cfg.model.compile in WITH_GRAPHS and cfg.trainer.accumulate_grad_batches > 1:
        yield (
            f"model.compile={cfg.model.compile}: CUDA graphs overwrite the gradients of a batch "
            "with the next ones, so trainer.accumulate_grad_batches=1 goes with it, or "
            "model.compile=true"
        )


def scorer_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the settings that only the training of a scorer has."""
    for name in ("num_buckets", *VIEW_ARGUMENTS):
        if name in cfg.data and cfg.data[name] != cfg.scorer[name]:
            yield f"data.{name}={cfg.data[name]}: set scorer.{name}, which the data follow"
    if cfg.scorer.pretrained not in (None, "imagenet"):
        yield from require_file("scorer.pretrained", cfg.scorer.pretrained)
    if cfg.scorer.checkpoint is not None:
        yield "scorer.checkpoint is for the loss of enhancers; init_from= starts from a scorer"


def enhancer_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the settings that only the training of an enhancer has."""
    if cfg.net is None:
        yield "net=null: an enhancer needs a network"
    elif "scales" not in cfg.net and cfg.net.get("scale", cfg.scale) != cfg.scale:
        yield f"net.scale={cfg.net.scale}: set scale, which data and network follow"
    elif cfg.gamma is None or (cfg.scale is None and "scales" not in cfg.net):
        yield f"gamma={cfg.gamma} scale={cfg.scale}: an enhancer needs both"
    elif cfg.scale == 1 and "scales" not in cfg.net and undegraded(cfg):
        yield (
            "scale=1: set data.degradation.blur, .noise or .jpeg, or data.degradation=realistic "
            "or tone; otherwise LR equals HR"
        )
    elif "scale" in cfg.data and cfg.data.scale != cfg.net.get("scales", cfg.scale):
        yield f"data.scale={cfg.data.scale}: set scale, which data and network follow"
    elif cfg.net._target_.endswith(".Bicubic"):
        yield "net=bicubic has nothing to train; evaluate compares every network with it"
    else:
        yield from loss_problems(cfg)
        yield from part_problems(cfg)


def part_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that what is not trained has weights, and that the network has the part that is."""
    part = cfg.model.get("train", "all")
    network_class, _ = locate(cfg.net._target_)
    if part == "tail" and not last_layers(network_class):
        yield no_tail(network_class.__name__)
    elif part in ("tail", "lora") and cfg.init_from is None:
        yield (
            f"model.train={part}: needs init_from=FILE, or official, with the weights of what is "
            "not trained"
        )


def loss_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the terms of the loss, and the files of its scorers."""
    loss = cfg.get("loss") or {}
    terms = {str(name): term for name, term in loss.items() if term is not None}
    aesthetic = terms.get("aesthetic")
    if not any(term.get("weight", 1) for term in terms.values()):
        yield f"loss=[{','.join(terms)}]: no term has a weight above 0"
    for name, term in terms.items():
        if "_target_" not in term:
            yield f"loss.{name}: needs a _target_, the dotted name of its class or function"
        elif name != "aesthetic" and str(term._target_).endswith(".AestheticLoss"):
            yield from require_scorers(f"loss.{name}.scorer", term.get("scorer"))
        if str(term.get("_target_")).endswith(".AestheticLoss"):
            yield from view_problems(f"loss.{name}.views", term.get("views"))
    if aesthetic is None:
        if cfg.gamma != 0:
            yield (
                f"gamma={cfg.gamma}: loss=[{','.join(terms)}] has no aesthetic term to weigh; "
                "add it, or set gamma=0"
            )
    elif aesthetic.get("weight", 1) != cfg.gamma:
        yield f"loss.aesthetic.weight={aesthetic.get('weight')}: set gamma, which it follows"
    elif cfg.gamma == AUTO and not any(
        term.get("weight", 1) for name, term in terms.items() if name != "aesthetic"
    ):
        yield f"gamma=auto: loss=[{','.join(terms)}] has no other term to have a share beside"
    elif not uses_scorer(cfg):
        pass  # its file is not read
    elif cfg.scorer.checkpoint is None:
        what, instead = f"gamma={cfg.gamma}", "gamma=0"
        if cfg.gamma == 0:
            what, instead = ("loss.aesthetic.score_always" + end for end in ("", "=false"))
        yield f"{what} needs a scorer: give scorer.checkpoint=FILE, or {instead}"
    elif aesthetic.get("scorer") != cfg.scorer.checkpoint:
        yield f"loss.aesthetic.scorer={aesthetic.scorer}: set scorer.checkpoint, which it follows"
    else:
        yield from require_scorers("scorer.checkpoint", cfg.scorer.checkpoint)


def view_problems(key: str, names: object) -> Iterator[str]:
    """Find unknown views of patches; other values are checked against their type."""
    for name in names if isinstance(names, ListConfig) else ():
        if isinstance(name, str) and name not in VIEWS:
            yield f"{key}: {name}: no such view{nearest(name, VIEWS)}"


def machine_problems(cfg: DictConfig) -> Iterator[str]:
    """Find mistakes that matter only if the training runs on this machine, not on a cluster."""
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        yield "trainer: no GPU that PyTorch can use on this machine; trainer=cpu needs none"
    if cfg.trainer.get("plugins") is not None and "SLURM_PROCID" not in os.environ:
        yield "trainer=slurm: is for ranks that SLURM starts, by -m hydra/launcher=slurm or by srun"


def term_problems(cfg: DictConfig) -> Iterator[str]:
    """Try the terms of the loss that need no scorer on a patch.

    Only they know whether their weights are there, and whether a gradient reaches the image.
    """
    if trains_scorer(cfg):
        return
    side = cfg.data.get("patch_size", 48) * max(cfg.net.get("scales", [cfg.scale or 0]))
    if side < 1:
        return  # reported elsewhere
    for name, settings in plain(cfg.loss).items():
        target = settings.get("_target_", ".AestheticLoss") if isinstance(settings, dict) else ""
        if not target or target.endswith(".AestheticLoss"):
            continue
        try:
            term = build_term(name, settings)  # type: ignore[arg-type]
            sr, hr = torch.rand(2, 1, 3, side, side).unbind()
            if term is not None and not term(sr.requires_grad_(), hr).requires_grad:
                yield f"loss.{name}: its value does not depend on the SR image"
        except Exception as error:  # a term of the user's own may raise what it likes
            text = str(error).partition("\n")[0]
            yield text if text.startswith("loss.") else f"loss.{name}: {text}"


def undegraded(cfg: DictConfig) -> bool:
    """Return whether LR photos are made from HR without any degradation."""
    degradation = cfg.data.get("degradation")
    given = cfg.data.get("train_lr") or cfg.data.get("root")
    return (
        degradation is not None and not given and not any(degradation_summary(degradation).values())
    )


def check_callbacks(cfg: DictConfig) -> Iterator[str]:
    """Yield a problem if the callbacks belong to the other kind of training."""
    other, choice = (
        ("BeforeAfter", "nima") if trains_scorer(cfg) else ("RatingPictures", "enhancement")
    )
    targets = [node._target_ for node in cfg.callbacks.values() if node is not None]
    if any(str(target).endswith(f".{other}") for target in targets):
        yield f"callbacks: {other} goes with another model; callbacks={choice} goes with this one"


def check_checkpoint(node: DictConfig | None) -> Iterator[str]:
    """Check the callback that writes best.ckpt and last.ckpt."""
    if node is None:
        return
    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    where, name = plain.get("dirpath", CHECKPOINTS), plain.get("monitor", "val/psnr")
    if where != CHECKPOINTS:
        yield (
            f"callbacks.checkpoint.dirpath={where}: checkpoints are part of the run folder; "
            "paths.output_dir= is where run folders are"
        )
    if not re.search("[a-z]", str(name), re.IGNORECASE):
        yield f"callbacks.checkpoint.monitor={name}: should be a metric, such as val/psnr"


def check_is_scorer(key: str, path: str) -> Iterator[str]:
    """Yield a problem unless a file is the checkpoint of a scorer."""
    try:
        record = read_record(path)
    except ValueError as error:
        yield f"{key}={error}"
        return
    if record is None or record.kind != "scorer":
        yield f"{key}={path}: not a scorer"


def reads_scorer(cfg: DictConfig) -> bool:
    """Return whether this trains an enhancer that needs the file of a scorer."""
    return not trains_scorer(cfg) and uses_scorer(cfg)


def typed_problems(cfg: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """Find typed overrides of `scorer` that contradict the file of the scorer.

    Args:
        cfg: the configuration.
        words: the overrides as typed; settings of an experiment silently yield to the file.
    """
    typed = {word.partition("=")[0].lstrip("+") for word in words}
    if not reads_scorer(cfg) or not any(key.partition(".")[0] == "scorer" for key in typed):
        return
    path = cfg.scorer.checkpoint
    if not isinstance(path, str) or list(require_scorers("scorer.checkpoint", path)):
        return  # reported by `problems`
    record = read_record(path)
    assert record is not None
    if "scorer" in typed and record.backbone != cfg.scorer.backbone:
        yield (
            f"scorer.checkpoint={path}: a {record.backbone}, but scorer={cfg.scorer.backbone} was "
            f"asked for; omit scorer=, or train one: {program()} experiment=sample_nima "
            f"scorer={cfg.scorer.backbone}"
        )
    for name, value in record.net.items():
        given = cfg.scorer.get(name)
        if f"scorer.{name}" in typed and given != value:
            yield f"scorer.{name}={given}: {path} has {value}; leave scorer.{name}= out"


def require_scorers(key: str, given: str | ListConfig | None) -> Iterator[str]:
    """Yield a problem for each file of the scorers in a loss that is missing or not a scorer."""
    if isinstance(given, ListConfig) and not given:
        yield f"{key}=[]: one scorer or more"
    for path in given if isinstance(given, ListConfig) else [given]:
        missing = list(require_file(key, path))
        yield from missing or check_is_scorer(key, str(path))

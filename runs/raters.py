"""Load the scorers that rate results, and find the judges that are not independent of a loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import nn

from configuration.parsing import flatten
from lightning_modules.checkpoint import load_network, read_record
from lightning_modules.independence import shared
from lightning_modules.metric_catalogue import JUDGE, ImageMetric
from lightning_modules.record import Record
from networks.nima import NIMA
from networks.views import VIEW_ARGUMENTS
from runs.measuring_options import judges_of
from system.places import expanded

# Networks of LPIPS as loss terms name them, and as metrics do.
LPIPS_NETS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def view_of(cfg: DictConfig, who: str) -> dict[str, Any]:
    """Return the given settings of how a scorer or judge resizes and crops photos."""
    return {name: cfg[who][name] for name in VIEW_ARGUMENTS if cfg[who].get(name) is not None}


def class_names(loaded: list[tuple[nn.Module, Record]], raters: dict[str, "Rater"]) -> list[str]:
    """Return the full class names of networks and raters."""
    records = [record for _, record in loaded] + [rater.record for rater in raters.values()]
    return [str(record.net["_target_"]) for record in records]


def rater_files(cfg: DictConfig) -> dict[str, str]:
    """Return the checkpoints of scorer, judge and judges by key."""
    keys = ("scorer.checkpoint", "judge.checkpoint")
    found = {key: OmegaConf.select(cfg, key) for key in keys}
    found |= {f"judges.{name}": path for name, path in judges_of(cfg).items()}
    return {key: path for key, path in found.items() if path is not None}


def load_raters(cfg: DictConfig) -> dict[str, "Rater"]:
    """Load the scorer and the judges that are configured, by the names of their scores."""
    names = {"scorer.checkpoint": "score", "judge.checkpoint": "score_judge"}
    raters = {}
    for who in ("scorer", "judge"):
        given = view_of(cfg, who)
        if given and cfg[who].checkpoint is None:
            words = " ".join(f"{who}.{name}={value}" for name, value in given.items())
            raise ValueError(f"{words}: has no effect: {who}.checkpoint is null")
    for key, path in rater_files(cfg).items():
        try:
            net, record = load_network(path, "scorer", cfg.trusted)
        except ValueError as error:
            raise ValueError(f"{key}={error}") from error
        assert isinstance(net, NIMA)
        who, _, name = key.partition(".")
        if who == "judges":  # by its own view
            raters[JUDGE + name] = Rater(net, record, path, {})
            continue
        given = cfg[who]
        buckets = given.get("num_buckets")
        if buckets not in (None, net.num_buckets):
            raise ValueError(f"{who}.num_buckets={buckets}, but {path} has {net.num_buckets}")
        view = view_of(cfg, who)
        try:
            net.set_view(**view)
        except ValueError as error:
            raise ValueError(f"{who}.{error}") from error
        raters[names[key]] = Rater(net, record, path, view)
    return raters


class Rater(NamedTuple):
    """A scorer with its record, its file, and the view settings that replace the file's own."""

    net: NIMA
    record: Record
    path: str
    view: dict[str, Any]


def dependent_judges(
    record: Record, raters: Mapping[str, Rater], about: Mapping[str, ImageMetric]
) -> dict[str, str]:
    """Return the judges that share ratings, a teacher or a backbone with a network's loss.

    Args:
        record: of an enhancer. If it does not name the scorers in its loss, or these files are
            gone, `score` stands for them.
        raters: scorer and judges by name.
        about: image metrics by name, of which perceptual distances are judges.

    Returns:
        The reasons by judge.
    """
    scorers = loss_scorers(record)
    if scorers is None:
        scorers = [raters["score"].record] if "score" in raters else []
    reasons: dict[str, list[str]] = {
        name: [text for scorer in scorers for text in shared(scorer, rater.record)]
        for name, rater in raters.items()
        if name != "score"
    }
    backbones = {scorer.backbone for scorer in scorers} | term_backbones(record)
    for name, metric in about.items():
        if metric.backbone:
            reasons[name] = ["backbone"] * (metric.backbone in backbones)
    return {
        name: f"shares {' and '.join(dict.fromkeys(texts))} with the loss"
        for name, texts in reasons.items()
        if texts
    }


def loss_scorers(record: Record) -> list[Record] | None:
    """Return the records of the scorers in a network's loss; None if they cannot be read."""
    if record.config is None:
        return None
    config: dict[str, Any] = dict(record.config)
    parts = {key: config.get(key) for key in ("scorer", "loss")}
    values = [v for value in flatten(parts).values() for v in listed(value)]
    paths = dict.fromkeys(v for v in values if Path(v).suffix in (".ckpt", ".safetensors"))
    found = []
    for path in paths:
        if not expanded(path).is_file():
            return None
        scorer = read_record(path)
        if scorer is not None and scorer.kind == "scorer":
            found.append(scorer)
    return found


def term_backbones(record: Record) -> set[str]:
    """Return the networks whose features the terms of a loss compare."""
    config: dict[str, Any] = dict(record.config or {})
    found = set()
    for term in (config.get("loss") or {}).values():
        target = str(term.get("_target_", "")).rpartition(".")[2]
        if term.get("weight") == 0:
            continue
        if target == "LPIPS":
            found.add(LPIPS_NETS.get(str(term.get("net")), ""))
        elif target == "DISTS":
            found.add("vgg16")
        elif target == "FeatureLoss":
            found.add(str(term.get("backbone")))
    return found


def listed(value: object) -> list[str]:
    """Return the texts in a value or list of values."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]

"""Scorers that rate results: the one in the loss and the judge."""

from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_modules.checkpoint import load_network
from lightning_modules.record import Record
from networks.nima import NIMA, VIEW_ARGUMENTS


def view_of(cfg: DictConfig, who: str) -> dict[str, Any]:
    """How scorer or judge are to look at photos, as far as it was given."""
    return {name: cfg[who][name] for name in VIEW_ARGUMENTS if cfg[who].get(name) is not None}


def class_names(loaded: list[tuple[nn.Module, Record]], raters: dict[str, "Rater"]) -> list[str]:
    """Full names of the classes of networks and raters."""
    records = [record for _, record in loaded] + [rater.record for rater in raters.values()]
    return [str(record.net["_target_"]) for record in records]


def rater_files(cfg: DictConfig) -> dict[str, str]:
    """The checkpoints of scorer and judge by their keys."""
    keys = ("scorer.checkpoint", "judge.checkpoint")
    found = {key: OmegaConf.select(cfg, key) for key in keys}
    return {key: path for key, path in found.items() if path is not None}


def load_raters(cfg: DictConfig) -> dict[str, "Rater"]:
    """Scorer and judge, as far as there are any, by the names of their scores."""
    names = {"scorer.checkpoint": "score", "judge.checkpoint": "score_judge"}
    raters = {}
    for who in ("scorer", "judge"):
        given = view_of(cfg, who)
        if given and cfg[who].checkpoint is None:
            words = " ".join(f"{who}.{name}={value}" for name, value in given.items())
            raise ValueError(f"{words}: nobody looks, since {who}.checkpoint=null")
    for key, path in rater_files(cfg).items():
        try:
            net, record = load_network(path, "scorer", cfg.trusted)
        except ValueError as error:
            raise ValueError(f"{key}={error}") from error
        assert isinstance(net, NIMA)
        who = key.partition(".")[0]
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
    """A scorer that rates the images, its record, where it comes from and how it sees them."""

    net: NIMA
    record: Record
    path: str
    view: dict[str, Any]  # what was asked for instead of the file's own

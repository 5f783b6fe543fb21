"""Load the scorers that rate results: scorer and judge."""

from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_modules.checkpoint import load_network
from lightning_modules.record import Record
from networks.nima import NIMA
from networks.views import VIEW_ARGUMENTS


def view_of(cfg: DictConfig, who: str) -> dict[str, Any]:
    """Return the given settings of how a scorer or judge resizes and crops photos."""
    return {name: cfg[who][name] for name in VIEW_ARGUMENTS if cfg[who].get(name) is not None}


def class_names(loaded: list[tuple[nn.Module, Record]], raters: dict[str, "Rater"]) -> list[str]:
    """Return the full class names of networks and raters."""
    records = [record for _, record in loaded] + [rater.record for rater in raters.values()]
    return [str(record.net["_target_"]) for record in records]


def rater_files(cfg: DictConfig) -> dict[str, str]:
    """Return the checkpoints of scorer and judge by key."""
    keys = ("scorer.checkpoint", "judge.checkpoint")
    found = {key: OmegaConf.select(cfg, key) for key in keys}
    return {key: path for key, path in found.items() if path is not None}


def load_raters(cfg: DictConfig) -> dict[str, "Rater"]:
    """Load the scorer and the judge that are configured, by the names of their scores."""
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
    """A scorer with its record, its file, and the view settings that replace the file's own."""

    net: NIMA
    record: Record
    path: str
    view: dict[str, Any]

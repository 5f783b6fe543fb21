"""Start a training from the weights of another."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from lightning_modules.checkpoint import load_network, read_checkpoint
from networks.edsr import EDSR
from networks.pretrained import fetch_official
from networks.spandrel_net import SpandrelNet
from networks.weights import load_weights
from system.terminal import printable

log = logging.getLogger(__name__)


Weights = dict[str, torch.Tensor]


def official_file(cfg: DictConfig) -> Path:
    """Return the file of the published weights of the configured network."""
    net = cfg.net
    scale = tuple(net.scales) if "scales" in net else cfg.scale
    name = net._target_.rpartition(".")[2]
    return fetch_official(name, net.get("num_blocks"), net.get("num_features"), scale)


def start_from(network: nn.Module, path: str) -> None:
    """Load the weights of `init_from`.

    From an EDSR of another scale, everything but the upsampler is loaded, as in the paper. Files of
    others are read as spandrel does, which also renames the weights of older training codes.

    Raises:
        ValueError: if they belong to another network.
    """
    state, record = read_checkpoint(path)
    if isinstance(network, SpandrelNet) and record is None:
        theirs, record = load_network(path, "enhancer", scale=network.scale)
        state = theirs.state_dict()
    if isinstance(network, EDSR):
        own, given = (split_upsampler(weights) for weights in (network.state_dict(), state))
        if shapes(own[0]) != shapes(given[0]) and shapes(own[1]) == shapes(given[1]):
            state = given[1] | own[0]
            log.info("%s has another scale: the upsampler is trained from scratch", path)
    try:
        load_weights(network, state, path)
    except ValueError as error:
        if record is None:
            raise
        held = f"a {record.kind}, {record.backbone}"
        if isinstance(network, SpandrelNet) and "options" in record.net:
            held = f"net.arch={record.class_name} scale={record.net['scale']}"
            held += f" net.options={printable(str(record.net['options']))}"
        raise ValueError(f"init_from={error}; the file holds {held}") from error


def split_upsampler(state: Weights) -> tuple[Weights, Weights]:
    """Split an EDSR's weights into those of the upsampler and the rest."""
    upsampler = {name: value for name, value in state.items() if name.startswith("tail.0.")}
    return upsampler, {name: value for name, value in state.items() if name not in upsampler}


def shapes(state: Weights) -> dict[str, torch.Size]:
    """Return the shape of every tensor."""
    return {name: value.shape for name, value in state.items()}

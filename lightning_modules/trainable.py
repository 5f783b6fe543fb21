"""Train all of a network, its last layers, or low-rank adapters."""

import logging
from typing import Literal

from torch import Tensor, nn

from networks.lora import RAW, adapted, add_adapters, raw_parameters
from networks.weights import State, name_of

log = logging.getLogger(__name__)

Part = Literal["all", "tail", "lora"]
PLACE = "lora."  # of the adapters in a LightningModule's state dict, beside `net.`


def train_part(net: nn.Module, part: Part, rank: int, alpha: float) -> None:
    """Freeze what is not trained.

    Args:
        net: the network.
        part: `tail` are the modules that the class lists as `last_layers`; `lora` is adapters.
        rank: of the adapters.
        alpha: see `networks.lora.LowRank`.

    Raises:
        ValueError: if the network does not list its last layers, or a number is out of its range.
    """
    if part == "lora":
        add_adapters(net, rank, alpha)
    elif part == "tail":
        names = last_layers(type(net))
        if not names:
            raise ValueError(no_tail(name_of(net)))
        net.requires_grad_(False)
        for name in names:
            net.get_submodule(name).requires_grad_()
    if part != "all":
        freeze_batch_norms(net)
        num = sum(p.numel() for p in net.parameters() if p.requires_grad)
        log.info("model.train=%s: %s trained parameters", part, f"{num:,}")


def last_layers(network_class: type) -> tuple[str, ...]:
    """Return the names of the modules after a network's body; none if it does not list them."""
    return tuple(getattr(network_class, "last_layers", ()))


def no_tail(name: str) -> str:
    """Say that a network does not list its last layers."""
    return f"model.train=tail: {name} does not list its last_layers; model.train=all or lora"


def freeze_batch_norms(net: nn.Module) -> None:
    """Keep batch norms from following the photos, which changes a network without training it."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def save_adapters(module: nn.Module) -> None:
    """Have a LightningModule save its network's adapters, too, so that it resumes exactly."""
    module.register_state_dict_post_hook(put)  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(take)  # type: ignore[no-untyped-call]


def put(module: nn.Module, state: State, prefix: str, *_: object) -> None:
    """Add the adapters and what is under them to a state dict, which has the merged weights."""
    for name, layer in adapted(network_of(module)):
        for key, value in raw_parameters(layer).items():
            state[f"{prefix}{PLACE}{name}.{key}"] = value


def take(module: nn.Module, state: State, prefix: str, *_: object) -> None:
    """Take adapters out of a state dict, to be loaded instead of the merged weights."""
    for name, _layer in adapted(network_of(module)):
        keys = {raw: f"{prefix}{PLACE}{name}.{key}" for key, raw in RAW.items()}
        found: dict[str, Tensor] = {raw: state.pop(k) for raw, k in keys.items() if k in state}
        if found:
            del state[f"{prefix}net.{name}.weight"]
            state |= {f"{prefix}net.{name}.{raw}": value for raw, value in found.items()}


def network_of(module: nn.Module) -> nn.Module:
    """Return the network of a LightningModule."""
    return module.get_submodule("net")

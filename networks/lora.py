"""Low-rank adapters: weights `W + alpha / rank * B A`, of which only A and B are trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1. The weight
of a convolution is a matrix with a row for each output channel. B starts at 0, and with it the
network as it was. In state dicts the network has its merged weights and no adapters, so that
whatever reads them needs to know nothing of this.
"""

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from networks.weights import State

# Names of a layer's parameters with an adapter, by short names.
RAW = {
    "base": "parametrizations.weight.original",
    "A": "parametrizations.weight.0.A",
    "B": "parametrizations.weight.0.B",
}


class LowRank(nn.Module):
    """Add a low-rank matrix to a weight.

    Args:
        weight: of a convolution or linear layer.
        rank: rows of A and columns of B, 1 or more.
        alpha: the sum has `alpha / rank` times the product, so that the learning rate need not
            change with the rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, weight[0].numel()))
        self.B = nn.Parameter(torch.zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as the layers themselves
        self.factor = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the merged weight, in float32 whatever the training precision."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.factor * (self.B @ self.A).view_as(weight)


def add_adapters(net: nn.Module, rank: int, alpha: float) -> None:
    """Freeze a network and add an adapter to each convolution and linear layer that was trained.

    Raises:
        ValueError: if a number is out of its range.
    """
    if rank < 1:
        raise ValueError(f"model.lora_rank={rank}: 1 or more")
    if not 0 < alpha < math.inf:
        raise ValueError(f"model.lora_alpha={alpha}: above 0")
    layers = [
        module
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
    ]
    net.requires_grad_(False)
    for layer in layers:
        adapter = LowRank(layer.weight, rank, alpha)
        parametrize.register_parametrization(layer, "weight", adapter)
    net.register_state_dict_post_hook(merge)  # type: ignore[no-untyped-call]
    net.register_load_state_dict_pre_hook(split)  # type: ignore[no-untyped-call]


def adapted(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers that have an adapter, by name."""
    for name, module in net.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            yield name, module


def num_parameters(net: nn.Module) -> int:
    """Count the parameters of a network, without adapters."""
    adapters = [p for m in net.modules() if isinstance(m, LowRank) for p in m.parameters()]
    return sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in adapters)


def merge(net: nn.Module, state: State, prefix: str, *_: object) -> None:
    """Replace the adapters in a network's state dict by the weights that they make."""
    for name, layer in adapted(net):
        for raw in RAW.values():
            del state[f"{prefix}{name}.{raw}"]
        state[f"{prefix}{name}.weight"] = cast(Tensor, layer.weight).detach()


def split(net: nn.Module, state: State, prefix: str, *_: object) -> None:
    """Load plain weights as those under the adapters, which then add nothing."""
    for name, layer in adapted(net):
        weight = state.pop(f"{prefix}{name}.weight", None)
        if weight is not None:
            own = raw_parameters(layer)
            values = {"base": weight, "A": own["A"], "B": torch.zeros_like(own["B"])}
            state |= {f"{prefix}{name}.{RAW[key]}": value for key, value in values.items()}


def raw_parameters(layer: nn.Module) -> State:
    """Return the parameters of a layer with an adapter, by short names."""
    return {key: layer.get_parameter(raw).detach() for key, raw in RAW.items()}

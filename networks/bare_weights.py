"""Weights without a record: unwrap them, and tell our own networks by names and shapes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from networks.scales import SCALES
from networks.weights import State

# Where training codes keep the weights in a file, the first one that is there; EMA weights are
# those that they publish.
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "netG.")  # of DataParallel and of GAN trainings
FULL_WIDTH = 256  # features of the full EDSR, whose residuals are scaled by 0.1

CURVES = {"features.0.weight", "curves.weight", "matrix.weight", "grid.weight"}

Spec = dict[str, object]


def unwrapped(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights inside the content of a file, without the prefixes of trainings."""
    for key in WRAPPERS:
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
            loaded = inner
            break
    names = list(loaded)
    for prefix in PREFIXES:
        if names and all(isinstance(name, str) and name.startswith(prefix) for name in names):
            return {name.removeprefix(prefix): value for name, value in loaded.items()}
    return dict(loaded)


def bare_state(network: nn.Module) -> State:
    """Return the weights by the names that the authors' code gives them."""
    names = network.state_dict()
    return {name.removeprefix("module."): value.cpu() for name, value in names.items()}


def own_network(state: State, scale: int | None) -> Spec | None:
    """Tell which of our networks weights belong to.

    Their names are those of the authors' EDSR and MDSR, so that the published files are ours too.

    Args:
        state: names and tensors.
        scale: for networks that enlarge the image first, whose weights suit any scale.

    Returns:
        Its class and arguments, as in a record; None if it is none of ours.

    Raises:
        ValueError: if the scale is needed and not given.
    """
    if "head.0.weight" in state and "body.0.body.0.weight" in state:
        return edsr(state)
    if "layers.0.weight" in state:
        return on_enlarged(state, scale)
    if state.keys() >= CURVES and all(state[name].ndim > 1 for name in CURVES):
        return curves(state)
    return None


def curves(state: State) -> Spec:
    """Describe a Curves network."""
    return {
        "_target_": "networks.curves.Curves",
        "scale": 1,
        "num_knots": len(state["curves.weight"]) // 3 - 1,
        "num_bins": len(state["grid.weight"]) // 12,
        "num_features": len(state["features.0.weight"]),
    }


def edsr(state: State) -> Spec | None:
    """Describe an EDSR or MDSR; None if it is another network with a similar head and body."""
    head = state["head.0.weight"]
    width = len(head) if head.ndim == 4 else 0
    if width == 0:
        return None
    arguments: Spec = {
        "num_blocks": numbered(state, r"body\.(\d+)\.body\.0\.weight"),
        "num_features": width,
        "res_scale": 0.1 if width >= FULL_WIDTH else 1.0,  # as published; the weights do not say
    }
    if "tail.1.weight" in state:
        scale = upsampling(state, "tail.0.", width)
        spec: Spec = {"_target_": "networks.edsr.EDSR", "scale": scale}
        return None if scale is None else spec | arguments
    if "pre_process.0.0.body.0.weight" not in state:
        return None
    num = numbered(state, r"pre_process\.(\d+)\..*")
    if num > len(SCALES):
        return None
    scales = [upsampling(state, f"upsample.{k}.", width) for k in range(num)]
    return {"_target_": "networks.mdsr.MDSR", "scales": scales} | arguments


def upsampling(state: State, prefix: str, width: int) -> int | None:
    """Return the scale of an upsampler; None if its shapes are not those of one."""
    pattern = rf"{re.escape(prefix)}\d+\.weight"
    found = [value for name, value in state.items() if re.fullmatch(pattern, name)]
    factors = [len(value) / width for value in found if value.ndim == 4]
    known: dict[tuple[float, ...], int] = {(): 1, (4,): 2, (9,): 3, (4, 4): 4}
    return known.get(tuple(factors))


def on_enlarged(state: State, scale: int | None) -> Spec | None:
    """Describe an SRCNN or CAN; None if it is neither."""
    if not all(re.match(r"layers\.\d{1,6}\.", name) for name in state):
        return None
    order = sorted(state, key=lambda name: int(name.split(".")[1]))
    layers = [state[name] for name in order if state[name].ndim == 4]
    kernels = [value.shape[-1] for value in layers]
    if len(layers) < 3:
        return None
    normalize = "layers.1.identity" in state
    if len(state) == 6 and len(layers) == 3 and kernels[-1] > 1:
        spec: Spec = {
            "_target_": "networks.srcnn.SRCNN",
            "kernel_sizes": kernels,
            "num_features": [len(value) for value in layers[:2]],
        }
    elif kernels[-1] == 1:
        spec = {
            "_target_": "networks.can.CAN",
            "num_layers": len(layers),
            "num_features": len(layers[0]),
            "normalize": normalize,
        }
    else:
        return None
    if scale is None:
        name = str(spec["_target_"]).rpartition(".")[2]
        raise ValueError(
            f"bare weights of {name}, which suit any scale: give scale=, or a checkpoint that "
            "describes its network"
        )
    return spec | {"scale": scale}


def numbered(state: State, pattern: str) -> int:
    """Return how many different numbers stand in the names that match."""
    found = (re.fullmatch(pattern, name) for name in state)
    return len({match[1] for match in found if match})

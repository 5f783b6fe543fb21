"""Load weights strictly."""

from pathlib import Path

from torch import Tensor, nn

from system.terminal import printable

State = dict[str, Tensor]


def name_of(network: nn.Module) -> str:
    """Return the name of a network as PyTorch shows it: its class, or what the class says."""
    return str(network._get_name())  # type: ignore[no-untyped-call]


def load_weights(network: nn.Module, state: State, source: str | Path) -> None:
    """Load weights strictly: all keys and shapes have to match.

    Raises:
        ValueError: naming the first few keys that do not match.
    """
    reason = find_mismatch(network, state)
    if reason is not None:
        raise ValueError(f"{source}: {reason}")
    network.load_state_dict(state)


def find_mismatch(network: nn.Module, state: State) -> str | None:
    """Describe how weights do not match a network: names, shapes, types; None if they match.

    The network may be on the `meta` device, without memory.
    """
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{printable(name)} is unknown" for name in state if name not in own]
    for name, value in own.items():
        if name not in state:
            continue
        given = state[name]
        if given.shape != value.shape:
            problems.append(f"{name} is {tuple(given.shape)}, not {tuple(value.shape)}")
        elif given.is_floating_point() != value.is_floating_point():
            problems.append(f"{name} is {given.dtype}, not {value.dtype}")
        elif given.is_floating_point() and not given.float().isfinite().all():
            problems.append(f"{name} holds values that are not finite")
    if not problems:
        return None
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"not the weights of this {name_of(network)}: {'; '.join(problems[:3])}{more}"

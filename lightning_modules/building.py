"""Build networks from checkpoint records: only trusted classes, no larger than their weights.

Only classes under `networks.`, and in modules that the user's own configuration trusts, are built.
A file can never extend that.
"""

import importlib
import inspect
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from torch import nn
from torch.nn.modules import module as registration

from lightning_modules.trusted import is_trusted
from networks.weights import State, find_mismatch
from system.terminal import printable

# Keys for Hydra, and one that would fetch weights, which the checkpoint already contains.
NOT_ARGUMENTS = ("_target_", "_recursive_", "_convert_", "pretrained")


SPARE_VALUES = 10_000_000  # such as masks, which files leave out


class TooLargeError(Exception):
    """A network under construction has more parts or values than its file has weights."""

    def __str__(self) -> str:
        return "has more parts than weights"


def build_network(
    spec: Mapping[str, object],
    trusted: Sequence[str] = (),
    *,
    state: State | None = None,
) -> nn.Module:
    """Build a network from `_target_`, its class, and its arguments.

    Args:
        spec: `net` of a record.
        trusted: modules and packages that the user's configuration names.
        state: its weights; their shapes are compared before memory is allocated.

    Raises:
        ValueError: if the class is not trusted, cannot be built, or does not fit the weights.
    """
    target = str(spec.get("_target_"))
    module_name, _, class_name = target.rpartition(".")
    if not is_trusted(target, trusted):
        package = module_name.partition(".")[0]
        hint = f" (trusted=[{package}], if you trust its code)" if package else ""
        raise ValueError(
            f"the checkpoint asks for {printable(target)}; only networks.* and the modules that "
            f"trusted= names are built{printable(hint)}"
        )
    arguments = {name: value for name, value in spec.items() if name not in NOT_ARGUMENTS}
    ours = module_name.startswith("networks.")
    try:
        network_class = getattr(importlib.import_module(module_name), class_name)
        if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
            raise AttributeError("not a network")
        if hasattr(network_class, "higher_is_better"):  # some fetch weights when they are built
            raise AttributeError("a metric, neither an enhancer nor a scorer")
        check_arguments(network_class, arguments, strict=ours)
        if state is None:
            return network_class(**arguments)
        # Other classes may compute with values in their constructors, which `meta` lacks.
        on_meta = ours and not getattr(network_class, "computes_values", False)
        with bounded(state), torch.device("meta") if on_meta else nullcontext():
            network: nn.Module = network_class(**arguments)
    except TooLargeError as error:
        raise ValueError(
            f"the checkpoint's network {printable(target)} has more parts than its weights"
        ) from error
    except Exception as error:  # constructors raise what they like
        reason = printable(str(error).partition("\n")[0], 300)
        raise ValueError(
            f"the checkpoint's network {printable(target)} cannot be built: {reason}"
        ) from error
    problem = find_mismatch(network, state)
    if problem is not None:
        raise ValueError(problem)
    return network_class(**arguments) if on_meta else network


def check_arguments(network_class: type, arguments: Mapping[str, object], *, strict: bool) -> None:
    """Compare arguments with the annotations of a class, as far as it has any.

    Args:
        network_class: the class.
        arguments: plain data.
        strict: whether to refuse 2.0 and True as integers.

    Raises:
        ValueError: naming the first argument of another type.
    """
    inspect.signature(network_class).bind(**arguments)
    try:
        hints = inspect.signature(network_class, eval_str=True).parameters
    except (NameError, TypeError):
        return
    for name, value in arguments.items():
        try:
            hint = hints[name].annotation
            if hint is inspect.Parameter.empty:
                continue
            adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except (KeyError, PydanticSchemaGenerationError, PydanticUserError, TypeError):
            continue
        try:
            adapter.validate_json(json.dumps(value), strict=strict)
        except ValidationError as error:
            message = error.errors(include_input=False, include_url=False)[0]["msg"]
            raise ValueError(f"{name}: {message}") from error


@contextmanager
def bounded(state: State) -> Iterator[None]:
    """Abort building a network in this thread if it has far more parts or values than weights."""
    thread, left = threading.get_ident(), 1000 + 10 * len(state)
    values_left = SPARE_VALUES + 10 * sum(value.numel() for value in state.values())

    def count(_module: nn.Module, _name: str, part: object) -> None:
        nonlocal left, values_left
        if threading.get_ident() == thread:
            left -= 1
            if isinstance(part, torch.Tensor) and not part.is_meta:  # before it is filled
                values_left -= part.numel()
            if left < 0 or values_left < 0:
                raise TooLargeError

    handles = [
        registration.register_module_module_registration_hook(count),
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Check the arguments of configured classes against the signatures of their `_target_`s."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from configuration.hints import nearest
from configuration.parsing import plain

# Arguments of `lightning_modules.losses.Term`, which takes seconds to import.
TERM = {
    "weight": float | typing.Literal["auto"],
    "share": float,
    "warmup": float,
    "from_step": int,
}


@dataclass(frozen=True)
class Text:
    """The type of a key whose value is text, such as the name of a file.

    Args:
        optional: whether `null` stands for none.
        depth: how many brackets a value may have around it: 1 for lists, 2 for lists of lists.
    """

    optional: bool = False
    depth: int = 0


def text_type(annotation: object) -> Text | None:
    """Return how an annotation allows text; None if it allows other values as well."""
    if typing.get_origin(annotation) is typing.Annotated:
        return text_type(typing.get_args(annotation)[0])
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = list(typing.get_args(annotation)) if union else [annotation]
    depths = {str: 0, Path: 0, list[str]: 1, list[list[str]]: 2, type(None): -1}
    if not all(isinstance(m, typing.Hashable) and m in depths for m in members):
        return None
    depth = max(depths[member] for member in members)
    return Text(optional=type(None) in members, depth=depth) if depth >= 0 else None


def shown(value: object) -> str:
    """Format a value as the user would type it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def reason(message: str) -> str:
    """Turn a pydantic message into the second half of a sentence."""
    message = message.removeprefix("Input ").replace("a valid boolean", "true or false")
    return message[:1].lower() + message[1:]


def check_node(path: str, node: object, typed: Collection[str] = ()) -> Iterator[str]:
    """Check the arguments of all nodes with a `_target_`, at any depth, against their classes.

    The types of interpolated values are not checked here but at their source. Arguments that the
    class lacks are mistakes, interpolated or not.
    """
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    every = [key for key in node if isinstance(key, str)]  # arguments have no other names
    keys = [key for key in every if not OmegaConf.is_interpolation(node, key)]
    keys = [key for key in keys if not OmegaConf.is_missing(node, key)]
    prefix = f"{path}." if path else ""
    for key in keys:
        yield from check_node(f"{prefix}{key}", node[key], typed)
    if "_target_" not in keys:
        return
    if not isinstance(node["_target_"], str):
        yield f"{prefix}_target_={shown(node['_target_'])}: must be the dotted name of a class"
        return
    try:
        target, parameters = locate(node["_target_"])
    except Exception as error:  # a user's module may raise anything
        reason = str(error).strip().partition("\n")[0]
        absent = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("optuna")
        hint = "; pip install '.[optuna]'" if absent else ""
        yield f"{prefix}_target_={node['_target_']}: cannot be imported ({reason}){hint}"
        return
    for key in ("_partial_", "_recursive_"):
        if key in keys and not isinstance(node[key], bool):
            yield f"{prefix}{key}={shown(node[key])}: should be true or false"
    special = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
    if path == "trainer":
        special.add("precision")  # the command says which
    if path == "scorer":
        special.add("checkpoint")  # read by the command, not by the network
    if path.startswith("loss."):
        yield from check_term(path, node)
        special |= TERM.keys() | {"sr_BCHW", "hr_BCHW"}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or not parameters
    names = [name for name in parameters if name != "self"]
    values: dict[str, object] = {}
    for key in every:
        if key in special:
            continue
        if key not in parameters:
            if not takes_all:
                hint = nearest(key, names)
                if path == "net" and f"net.{key}" not in typed:
                    hint += f"; ~net.{key} removes it"
                yield f"{prefix}{key}: {target.__name__} has no such argument{hint}"
        elif key in keys and not (isinstance(node[key], DictConfig) and "_target_" in node[key]):
            # Hydra builds an object from others, whose own type does not count.
            values = values or plain(node)
            yield from check_type(f"{prefix}{key}", values[key], parameters[key].annotation)


def check_term(path: str, node: DictConfig) -> Iterator[str]:
    """Check the settings that each term of a loss has beside the arguments of its function."""
    for key, annotation in TERM.items():
        if key in node and not OmegaConf.is_interpolation(node, key):
            yield from check_type(f"{path}.{key}", node[key], annotation)


def locate(name: str) -> tuple[Any, dict[str, inspect.Parameter]]:
    """Import a class or function, and return it with its parameters, types resolved."""
    module, _, attribute = name.rpartition(".")
    target = getattr(importlib.import_module(module), attribute)
    if not inspect.isclass(target):
        return target, parameters_of(target)
    parameters: dict[str, inspect.Parameter] = {}
    for base in target.__mro__:  # **kwargs go to the next class that has a constructor
        if "__init__" not in vars(base):
            continue
        own = parameters_of(vars(base)["__init__"])
        parameters = own | parameters
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            return target, {k: p for k, p in parameters.items() if p.kind not in kinds}
    return target, {}  # takes anything


def parameters_of(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return a function's parameters with their types resolved."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    return {
        key: p.replace(annotation=hints.get(key, p.annotation)) for key, p in parameters.items()
    }


def check_type(path: str, value: object, annotation: object) -> Iterator[str]:
    """Yield a problem if a value is not of the annotated type."""
    adapter = type_adapter(annotation)
    if adapter is None:
        return
    kinds = (annotation, *typing.get_args(annotation))
    classes = [t for t in kinds if isinstance(t, type) and is_dataclass(t)]
    if isinstance(value, dict) and classes:  # pydantic would build it, Hydra does not
        yield f"{path}: settings without _target_ are not a {classes[0].__name__}"
        return
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(reason(e["msg"]) for e in error.errors())
        yield f"{path}={shown(value)}: {', or '.join(reasons)}"
    else:
        # Classes get the value as it is, not as pydantic reads it.
        if isinstance(read, int) and type(value) in (float, bool) and type(read) is not bool:
            yield f"{path}={shown(value)}: should be a whole number: {read}"
        elif isinstance(value, str) and type(read) in (int, float, bool):
            yield f"{path}={value}: is quoted text; write {path}={shown(read)}"


@cache
def type_adapter(annotation: Any) -> TypeAdapter[object] | None:  # noqa: ANN401
    """Return the validator of a type, or None if pydantic cannot check it."""
    if annotation is inspect.Parameter.empty:
        return None
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return None


def text_arguments(path: str, node: object, wanted: Collection[str]) -> Iterator[tuple[str, Text]]:
    """Yield the dotted names of text arguments of the classes at or below a node.

    Args:
        path: dotted name of the node, or empty.
        node: a node of a configuration.
        wanted: dotted names; classes that do not have any of them are not imported.
    """
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    prefix = f"{path}." if path else ""
    for key in map(str, node):
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield from text_arguments(f"{prefix}{key}", node[key], wanted)
    if "_target_" not in node or not any(name.rpartition(".")[0] == path for name in wanted):
        return
    try:
        _, parameters = locate(node["_target_"])
    except (ImportError, AttributeError, ValueError):
        return
    for name, parameter in parameters.items():
        kind = text_type(parameter.annotation)
        if kind is not None:
            yield f"{prefix}{name}", kind

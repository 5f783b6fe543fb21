"""Parse overrides as Hydra does, and flatten nested settings."""

from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def parse_task(task: Iterable[str]) -> list[Override]:
    """Parse overrides as Hydra does."""
    return OverridesParser.create().parse_overrides([str(text) for text in task])


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Return the leaves of nested dicts by dotted name; lists are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat

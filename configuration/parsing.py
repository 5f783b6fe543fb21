"""Parse overrides as Hydra does, and flatten or change settings."""

import copy
from collections.abc import Iterable, Mapping

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


def parse_task(task: Iterable[str]) -> list[Override]:
    """Parse overrides as Hydra does."""
    return OverridesParser.create().parse_overrides([str(text) for text in task])


def plain(cfg: DictConfig, *, resolve: bool = True) -> dict[str, object]:
    """Convert a configuration to nested dicts and lists."""
    content = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def flatten(node: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested dicts by dotted name; lists are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, object] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def changed(cfg: DictConfig, values: Mapping[str, object]) -> DictConfig:
    """Return a read-only copy of a configuration with other values at some dotted keys."""
    result = copy.deepcopy(cfg)
    OmegaConf.set_readonly(result, False)
    for key, value in values.items():
        OmegaConf.update(result, key, value, merge=False)
    OmegaConf.set_readonly(result, True)
    return result

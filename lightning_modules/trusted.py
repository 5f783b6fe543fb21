"""Decide by name which classes a checkpoint may have built."""

from collections.abc import Sequence


def is_trusted(target: str, trusted: Sequence[str]) -> bool:
    """Return whether a class may be built: under `networks.`, or in a trusted module or package."""
    module = target.rpartition(".")[0]
    return module.startswith("networks.") or in_modules(module, trusted)


def in_modules(module: str, trusted: Sequence[str]) -> bool:
    """Return whether a module is one of these, or in a package of these."""
    return any(module == name or module.startswith(f"{name}.") for name in trusted)

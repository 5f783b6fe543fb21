"""Check the user's configuration files before Hydra reads them.

A few lines of YAML with aliases can stand for more values than fit into memory, and a wrong folder
(`--config-dir=/`) has more files than anyone wants to wait for.
"""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from hydra.core.override_parser.types import Override

from system.places import expanded

MAX_YAML = 10**6  # bytes of a configuration file
MAX_NODES = 10**5  # values in it, with what its aliases stand for
MAX_FILES = 10_000  # files in a folder


def folder_problems(folder: Path, given: str) -> Iterator[str]:
    """Check all configuration files in a folder; `given` is how the user named it."""
    if not folder.is_dir():
        yield f"{given}: no such folder"
    walked = 0
    for place, folders, names in os.walk(folder):
        walked += len(folders) + len(names)
        if walked > MAX_FILES:
            yield f"{given}: more than {MAX_FILES:,} files; is it the right folder?"
            return
        for name in names:
            if name.endswith(".yaml"):
                yield from file_problems(Path(place) / name)


def searchpath_problems(parsed: Iterable[Override]) -> Iterator[str]:
    """Check the folders of `hydra.searchpath`, from which Hydra reads configuration files."""
    for override in parsed:
        value = override.value() if override.key_or_group == "hydra.searchpath" else None
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not str(text).startswith("pkg://"):  # an installed package
                place = expanded(str(text).removeprefix("file://"))
                yield from folder_problems(place, f"hydra.searchpath={text}")


def file_problems(path: Path) -> Iterator[str]:
    """Yield a problem if a configuration file is damaged or too large, aliases expanded."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_YAML:
            yield f"{path}: no file, or of more than {MAX_YAML // 1000:,} kB"
            return
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        num_nodes = extent(root, {})
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        yield f"{path}: cannot be read as YAML ({' '.join(str(error).split())})"
        return
    if num_nodes > MAX_NODES:
        shown = "values without end" if math.isinf(num_nodes) else f"{num_nodes:,.0f} values"
        yield f"{path}: stands for {shown} where its aliases are written out; at most {MAX_NODES:,}"


def extent(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Count the values of a YAML node with aliases expanded; infinite if it contains itself."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1.0
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        known[id(node)] = 1.0 + sum(extent(child, known) for child in children)
    return known[id(node)]

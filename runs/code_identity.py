"""Hash the code that a run depends on: the modules found by following imports.

The search covers this project's modules and the user's own, wherever they are. It skips installed
packages and the standard library, whose versions result.json keeps. It imports nothing.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from system.places import ROOT

OURS = (
    "cli",
    "commands",
    "configuration",
    "datamodules",
    "hydra_plugins",
    "images",
    "lightning_modules",
    "networks",
    "reports",
    "runs",
    "sweeps",
    "system",
    "web",
)
INSTALLED = ("site-packages", "dist-packages")
SHOWN = 4  # file names listed in a message


def code_files(names: Iterable[str]) -> dict[str, str]:
    """Hash the modules behind some names and all that they import, by relative file name.

    Args:
        names: full names of modules, or of classes and functions in them.
    """
    found: dict[str, str] = {}
    folders: dict[str, list[Path]] = {}
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parent, _, _ = name.rpartition(".")
        if parent:
            waiting.append(parent)  # importing a.b runs a/__init__.py
        top = name.partition(".")[0]
        if top not in folders:
            folders[top] = folders_of(top)
        for folder in folders[top]:
            file = module_file(folder, name)
            if file is None:
                continue
            content = file.read_bytes()
            found[file.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
            package = name if file.name == "__init__.py" else parent
            waiting += imported(content, package)
            break
    return dict(sorted(found.items()))


def folders_of(top: str) -> list[Path]:
    """Return the folders of a top-level module if it is ours or the user's, otherwise none."""
    if top in OURS:
        return [ROOT]
    if top in sys.stdlib_module_names:
        return []
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: __main__
        return []
    if spec is None:
        return []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not places and spec.has_location and spec.origin is not None:
        places = [Path(spec.origin)]
    return [p.absolute().parent for p in places if not set(INSTALLED) & set(p.absolute().parts)]


def module_file(folder: Path, name: str) -> Path | None:
    """Return the Python file of a module below a folder; None if there is none."""
    path = folder.joinpath(*name.split("."))
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


@lru_cache(maxsize=1024)
def imported(content: bytes, package: str) -> tuple[str, ...]:
    """Return all names that a Python file imports, which may be modules or members of modules.

    Args:
        content: content of the file.
        package: package that relative imports start from.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return ()
    return tuple(dict.fromkeys(name for node in ast.walk(tree) for name in names_in(node, package)))


def names_in(node: ast.AST, package: str) -> Iterator[str]:
    """Return the full names in an import statement; nothing for other nodes."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        start = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*start, *([node.module] if node.module else [])])
        if base:
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def changed_code(before: object, now: Mapping[str, str]) -> str:
    """Describe changed code: `the code`, with the differing files if the earlier run lists them."""
    if not isinstance(before, dict):  # of version 0.1
        return "the code"
    names = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"the code ({', '.join(map(str, names[:SHOWN]))}{more})"


def conflicting(codes: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the files that several runs share but that differed between them."""
    hashes: dict[str, set[str]] = {}
    for code in codes:
        for name, sha256 in code.items():
            hashes.setdefault(name, set()).add(str(sha256))
    return sorted(name for name, seen in hashes.items() if len(seen) > 1)

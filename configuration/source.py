"""Read the arguments of a class from its source, where importing it would take seconds."""

import ast
import importlib.util
import re
from pathlib import Path

MAX_IMPORTS = 4  # followed from the module that is named to the one that defines the class


def has_argument(name: str, argument: str) -> bool | None:
    """Return whether a class takes an argument; None if its own constructor does not tell.

    Args:
        name: dotted name of the class.
        argument: name of the argument.
    """
    found = constructor(name, MAX_IMPORTS)
    if found is None:
        return None
    names = {one.arg for one in (*found.posonlyargs, *found.args, *found.kwonlyargs)}
    return None if found.kwarg is not None and argument not in names else argument in names


def is_number(name: str, argument: str) -> bool:
    """Return whether a class's own constructor declares an argument as a number or boolean."""
    found = constructor(name, MAX_IMPORTS)
    for one in (*found.posonlyargs, *found.args, *found.kwonlyargs) if found else ():
        if one.arg == argument and one.annotation is not None:
            words = re.findall(r"\w+", ast.unparse(one.annotation))
            return set(words) <= {"int", "float", "bool", "None", "Tensor"}
    return False


def constructor(name: str, imports: int) -> ast.arguments | None:
    """Find the parameters of a class's own constructor; None if it has none, or is not found."""
    module, _, attribute = name.rpartition(".")
    file = source_file(module)
    if file is None or imports == 0:
        return None
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            own = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            return next((part.args for part in own if part.name == "__init__"), None)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == attribute:
                    return constructor(f"{node.module}.{alias.name}", imports - 1)
    return None


def source_file(module: str) -> Path | None:
    """Return the Python file of a module without importing the packages that contain it."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    place = folder.joinpath(*inner)
    files = [place.with_suffix(".py"), place / "__init__.py"] if inner else [Path(spec.origin)]
    return next((file for file in files if file.is_file()), None)

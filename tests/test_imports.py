"""Every import points down: a file imports files of lower packages, or of its own, in no circle."""

import ast
import subprocess
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.conftest import ROOT

# From the ground up. Hydra finds plugins by the name of their package; they stand on sweeps.
LAYERS = (
    ("system",),
    ("images",),
    ("networks",),
    ("datamodules",),
    ("lightning_modules",),
    ("configuration",),
    ("runs",),
    ("sweeps", "reports", "web"),
    ("commands",),
    ("cli", "hydra_plugins"),
    ("run",),
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def own_modules() -> dict[str, str]:
    """Files of the project's packages by the name of their module."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    names = {
        file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): file
        for file in listed
        if (ROOT / file).exists()
    }
    return {name: file for name, file in names.items() if name.partition(".")[0] in LEVEL}


MODULES = own_modules()


def imports_of(file: str) -> Iterator[str]:
    """The project's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name in MODULES and "." in name)


IMPORTS = {name: set(imports_of(file)) - {name} for name, file in MODULES.items()}


def test_every_package_has_a_layer() -> None:
    assert {name.partition(".")[0] for name in MODULES} == LEVEL.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    own = module.partition(".")[0]
    for name in IMPORTS[module]:
        package = name.partition(".")[0]
        assert package == own or LEVEL[package] < LEVEL[own], f"{module} imports {name}"


def test_no_circle_between_files() -> None:
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

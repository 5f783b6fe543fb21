"""Files and functions stay short enough to read."""

import ast

import pytest

from tests.conftest import ROOT
from tests.test_imports import MODULES

MAX_FILE, MAX_FUNCTION = 450, 60  # lines
# Longer ones, each with the reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def lengths() -> tuple[dict[str, int], dict[str, int]]:
    """Lines of each file, and of each function by `file:name`."""
    files, functions = {}, {}
    for file in MODULES.values():
        text = (ROOT / file).read_text()
        files[file] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                functions[f"{file}:{node.name}"] = node.end_lineno - node.lineno + 1
    return files, functions


@pytest.mark.parametrize("kind", ["files", "functions"])
def test_nothing_is_longer_than_it_should_be(kind: str) -> None:
    files, functions = lengths()
    found, limit, reasons = (
        (files, MAX_FILE, LONG_FILES)
        if kind == "files"
        else (functions, MAX_FUNCTION, LONG_FUNCTIONS)
    )
    long = {name for name, num in found.items() if num > limit}
    assert long == reasons.keys()

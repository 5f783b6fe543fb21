"""Every command has the interface that `commands.Command` describes."""

import inspect

import pytest
from pydantic import BaseModel

from cli.command_line import COMMANDS
from commands import load_command
from tests.conftest import ROOT


def test_every_module_is_a_command() -> None:
    modules = {path.stem for path in (ROOT / "commands").glob("*.py")} - {"__init__"}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_interface(name: str) -> None:
    command = load_command(name)
    assert issubclass(command.Options, BaseModel)
    functions = {"problems": ["cfg"], "run": ["cfg", "invocation"]}
    optional = {"machine_problems": ["cfg"], "typed_problems": ["cfg", "words"]}
    optional["class_problems"] = ["cfg"]
    functions |= {key: value for key, value in optional.items() if hasattr(command, key)}
    for function, parameters in functions.items():
        names = list(inspect.signature(getattr(command, function)).parameters)
        assert names == parameters or (names == ["cfg", "_"] and function == "run")  # does without

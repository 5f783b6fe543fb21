"""The commands of run.py, one module each, with the interface that `Command` describes.

`cli` checks a command's configuration by its `Options` and `problems`, then calls `run`. Importing
a command imports neither PyTorch nor Lightning, so that mistakes are refused at once: functions
that need them import them.
"""

import importlib
from collections.abc import Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

from omegaconf import DictConfig
from pydantic import BaseModel

from runs.invocation import Invocation


class Command(Protocol):
    """What every module of this package provides."""

    @property
    def Options(self) -> type[BaseModel]:
        """The command's own keys with their types; groups such as `data` are not among them."""

    def problems(self, cfg: DictConfig, /) -> Iterable[str]:
        """Find mistakes that types do not reveal, one line each, without changing anything.

        They are found without PyTorch, which takes seconds to import.
        """

    def run(self, cfg: DictConfig, invocation: Invocation, /) -> object:
        """Do the work and return what was made.

        That is the `Result` of a run folder, or an item for each photo, whose `problem` says why it
        failed. The configuration is not changed.
        """


@runtime_checkable
class ReadsClasses(Protocol):
    """A command that also checks settings against the classes of its groups."""

    def class_problems(self, cfg: DictConfig, /) -> Iterable[str]:
        """Find mistakes that only the classes reveal, or the contents of checkpoints."""


@runtime_checkable
class ReadsMachine(Protocol):
    """A command that also checks the machine it runs on."""

    def machine_problems(self, cfg: DictConfig, /) -> Iterable[str]:
        """Find mistakes that matter only if the command runs on this machine."""


@runtime_checkable
class ReadsTyped(Protocol):
    """A command that also checks which keys were typed."""

    def typed_problems(self, cfg: DictConfig, words: Sequence[str], /) -> Iterable[str]:
        """Find mistakes in the combination of typed overrides and the files they name."""


def load_command(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))

"""The attributes that Lightning sets on a Trainer without declaring them in its types."""

from typing import Protocol, TypeVar, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

Data = TypeVar("Data", bound=L.LightningDataModule)


class Attached(Protocol):
    """A Trainer, as far as its own class does not say."""

    datamodule: L.LightningDataModule
    callbacks: list[Callback]
    log_every_n_steps: int


def attached(trainer: L.Trainer) -> Attached:
    """Return a trainer, typed by the attributes that Lightning does not declare."""
    return cast(Attached, trainer)


def datamodule_of(trainer: L.Trainer, kind: type[Data]) -> Data:
    """Return the data module that a trainer was given, which must be of this kind."""
    datamodule = attached(trainer).datamodule
    assert isinstance(datamodule, kind)
    return datamodule

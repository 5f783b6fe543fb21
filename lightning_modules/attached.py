"""The attributes that Lightning sets on a Trainer without declaring them in its types."""

from typing import Protocol, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.pairs import PairsDataModule
from datamodules.rated import RatedDataModule


class Attached(Protocol):
    """A Trainer, as far as its own class does not say."""

    datamodule: L.LightningDataModule
    callbacks: list[Callback]
    log_every_n_steps: int


def attached(trainer: L.Trainer) -> Attached:
    """Return a trainer, typed by the attributes that Lightning does not declare."""
    return cast(Attached, trainer)


def pairs_of(trainer: L.Trainer) -> PairsDataModule:
    """Return the data module that an enhancer is trained on."""
    datamodule = attached(trainer).datamodule
    assert isinstance(datamodule, PairsDataModule)
    return datamodule


def ratings_of(trainer: L.Trainer) -> RatedDataModule:
    """Return the data module that a scorer is trained on."""
    datamodule = attached(trainer).datamodule
    assert isinstance(datamodule, RatedDataModule)
    return datamodule

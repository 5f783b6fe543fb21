"""Write and read a checkpoint before the first step, lest a training end with unreadable ones."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from lightning_modules.attached import attached
from networks.tensor_files import load_plain

OURS = ("lightning", "lightning_modules", "datamodules")


class TrialCheckpoint(Callback):
    """Save and read a checkpoint at the start of a training that involves the user's own classes.

    Their hyperparameters and states may contain objects that cannot be loaded again, such as those
    that `save_hyperparameters()` keeps.

    Args:
        folder: where the checkpoint is written and removed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".trial.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise a ValueError on all ranks if the checkpoint cannot be read."""
        parts = [pl_module, attached(trainer).datamodule, *attached(trainer).callbacks]
        names = [type(part).__name__ for part in parts if not is_ours(part)]
        if not names:
            return
        trainer.save_checkpoint(self.path)
        problem = None
        if trainer.is_global_zero:
            try:
                load_plain(self.path)
            except ValueError:
                problem = (
                    "its checkpoints could not be loaded again: their state or hyperparameters "
                    f"hold more than tensors and plain data ({', '.join(names)}); "
                    "save_hyperparameters() keeps whatever objects it is given"
                )
            self.path.unlink()
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise ValueError(problem)


def is_ours(part: object) -> bool:
    """Return whether an object's class is this project's or Lightning's."""
    return type(part).__module__.partition(".")[0] in OURS

"""Measures what a training step costs beyond its arithmetic, in CPU time.

    python benchmarks/loop.py [--steps 300] [--rounds 9] [key=value ...]

EDSR with one block of 4 features and one patch of 8 pixels, in float32 on one thread: so little
arithmetic that the loop around it shows. Each round is an epoch of `train` as `python run.py` runs
it, and before it the same number of steps of a bare PyTorch loop and of a Lightning Trainer without
callbacks and logs, with the same loader, network, loss, optimizer and schedule (the bare loop has
none). Further settings are those of the command line.
"""

import copy
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch starts its threads
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from report import Row, command_line, hand_over, heading, publish, spread
from torch import Tensor, nn

from cli.python import train
from lightning_modules.losses import l2_loss
from lightning_modules.schedules import configure

ASKED = 0.8  # ms of CPU a step beyond the bare loop
SETTINGS = [
    *("gamma=0", "net.num_blocks=1", "net.num_features=4", "data.batch_size=1"),
    *("data.patch_size=8", "data.limit=2", "callbacks.photo_table=null"),
    "+callbacks.clock={_target_: loop.Clock}",
]
OURS, BARE, EMPTY = "python run.py", "bare PyTorch loop", "Lightning alone"
FOUND: dict[str, list[float]] = {OURS: [], BARE: [], EMPTY: []}  # ms of CPU a step, by round


class Clock(Callback):
    """Measures each epoch but the first, up to its validation, and the other ways before it."""

    start = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the steps of the other ways, then start the clock."""
        if trainer.current_epoch:
            bare(trainer, pl_module)
            alone(trainer, pl_module)
        self.start = time.process_time()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        if trainer.current_epoch:
            note(OURS, self.start, trainer)


def note(way: str, start: float, trainer: L.Trainer) -> None:
    """Add a round to `FOUND`."""
    FOUND[way].append(1e3 * (time.process_time() - start) / int(trainer.num_training_batches))


def bare(trainer: Any, trained: Any) -> None:  # noqa: ANN401
    """Measure a bare loop over an epoch of the same data."""
    net = copy.deepcopy(trained.net)
    optimizer = trained.optimizer(list(net.parameters()))
    loader = copy.copy(trainer.datamodule).train_dataloader()
    start = time.process_time()
    for batch in loader:
        pair = batch.to_unit()
        optimizer.zero_grad()
        torch.autograd.backward(l2_loss(net(pair.lr_BCHW), pair.hr_BCHW))
        optimizer.step()
    note(BARE, start, trainer)


class Empty(L.LightningModule):
    """The least that trains the network."""

    def __init__(self, net: nn.Module, optimizers: OptimizerLRScheduler) -> None:
        super().__init__()
        self.net = net
        self.optimizers_and_schedules = optimizers
        self.start = 0.0

    def training_step(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Compute the loss."""
        pair = batch.to_unit()
        return l2_loss(self.net(pair.lr_BCHW), pair.hr_BCHW)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return those of the training that is measured."""
        return self.optimizers_and_schedules

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.start = time.process_time()

    def on_train_epoch_end(self) -> None:
        """Stop the clock."""
        note(EMPTY, self.start, self.trainer)


def alone(trainer: Any, trained: Any) -> None:  # noqa: ANN401
    """Measure a Trainer that does nothing else, over an epoch of the same data."""
    net = copy.deepcopy(trained.net)
    built = configure([(net, 1.0)], trained.optimizer, trained.schedule, num_steps=1)
    loader = copy.copy(trainer.datamodule).train_dataloader()
    plain = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    plain.fit(Empty(net, built), loader)


def measure(steps: int, rounds: int, *settings: str) -> None:
    """Train in a folder of its own."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        train(*SETTINGS, f"data.num_steps={steps}", f"epochs={rounds + 1}", *settings)
        os.chdir(before)


def main() -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    rounds = 4 if options.short else options.rounds
    measure(options.steps, rounds, *options.settings)
    middle = {way: statistics.median(values) for way, values in FOUND.items()}
    lines = heading(
        "Training step of a tiny network",
        f"medians of {rounds} rounds of {options.steps} steps in turns (lowest-highest)",
    )
    lines += ["| | ms of CPU a step | beyond the bare loop | ratio |", "|---|---:|---:|---:|"]
    for way, value in middle.items():
        beyond, ratio = value - middle[BARE], value / middle[BARE]
        lines.append(f"| {way} | {spread(FOUND[way], 3)} | {beyond:.3f} | {ratio:.2f} |")
    publish(lines, options.output)
    beyond = middle[OURS] - middle[BARE]
    rows = [
        Row("a training step, ms of CPU", middle[OURS], middle[BARE], before="2.9"),
        Row("beyond the bare loop, ms", beyond, asked=f"{ASKED}", before="2.0"),
    ]
    hand_over(rows, options.json)


if __name__ == "__main__":
    sys.modules["loop"] = sys.modules[__name__]  # where the configuration looks for Clock
    main()

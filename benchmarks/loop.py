"""Measures what a training step costs beyond its arithmetic.

    python benchmarks/loop.py [--steps 300] [--rounds 9] [key=value ...]
    python benchmarks/loop.py --gpu [--steps 1000] [--rounds 5] [key=value ...]

On the CPU: EDSR with one block of 4 features and one patch of 8 pixels, in float32 on one thread:
so little arithmetic that the loop around it shows; milliseconds of CPU. On a GPU: EDSR baseline, 16
patches of 48 -> 96 pixels, bf16, CUDA graphs; milliseconds of wall time.

Each round is an epoch of `train` as `python run.py` runs it and, in turns with it, the same number
of steps of a bare PyTorch loop with the same network, loss and optimizer. On the CPU the bare loop
reads the same patches; on the GPU it has one batch that stays there. On the CPU there is also a
Lightning Trainer without callbacks and logs. Further settings are those of the command line.
"""

import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch starts its threads
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from report import Row, command_line, hand_over, heading, publish, skip
from torch import Tensor, nn

from cli.python import train
from datamodules.batches import PairBatch
from lightning_modules.compiling import compile_in_place
from lightning_modules.loss_terms import l2_loss
from lightning_modules.schedules import configure

CPU = [
    *("gamma=0", "net.num_blocks=1", "net.num_features=4", "data.batch_size=1"),
    *("data.patch_size=8", "data.limit=2"),
]
GPU = [
    *("trainer=gpu", "trainer.precision=bf16-mixed", "model.compile=reduce-overhead"),
    *("gamma=0", "net=edsr", "data.batch_size=16", "data.patch_size=48", "data.on_device=true"),
]
QUIET = ["callbacks.photo_table=null", "+callbacks.clock={_target_: loop.Clock}"]
OURS, BARE, EMPTY = "python run.py", "bare PyTorch loop", "Lightning alone"
FOUND: dict[str, list[float]] = {OURS: [], BARE: [], EMPTY: []}  # ms a step, by round


class Clock(Callback):
    """Measures each epoch but the first, up to its validation, and the other ways before it."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the steps of the other ways, then start the clock."""
        if trainer.current_epoch == 0:
            self.bare = Bare(trainer, pl_module)  # kept, since it may have been compiled
        self.bare.take_steps(trainer)
        if pl_module.device.type == "cpu":
            alone(trainer, pl_module)
        self.start = now(pl_module.device)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        note(OURS, now(pl_module.device) - self.start, trainer)
        if trainer.current_epoch == 0:  # the first round warms up
            for values in FOUND.values():
                values.clear()


def now(device: torch.device) -> float:
    """Return seconds of CPU, or seconds of wall time when the GPU is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def note(way: str, seconds: float, trainer: L.Trainer) -> None:
    """Add a round to `FOUND`."""
    FOUND[way].append(1e3 * seconds / int(trainer.num_training_batches))


class Bare:
    """A loop without Lightning."""

    def __init__(self, trainer: L.Trainer, trained: Any) -> None:  # noqa: ANN401
        self.net = copy.deepcopy(trained.net)
        compile_in_place("reduce-overhead" if trained.replays_graphs else False, self.net)
        self.optimizer = trained.optimizer(list(self.net.parameters()))
        self.mixed = trainer.precision == "bf16-mixed"

    def take_steps(self, trainer: L.Trainer) -> None:
        """Measure an epoch."""
        batches = self.batches(trainer)
        device = trainer.strategy.root_device
        start = now(device)
        for _, pair in zip(range(int(trainer.num_training_batches)), batches, strict=False):
            self.optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
                sr_BCHW = self.net(pair.lr_BCHW)
            torch.autograd.backward(l2_loss(sr_BCHW, pair.hr_BCHW))
            self.optimizer.step()
        note(BARE, now(device) - start, trainer)

    def batches(self, trainer: Any) -> Iterator[PairBatch]:  # noqa: ANN401
        """Return the same patches as the training, or, on a GPU, random ones that stay there."""
        data, device = copy.copy(trainer.datamodule), trainer.strategy.root_device
        if device.type == "cpu":
            return (data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader())
        sides = (data.patch_size, data.patch_size * data.scales[0])
        shapes = [(data.batch_size, 3, side, side) for side in sides]
        return repeat(PairBatch(*(torch.rand(shape, device=device) for shape in shapes)))


class Empty(L.LightningModule):
    """The least that trains the network."""

    def __init__(self, net: nn.Module, optimizers: OptimizerLRScheduler, data: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.net = net
        self.optimizers_and_schedules = optimizers
        self.data = data
        self.start = 0.0

    def training_step(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Compute the loss."""
        pair = self.data.on_after_batch_transfer(batch, 0)
        return l2_loss(self.net(pair.lr_BCHW), pair.hr_BCHW)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return those of the training that is measured."""
        return self.optimizers_and_schedules

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.start = now(self.device)

    def on_train_epoch_end(self) -> None:
        """Stop the clock."""
        note(EMPTY, now(self.device) - self.start, self.trainer)


def alone(trainer: Any, trained: Any) -> None:  # noqa: ANN401
    """Measure a Trainer that does nothing else, over an epoch of the same patches."""
    net = copy.deepcopy(trained.net)
    data = copy.copy(trainer.datamodule)
    built = configure([(net, 1.0)], trained.optimizer, trained.schedule, num_steps=1)
    plain = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    plain.fit(Empty(net, built, data), data.train_dataloader())


def measure(steps: int, rounds: int, *settings: str) -> None:
    """Train in a folder of its own."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        train(*QUIET, f"data.num_steps={steps}", f"epochs={rounds + 1}", *settings)
        os.chdir(before)


def main() -> None:
    """Measure and report."""
    parser = command_line(__doc__)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args()
    if options.gpu and not torch.cuda.is_available():
        skip("there is no GPU", options.json)
    steps = options.steps or (1000 if options.gpu else 300)
    rounds = options.rounds or (4 if options.short else 5 if options.gpu else 9)
    measure(steps, rounds, *(GPU if options.gpu else CPU), *options.settings)
    found = {way: values for way, values in FOUND.items() if values}
    best = {way: min(values) for way, values in found.items()}  # other work only adds to it
    unit = "ms" if options.gpu else "ms of CPU"
    title = "EDSR baseline on a GPU" if options.gpu else "a tiny network"
    remarks = [f"{rounds} rounds of {steps} steps in turns; compared by the lowest"]
    remarks += [f"load average {os.getloadavg()[0]:.1f}: other work adds to times of CPU, too"]
    lines = heading(f"Training step of {title}", *remarks)
    lines += [f"| | {unit} a step | median | beyond the bare loop | ratio |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for way, value in best.items():
        median, ratio = statistics.median(found[way]), value / best[BARE]
        beyond = value - best[BARE]
        lines.append(f"| {way} | {value:.3f} | {median:.3f} | {beyond:.3f} | {ratio:.2f} |")
    publish(lines, options.output)
    step = f"a training step of {title} (reference: bare loop), {unit}"
    if options.gpu:
        rows = [Row(step, best[OURS], best[BARE], asked="1.15", before="7 / 3.6 = 1.9")]
    else:
        beyond = best[OURS] - best[BARE]
        rows = [Row(step, best[OURS], best[BARE], before="2.9 / 0.95 = 3.1")]
        rows += [Row("the same beyond the bare loop, ms", beyond, asked="0.8", before="2.0")]
    hand_over(rows, options.json)


if __name__ == "__main__":
    sys.modules["loop"] = sys.modules[__name__]  # where the configuration looks for Clock
    main()

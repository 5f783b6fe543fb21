"""Callbacks of the training loop: seeds, checkpoints, progress, warnings.

A run may be interrupted at any time and resumes at the start of an epoch, so whatever a callback
keeps across epochs must be in its state. An epoch may have no validation or several
(`check_val_every_n_epoch`, `val_check_interval`).
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torchmetrics import Metric

from datamodules.sampling import Purpose, random_stream
from lightning_modules.attached import attached
from lightning_modules.metric_names import is_baseline
from system.json_files import write_json

log = logging.getLogger(__name__)


STEP_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)


def skip_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Spare every training step the calls of hooks that a callback does not override.

    Lightning calls only hooks that are callable. An empty one takes 3 us, and a run has a hundred.
    """
    for callback in callbacks:
        for name in STEP_HOOKS:
            function = getattr(getattr(callback, name), "__func__", None)
            if function is getattr(Callback, name):
                setattr(callback, name, None)


class ReseedEveryEpoch(Callback):
    """Make dropout a function of (seed, epoch, rank), so that a resumed epoch repeats exactly.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed torch's global generators."""
        stream = random_stream(
            self.seed,
            epoch=trainer.current_epoch,
            position=trainer.global_rank,
            purpose=Purpose.DROPOUT,
        )
        torch.manual_seed(int(stream.integers(2**63)))


class FreshMetrics(Callback):
    """Start every epoch and every validation without metrics from an earlier one.

    Lightning keeps a metric until the same name is logged again, so records would contain metrics
    of an earlier epoch, which a resumed run does not have.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop all logged metrics, and reset metric objects."""
        trainer.callback_metrics.clear()
        for module in pl_module.modules():
            if isinstance(module, Metric):
                module.reset()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the metrics of the previous validation."""
        metrics = trainer.callback_metrics
        for name in [name for name in metrics if name.startswith("val/")]:
            del metrics[name]


class AtOnce(Callback):
    """End the training immediately on SIGTERM, as on Ctrl-C.

    Lightning's own handler waits for the end of a batch or an epoch, where ranks can wait for each
    other forever.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)  # before Lightning replaces it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the handler; Lightning does so only when the training ends."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class LogEachEpoch(Callback):
    """Log the loss terms at least once per epoch, however few steps it has."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shorten the logging interval to an epoch."""
        num_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        loop = attached(trainer)
        loop.log_every_n_steps = max(1, min(loop.log_every_n_steps, num_steps))


class EpochLine(Callback):
    """Print one line per epoch that stays when the progress bar is gone."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the line."""
        parts: tuple[str, ...] = getattr(attached(trainer).datamodule, "parts", ())
        left_out = (
            "_step",
            "_epoch",
            *(f"/{part}" for part in parts),
        )
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(left_out)
            and not name.startswith("val/alignment")
            and not is_baseline(name.removeprefix("val/"))
        }
        log.info(
            "epoch %d/%d  %s  %.1f s",
            trainer.current_epoch + 1,
            trainer.max_epochs or 0,
            "  ".join(f"{name} {value:.4g}" for name, value in values.items()),
            time.monotonic() - self.start,
        )


class Checkpoints(ModelCheckpoint):
    """Write `last.ckpt` after every epoch, and `best.ckpt` when the monitored metric improves.

    Lightning's `save_last` writes only when the best one is written. Here the best one is written
    first, and the last one contains its score: a run that is killed between the two repeats the
    epoch and writes both again. A validation within an epoch (`val_check_interval`) can be the best
    one. A run folder that was moved or copied keeps its best score.

    Args:
        dirpath: where the two files go.
        monitor: name of the metric.
        mode: whether the best is its minimum or its maximum.
    """

    def __init__(self, dirpath: str | Path, monitor: str, mode: Literal["min", "max"]) -> None:
        super().__init__(
            dirpath, filename="best", monitor=monitor, mode=mode, enable_version_counter=False
        )
        self.validated = False  # whether there is a validation to compare with the best score

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best checkpoint now if the epoch goes on, else with the epoch's last one."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.validated = True
        if not trainer.is_last_batch:
            self.save_best(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the best checkpoint if this epoch is the best, then the last one."""
        self.save_best(trainer)
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        self._save_checkpoint(trainer, self.last_model_path)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save nothing: the module may hold averaged weights by now."""

    on_train_batch_end = Callback.on_train_batch_end  # nothing is saved after single steps

    def save_best(self, trainer: L.Trainer) -> None:
        """Save the best checkpoint if the latest validation is better than all before."""
        if self.validated:
            self.validated = False
            names = sorted(trainer.callback_metrics)
            if self.monitor not in names:
                raise ValueError(
                    f"callbacks.checkpoint.monitor={self.monitor}: no such metric; there are "
                    f"{', '.join(name for name in names if name.startswith('val/'))}"
                )
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state on resume, with paths in the present folder."""
        assert self.dirpath is not None
        here = Path(self.dirpath)

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        state = state_dict | {"dirpath": self.dirpath}
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = moved(state.get(name, ""))
        best = state.get("best_k_models", {})
        state["best_k_models"] = {moved(path): score for path, score in best.items()}
        super().load_state_dict(state)
        self.current_score = state["current_score"]  # Lightning saves it and forgets it


class ProgressFile(Callback):
    """Write training progress to a JSON file for external monitors.

    It holds `epoch`, `epochs`, `step`, `steps`, `left_s` (seconds left, None at first),
    `monitor` and `value` (the metric that is watched, None before the first validation).

    Args:
        path: a .json file; replaced every few seconds.
        monitor: name of the metric.
        every: seconds between two writes.
    """

    def __init__(self, path: Path, monitor: str, every: float = 2.0) -> None:
        self.path = path
        self.monitor = monitor
        self.every = every
        self.written = 0.0
        self.began, self.first = time.monotonic(), 0
        self.value: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.began, self.first = time.monotonic(), trainer.global_step

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object
    ) -> None:
        """Write the file if an update is due."""
        if time.monotonic() - self.written > self.every:
            self.write(trainer)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file with the validation's metric."""
        self.write(trainer)

    def write(self, trainer: L.Trainer) -> None:
        """Replace the file atomically."""
        self.written = time.monotonic()
        step, steps = trainer.global_step, int(trainer.estimated_stepping_batches)
        done, value = step - self.first, trainer.callback_metrics.get(self.monitor)
        self.value = self.value if value is None else float(value)
        content = {
            "epoch": trainer.current_epoch + 1,
            "epochs": trainer.max_epochs,
            "step": step,
            "steps": steps,
            "left_s": round((self.written - self.began) / done * (steps - step)) if done else None,
            "monitor": self.monitor,
            "value": self.value,
        }
        write_json(self.path, content)


class AveragedWeights(EMAWeightAveraging):
    """Lightning's exponential moving average, on the training device.

    Lightning makes the copy before the module is moved, so it would stay on the CPU.

    Batch norms should be frozen, or a warning is logged: their statistics belong to the activations
    of the current weights. Over fifty layers the mismatch can erase the photo, until a falling
    learning rate brings the weights close to their average.

    Args:
        decay: share of the average that each step keeps, 0 to below 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay}: 0 to below 1")
        super().__init__(decay=decay)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the copy."""
        if stage == "fit" and any(
            isinstance(module, nn.BatchNorm2d) and module.training for module in pl_module.modules()
        ):
            log.warning(
                "averaged weights move too fast for the statistics of batch norms: set "
                "model.freeze_batch_norms=true or callbacks.ema=null"
            )
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class Watch(Callback):
    """Warn when the scorer gains while the photos lose: the enhancer may be gaming its scorer.

    Each validation is compared with the best PSNR and the best judge's score so far.

    Args:
        score: gain of `val/score` that counts, in buckets of its scale.
        psnr: loss of `val/psnr` that counts, in dB.
        judge: loss of `val/score_judge` that counts, in buckets of its scale.

    Attributes:
        warnings: all warnings so far; result.json contains them too.
    """

    def __init__(self, score: float = 0.05, psnr: float = 0.1, judge: float = 0.05) -> None:
        self.score = score
        self.losses = {"val/psnr": psnr, "val/score_judge": judge}
        self.best: dict[str, dict[str, float]] = {}
        self.warnings: list[str] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with the best validations so far, and warn."""
        now = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if "val/score" not in now:
            return
        for name, limit in self.losses.items():
            if name not in now:
                continue
            best = self.best.setdefault(name, now | {"epoch": trainer.current_epoch + 1})
            gain, loss = now["val/score"] - best["val/score"], best[name] - now[name]
            if gain > self.score and loss > limit:
                self.warnings.append(
                    f"epoch {trainer.current_epoch + 1}: since epoch {best['epoch']:g} val/score "
                    f"has gained {gain:.2f} while {name} has lost {loss:.2f}: the enhancer may be "
                    "gaming its scorer"
                )
                if trainer.is_global_zero:
                    log.warning("%s", self.warnings[-1])
            if loss < 0:
                self.best[name] = now | {"epoch": trainer.current_epoch + 1}

    def state_dict(self) -> dict[str, object]:
        """Return the state to resume from."""
        return {"best": self.best, "warnings": self.warnings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore state on resume."""
        self.best, self.warnings = state_dict["best"], state_dict["warnings"]


def last_step(trainer: L.Trainer) -> int:
    """Return the step at which Lightning logs a validation: that of the last optimizer step."""
    return max(0, trainer.global_step - 1)

"""What happens around the training loop: seeds, a line per epoch, before/after pictures."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.images import read_image, to_unit
from datamodules.sampling import Use, random_stream
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.nima import NIMAModule
from lightning_modules.pictures import comparison, save_before_after, save_rating_pictures

log = logging.getLogger(__name__)


class ReseedEveryEpoch(Callback):
    """Makes dropout a function of (seed, epoch, rank), so that a resumed epoch repeats exactly.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seeds torch's global generators."""
        stream = random_stream(
            self.seed, epoch=trainer.current_epoch, position=trainer.global_rank, use=Use.DROPOUT
        )
        torch.manual_seed(int(stream.integers(2**63)))


class EpochLine(Callback):
    """Prints one line per epoch, which stays when the progress bar is gone."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch", "_constant", "_floor"))
        }
        log.info(
            "epoch %d/%d  %s  %.1f s",
            trainer.current_epoch + 1,
            trainer.max_epochs or 0,
            "  ".join(f"{name} {value:.4g}" for name, value in values.items()),
            time.monotonic() - self.start,
        )


class Checkpoints(ModelCheckpoint):
    """Lightning's best and last checkpoints, also of a run folder that was moved or copied.

    Lightning would forget which epoch was the best one where the folder has another name.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the paths of the run that is continued for those of this folder."""
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


class ProgressFile(Callback):
    """Keeps a small file that says how far the training is, for who watches it from elsewhere.

    It holds `epoch`, `epochs`, `step`, `steps`, `left_s` (seconds that are left, None at first),
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.began, self.first = time.monotonic(), trainer.global_step

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object
    ) -> None:
        """Writes the file, if it is time."""
        if time.monotonic() - self.written > self.every:
            self.write(trainer)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the file with the validation's metric."""
        self.write(trainer)

    def write(self, trainer: L.Trainer) -> None:
        """Writes the file; it is whole or the one before."""
        self.written = time.monotonic()
        step, steps = trainer.global_step, int(trainer.estimated_stepping_batches)
        done, value = step - self.first, trainer.callback_metrics.get(self.monitor)
        content = {
            "epoch": trainer.current_epoch + 1,
            "epochs": trainer.max_epochs,
            "step": step,
            "steps": steps,
            "left_s": round((self.written - self.began) / done * (steps - step)) if done else None,
            "monitor": self.monitor,
            "value": None if value is None or not value.isfinite() else float(value),
        }
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.path)


class Pictures(Callback):
    """Base of the pictures, which go to the run folder and to W&B and TensorBoard.

    Args:
        folder: where the .png files go; each time replaces the last.
        every: epochs between pictures; the last epoch has them anyway.
        num_photos: how many photos are shown.
    """

    def __init__(self, folder: str | Path, every: int = 5, num_photos: int = 2) -> None:
        self.folder = Path(folder)
        self.every = every
        self.num_photos = num_photos

    def due(self, trainer: L.Trainer) -> bool:
        """Whether this epoch's pictures are to be drawn, by this process."""
        epoch = trainer.current_epoch + 1
        on_time = epoch % self.every == 0 or epoch == trainer.max_epochs
        return on_time and trainer.is_global_zero and not trainer.sanity_checking


class BeforeAfter(Pictures):
    """LR, bicubic, SR and HR of the first `num_photos` validation photos, always the same."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and logs `<photo>.png`, or `<photo>_x3.png` for each of several scales.

        Now, while the network has the weights that are validated, which may be averaged ones.
        """
        if not self.due(trainer):
            return
        assert isinstance(pl_module, EnhancementModule)
        photos: Any = trainer.datamodule.val  # type: ignore[attr-defined]
        for scale in pl_module.scales:
            for k in range(min(self.num_photos, len(photos.hr))):
                self.picture(trainer, pl_module, photos.pair(k, scale))

    @torch.no_grad()
    def picture(self, trainer: L.Trainer, module: EnhancementModule, photo: Any) -> None:  # noqa: ANN401
        """One photo's picture."""
        device = module.device
        lr, hr = to_unit(photo.lr).to(device), to_unit(photo.hr).to(device)
        with torch.autocast(device.type, enabled=False):
            sr = module(lr[None], photo.scale)[0].clamp(0, 1)
            scorer = module.loss.aesthetic.scorer if module.loss.aesthetic is not None else None
            panels = comparison(lr, hr, {"SR": sr}, photo.scale, scorer)
        name = f"{photo.name}_x{photo.scale}" if module.several else photo.name
        path = self.folder / f"{name}.png"
        save_before_after(panels, path, note=f"epoch {trainer.current_epoch + 1}")
        log_image(trainer, f"before_after/{name}", path)


class AveragedWeights(EMAWeightAveraging):
    """Lightning's exponential moving average, held where the training runs.

    Lightning makes the copy before the module is moved, so it would stay on the CPU.

    Args:
        decay: share of the average that each step keeps, 0 to below 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay}: 0 to below 1")
        super().__init__(decay=decay)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Makes the copy."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class RatingPictures(Pictures):
    """The last validation's predictions, with the best and the worst `num_photos` of them."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes and logs `ratings_*.png`."""
        if not self.due(trainer):
            return
        assert isinstance(pl_module, NIMAModule)
        assert pl_module.predictions is not None
        data: Any = trainer.datamodule.val  # type: ignore[attr-defined]
        note = f"epoch {trainer.current_epoch + 1}"
        files = save_rating_pictures(
            pl_module.predictions, data, self.folder, note, num_photos=self.num_photos
        )
        for name, path in files.items():
            log_image(trainer, name, path)


class Watch(Callback):
    """Warns when the scorer gains while the photos lose: the enhancer may be gaming its scorer.

    Each validation is compared with the best PSNR and the best judge's score so far.

    Args:
        score: gain of `val/score` that counts, in buckets of its scale.
        psnr: loss of `val/psnr` that counts, in dB.
        judge: loss of `val/score_judge` that counts, in buckets of its scale.

    Attributes:
        warnings: what was said, by epoch; result.json has it too.
    """

    def __init__(self, score: float = 0.05, psnr: float = 0.1, judge: float = 0.05) -> None:
        self.score = score
        self.losses = {"val/psnr": psnr, "val/score_judge": judge}
        self.best: dict[str, dict[str, float]] = {}
        self.warnings: list[str] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares and says."""
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

    def state_dict(self) -> dict[str, Any]:
        """For a run that is continued."""
        return {"best": self.best, "warnings": self.warnings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the run that is continued."""
        self.best, self.warnings = state_dict["best"], state_dict["warnings"]


def log_image(trainer: L.Trainer, name: str, path: Path) -> None:
    """Sends a picture to every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, read_image(path), trainer.global_step)

"""What happens around the training loop: seeds, checkpoints, a line per epoch, pictures.

A run may be interrupted anywhere and resumes at the start of an epoch. So what a callback keeps
beyond the end of an epoch must be in its state, and an epoch may have no validation or several
(`check_val_every_n_epoch`, `val_check_interval`).
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torchmetrics import Metric

from datamodules.div2k import Pair
from datamodules.images import read_image, to_array, to_unit, write_image
from datamodules.sampling import Use, random_stream
from lightning_modules.checkpoint import load_network
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.json_files import write_json
from lightning_modules.metric_names import is_baseline
from lightning_modules.metrics import image_metrics
from lightning_modules.nima import NIMAModule
from lightning_modules.pictures import (
    comparison,
    crop_box,
    save_before_after,
    save_rating_pictures,
)
from networks.bicubic import Bicubic
from networks.scales import at_scale
from networks.tiling import restore

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


class FreshMetrics(Callback):
    """Start every epoch and every validation without the metrics of an earlier one.

    Lightning keeps a metric until the same name is logged again. Records would hold metrics of an
    earlier epoch, which a resumed run does not know.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget all metrics, and what metric objects have collected."""
        trainer.callback_metrics.clear()
        for module in pl_module.modules():
            if isinstance(module, Metric):
                module.reset()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the metrics of the validation before."""
        metrics = trainer.callback_metrics
        for name in [name for name in metrics if name.startswith("val/")]:
            del metrics[name]


class AtOnce(Callback):
    """End the training at once on SIGTERM, as on Ctrl-C.

    Lightning's own handler waits for the end of a batch or an epoch, and of several ranks one can
    wait for another that waits for it.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)  # before Lightning replaces it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the handler back; Lightning does so when the training ends."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class LogEachEpoch(Callback):
    """Have loggers get the terms of the loss in every epoch, also in one of few steps."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shorten the logging interval to an epoch."""
        num_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, num_steps))  # type: ignore[attr-defined]


class EpochLine(Callback):
    """Prints one line per epoch, which stays when the progress bar is gone."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self.start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch")) and not is_baseline(name.removeprefix("val/"))
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
    first, and the last one holds its score: a run that is killed between the two repeats the epoch
    and writes both again. A validation within an epoch (`val_check_interval`) can be the best one.
    A run folder that was moved or copied keeps its best score.

    Args:
        dirpath: where the two files go.
        monitor: name of the metric.
        mode: whether the best is its minimum or its maximum.
    """

    def __init__(self, dirpath: str | Path, monitor: str, mode: Literal["min", "max"]) -> None:
        super().__init__(
            dirpath, filename="best", monitor=monitor, mode=mode, enable_version_counter=False
        )
        self.validated = False  # since the last comparison with the best score

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
        self.current_score = state["current_score"]  # Lightning saves it and forgets it


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
        self.began, self.first = time.monotonic(), 0
        self.value: float | None = None

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


class Pictures(Callback):
    """Base of the pictures, which go to the run folder and to W&B and TensorBoard.

    Args:
        folder: where the .png files go; each time replaces the last.
        every: epochs between pictures; the last validated epoch has them anyway.
        num_photos: how many photos are shown.
    """

    def __init__(self, folder: str | Path, every: int = 5, num_photos: int = 2) -> None:
        self.folder = Path(folder)
        self.every = every
        self.num_photos = num_photos

    def due(self, trainer: L.Trainer) -> bool:
        """Whether this epoch's pictures are to be drawn, by this process."""
        epoch, interval = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
        is_last = epoch + interval > (trainer.max_epochs or 0)
        on_time = epoch % self.every < interval or is_last
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


class PhotoTable(Callback):
    """At the end, what the best checkpoint makes of some validation photos, the same in every run.

    `photos.json` has, for each photo and scale, PSNR and SSIM of the whole photo and of bicubic,
    scores as far as there are scorers, and the files of its most detailed part, for who compares
    runs; W&B gets the same as the table `photos`, TensorBoard the pictures.

    Args:
        folder: where `photos.json` and `crops/` go; earlier ones are replaced.
        num_photos: how many of the validation set.
        trusted: modules that the network may come from, besides `networks`.
    """

    def __init__(
        self, folder: str | Path, num_photos: int = 4, trusted: Sequence[str] = ()
    ) -> None:
        self.folder = Path(folder)
        self.num_photos = num_photos
        self.trusted = trusted

    @rank_zero_only
    @torch.no_grad()
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the files and logs them."""
        assert isinstance(pl_module, EnhancementModule)
        assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
        best = trainer.checkpoint_callback.best_model_path
        if not best:  # nothing was validated
            return
        net, record = load_network(best, "enhancer", self.trusted)
        net.to(pl_module.device)
        photos: Any = trainer.datamodule.val  # type: ignore[attr-defined]
        rows = [
            self.row(photos.pair(k, scale), at_scale(net, scale), pl_module)
            for scale in pl_module.scales
            for k in range(min(self.num_photos, len(photos.hr)))
        ]
        write_json(self.folder / "photos.json", {"epoch": (record.epoch or 0) + 1, "photos": rows})
        for logger in trainer.loggers:
            log_photos(logger, rows, self.folder, last_step(trainer))

    def row(self, photo: Pair, net: nn.Module, module: EnhancementModule) -> dict[str, Any]:
        """Measures one photo and writes its crops."""
        baseline = Bicubic(photo.scale)
        images = {
            "lr": photo.lr,
            "bicubic": restore(baseline, photo.lr, device=module.device),
            "sr": restore(net, photo.lr, device=module.device),
            "hr": photo.hr,
        }
        row: dict[str, Any] = {"id": photo.name, "scale": photo.scale}
        hr_BCHW = to_unit(photo.hr)[None].to(module.device)
        for name, suffix in (("sr", ""), ("bicubic", "_bicubic"), ("hr", "_hr")):
            image_BCHW = to_unit(images[name])[None].to(module.device)
            if name != "hr":
                values = image_metrics(image_BCHW, hr_BCHW, photo.scale)
                row |= {f"{key}{suffix}": value.item() for key, value in values.items()}
            for key, scorer in module.scorers.items():
                row[f"{key}{suffix}"] = scorer.score(image_BCHW).item()
        row["box"] = box = crop_box(to_array(photo.hr))
        for name, image in images.items():
            factor = photo.scale if name == "lr" else 1
            top, left, height, width = (value // factor for value in box)
            row[name] = f"crops/{photo.name}_x{photo.scale}_{name}.png"
            part = image[:, top : top + height, left : left + width]
            write_image(self.folder / row[name], part, overwrite=True)
        return row


class AveragedWeights(EMAWeightAveraging):
    """Lightning's exponential moving average, held where the training runs.

    Lightning makes the copy before the module is moved, so it would stay on the CPU.

    Batch norms should be frozen: their statistics are of activations that the averaged weights do
    not have, and through fifty layers that may leave nothing of the photo, until a falling rate
    brings the weights near their average. A warning says so.

    Args:
        decay: share of the average that each step keeps, 0 to below 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay}: 0 to below 1")
        super().__init__(decay=decay)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Makes the copy."""
        if stage == "fit" and any(
            isinstance(module, nn.BatchNorm2d) and module.training for module in pl_module.modules()
        ):
            log.warning(
                "the statistics of batch norms do not fit averaged weights while these move fast: "
                "model.freeze_batch_norms=true, or callbacks.ema=null"
            )
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class RatingPictures(Pictures):
    """The last validation's predictions, with the best and the worst `num_photos` of them."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
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


def log_photos(logger: Logger, rows: list[dict[str, Any]], folder: Path, step: int) -> None:
    """Sends the rows of `PhotoTable` to a logger that shows pictures."""
    if isinstance(logger, WandbLogger):
        import wandb  # here, because it takes half a second that most runs do without

        pictures, numbers = ("lr", "sr", "hr"), ("psnr", "score", "score_judge")
        data = [
            [row["id"], row["scale"]]
            + [wandb.Image(str(folder / row[name])) for name in pictures]
            + [row.get(name) for name in numbers]
            for row in rows
        ]
        columns = ["id", "scale", "LR", "SR", "HR", "PSNR", "score", "judge"]
        logger.log_table("photos", columns, data, step=step)
    elif isinstance(logger, TensorBoardLogger):
        for row in rows:
            for name in ("lr", "bicubic", "sr", "hr"):
                title = f"photos/{row['id']}_x{row['scale']}/{name}"
                logger.experiment.add_image(title, read_image(folder / row[name]), step)


def log_image(trainer: L.Trainer, name: str, path: Path) -> None:
    """Sends a picture to every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=last_step(trainer))
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, read_image(path), last_step(trainer))


def last_step(trainer: L.Trainer) -> int:
    """The number under which Lightning logs a validation: that of the last optimizer step."""
    return max(0, trainer.global_step - 1)

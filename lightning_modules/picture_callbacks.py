"""Callbacks that write and log pictures while a network trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from datamodules.batches import Pair
from images.pixels import to_array, to_unit
from images.reading import read_image
from images.writing import write_image
from lightning_modules.attached import pairs_of, ratings_of
from lightning_modules.callbacks import last_step
from lightning_modules.checkpoint import load_network
from lightning_modules.enhancement import EnhancementModule
from lightning_modules.metric_catalogue import ImageMetric
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
from system.json_files import write_json


class Pictures(Callback):
    """Base of the callbacks that write pictures to the run folder, W&B and TensorBoard.

    Args:
        folder: where the .png files go; new ones replace old ones.
        every: epochs between pictures; the last validated epoch always has them.
        num_photos: number of photos to show.
    """

    def __init__(self, folder: str | Path, every: int = 5, num_photos: int = 2) -> None:
        self.folder = Path(folder)
        self.every = every
        self.num_photos = num_photos

    def due(self, trainer: L.Trainer) -> bool:
        """Return whether this process should draw pictures in this epoch."""
        epoch, interval = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
        is_last = epoch + interval > (trainer.max_epochs or 0)
        on_time = epoch % self.every < interval or is_last
        return on_time and trainer.is_global_zero and not trainer.sanity_checking


class BeforeAfter(Pictures):
    """Show LR, bicubic, SR and HR of the first `num_photos` validation photos."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and log `<photo>.png`, or `<photo>_x3.png` for each of several scales.

        This hook runs while the network has the validated weights, which may be averages.
        """
        if not self.due(trainer):
            return
        assert isinstance(pl_module, EnhancementModule)
        photos = pairs_of(trainer).val
        for scale in pl_module.scales:
            for k in range(min(self.num_photos, len(photos.hr))):
                self.picture(trainer, pl_module, photos.pair(k, scale))

    @torch.no_grad()
    def picture(self, trainer: L.Trainer, module: EnhancementModule, photo: Pair) -> None:
        """Draw, save and log the picture of one photo."""
        device = module.device
        lr, hr = to_unit(photo.lr).to(device), to_unit(photo.hr).to(device)
        with torch.autocast(device.type, enabled=False):
            sr = module(lr[None], photo.scale)[0].clamp(0, 1)
            scorer = module.scorers.get("score")
            panels = comparison(lr, hr, {"SR": sr}, photo.scale, scorer)
        name = f"{photo.name}_x{photo.scale}" if module.several else photo.name
        path = self.folder / f"{name}.png"
        save_before_after(panels, path, note=f"epoch {trainer.current_epoch + 1}")
        log_image(trainer, f"before_after/{name}", path)


class PhotoTable(Callback):
    """Show what the best checkpoint makes of some validation photos, at the end of the training.

    `photos.json` contains, for each photo and scale, PSNR, SSIM and scores of the whole photo, the
    same for bicubic, and crops of its most detailed part. W&B gets the table `photos`, TensorBoard
    the crops. All runs show the same photos, so that they can be compared.

    Args:
        folder: where `photos.json` and `crops/` go; earlier ones are replaced.
        num_photos: number of validation photos.
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
        """Write and log the files."""
        assert isinstance(pl_module, EnhancementModule)
        assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
        best = trainer.checkpoint_callback.best_model_path
        if not best:  # nothing was validated
            return
        net, record = load_network(best, "enhancer", self.trusted)
        net.to(pl_module.device)
        photos = pairs_of(trainer).val
        rows = [
            self.row(photos.pair(k, scale), at_scale(net, scale), pl_module)
            for scale in pl_module.scales
            for k in range(min(self.num_photos, len(photos.hr)))
        ]
        content = {"epoch": (record.epoch or 0) + 1, "photos": [row.plain for row in rows]}
        write_json(self.folder / "photos.json", content)
        for logger in trainer.loggers:
            log_photos(logger, rows, self.folder, last_step(trainer), pl_module.metrics.about)

    def row(self, photo: Pair, net: nn.Module, module: EnhancementModule) -> "PhotoRow":
        """Measure one photo and write its crops."""
        baseline = Bicubic(photo.scale)
        images = {
            "lr": photo.lr,
            "bicubic": restore(baseline, photo.lr, device=module.device),
            "sr": restore(net, photo.lr, device=module.device),
            "hr": photo.hr,
        }
        values: dict[str, float] = {}
        hr_BCHW = to_unit(photo.hr)[None].to(module.device)
        for name, suffix in (("sr", ""), ("bicubic", "_bicubic"), ("hr", "_hr")):
            image_BCHW = to_unit(images[name])[None].to(module.device)
            if name != "hr":
                measured = module.metrics(image_BCHW, hr_BCHW, photo.scale)
                values |= {f"{key}{suffix}": value.item() for key, value in measured.items()}
            for key, scorer in module.scorers.items():
                values[f"{key}{suffix}"] = scorer.score(image_BCHW).item()
        box = crop_box(to_array(photo.hr))
        pictures = {name: f"crops/{photo.name}_x{photo.scale}_{name}.png" for name in images}
        for name, image in images.items():
            factor = photo.scale if name == "lr" else 1
            top, left, height, width = (value // factor for value in box)
            part = image[:, top : top + height, left : left + width]
            write_image(self.folder / pictures[name], part, overwrite=True)
        return PhotoRow(photo.name, photo.scale, values, box, pictures)


class PhotoRow(NamedTuple):
    """A row of photos.json: what was measured of a photo, and where its crops are.

    Attributes:
        id: name of the photo.
        scale: HR pixels per LR pixel.
        values: measurements of the whole photo.
        box: top, left, height and width of the crops in HR pixels.
        pictures: files of the crops by kind, such as `sr`.
    """

    id: str
    scale: int
    values: dict[str, float]
    box: tuple[int, int, int, int]
    pictures: dict[str, str]

    @property
    def plain(self) -> dict[str, object]:
        """Return the row as it is written."""
        return {
            **{"id": self.id, "scale": self.scale, **self.values},
            **{"box": self.box, **self.pictures},
        }


class RatingPictures(Pictures):
    """Plot the predictions of the last validation, and show the `num_photos` best and worst."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and log `ratings_*.png`."""
        if not self.due(trainer):
            return
        assert isinstance(pl_module, NIMAModule)
        assert pl_module.predictions is not None
        data = ratings_of(trainer).val
        note = f"epoch {trainer.current_epoch + 1}"
        files = save_rating_pictures(
            pl_module.predictions, data, self.folder, note, num_photos=self.num_photos
        )
        for name, path in files.items():
            log_image(trainer, name, path)


def log_photos(
    logger: Logger,
    rows: list[PhotoRow],
    folder: Path,
    step: int,
    about: Mapping[str, ImageMetric],
) -> None:
    """Send the rows of `PhotoTable` to a logger that shows pictures.

    Args:
        logger: W&B or TensorBoard; others are left alone.
        rows: the rows.
        folder: of their pictures.
        step: training step.
        about: descriptions of the image metrics.
    """
    if isinstance(logger, WandbLogger):
        import wandb  # here, because it takes half a second that most runs do without

        pictures = ("lr", "sr", "hr")
        shown = {k: m.title + m.arrow for k, m in about.items() if k not in ("psnr_y", "ssim")}
        shown |= {"score": "score", "score_judge": "judge"}
        data = [
            [row.id, row.scale]
            + [wandb.Image(str(folder / row.pictures[name])) for name in pictures]
            + [row.values.get(name) for name in shown]
            for row in rows
        ]
        columns = ["id", "scale", "LR", "SR", "HR", *shown.values()]
        logger.log_table("photos", columns, data, step=step)
    elif isinstance(logger, TensorBoardLogger):
        for row in rows:
            for name, file in row.pictures.items():
                title = f"photos/{row.id}_x{row.scale}/{name}"
                logger.experiment.add_image(title, read_image(folder / file), step)


def log_image(trainer: L.Trainer, name: str, path: Path) -> None:
    """Send a picture to every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=last_step(trainer))
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, read_image(path), last_step(trainer))

"""Enhance and score the photos of a job, saving each picture as soon as it is made."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from images.pixels import to_array
from images.reading import Photo, read_photo
from images.writing import write_photo
from lightning_modules.enhancing import enhanced
from lightning_modules.scoring import rate_files
from networks.bicubic import Bicubic
from networks.nima import NIMA, mean_score, std_score
from web.jobs import Job, Progress, photo_problem
from web.schema import PhotoResult, Score, Version
from web.speeds import Speeds
from web.store import FullError, Store

THUMB = 160  # pixels a side: twice the size on the page, for screens with two pixels per CSS pixel
MAX_VIEW_PIXELS = 12e6  # of a picture in a slider, for which browsers hold 4 bytes per pixel


class Processor:
    """Make all pictures of a job.

    Args:
        tile: side in LR pixels of the tiles that are enhanced one at a time.
        busy: returns the tokens and uploads of unfinished jobs, which must not be cleaned up.
    """

    def __init__(
        self,
        store: Store,
        scorer: NIMA,
        *,
        device: torch.device,
        tile: int,
        busy: Callable[[], set[str]],
    ) -> None:
        self.store = store
        self.scorer = scorer
        self.device = device
        self.tile = tile
        self.busy = busy
        self.speeds = Speeds(tile)

    def process(self, job: Job) -> None:
        """Enhance and score every photo; problems with a photo are stored in its entry.

        Raises:
            Stopped: if the job was cancelled or interrupted.
            FullError: if the results do not fit on the disk.
        """
        progress = Progress(job, self.speeds)
        for number, upload in enumerate(job.uploads):
            entry = PhotoResult(name=upload.name)
            job.update(photos=[*job.result.photos, entry])
            try:
                photo = read_photo(upload.path)
            except Exception as error:  # decoders raise anything; the other photos go on
                entry.error = photo_problem(error, upload.path)
            else:
                photo.info.pop("exif", None)  # a shared link must not reveal where it was taken
                entry.height, entry.width = photo.pixels.shape[1:]
                try:
                    self.process_photo(job, photo, progress)
                except FullError:  # the other photos would not fit either
                    raise
                except ValueError as error:
                    entry.error = photo_problem(error, upload.path)
            progress.done = progress.ends[number]  # even if this one failed
            job.save()

    def process_photo(self, job: Job, photo: Photo, progress: Progress) -> None:
        """Make all versions of the last photo of a job's result."""
        start, in_networks = time.perf_counter(), 0.0
        self.add(job, "original", "original", photo)
        if job.task is None:
            return
        if job.task.scale > 1:
            bicubic = self.enhance(
                Bicubic(job.task.scale), photo, "cpu", lambda done, total: job.raise_if_stopped()
            )
            self.add(job, "bicubic", "bicubic", bicubic)
            del bicubic  # frees its memory before the next one is made
        _, height, width = photo.pixels.shape
        for enhancer in job.enhancers:
            for gamma, net in enhancer.networks(job.task.scale):
                name, word = enhancer.name, enhancer.id
                if gamma is not None:
                    name = f"{enhancer.class_name} gamma={gamma:g}"
                    word = f"{enhancer.id}-at-{gamma:g}"
                enhancer.mix(gamma)
                began = time.perf_counter()
                made = self.enhance(net, photo, self.device, on_tile(job, name, progress))
                seconds = time.perf_counter() - began
                in_networks += seconds
                series = enhancer.id if enhancer.gammas else None
                facts = {"seconds": round(seconds, 3), "series": series, "gamma": gamma}
                self.add(job, name, word, made, **facts)
                del made
                self.speeds.add(enhancer, job.task, (height, width), seconds)
                progress.done += 1
        num = sum(enhancer.num_networks for enhancer in job.enhancers)
        rest = time.perf_counter() - start - in_networks
        self.speeds.add_rest(job.task, (height, width), num, rest)

    def enhance(
        self,
        net: nn.Module,
        photo: Photo,
        device: torch.device | str,
        on_tile: Callable[[int, int], None],
    ) -> Photo:
        """Apply a network, in tiles."""
        return enhanced(net, photo, device=torch.device(device), tile=self.tile, on_tile=on_tile)

    def add(self, job: Job, name: str, word: str, photo: Photo, **facts: object) -> None:
        """Write and score a version of the job's last photo; `word` is its name in file names."""
        job.raise_if_stopped()
        entry = job.result.photos[-1]
        path = job.folder / f"{len(job.result.photos)}-{word}.png"
        job.update(now=f"{entry.name}: {name}")
        write_photo(path, photo)
        view, thumb, size = write_smaller(path, photo)
        height, width = photo.pixels.shape[1:]
        version = {
            "id": path.stem,
            "name": name,
            "kind": word if word in ("original", "bicubic") else "model",
            "file": path.name,
            "width": width,
            "height": height,
            "view": view,
            "view_width": size[0],
            "view_height": size[1],
            "thumb": thumb,
            "bytes": path.stat().st_size,
            "score": self.score(path),
        }
        self.store.clean(self.busy())
        entry.versions = [*entry.versions, Version.model_validate(version | facts)]
        job.save()

    def score(self, path: Path) -> Score | None:
        """Rate a file as the command `score` does; return None if it cannot be rated."""
        (rating,) = rate_files(self.scorer, [path], device=self.device)
        if rating.p_K is None or not rating.p_K.isfinite().all():  # too narrow, or a broken scorer
            return None
        p_1K = rating.p_K[None]
        return Score(
            mean=mean_score(p_1K).item(), std=std_score(p_1K).item(), p=rating.p_K.tolist()
        )


def on_tile(job: Job, name: str, progress: Progress) -> Callable[[int, int], None]:
    """Return a callback for each tile that publishes the progress and stops the job."""
    what = f"{job.result.photos[-1].name}: {name}"

    def tick(done: int, total: int) -> None:
        job.raise_if_stopped()
        share, left = progress.estimate(done / total)
        tiles = f", tile {done} of {total}" if total > 1 else ""
        job.update(progress=share, seconds_left=left, now=f"{what}{tiles}")

    return tick


def write_smaller(path: Path, photo: Photo) -> tuple[str, str, tuple[int, int]]:
    """Write smaller copies of a picture for the page: a square thumbnail, and one for sliders.

    Returns:
        The file for sliders, which is the picture itself unless it is too large, the thumbnail, and
        width and height for sliders.
    """
    pixels = photo.pixels if photo.alpha is None else torch.cat([photo.pixels, photo.alpha])
    pixels = pixels if photo.levels == 255 else pixels // 257
    image = Image.fromarray(to_array(pixels.to(torch.uint8)))
    profile = photo.info.get("icc_profile")
    thumb = path.with_name(f"{path.stem}-thumb.webp")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = left, top, left + side, top + side
    shown = image.resize((THUMB, THUMB), Image.Resampling.LANCZOS, box, reducing_gap=2.0)
    shown.save(thumb, quality=80, icc_profile=profile)
    if image.width * image.height <= MAX_VIEW_PIXELS:
        return path.name, thumb.name, image.size
    factor = math.sqrt(MAX_VIEW_PIXELS / (image.width * image.height))
    size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    smaller = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    view = path.with_name(f"{path.stem}-view.png")
    smaller.save(view, compress_level=1, icc_profile=profile)
    return view.name, thumb.name, size

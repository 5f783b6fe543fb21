"""The work behind the page: one job after the other, saved as it grows; each can be stopped."""

import datetime
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from images.pixels import to_array
from images.reading import Photo, read_photo
from images.writing import write_photo
from lightning_modules.enhancing import enhanced
from lightning_modules.record import Record
from lightning_modules.scoring import rate_files
from networks.bicubic import Bicubic
from networks.nima import NIMA, mean_score, std_score
from system.device import release_memory
from system.json_files import write_json
from web.offers import Offer, Speeds, Task, scorer_facts
from web.store import FullError, Store

log = logging.getLogger(__name__)

VIEW = 12e6  # pixels of the largest picture that a slider shows; browsers keep 4 bytes for each
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # of Pillow's, which knows more than photos
FIXED = 0.15  # seconds for a picture's file and score, beside the network's time


class Stopped(Exception):
    """The job is not wanted any more."""


class Upload(NamedTuple):
    """A photo that somebody sent: the file, the name it had there, and its size."""

    path: Path
    name: str
    width: int
    height: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


@dataclass(eq=False)
class Job:
    """Photos to be enhanced.

    Attributes:
        folder: where the results go; its name is the token.
        uploads: the photos.
        task: None if they are only to be scored.
        offers: what enhances them.
        result: what result.json holds, see docs/web.md.
        stop: set when the job is not wanted any more.
        deleted: whether its results are not, either.
    """

    folder: Path
    uploads: list[Upload]
    task: Task | None
    offers: list[Offer]
    result: dict[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)
    deleted: bool = False

    @property
    def token(self) -> str:
        """The right to see the results."""
        return self.folder.name

    @property
    def unfinished(self) -> bool:
        """Whether it waits or is worked on."""
        return self.result["state"] in ("waiting", "working")

    def go_on(self) -> None:
        """Raises `Stopped` if the job is not wanted any more."""
        if self.stop.is_set():
            raise Stopped


class Plan:
    """How far a job is, by what each of its networks is expected to take.

    Args:
        job: with its photos and offers.
        speeds: what is known of the offers.
    """

    def __init__(self, job: Job, speeds: Speeds) -> None:
        self.steps: list[float] = []
        self.ends: list[int] = []  # of photos: the number of steps up to there
        for upload in job.uploads:
            for offer in job.offers:
                assert job.task is not None
                whole = speeds.get(offer, job.task, (upload.height, upload.width)) or 0.0
                num = max(1, len(offer.gammas))
                self.steps += [whole / num + FIXED] * num
            self.ends.append(len(self.steps))
        self.done = 0
        self.began = time.monotonic()

    def place(self, share: float) -> tuple[float, float]:
        """The share of the whole that is done, and the seconds that are left.

        Args:
            share: of the network at hand.
        """
        total = sum(self.steps)
        done = sum(self.steps[: self.done]) + share * self.steps[self.done]
        took = time.monotonic() - self.began
        progress = min(0.99, done / total)
        left = took * (1 - progress) / progress if took > 2 and progress > 0.05 else total - done
        return round(progress, 3), round(left, 1)

    def version_done(self) -> None:
        """The next network begins."""
        self.done += 1

    def photo_done(self, number: int) -> None:
        """The next photo begins, whatever became of this one."""
        self.done = self.ends[number - 1]


@dataclass(frozen=True)
class Limits:
    """What one job, and all that wait, may be."""

    photos: int
    bytes: int
    megapixels: float
    waiting: int


class Worker:
    """Does one job at a time, in a thread of its own, so that memory is bounded.

    Args:
        store: where results go.
        offers: the enhancers, on the device.
        scorer: rates every picture; left as it is.
        scorer_record: where it comes from.
        device: where all compute.
        tile: LR pixels a side that are enhanced at once.
        limits: of a job and of the queue.
    """

    def __init__(
        self,
        store: Store,
        offers: Sequence[Offer],
        scorer: NIMA,
        scorer_record: Record,
        *,
        device: torch.device,
        tile: int,
        limits: Limits,
    ) -> None:
        self.store = store
        self.offers = {offer.id: offer for offer in offers}
        self.scorer = scorer
        self.scorer_facts = scorer_facts(scorer, scorer_record)
        self.device = device
        self.tile = tile
        self.limits = limits
        self.speeds = Speeds(tile)
        self.waiting: deque[Job] = deque()
        self.current: Job | None = None
        self.changed = threading.Condition()
        self.ending = False
        self.thread = threading.Thread(target=self.run, name="worker", daemon=True)

    @property
    def device_name(self) -> str:
        """What the page calls the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type.upper()

    def tasks(self) -> dict[Task, list[Offer]]:
        """What can be done, with the enhancers that do it; enlarging first."""
        found: dict[Task, list[Offer]] = {}
        for offer in self.offers.values():
            for task in offer.tasks:
                found.setdefault(task, []).append(offer)
        order = ("super-resolution", "deblurring", "restoration")
        return {
            task: found[task] for task in sorted(found, key=lambda t: (order.index(t[0]), t[1]))
        }

    def submit(self, uploads: Sequence[Upload], task: Task | None, ids: Sequence[str]) -> Job:
        """Puts a job at the end of the queue.

        Args:
            uploads: the photos; their files are the job's from now on.
            task: None if they are only to be scored.
            ids: of the offers.

        Raises:
            ValueError: if this is not offered, with a sentence for people.
            FullError: if the queue is full.
        """
        offers = self.chosen(task, ids)
        if not uploads:
            raise ValueError("No photo was given.")
        if len(uploads) > self.limits.photos:
            raise ValueError(f"{len(uploads)} photos: up to {self.limits.photos} at a time.")
        with self.changed:
            if len(self.waiting) >= self.limits.waiting:
                raise FullError("The queue is full; please try again later.")
            folder = self.store.create()
            now = datetime.datetime.now(datetime.UTC)  # whole seconds would leave ties in their age
            kept = datetime.timedelta(seconds=self.store.keep_seconds)
            result: dict[str, Any] = {
                "token": folder.name,
                "state": "waiting",
                "error": None,
                "created": now.isoformat(),
                "expires": (now + kept).isoformat(),
                "progress": 0.0,
                "seconds_left": None,
                "now": "",
                "task": task.name if task else None,
                "scale": task.scale if task else 1,
                "label": task.label if task else "Score",
                "device": self.device_name,
                "scorer": self.scorer_facts,
                "photos": [],
            }
            job = Job(folder, list(uploads), task, offers, result)
            self.save(job)
            self.waiting.append(job)
            self.changed.notify_all()
        return job

    def chosen(self, task: Task | None, ids: Sequence[str]) -> list[Offer]:
        """The offers of a request.

        Raises:
            ValueError: if the task or one of them is not offered.
        """
        if task is None:
            return []
        offered = self.tasks().get(task)
        if offered is None:
            known = ", ".join(f"{name} {scale}" for name, scale in self.tasks())
            raise ValueError(f"{task.name} {task.scale} is not offered here; what is: {known}.")
        allowed = [offer.id for offer in offered]
        unknown = [name for name in ids if name not in allowed]
        if unknown or not ids:
            what = f"No such model: {unknown[0][:80]}" if unknown else "No model was chosen"
            raise ValueError(f"{what}; for this task there are {', '.join(allowed)}.")
        return [offer for offer in offered if offer.id in ids]

    def state(self, token: str) -> dict[str, Any] | None:
        """What result.json says; of unfinished jobs how far they are."""
        with self.changed:
            for place, job in enumerate(self.waiting):
                if job.token == token:
                    before = place + (self.current is not None)
                    return {**job.result, "waiting": before}
            if self.current is not None and self.current.token == token:
                return dict(self.current.result)
        folder = self.store.find(token)
        return self.store.result(folder) if folder else None

    def stop_job(self, token: str, *, delete: bool = False) -> bool:
        """Cancels a job, and removes its results if that is wanted; False if there is none."""
        with self.changed:
            for job in [*self.waiting, *([self.current] if self.current else [])]:
                if job.token == token:
                    job.deleted |= delete
                    job.stop.set()
                    if job in self.waiting:
                        self.waiting.remove(job)
                        self.close(job, "cancelled")
                    return True
        folder = self.store.find(token)
        if folder and delete:
            self.store.remove_job(folder)
        return folder is not None

    def busy(self) -> set[str]:
        """Tokens and uploads of the jobs that are not finished."""
        with self.changed:
            jobs = [job for job in (*self.waiting, self.current) if job]
        return {name for job in jobs for name in (job.token, *(u.path.name for u in job.uploads))}

    def num_unfinished(self) -> int:
        """How many jobs there are before a new one."""
        with self.changed:
            return len(self.waiting) + (self.current is not None)

    def start(self) -> None:
        """Begins to work."""
        self.thread.start()

    def end(self) -> None:
        """Stops after the tile at hand; jobs that are not finished are interrupted."""
        with self.changed:
            self.ending = True
            for job in [*self.waiting, *([self.current] if self.current else [])]:
                job.stop.set()
            self.changed.notify_all()
        self.thread.join(timeout=30)

    def run(self) -> None:
        """The thread."""
        try:
            self.speeds.measure(list(self.offers.values()), self.device, lambda: self.ending)
        except Exception:  # the page can do without estimates
            log.exception("the speed of the models could not be measured")
        while True:
            with self.changed:
                while not self.waiting and not self.ending:
                    self.changed.wait()
                if self.ending:
                    while self.waiting:
                        self.close(self.waiting.popleft(), "interrupted")
                    return
                job = self.current = self.waiting.popleft()
                job.result["state"] = "working"
            began = time.monotonic()
            state, error = self.outcome(job)
            with self.changed:
                try:
                    self.close(job, state, error)
                except OSError:  # the next job has a right to run
                    log.exception("a job's end could not be written")
                finally:
                    self.current = None
            release_memory()
            took = time.monotonic() - began
            log.info("%s: %d photos, %.1f s", state, len(job.uploads), took)

    def outcome(self, job: Job) -> tuple[str, str | None]:
        """Does a job; returns its last state, and what went wrong."""
        try:
            self.work(job)
        except Stopped:
            return ("interrupted" if self.ending else "cancelled"), None
        except FullError as error:  # its pictures would push those of others out later
            for path in job.folder.glob("*.png"):
                path.unlink()
            self.show(job, photos=[])
            return "failed", str(error)
        except Exception as error:  # the next job has a right to run
            if isinstance(error, OSError) and error.strerror:
                return "failed", f"The server could not go on: {error.strerror}."
            log.exception("a job failed")
            memory = isinstance(error, MemoryError) or "memory" in str(error)
            what = "the photo needs more memory than there is" if memory else "an error of its own"
            return "failed", f"The server could not go on: {what}."
        return "done", None

    def close(self, job: Job, state: str, error: str | None = None) -> None:
        """Writes the last state of a job and removes its uploads."""
        for upload in job.uploads:
            upload.path.unlink(missing_ok=True)
        job.result |= {"state": state, "error": error, "now": "", "seconds_left": None}
        if state == "done":
            job.result["progress"] = 1.0
        if job.deleted:
            self.store.remove_job(job.folder)
        else:
            self.save(job)

    def save(self, job: Job) -> None:
        """Writes result.json."""
        write_json(job.folder / "result.json", job.result)

    def work(self, job: Job) -> None:
        """Enhances and scores every photo; what a photo cannot have is said beside it."""
        plan = Plan(job, self.speeds)
        for number, upload in enumerate(job.uploads, 1):
            entry: dict[str, Any] = {
                "name": upload.name, "error": None, "width": None, "height": None, "versions": [],
            }  # fmt: skip
            self.show(job, photos=[*job.result["photos"], entry])
            try:
                photo = read_photo(upload.path)
            except Exception as error:  # whatever a decoder makes of it: the others go on
                entry["error"] = sentence(error, upload.path)
            else:
                # Where it was taken is nobody's business who gets the link.
                photo.info.pop("exif", None)
                entry["height"], entry["width"] = photo.pixels.shape[1:]
                self.enhance_or_tell(job, number, photo, entry, plan)
            plan.photo_done(number)
            self.save(job)

    def enhance_or_tell(
        self, job: Job, number: int, photo: Photo, entry: dict[str, Any], plan: "Plan"
    ) -> None:
        """Make all versions of one photo, or say beside it why that cannot be."""
        try:
            self.enhance_photo(job, number, photo, entry, plan)
        except FullError:  # the others would not fit either
            raise
        except ValueError as error:
            entry["error"] = sentence(error, job.uploads[number - 1].path)

    def enhance_photo(
        self, job: Job, number: int, photo: Photo, entry: dict[str, Any], plan: "Plan"
    ) -> None:
        """Makes all versions of one photo."""
        self.add(job, number, entry, "original", "original", photo)
        if job.task is None:
            return
        if job.task.scale > 1:
            bicubic = Bicubic(job.task.scale)
            made = enhanced(
                bicubic,
                photo,
                device=torch.device("cpu"),
                tile=self.tile,
                on_tile=lambda done, total: job.go_on(),
            )
            self.add(job, number, entry, "bicubic", "bicubic", made)
            del made  # a large one less beside the next
        for offer in job.offers:
            for gamma, net in offer.networks(job.task.scale):
                name = offer.name if gamma is None else f"{offer.class_name} gamma={gamma:g}"
                offer.use(gamma)
                began = time.perf_counter()
                made = enhanced(
                    net,
                    photo,
                    device=self.device,
                    tile=self.tile if getattr(net, "margin", None) is not None else None,
                    on_tile=self.ticker(job, f"{entry['name']}: {name}", plan),
                )
                seconds = time.perf_counter() - began
                series = offer.id if offer.gammas else None
                facts = {"seconds": round(seconds, 3), "series": series, "gamma": gamma}
                word = offer.id if gamma is None else f"{offer.id}-at-{gamma:g}"
                self.add(job, number, entry, name, word, made, **facts)
                del made
                self.speeds.saw(offer, job.task, (entry["height"], entry["width"]), seconds)
                plan.version_done()

    def ticker(self, job: Job, what: str, plan: "Plan") -> Callable[[int, int], None]:
        """Called after each tile: shows how far the job is, and stops it if that is wanted."""

        def tick(done: int, total: int) -> None:
            job.go_on()
            progress, left = plan.place(done / total)
            tiles = f", tile {done} of {total}" if total > 1 else ""
            self.show(job, progress=progress, seconds_left=left, now=f"{what}{tiles}")

        return tick

    def show(self, job: Job, **facts: Any) -> None:  # noqa: ANN401
        """Changes what is said about a job."""
        with self.changed:
            job.result |= facts

    def add(
        self,
        job: Job,
        number: int,
        entry: dict[str, Any],
        name: str,
        word: str,
        photo: Photo,
        **facts: Any,  # noqa: ANN401
    ) -> None:
        """Writes a version of a photo, rates it and shows it."""
        job.go_on()
        file = f"{number}-{word}.png"
        self.show(job, now=f"{entry['name']}: {name}")
        write_photo(job.folder / file, photo)
        view, size = self.write_view(job.folder / file, photo)
        height, width = photo.pixels.shape[1:]
        version = {
            "id": file.removesuffix(".png"),
            "name": name,
            "kind": word if word in ("original", "bicubic") else "model",
            "file": file,
            "width": width,
            "height": height,
            "view": view,
            "view_width": size[0],
            "view_height": size[1],
            "bytes": (job.folder / file).stat().st_size,
            "seconds": None,
            "series": None,
            "gamma": None,
            "score": self.score(job.folder / file),
            **facts,
        }
        self.store.clean(self.busy())
        with self.changed:
            entry["versions"] = [*entry["versions"], version]
        self.save(job)

    def write_view(self, path: Path, photo: Photo) -> tuple[str, tuple[int, int]]:
        """The picture that sliders show: the file itself, or a smaller one if that is too large."""
        height, width = photo.pixels.shape[1:]
        if height * width <= VIEW:
            return path.name, (width, height)
        factor = math.sqrt(VIEW / (height * width))
        size = max(1, int(width * factor)), max(1, int(height * factor))
        pixels = photo.pixels if photo.levels == 255 else photo.pixels // 257
        image = Image.fromarray(to_array(pixels.to(torch.uint8)))
        smaller = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        view = path.with_name(f"{path.stem}-view.png")
        smaller.save(view, compress_level=1)
        return view.name, size

    def score(self, path: Path) -> dict[str, Any] | None:
        """The rating of a file, as `python run.py score` gives it; None if it cannot be rated."""
        (rating,) = rate_files(self.scorer, [path], device=self.device)
        if rating.p_K is None or not rating.p_K.isfinite().all():  # too narrow, or a broken scorer
            return None
        p_1K = rating.p_K[None]
        return {
            "mean": mean_score(p_1K).item(),
            "std": std_score(p_1K).item(),
            "p": rating.p_K.tolist(),
        }


def sentence(error: Exception, path: Path) -> str:
    """What is wrong with a photo, without the name that its file has here."""
    text = str(error) if isinstance(error, ValueError) else ""
    if path.name in text.removeprefix(f"{path}: ") or not text:  # not made for people
        text = f"cannot be read as an image ({type(error).__name__})"
    text = text.removeprefix(f"{path}: ").partition("\n")[0]
    return f"{text[:1].upper()}{text[1:]}."

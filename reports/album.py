"""Collect crops of photos for the report's page, within a limit on its size."""

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import PIL.Image

from reports.measures import added_measures
from reports.run_files import Photo
from reports.run_table import Run, label_of, stem, variant_keys, variant_of
from system.regular_files import read_regular

BUDGET = 12_000_000  # characters of pictures: with figures and tables, the page stays below 15 MB
MAX_BYTES = 64 * 2**20  # of a picture's file
MAX_PIXELS = 2**23  # of a picture, which shows a quarter of a photo's width and height
FORMATS = ("PNG", "JPEG", "WEBP")  # some of Pillow's other readers start programs
SCORES = ("score", "score_judge")
Measured = tuple[str, str, int]  # name in photos.json, heading, decimals
BEGIN: tuple[Measured, ...] = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4))
END: tuple[Measured, ...] = (("score", "score", 3), ("score_judge", "judge", 3))


@dataclass
class Choice:
    """A version of a photo: its picture, None if missing, and what was measured of it."""

    label: str
    picture: int | None
    run: bool = False  # made by a run, and not a reference
    values: dict[str, float] = field(default_factory=dict)

    def measure(
        self, measures: Iterable[Measured], values: dict[str, float], suffix: str = ""
    ) -> None:
        """Take the measurements that there are: runs without a scorer have no scores."""
        for name, _, _ in measures:
            if (value := values.get(f"{name}{suffix}")) is not None:
                self.values[name] = value


@dataclass
class Entry:
    """A photo of the page with its versions, and the scorers that rated them."""

    id: str
    scale: int
    choices: list[Choice]
    raters: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in SCORES})

    def arrange(self) -> None:
        """Sort the runs between bicubic and HR; leave out scores that would be ambiguous."""
        lr, bicubic, hr, *runs = self.choices
        self.choices = [lr, bicubic, *sorted(runs, key=lambda one: one.label), hr]
        for name, raters in self.raters.items():
            self.raters[name] = sorted(set(raters))
            if len(self.raters[name]) > 1:
                for reference in (lr, bicubic, hr):
                    reference.values.pop(name, None)


@dataclass
class Album:
    """Pictures of the page, without duplicates, and what is shown of each photo."""

    pictures: list[str] = field(default_factory=list)
    photos: list[Entry] = field(default_factory=list)
    measures: list[Measured] = field(default_factory=list)
    left_out: int = 0  # pictures omitted for lack of room
    wanted: int = 0  # pictures made by runs
    shown: int = 0  # how many of these are included
    size: int = 0
    known: dict[str, int] = field(default_factory=dict)  # by SHA-256
    read: dict[Path, int | None] = field(default_factory=dict)  # by file

    def add(self, run: Run, photo: Photo, kind: str) -> int | None:
        """Add a picture; return its index, or None if it is missing, damaged or does not fit.

        Args:
            run: to which problems with the picture are added.
            photo: one of its photos.
            kind: `lr`, `bicubic`, `sr` or `hr`.
        """
        folder = run.folder / "images"
        name = photo.pictures.get(kind, f"{photo.id}_{kind}")
        path = folder / name
        if path not in self.read:
            self.read[path] = None
            try:
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise ValueError("is not below images/")
                self.read[path] = self.add_content(read_regular(path, MAX_BYTES))
            except Exception as error:  # decoders may raise anything
                reason = getattr(error, "strerror", None) or error
                run.bad_pictures.append(f"images/{name[:80]}: {reason}")
        return self.read[path]

    def add_content(self, content: bytes) -> int | None:
        """Add a picture by its file's content; return its index, or None if it does not fit."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.known:
            uri = "" if self.left_out else as_uri(content)  # full: compress no further pictures
            if self.left_out or self.size + len(uri) > BUDGET:
                self.left_out += 1
                return None
            self.known[digest] = len(self.pictures)
            self.size += len(uri)
            self.pictures.append(uri)
        return self.known[digest]

    @property
    def content(self) -> dict[str, object]:
        """Return the data for the page's script."""
        return {
            "pictures": self.pictures,
            "photos": [asdict(photo) for photo in self.photos],
            "measures": self.measures,
        }


def as_uri(content: bytes) -> str:
    """Return a picture as a data URI in lossless WebP, which is smaller than PNG.

    Args:
        content: of an image file.

    Raises:
        ValueError: if it is too large.
        Exception: anything that Pillow raises if it is not a picture.
    """
    buffer = io.BytesIO()
    with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"has {picture.width} x {picture.height} pixels, too many for a page")
        picture.convert("RGB").save(buffer, format="WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def fill_album(runs: Sequence[Run], num_photos: int | None) -> Album:
    """Collect photos with the crops of each run.

    If not everything fits, first photos come before second ones, and the first seed of a setting
    before its others.

    Args:
        runs: finished enhancers.
        num_photos: photos per run and scale; None: all that the runs have kept.
    """
    keys = variant_keys(runs)
    order: list[tuple[int, int, Run]] = []
    seeds: Counter[object] = Counter()
    for run in sorted(runs, key=lambda run: (run.net, run.gamma or 0, run.seed or 0)):
        setting = (run.net, run.gamma, variant_of(run, keys), str((run.scales, run.validation)))
        order += [(place, seeds[setting], run) for place in range(len(run.photos))[:num_photos]]
        seeds[setting] += 1
    added = [(m.name.removeprefix("val/"), m.title, m.digits) for m in added_measures(runs)]
    album = Album(measures=[*BEGIN, *added, *END])
    found: dict[tuple[str, int, int], Entry] = {}
    labels = {run: label_of(run, keys) for run in runs}
    by_scale = {run: [[p for p in run.photos if p.scale == s] for s in run.scales] for run in runs}
    for place, _, run in sorted(order, key=lambda item: item[:2]):
        for photos in by_scale[run]:
            if place < len(photos):
                add_photo(album, found, run, photos[place], labels[run])
    album.photos = sorted(found.values(), key=lambda entry: (entry.scale, entry.id))
    for entry in album.photos:
        entry.arrange()
    return album


def add_photo(
    album: Album, found: dict[tuple[str, int, int], Entry], run: Run, photo: Photo, label: str
) -> None:
    """Add a run's version of a photo."""
    album.wanted += 1
    hr = album.add(run, photo, "hr")
    if hr is None:
        return
    entry = found.get((photo.id, photo.scale, hr))
    if entry is None:
        lr, bicubic = (album.add(run, photo, kind) for kind in ("lr", "bicubic"))
        references = [Choice("LR", lr), Choice("bicubic", bicubic), Choice("HR", hr)]
        entry = found[photo.id, photo.scale, hr] = Entry(photo.id, photo.scale, references)
    for reference in entry.choices[:3]:
        reference.measure(album.measures, photo.values, f"_{reference.label.lower()}")
    if label in (other.label for other in entry.choices):
        label = f"{label} ({stem(str(run.folder))})"
    choice = Choice(label, album.add(run, photo, "sr"), run=True)
    choice.measure(album.measures, photo.values)
    album.shown += choice.picture is not None
    entry.choices.append(choice)
    for name in SCORES:
        if name in photo.values:
            entry.raters[name].append(str(run.rater(f"val/{name}")))

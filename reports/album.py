"""Collect crops of photos for the report's page, within a limit on its size."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image

from reports.run_table import Run, label_of, number, stem, variant_keys, variant_of
from system.regular_files import read_regular

BUDGET = 12_000_000  # characters of pictures: with figures and tables, the page stays below 15 MB
QUALITY = (
    90  # of WebP, if lossless pictures do not fit: a quarter of the size, with little visible loss
)
MAX_BYTES = 64 * 2**20  # of a picture's file
MAX_PIXELS = 2**23  # of a picture, which shows a quarter of a photo's width and height
FORMATS = ("PNG", "JPEG", "WEBP")  # some of Pillow's other readers start programs
MEASURES = ("psnr", "ssim", "score", "score_judge")  # of a photo, in photos.json


@dataclass
class Album:
    """Pictures of the page, without duplicates, and what is shown of each photo."""

    pictures: list[str] = field(default_factory=list)
    photos: list[dict[str, Any]] = field(default_factory=list)
    quality: int | None = None  # of WebP; None: lossless
    left_out: int = 0  # pictures omitted for lack of room
    wanted: int = 0  # pictures made by runs
    shown: int = 0  # how many of these are included
    size: int = 0
    known: dict[str, int | None] = field(default_factory=dict)  # by SHA-256
    read: dict[Path, int | None] = field(default_factory=dict)  # by file

    def add(self, run: Run, name: Any) -> int | None:  # noqa: ANN401
        """Add a picture; return its index, or None if it is missing, damaged or does not fit.

        Args:
            run: to which problems with the picture are added.
            name: of the file in its images/.
        """
        folder = run.folder / "images"
        path = folder / str(name)
        if path not in self.read:
            self.read[path] = None
            try:
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise ValueError("is not below images/")
                self.read[path] = self.add_content(read_regular(path, MAX_BYTES))
            except Exception as error:  # decoders may raise anything
                problem = f"images/{str(name)[:80]}: {getattr(error, 'strerror', None) or error}"
                if problem not in run.bad_pictures:
                    run.bad_pictures.append(problem)
        return self.read[path]

    def add_content(self, content: bytes) -> int | None:
        """Add a picture by its file's content; return its index, or None if it does not fit."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.known:
            if self.left_out and self.quality is not None:  # full: do not compress further pictures
                self.left_out += 1
                return None
            self.known[digest] = self.place(as_uri(content, self.quality))
        return self.known[digest]

    def place(self, uri: str) -> int | None:
        """Append a picture and return its index, or None if it does not fit."""
        if self.size + len(uri) > BUDGET:
            self.left_out += 1
            return None
        self.size += len(uri)
        self.pictures.append(uri)
        return len(self.pictures) - 1

    @property
    def content(self) -> dict[str, Any]:
        """Return the data for the page's script."""
        return {"pictures": self.pictures, "photos": self.photos}


def as_uri(content: bytes, quality: int | None = None) -> str:
    """Return a picture as a data URI in WebP, which is smaller than PNG.

    Args:
        content: of an image file.
        quality: None for lossless.

    Raises:
        ValueError: if it is too large.
        Exception: anything that Pillow raises if it is not a picture.
    """
    buffer = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"has {picture.width} x {picture.height} pixels, too many for a page")
        picture.convert("RGB").save(buffer, format="WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def fill_album(runs: Sequence[Run], num_photos: int | None) -> Album:
    """Collect photos with the crops of each run, lossless if they fit.

    Args:
        runs: finished enhancers.
        num_photos: photos per run and scale; None: all that the runs have kept.
    """
    keys = variant_keys(runs)
    order: list[tuple[int, int, Run]] = []
    seeds: dict[Any, int] = {}
    for run in sorted(runs, key=lambda run: (run.net, run.gamma or 0, run.seed or 0)):
        setting = (
            run.net,
            tuple(run.scales),
            run.gamma,
            variant_of(run, keys),
            str(run.validation),
        )
        seeds[setting] = seeds.get(setting, -1) + 1
        kept = len(run.photos)
        num = kept if num_photos is None else min(num_photos, kept)
        order += [(place, seeds[setting], run) for place in range(num)]
    # If not everything fits, first photos come before second ones, and first seeds before others.
    ordered = [(place, run) for place, _, run in sorted(order, key=lambda item: item[:2])]
    album = filled(Album(), ordered, keys)
    return filled(Album(quality=QUALITY), ordered, keys) if album.left_out else album


def filled(album: Album, order: Sequence[tuple[int, Run]], keys: Sequence[str]) -> Album:
    """Fill an album with photos in the given order; stop at once if a lossless one is full."""
    found: dict[Any, dict[str, Any]] = {}
    listed: dict[Run, tuple[str, list[list[dict[str, Any]]]]] = {}  # label; photos by scale
    for place, run in order:
        if album.left_out and album.quality is None:
            return album
        if run not in listed:
            by_scale = [[p for p in run.photos if p["scale"] == scale] for scale in run.scales]
            listed[run] = label_of(run, keys), by_scale
        label, by_scale = listed[run]
        for photos in by_scale:
            if place < len(photos):
                add_photo(album, found, run, photos[place], label)
    album.photos = sorted(found.values(), key=lambda photo: (photo["scale"], photo["id"]))
    for photo in album.photos:
        choices = sorted(photo.pop("runs"), key=lambda choice: str(choice["label"]))
        references = photo.pop("references")
        photo["raters"] = {
            name: sorted({str(one["raters"][name]) for one in choices if one[name] is not None})
            for name in ("score", "score_judge")
        }
        for other in references:
            for name, raters in photo["raters"].items():
                if len(raters) > 1:  # a reference score would be ambiguous
                    other[name] = None
        lr, bicubic, hr = references
        photo["choices"] = [lr, bicubic, *choices, hr]
    return album


def add_photo(
    album: Album, found: dict[Any, dict[str, Any]], run: Run, photo: dict[str, Any], label: str
) -> None:
    """Add a run's version of a photo."""
    album.wanted += 1
    hr = album.add(run, photo.get("hr"))
    if hr is None:
        return
    key = (photo["id"], photo["scale"], hr)
    if key not in found:
        lr, bicubic = (album.add(run, photo.get(name)) for name in ("lr", "bicubic"))
        pictures = {"LR": lr, "bicubic": bicubic, "HR": hr}
        found[key] = {
            "id": str(photo["id"]),
            "scale": photo["scale"],
            "references": [
                {"label": label, "picture": picture, **dict.fromkeys(MEASURES)}
                for label, picture in pictures.items()
            ],
            "runs": [],
        }
    entry = found[key]
    for reference in entry["references"]:
        for name in MEASURES:
            value = number(photo.get(f"{name}_{reference['label'].lower()}"))
            if value is not None:  # runs without a scorer have no scores of references
                reference[name] = value
    if label in (other["label"] for other in entry["runs"]):
        label = f"{label} ({stem(str(run.folder))})"
    picture = album.add(run, photo.get("sr"))
    album.shown += picture is not None
    entry["runs"].append(
        {
            "label": label,
            "run": True,
            "picture": picture,
            "raters": {name: run.rater(f"val/{name}") for name in ("score", "score_judge")},
            **{name: number(photo.get(name)) for name in MEASURES},
        }
    )

"""Crops of photos for the report's page: each picture once, as many as there is room for."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image

from commands.run_table import Run, label_of, number, stem, variant_keys, variant_of

BUDGET = 12_000_000  # characters of pictures: with figures and tables the page stays below 15 MB
QUALITY = 90  # of WebP, where lossless pictures do not fit: a quarter of their size, hardly visible
MEASURES = ("psnr", "ssim", "score", "score_judge")  # of a photo, in photos.json


@dataclass
class Album:
    """Pictures of the page, each once, and what is shown of each photo."""

    pictures: list[str] = field(default_factory=list)
    photos: list[dict[str, Any]] = field(default_factory=list)
    quality: int | None = None  # of WebP; None is lossless
    left_out: int = 0  # pictures that there was no room for
    wanted: int = 0  # pictures that runs made
    shown: int = 0  # of these
    size: int = 0
    known: dict[str, int | None] = field(default_factory=dict)

    def add(self, folder: Path, name: Any) -> int | None:  # noqa: ANN401
        """Index of a picture; None where there is none, or no room for it.

        Args:
            folder: a run's images/.
            name: the file in it.
        """
        path = folder / str(name)
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                return None  # a run folder from elsewhere shows its own pictures only
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self.known:
                self.known[digest] = self.place(as_uri(content, self.quality))
        except (OSError, ValueError, SyntaxError):  # Pillow raises the last for a broken PNG
            return None
        return self.known[digest]

    def place(self, uri: str) -> int | None:
        """Takes a picture in, if there is room."""
        if self.size + len(uri) > BUDGET:
            self.left_out += 1
            return None
        self.size += len(uri)
        self.pictures.append(uri)
        return len(self.pictures) - 1

    @property
    def content(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"pictures": self.pictures, "photos": self.photos}


def as_uri(content: bytes, quality: int | None = None) -> str:
    """A picture as WebP, which is smaller than PNG, inside an address.

    Args:
        content: of an image file.
        quality: None is lossless.

    Raises:
        OSError: if it is no picture.
    """
    buffer = io.BytesIO()
    options = {"lossless": True} if quality is None else {"quality": quality}
    with PIL.Image.open(io.BytesIO(content)) as picture:
        picture.convert("RGB").save(buffer, format="WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def fill_album(runs: Sequence[Run], num_photos: int) -> Album:
    """Photos with the crops of each run, lossless if they fit.

    Args:
        runs: finished enhancers.
        num_photos: photos per run and scale.
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
        order += [(place, seeds[setting], run) for place in range(num_photos)]
    # Where there is no room for all: first photos before second ones, first seeds before others.
    ordered = [(place, run) for place, _, run in sorted(order, key=lambda item: item[:2])]
    album = filled(Album(), ordered, keys)
    return filled(Album(quality=QUALITY), ordered, keys) if album.left_out else album


def filled(album: Album, order: Sequence[tuple[int, Run]], keys: Sequence[str]) -> Album:
    """Puts photos into an album, in the order given; a lossless one only until it is full."""
    found: dict[Any, dict[str, Any]] = {}
    for place, run in order:
        if album.left_out and album.quality is None:
            return album
        for scale in run.scales:
            photos = [photo for photo in run.photos if photo["scale"] == scale]
            if place < len(photos):
                add_photo(album, found, run, photos[place], label_of(run, keys))
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
                if len(raters) > 1:  # one number would be compared with those of other scorers
                    other[name] = None
        lr, bicubic, hr = references
        photo["choices"] = [lr, bicubic, *choices, hr]
    return album


def add_photo(
    album: Album, found: dict[Any, dict[str, Any]], run: Run, photo: dict[str, Any], label: str
) -> None:
    """Adds what a run made of a photo."""
    folder = run.folder / "images"
    album.wanted += 1
    hr = album.add(folder, photo.get("hr"))
    if hr is None:
        return
    key = (photo["id"], photo["scale"], hr)
    if key not in found:
        lr, bicubic = (album.add(folder, photo.get(name)) for name in ("lr", "bicubic"))
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
            if value is not None:  # runs without a scorer have no score of HR
                reference[name] = value
    if label in (other["label"] for other in entry["runs"]):
        label = f"{label} ({stem(str(run.folder))})"
    picture = album.add(folder, photo.get("sr"))
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

"""Receive and check uploads, and keep them until a job uses them."""

import asyncio
import re
import unicodedata
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from fastapi import HTTPException, Request
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TILELENGTH, TILEWIDTH, TiffImageFile
from starlette.requests import ClientDisconnect

from images.formats import PNG_SIGNATURE
from images.reading import read_photo
from web.jobs import Upload, photo_problem
from web.store import Store
from web.worker import Worker

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow would read formats other than photos
TILE_PIXELS = 1e6  # always allowed in a tile of a TIFF file, even if photos must be smaller
PNG_HEADER = 24  # bytes up to the height of a PNG file
EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[a-z0-9-]*'(.*)", re.IGNORECASE)  # RFC 5987
JOINERS = "\u200c\u200d"  # invisible, but parts of words and emoji


class Uploads:
    """Photos that wait for a job; decoded one at a time, which bounds the memory."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self.store = store
        self.worker = worker
        self.decoding = asyncio.Semaphore(1)
        self.waiting: dict[str, Upload] = {}

    async def receive(self, request: Request, name: str) -> Upload:
        """Write a request's body to a file with a random name and check that it is a photo.

        Raises:
            HTTPException: if it is not one, or too large.
            FullError: if too many uploads are waiting.
        """
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise HTTPException(
                415, "Send the file itself as the body (curl --data-binary @FILE), not as a form."
            )
        path = self.store.new_upload()
        part = path.with_suffix(".part")
        try:
            with open(part, "xb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            part.rename(path)
            async with self.decoding:
                width, height = await asyncio.to_thread(self.inspect, path)
        except BaseException as error:
            part.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(error, ClientDisconnect):
                raise HTTPException(400, "The connection was lost.") from error
            raise
        upload = self.waiting[path.name] = Upload(path, name, width, height)
        return upload

    def inspect(self, path: Path) -> tuple[int, int]:
        """Decode a photo and return the width and height of the upright photo.

        Raises:
            HTTPException: if it is not a photo, or too large to decode.
        """
        if path.stat().st_size == 0:
            raise HTTPException(422, "The file is empty.")
        try:
            (width, height), tile = sizes(path)
        except Image.DecompressionBombError as error:  # over 179 million
            raise HTTPException(413, "The photo has far too many pixels.") from error
        except Exception as error:  # decoders may raise anything
            size = png_size(path)
            if size is None:
                raise HTTPException(
                    415, "Not a supported photo: use PNG, JPEG, WebP, BMP or TIFF."
                ) from error
            (width, height), tile = size, (0, 0)
        limit = self.worker.limits.megapixels
        if width * height > limit * 1e6:
            raise HTTPException(
                413,
                f"{width} x {height} pixels is {above(width * height / 1e6, limit)} megapixels; "
                f"the limit is {limit:g}.",
            )
        if tile[0] * tile[1] > max(limit * 1e6, TILE_PIXELS):
            raise HTTPException(
                413,
                f"The photo is stored in tiles of {tile[0]} x {tile[1]} pixels: too large.",
            )
        try:
            height, width = read_photo(path).pixels.shape[1:]
        except Exception as error:
            raise HTTPException(422, photo_problem(error, path)) from error
        return width, height

    def find(self, names: Sequence[str]) -> list[Upload]:
        """Return the uploads that a request names.

        Raises:
            ValueError: if one is named twice or no longer exists.
        """
        if len(set(names)) < len(names):
            raise ValueError("The same photo was given twice.")
        if any(name not in self.waiting or not self.store.find_upload(name) for name in names):
            raise ValueError("A photo is no longer available; please choose it again.")
        return [self.waiting[name] for name in names]

    def hand_over(self, uploads: Sequence[Upload]) -> None:
        """Forget uploads that now belong to a job, and those deleted because of their age."""
        for upload in uploads:
            self.waiting.pop(upload.path.name, None)
        for name in list(self.waiting):  # other threads may remove some meanwhile
            if not self.store.find_upload(name):
                self.waiting.pop(name, None)

    def drop(self, name: str) -> None:
        """Delete an upload, if it is still waiting."""
        if upload := self.waiting.pop(name, None):
            upload.path.unlink(missing_ok=True)


def sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return width and height of the upright photo and of its tiles, from its header only.

    Only TIFF files have tiles, which can be much larger than the photo; for others they are 0 x 0.
    """
    with Image.open(path, formats=FORMATS) as file:
        size, tile = file.size, (0, 0)
        if isinstance(file, TiffImageFile):  # some releases of Pillow return the upright size
            tags = file.tag_v2
            size = int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH])
            tile = int(tags.get(TILEWIDTH, 0)), int(tags.get(TILELENGTH, 0))
        try:
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # photos with damaged EXIF data are accepted
            orientation = 1
    return (size[::-1] if orientation in (5, 6, 7, 8) else size), tile


def png_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG file as stored, or None for other files.

    For PNG files that Pillow cannot open but `read_photo` can: with damaged metadata, or more than
    1 MB of it.
    """
    with open(path, "rb") as file:
        start = file.read(PNG_HEADER)
    if len(start) < PNG_HEADER or not start.startswith(PNG_SIGNATURE) or start[12:16] != b"IHDR":
        return None
    return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")


def clean_name(header: str) -> str:
    """Return a file's name without its path, with unprintable characters replaced.

    Args:
        header: X-File-Name as decoded by Starlette, in Latin-1: percent-encoded, RFC 5987
            (`UTF-8''na%C3%AFve.png`), or plain UTF-8 or Latin-1.
    """
    try:
        name = header.encode("latin-1").decode()
    except UnicodeError:
        name = header
    charset = "utf-8"
    if found := EXTENDED.fullmatch(name):
        charset, name = found[1], found[2]
    name = urllib.parse.unquote(name, encoding=charset, errors="replace")
    name = re.split(r"[/\\]", name)[-1]
    # Without control and bidirectional codes.
    shown = (c.isprintable() or c in JOINERS or unicodedata.category(c) == "Zs" for c in name)
    name = "".join(c if ok else "_" for c, ok in zip(name, shown, strict=True)).strip()
    return name[:200] or "photo"


def above(megapixels: float, limit: float) -> str:
    """Write a number with one decimal, or with as many as it takes to show that it is above."""
    texts = [f"{megapixels:.{digits}f}" for digits in range(1, 7)]
    return next((text for text in texts if float(text) > limit), texts[-1])

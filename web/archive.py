"""Name the pictures of a job for downloads, and pack them into a ZIP archive."""

import io
import json
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 2**20


def download_names(result: dict[str, Any]) -> dict[str, str]:
    """Return the download names of a job's pictures, by file."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for number, photo in enumerate(result["photos"], 1):
        stem = plain_name(Path(photo["name"]).stem) or f"photo_{number}"
        while stem.lower() in used:  # of another photo, ignoring case
            stem += f"_{number}"
        used.add(stem.lower())
        for version in photo["versions"]:
            name = f"{stem}_{version['id'].partition('-')[2]}.png"
            names |= {version["view"]: name, version["file"]: name}
    return names


def plain_name(stem: str) -> str:
    """Replace everything in a name but letters and digits of any script, - and _ by _."""
    words = [""]
    for c in unicodedata.normalize("NFC", stem):
        if c.isalnum() or c in "-_" or (words[-1] and unicodedata.category(c).startswith("M")):
            words[-1] += c
        elif words[-1]:
            words.append("")
    # File systems allow names of up to 255 bytes.
    return "_".join(words).strip("_").encode()[:120].decode(errors="ignore")


def zipped(folder: Path, result: dict[str, Any]) -> Iterator[bytes]:
    """Yield a ZIP archive of a job's pictures in parts, uncompressed because PNG files are."""

    class Sink(io.RawIOBase):
        """Buffer from which written bytes are taken."""

        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, part: Any) -> int:  # noqa: ANN401
            self.parts.append(bytes(part))
            return len(part)

        def take(self) -> bytes:
            taken, self.parts = b"".join(self.parts), []
            return taken

    sink = Sink()
    views = {v["view"] for photo in result["photos"] for v in photo["versions"]}
    files = {v["file"] for photo in result["photos"] for v in photo["versions"]}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("scores.json", json.dumps(result, indent=2) + "\n")
        for file, name in download_names(result).items():
            if file in views - files:
                continue
            if (folder / file).is_symlink():  # we never create links
                continue
            with open(folder / file, "rb") as source, archive.open(name, "w") as entry:
                while part := source.read(CHUNK):
                    entry.write(part)
                    yield sink.take()
    yield sink.take()

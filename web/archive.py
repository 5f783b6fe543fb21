"""Name the pictures of a job for downloads, and pack them into a ZIP archive."""

import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from web.schema import JobResult, PhotoResult

CHUNK = 2**20


def download_names(photos: Sequence[PhotoResult]) -> dict[str, str]:
    """Return the download names of a job's pictures, by file."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for number, photo in enumerate(photos, 1):
        stem = plain_name(Path(photo.name).stem) or f"photo_{number}"
        while stem.lower() in used:  # of another photo, ignoring case
            stem += f"_{number}"
        used.add(stem.lower())
        for version in photo.versions:
            name = f"{stem}_{version.id.partition('-')[2]}"
            if version.thumb is not None:
                names[version.thumb] = f"{name}_thumb.webp"
            names |= {version.view: f"{name}.png", version.file: f"{name}.png"}
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


class Parts(list[bytes]):
    """A file that `zipfile` writes to, from which the written parts are taken."""

    def write(self, part: bytes) -> int:
        """Add a part."""
        self.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        """Do nothing: parts are there at once."""

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = b"".join(self)
        self.clear()
        return taken


def zipped(folder: Path, result: JobResult) -> Iterator[bytes]:
    """Yield a ZIP archive of a job's pictures in parts, uncompressed because PNG files are."""
    parts = Parts()
    files = {version.file for photo in result.photos for version in photo.versions}
    with zipfile.ZipFile(parts, "w") as archive:
        archive.writestr("scores.json", result.model_dump_json(indent=2) + "\n")
        for file, name in download_names(result.photos).items():
            if file not in files or (folder / file).is_symlink():  # we never create links
                continue
            with open(folder / file, "rb") as source, archive.open(name, "w") as entry:
                while part := source.read(CHUNK):
                    entry.write(part)
                    yield parts.take()
    yield parts.take()

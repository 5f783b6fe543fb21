"""Super-resolution benchmarks: Set5, Set14, B100, Urban100, Manga109."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.folders import FolderPairs, to_sources
from datamodules.photo_sets import (
    find_lr,
    name_photos,
)
from datamodules.store import Source
from images.finding import FoundPhoto, search
from system.places import expanded

log = logging.getLogger(__name__)


class Benchmark(FolderPairs):
    """A benchmark such as Set5, for evaluation only: `HR/` and, if published, `LR_bicubic/X2/`.

    Args:
        root: folder that contains these folders.
        more: arguments of `FolderPairs`.
    """

    trains = False

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = expanded(root)
        self.description = f"benchmark {self.root.resolve().name}"

    def hr_folder(self, split: str) -> Path:
        """Return the folder of the HR photos."""
        if split == "train":
            raise ValueError(f"{self.description} is for evaluation: it has no training photos")
        return self.root / "HR"

    def photos_of(self, split: str) -> dict[str, FoundPhoto]:
        """Return the HR photos by name."""
        folder = str(self.hr_folder(split))
        found = search(folder, key="data.root", results=False)
        if found.left_out:
            log.info("%s: %s", folder, found.summary())
        return name_photos(found, [folder], "data.root")

    def hr_sources(self, split: str) -> list[Source]:
        """List the HR photos, without results of `enhance`."""
        return to_sources(self.photos_of(split))

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """List the published LR photos; None if there are none at this scale."""
        folder = self.root / "LR_bicubic" / f"X{scale}"
        if not folder.is_dir():
            return None
        photos = self.photos_of(split)
        names = {source.name: photos[source.name] for source in hr}
        return find_lr([str(folder)], scale, names, key="data.root")

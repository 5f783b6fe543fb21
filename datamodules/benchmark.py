"""Benchmarks with published LR photos: Set5, Set14, B100, Urban100, Manga109."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.folders import FolderPairs, sources_of
from datamodules.photo_sets import (
    find_lr,
    names_of,
)
from datamodules.store import Source
from images.finding import FoundPhoto, search

log = logging.getLogger(__name__)


class Benchmark(FolderPairs):
    """A benchmark such as Set5: `HR/` and, where published, `LR_bicubic/X2/`; for evaluation only.

    Args:
        root: folder that holds these.
        more: arguments of `FolderPairs`.
    """

    trains = False

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = Path(root).expanduser()
        self.description = f"benchmark {self.root.resolve().name}"

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are."""
        if split == "train":
            raise ValueError(f"{self.description} is for evaluation: it has no training photos")
        return self.root / "HR"

    def photos_of(self, split: str) -> dict[str, FoundPhoto]:
        """The HR photos by name."""
        folder = str(self.hr_folder(split))
        found = search(folder, key="data.root", results=False)
        if found.left_out:
            log.info("%s: %s", folder, found.summary())
        return names_of(found, [folder], "data.root")

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos, less what `enhance` has written."""
        return sources_of(self.photos_of(split))

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The published LR photos; None where there are none."""
        folder = self.root / "LR_bicubic" / f"X{scale}"
        if not folder.is_dir():
            return None
        photos = self.photos_of(split)
        names = {source.name: photos[source.name] for source in hr}
        return find_lr([str(folder)], scale, names, key="data.root")

"""DIV2K: 800 photos for training super-resolution and 100 for validation.

Agustsson and Timofte, "NTIRE 2017 challenge on single image super-resolution: dataset and study",
CVPR workshops 2017. The HR images of the 100 test photos were never published.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.folders import FolderPairs, check_names
from datamodules.store import Source
from system.places import expanded, program

log = logging.getLogger(__name__)


class DIV2K(FolderPairs):
    """DIV2K in the layout of its archives.

    That is, `DIV2K_train_HR/0001.png`, `DIV2K_valid_HR/0801.png`,
    `DIV2K_train_LR_bicubic/X2/0001x2.png` and so on. If the LR folder of a scale is missing, LR
    photos are made by MATLAB's bicubic.

    Args:
        root: folder that contains these folders.
        more: arguments of `FolderPairs`.
    """

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = expanded(root)
        self.description = f"DIV2K: 800 photos for training, 100 for validation{self.lr_note}"
        if self.limit is not None:
            self.description += f"; the first {self.limit} of each"

    def hr_folder(self, split: str) -> Path:
        """Return the folder of the HR photos."""
        return self.root / f"DIV2K_{'train' if split == 'train' else 'valid'}_HR"

    def numbers(self, split: str) -> range:
        """Return the official photo numbers of a split."""
        numbers = range(1, 801) if split == "train" else range(801, 901)
        return numbers[: self.limit]

    def hr_sources(self, split: str) -> list[Source]:
        """List the HR photos.

        Raises:
            ValueError: naming files that are missing or do not belong to the data set.
        """
        folder = self.hr_folder(split)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: no such folder; {program()} prepare dataset=div2k root={self.root} "
                "downloads DIV2K, data.root=FOLDER sets where it is"
            )
        names = [f"{number:04}.png" for number in self.numbers(split)]
        check_names(folder, names, complete=self.limit is None)
        return [Source(name[:-4], str(folder / name)) for name in names]

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """List the published LR photos; None if the folder of this scale is missing."""
        if scale == 1:
            return None
        parent = self.hr_folder(split).name.replace("_HR", "_LR_bicubic")
        folder = self.root / parent / f"X{scale}"
        if not folder.is_dir():
            log.info("%s is not there: LR photos are made by bicubic shrinking", folder)
            return None
        names = [f"{source.name}x{scale}.png" for source in hr]
        check_names(folder, names, complete=self.limit is None)
        return [Source(s.name, str(folder / name)) for s, name in zip(hr, names, strict=True)]

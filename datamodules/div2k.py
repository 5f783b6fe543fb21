"""Pairs of low- and high-resolution photos for training enhancers: DIV2K and folders of photos.

Photos are read from a binary store (`datamodules.store`), which is written when it is first
needed: decoding a 2040 x 1356 PNG for every patch would cost a thousand times the patch.

DIV2K: Agustsson and Timofte, "NTIRE 2017 challenge on single image super-resolution: dataset and
study", CVPR workshops 2017. 800 photos train and 100 validate; HR of the 100 test photos was never
published.

Shape suffixes: B batch, C channels, H and W height and width (HR is `scale` times larger than LR).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.folders import FolderPairs, check_names
from datamodules.store import Source

log = logging.getLogger(__name__)


class DIV2K(FolderPairs):
    """DIV2K in the layout of its archives.

    `DIV2K_train_HR/0001.png`, `DIV2K_valid_HR/0801.png`, `DIV2K_train_LR_bicubic/X2/0001x2.png` and
    so on. A scale whose LR folder is absent is made by MATLAB's bicubic.

    Args:
        root: folder that holds these.
        more: arguments of `FolderPairs`.
    """

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = Path(root).expanduser()
        label = self.degradation.label()
        self.description = "DIV2K: 800 photos for training, 100 for validation" + (
            f"; LR with {label}" if label else ""
        )
        if self.limit is not None:
            self.description += f"; the first {self.limit} of each"

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are."""
        return self.root / f"DIV2K_{'train' if split == 'train' else 'valid'}_HR"

    def numbers(self, split: str) -> range:
        """The official photo numbers of a split."""
        numbers = range(1, 801) if split == "train" else range(801, 901)
        return numbers[: self.limit]

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos.

        Raises:
            ValueError: naming files that are missing, or that the data set does not have.
        """
        folder = self.hr_folder(split)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: no such folder; python run.py prepare dataset=div2k root={self.root} "
                "downloads DIV2K, data.root=FOLDER is where it lies"
            )
        names = [f"{number:04}.png" for number in self.numbers(split)]
        check_names(folder, names, complete=self.limit is None)
        return [Source(name[:-4], str(folder / name)) for name in names]

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The published LR photos; None where the folder of this scale is absent."""
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

"""A custom data set: photos in NumPy files, `train/*.npy` and `val/*.npy`."""

from pathlib import Path

import numpy as np

from datamodules.pairs import AnyDegradation, PairsDataModule, Photos
from images.pixels import to_tensor


class MyPhotos(PairsDataModule):
    """HR photos as H x W x 3 bytes, from which LR is made."""

    description = "camera photos in NumPy files"

    def photos(self, split: str, degradation: AnyDegradation | None) -> Photos:
        """Read the photos of `train` or `val`."""
        files = sorted(Path(split).glob("*.npy"))[: self.limit]
        images = [to_tensor(np.load(file)) for file in files]
        return self.in_memory(images, [file.stem for file in files], degradation, split)

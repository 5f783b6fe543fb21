"""Split photos by their names."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from datamodules.store import NAME_ENCODING


def draw_share(names: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    """Choose a share of the images, at least one, by a hash of seed and name, and return indices.

    Adding or removing an image thus moves at most one other image between the splits.
    """
    keys = (f"{seed}/{name}".encode(*NAME_ENCODING) for name in names.tolist())
    hashes = b"".join(hashlib.sha256(key).digest()[:8] for key in keys)
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    return np.sort(order[: max(1, round(share * len(names)))])

"""Which item each rank sees when, as a pure function of (seed, epoch, position).

Nothing here depends on worker or rank state: the order of an epoch and the random numbers of each
draw come from counter-based generators (`numpy.random.Philox`; Salmon et al., SC 2011). So curves
do not change with the number of workers, and an interrupted epoch can be repeated exactly.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from collections.abc import Sized
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class Draws(NamedTuple):
    """The training samples of one batch: positions `first`, `first + 1`, ... of their epoch."""

    epoch: int
    step: int  # of the epoch; the same on all ranks
    first: int
    items: NDArray[np.int64]  # of the data set, B

    def words(self, seed: int, use: "Use") -> NDArray[np.uint64]:
        """Four random words for each sample, B x 4."""
        return random_words(seed, epoch=self.epoch, first=self.first, num=len(self.items), use=use)


class BatchDataset(Dataset[Any], Sized):
    """A data set that makes whole batches: of `Draws` in training, of item numbers in validation.

    PyTorch's loader calls `__getitems__` with what the batch sampler yields.
    """

    def __getitems__(self, batch: Draws | list[int]) -> Any:  # noqa: ANN401
        """One batch."""
        raise TypeError(f"{type(self).__name__} makes no batches")


class Use(IntEnum):
    """What random numbers are for; each purpose has a stream of its own."""

    ORDER = 1  # of the items of an epoch
    SAMPLE = 2  # the built-in rated sample
    DROPOUT = 3
    PATCH = 4  # places, flips and rotations of patches
    SCALE = 5  # of a step
    CROP = 6  # places and flips of rated photos
    STRENGTH = 7  # of a photo's degradation in an epoch
    NOISE = 8  # on a patch
    NAME = 9  # a photo's own degradation, by its name
    VOTES = 10  # drawn anew, for the noise floor


def random_stream(seed: int, *, epoch: int = 0, position: int = 0, use: Use) -> np.random.Generator:
    """An independent stream of random numbers for one purpose.

    Args:
        seed: the run's seed, 0 or more.
        epoch: epoch of the draw.
        position: position of the draw in its epoch.
        use: what the numbers are for.
    """
    return np.random.Generator(np.random.Philox(key=[seed, use], counter=[0, position, epoch, 0]))


def random_words(seed: int, *, epoch: int, first: int, num: int, use: Use) -> NDArray[np.uint64]:
    """Four random words for each of `num` positions, B x 4: a function of the position alone.

    Philox makes four words per value of its counter, so one generator serves a whole batch, and a
    batch that is cut elsewhere has the same words at the same positions.

    Args:
        seed: the run's seed, 0 or more.
        epoch: epoch of the draw.
        first: position of the first draw in its epoch.
        num: B, the number of draws.
        use: what the words are for.
    """
    generator = np.random.Philox(key=[seed, use], counter=[first, 0, epoch, 0])
    return generator.random_raw(4 * num).reshape(num, 4)


def below(words: NDArray[np.uint64], bounds: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Random words to whole numbers from 0 to bound - 1; bounds up to 2**32.

    Multiplies instead of taking remainders (Lemire, ACM TOMACS 2019), which leaves
    a bias of bound / 2**32.
    """
    bounds = np.asarray(bounds).astype(np.uint64)
    return (((words >> np.uint64(32)) * bounds) >> np.uint64(32)).astype(np.int64)


def epoch_order(num_items: int, length: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """`length` items, every item once before any comes again, newly shuffled in each round."""
    stream = random_stream(seed, epoch=epoch, use=Use.ORDER)
    rounds = -(-length // num_items)
    return np.concatenate([stream.permutation(num_items) for _ in range(rounds)])[:length]


@lru_cache(maxsize=64)
def orientation_table(size: int, device: torch.device) -> Tensor:
    """Where each value of a turned patch comes from: 8 x P, P = 3 * size * size.

    Maps H x W x 3 to 3 x H x W and flips or rotates on the way.
    """
    place = np.arange(size * size * 3).reshape(size, size, 3).transpose(2, 0, 1)
    table = np.stack([turned(place, code).reshape(-1) for code in range(8)])
    return torch.from_numpy(table).to(device)


def turned(image: NDArray[Any], code: int) -> NDArray[Any]:
    """A view of a C x H x W array, flipped and rotated; bits: columns, rows, transposed."""
    image = image[:, :, ::-1] if code & 1 else image
    image = image[:, ::-1] if code & 2 else image
    return image.transpose(0, 2, 1) if code & 4 else image


def orient(patches_BHWC: Tensor, code_B: Tensor) -> Tensor:
    """Flips and rotates each patch its own way, on whatever device they are.

    One call for all of them on a GPU; on the CPU one after the other is several times faster.

    Args:
        patches_BHWC: square uint8 patches.
        code_B: 0 (unchanged) to 7, int64.

    Returns:
        B x 3 x H x W uint8.
    """
    if patches_BHWC.device.type != "cpu":
        return orient_at_once(patches_BHWC, code_B)
    patches_BCHW = patches_BHWC.numpy().transpose(0, 3, 1, 2)
    out_BCHW = np.empty(patches_BCHW.shape, np.uint8)
    for out, patch, code in zip(out_BCHW, patches_BCHW, code_B.tolist(), strict=True):
        out[:] = turned(patch, code)
    return torch.from_numpy(out_BCHW)


def orient_at_once(patches_BHWC: Tensor, code_B: Tensor) -> Tensor:
    """As `orient`, in one call."""
    num, size = patches_BHWC.shape[:2]
    table = orientation_table(size, patches_BHWC.device)
    return patches_BHWC.reshape(num, -1).gather(1, table[code_B]).view(num, 3, size, size)

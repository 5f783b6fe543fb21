"""Random order, crops, flips and rotations as pure functions of (seed, epoch, position).

Nothing depends on the state of workers or ranks: the order of an epoch and the random numbers of
each sample come from counter-based generators (`numpy.random.Philox`; Salmon et al., SC 2011). So
results do not change with the number of workers, and an interrupted epoch can be repeated exactly.

Shape suffixes: B batch, C channels, H and W height and width.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence, Sized
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class Draws(NamedTuple):
    """The training samples of a batch, at positions `first`, `first + 1`, ... of their epoch."""

    epoch: int
    step: int  # within the epoch; the same on all ranks
    first: int
    items: NDArray[np.int64]  # indices in the data set, B

    def words(self, seed: int, purpose: "Purpose") -> NDArray[np.uint64]:
        """Draw four random words for each sample, B x 4."""
        return random_words(
            seed, epoch=self.epoch, first=self.first, num=len(self.items), purpose=purpose
        )


class BatchDataset(Dataset[object], Sized):
    """Data set that returns whole batches, given `Draws` in training and indices in validation.

    PyTorch's loader calls `__getitems__` with the items of the batch sampler.
    """

    @abstractmethod
    def __getitems__(self, batch: Draws | list[int]) -> object:
        """Return a batch."""

    def epoch_order(
        self, length: int, *, batch_size: int, seed: int, epoch: int
    ) -> NDArray[np.int64]:
        """Draw the `length` items of an epoch, in global batches of `batch_size`."""
        return epoch_order(len(self), length, seed=seed, epoch=epoch)


class Purpose(IntEnum):
    """Purpose of random numbers; each has its own stream."""

    ORDER = 1  # order of the items in an epoch
    SAMPLE = 2  # the built-in rated sample
    DROPOUT = 3
    PATCH = 4  # locations, flips and rotations of patches
    SCALE = 5  # scale of a step
    CROP = 6  # crops and flips of rated photos
    STRENGTH = 7  # strength of a photo's degradation in an epoch
    NOISE = 8  # noise on a patch
    NAME = 9  # fixed degradation of a photo, by its name
    VOTES = 10  # resampled votes, for the noise floor
    REALISTIC = 11  # realistic or tone degradation of a patch
    VIEWS = 12  # views of a patch that a scorer in the loss is shown
    TABLE = 20  # the table of ratings from which each photo of a batch comes


def random_stream(
    seed: int, *, epoch: int = 0, position: int = 0, purpose: Purpose
) -> np.random.Generator:
    """Return an independent stream of random numbers for the sample at a position of an epoch."""
    counter = [0, position, epoch, 0]
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=counter))


def name_stream(name: str) -> np.random.Generator:
    """Return a stream that depends on a photo's name alone."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=[key, Purpose.NAME]))


def random_words(
    seed: int, *, epoch: int, first: int, num: int, purpose: Purpose
) -> NDArray[np.uint64]:
    """Draw four random words for each of `num` positions of an epoch from `first` on, B x 4.

    Philox makes four words per value of its counter, so one generator serves a whole batch, and
    the words at a position do not depend on where batches begin.
    """
    generator = np.random.Philox(key=[seed, purpose], counter=[first, 0, epoch, 0])
    return generator.random_raw(4 * num).reshape(num, 4)


def integers_below(words: NDArray[np.uint64], bounds: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Convert random words to integers from 0 to bound - 1, for bounds up to 2**32.

    Multiplies instead of taking remainders (Lemire, ACM TOMACS 2019), with a bias of
    bound / 2**32.
    """
    bounds = np.asarray(bounds).astype(np.uint64)
    return (((words >> np.uint64(32)) * bounds) >> np.uint64(32)).astype(np.int64)


def epoch_order(
    num_items: int, length: int, *, seed: int, epoch: int, table: int = 0
) -> NDArray[np.int64]:
    """Draw `length` items in rounds: each round contains all items once, in a new order.

    Args:
        num_items: number of items.
        length: number of draws.
        seed: the run's seed.
        epoch: the epoch.
        table: number of the table of ratings that the items belong to, each with its own order.
    """
    stream = random_stream(seed, epoch=epoch, position=table, purpose=Purpose.ORDER)
    rounds = max(1, -(-length // num_items))
    return np.concatenate([stream.permutation(num_items) for _ in range(rounds)])[:length]


def draw_tables(
    weights: Sequence[float], length: int, *, batch_size: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw for each position of an epoch the table that its photo comes from.

    Each batch has every table's share of photos, rounded up or down so that the shares are right on
    average (systematic sampling), in random order.

    Args:
        weights: the tables' shares up to a common factor.
        length: number of positions, a multiple of `batch_size`.
        batch_size: global batch size.
        seed: the run's seed.
        epoch: the epoch.
    """
    ends = np.cumsum(weights) / np.sum(weights)
    tables = []
    for step in range(length // batch_size):
        stream = random_stream(seed, epoch=epoch, position=step, purpose=Purpose.TABLE)
        place_B = (stream.permutation(batch_size) + stream.random()) / batch_size
        tables.append(np.searchsorted(ends[:-1], place_B, side="right"))
    return np.concatenate(tables)


@lru_cache(maxsize=64)
def orientation_table(size: int, device: torch.device) -> Tensor:
    """Compute the source index of each value of a flipped or rotated patch.

    Each row maps a flattened H x W x 3 patch to 3 x H x W.

    Returns:
        8 x P, with P = 3 * size * size.
    """
    place = np.arange(size * size * 3).reshape(size, size, 3).transpose(2, 0, 1)
    table = np.stack([flip_rotate(place, code).reshape(-1) for code in range(8)])
    return torch.from_numpy(table).to(device)


def flip_rotate(image: NDArray[np.integer], code: int) -> NDArray[np.integer]:
    """Return a flipped and rotated view of a C x H x W array.

    The bits of the code mean: reverse the columns, reverse the rows, transpose.
    """
    image = image[:, :, ::-1] if code & 1 else image
    image = image[:, ::-1] if code & 2 else image
    return image.transpose(0, 2, 1) if code & 4 else image


def orient(patches_BHWC: Tensor, code_B: Tensor) -> Tensor:
    """Flip and rotate each patch by its code, on any device.

    On the CPU, patches are processed one by one, which is several times faster there.

    Args:
        patches_BHWC: square patches, uint8.
        code_B: int64, from 0 (unchanged) to 7.

    Returns:
        B x 3 x H x W uint8.
    """
    if patches_BHWC.device.type != "cpu":
        return orient_batched(patches_BHWC, code_B)
    patches_BCHW = patches_BHWC.numpy().transpose(0, 3, 1, 2)
    out_BCHW = np.empty(patches_BCHW.shape, np.uint8)
    for out, patch, code in zip(out_BCHW, patches_BCHW, code_B.tolist(), strict=True):
        out[:] = flip_rotate(patch, code)
    return torch.from_numpy(out_BCHW)


def orient_batched(patches_BHWC: Tensor, code_B: Tensor) -> Tensor:
    """Flip and rotate all patches in one call, like `orient`."""
    num, size = patches_BHWC.shape[:2]
    table = orientation_table(size, patches_BHWC.device)
    return patches_BHWC.reshape(num, -1).gather(1, table[code_B]).view(num, 3, size, size)

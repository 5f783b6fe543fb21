"""Which item each rank sees when, as a pure function of (seed, epoch, position).

Nothing here depends on worker or rank state: the order of an epoch and the random numbers of each
draw come from counter-based generators (`numpy.random.Philox`; Salmon et al., SC 2011). So curves
do not change with the number of workers, and an interrupted epoch can be repeated exactly.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from collections.abc import Iterator, Sized
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple, Self

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


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


class TrainSampler(Sampler[Draws]):
    """Batches of this rank; all ranks and micro-batches together make one global batch per step.

    Rank r's micro-batch m of a step is a contiguous slice of the global batch, so the mean gradient
    is that of the global batch for any number of ranks and any accumulation.

    Each pass is another epoch: the one that `set_epoch` has chosen, or else the one after the last.

    Args:
        num_items: size of the data set.
        batch_size: global batch size.
        num_steps: optimizer steps per epoch.
        seed: the run's seed.
        rank: this rank.
        world_size: number of ranks.
        accumulate: micro-batches per step.

    Raises:
        ValueError: if the batch cannot be divided evenly, or there is nothing to draw.
    """

    def __init__(
        self,
        num_items: int,
        *,
        batch_size: int,
        num_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"data.batch_size={batch_size} is the size over all ranks: it must divide by "
                f"{world_size} ranks x {accumulate} accumulated batches"
            )
        if num_items < 1 or num_steps < 1:
            raise ValueError(f"nothing to train on: {num_items} items, {num_steps} steps per epoch")
        self.num_items = num_items
        self.batch_size = batch_size
        self.num_steps = num_steps
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.epoch = 0

    @property
    def sampler(self) -> Self:
        """Itself: Lightning looks for `set_epoch` at `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; Lightning's Trainer does so before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[Draws]:
        epoch = self.epoch
        self.epoch += 1  # counted when a pass begins: it may be left early
        order = epoch_order(
            self.num_items, self.num_steps * self.batch_size, seed=self.seed, epoch=epoch
        )
        size = self.batch_size // (self.world_size * self.accumulate)
        for step in range(self.num_steps):
            for micro in range(self.accumulate):
                first = step * self.batch_size + (micro * self.world_size + self.rank) * size
                yield Draws(epoch, step, first, order[first : first + size])


def as_it_is(batch: Any) -> Any:  # noqa: ANN401
    """What the loader does with a batch: the data set has made it already."""
    return batch


class LateLoader(DataLoader[Any]):
    """A loader that begins to draw when its first batch is asked for.

    Lightning asks for an iterator before it has restored the epoch of a run that resumes. Workers
    would start at once, on the patches of epoch 0.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


class ShardedDataModule(L.LightningDataModule):
    """Base of the data modules: loaders that split work between ranks without repeating anything.

    Args:
        batch_size: training batch over all ranks and accumulated micro-batches.
        num_workers: loader processes per rank.
        seed: the run's seed.
        limit: use the first `limit` images of every split only (all if None).
    """

    kind: str  # `pairs` for enhancers, `rated` for scorers
    description: str = ""  # what the data are, for people who read results; says if synthetic
    trains: bool = True  # whether there is a training split
    reread: bool = False  # compare stored files by content: commands set it on overwrite=true

    def __init__(self, *, batch_size: int, num_workers: int, seed: int, limit: int | None) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit}: the number of images to use is 1 or more")
        if batch_size < 1 or num_workers < 0 or seed < 0:
            raise ValueError(
                f"data.batch_size={batch_size}: 1 or more; "
                f"data.num_workers={num_workers}, data.seed={seed}: 0 or more"
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.limit = limit
        self.sampler: TrainSampler | None = None  # of the latest training loader

    def fingerprint(self, split: str | None = None) -> str | None:
        """What tells these data from others of the same settings; None where the code says it all.

        Reads or makes the index of the data, so it is the first to find what is wrong with them.

        Args:
            split: `train` or `val`; both if None.
        """
        return None

    def dataset(self, split: str) -> Any:  # noqa: ANN401
        """`self.train` or `self.val`; opens the data if nobody has called `setup`."""
        if not hasattr(self, split):
            self.setup("fit" if split == "train" else "validate")
        return getattr(self, split)

    def train_loader(self, dataset: BatchDataset, *, num_steps: int) -> DataLoader[Any]:
        """Loader of this rank's share of `num_steps` global batches per epoch.

        Every pass through it is a new epoch, with other patches. A Trainer says which; in a plain
        loop they are counted from 0, also over several loaders of this data module.
        """
        trainer = self.trainer
        sampler = TrainSampler(
            len(dataset),
            batch_size=self.batch_size,
            num_steps=num_steps,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
        )
        if self.sampler is not None:
            sampler.set_epoch(self.sampler.epoch)
        self.sampler = sampler
        return self.loader(dataset, sampler)

    def val_loader(self, dataset: BatchDataset, *, batch_size: int = 1) -> DataLoader[Any]:
        """Loader of this rank's share of the items; each item is on exactly one rank.

        Raises:
            ValueError: if there are fewer items than ranks (an idle rank would block the others).
        """
        rank = self.trainer.global_rank if self.trainer else 0
        world_size = self.trainer.world_size if self.trainer else 1
        if len(dataset) < world_size:
            raise ValueError(
                f"{len(dataset)} validation images cannot be spread over {world_size} ranks: "
                f"use trainer.devices={len(dataset)} at most"
            )
        mine = list(range(rank, len(dataset), world_size))
        batches = [mine[k : k + batch_size] for k in range(0, len(mine), batch_size)]
        return self.loader(dataset, batches)

    def loader(
        self, dataset: BatchDataset, batches: TrainSampler | list[list[int]]
    ) -> DataLoader[Any]:
        """Loader that leaves torch's global random numbers alone."""
        return LateLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # Draws are no list
            collate_fn=as_it_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=Generator(),
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )

"""Which item each rank sees when, as a pure function of (seed, epoch, position).

Nothing here depends on worker or rank state: the order of an epoch and the random numbers of each
draw come from counter-based generators (`numpy.random.Philox`; Salmon et al., SC 2011). So curves
do not change with the number of workers, and an interrupted epoch can be repeated exactly.
"""

from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple, Self

import lightning as L
import numpy as np
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

Collate = Callable[[list[Any]], Any]


class SizedDataset(Dataset[Any], Sized):
    """A data set that knows its length."""


class Draw(NamedTuple):
    """One training sample to make: the `position`-th of its epoch, from the data set's `item`."""

    epoch: int
    position: int
    item: int


def random_stream(
    seed: int, *, epoch: int = 0, position: int = 0, use: int = 0
) -> np.random.Generator:
    """An independent stream of random numbers for one purpose.

    Args:
        seed: the run's seed, 0 or more.
        epoch: epoch of the draw.
        position: position of the draw in its epoch.
        use: tells apart streams of one draw that serve different purposes.
    """
    return np.random.Generator(np.random.Philox(key=[seed, use], counter=[0, position, epoch, 0]))


def epoch_order(
    num_items: int, length: int, *, seed: int, epoch: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`length` items, every item once before any comes again, newly shuffled in each round."""
    stream = random_stream(seed, epoch=epoch, use=1)
    rounds = -(-length // num_items)
    return np.concatenate([stream.permutation(num_items) for _ in range(rounds)])[:length]


class TrainSampler(Sampler[list[Draw]]):
    """Batches of this rank; all ranks and micro-batches together make one global batch per step.

    Rank r's micro-batch m of a step is a contiguous slice of the global batch, so the mean gradient
    is that of the global batch for any number of ranks and any accumulation.

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
        """Chooses the epoch; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        order = epoch_order(
            self.num_items, self.num_steps * self.batch_size, seed=self.seed, epoch=self.epoch
        )
        size = self.batch_size // (self.world_size * self.accumulate)
        for step in range(self.num_steps):
            for micro in range(self.accumulate):
                first = step * self.batch_size + (micro * self.world_size + self.rank) * size
                yield [Draw(self.epoch, k, int(order[k])) for k in range(first, first + size)]


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

    def __init__(self, *, batch_size: int, num_workers: int, seed: int, limit: int | None) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit}: the number of images to use is 1 or more")
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"data.batch_size={batch_size}: 1 or more; "
                f"data.num_workers={num_workers}: 0 or more"
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.limit = limit

    def train_loader(
        self, dataset: SizedDataset, collate: Collate, *, num_steps: int
    ) -> DataLoader[Any]:
        """Loader of this rank's share of `num_steps` global batches per epoch."""
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
        return self.loader(dataset, collate, sampler)

    def val_loader(
        self, dataset: SizedDataset, collate: Collate, *, batch_size: int = 1
    ) -> DataLoader[Any]:
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
        return self.loader(dataset, collate, batches)

    def loader(
        self,
        dataset: SizedDataset,
        collate: Collate,
        batches: TrainSampler | list[list[int]],
    ) -> DataLoader[Any]:
        """Loader that leaves torch's global random numbers alone."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=Generator(),
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )

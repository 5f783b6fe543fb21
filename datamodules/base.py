"""Base of the data modules: samplers and loaders for any number of ranks."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Self, TypeVar

import lightning as L
from torch import Generator
from torch.utils.data import DataLoader, Sampler

from datamodules.sampling import BatchDataset, Draws, epoch_order

Batch = TypeVar("Batch")


@dataclass(eq=False)
class TrainSampler(Sampler[Draws]):
    """Draws this rank's share of each global batch.

    Each micro-batch of each rank is a contiguous slice of the global batch, so the mean gradient
    of a step is that of the global batch for any number of ranks and any accumulation.

    Each pass is a new epoch: the one set by `set_epoch`, or the one after the last.

    Raises:
        ValueError: if the batch cannot be divided evenly, or there is nothing to draw.
    """

    num_items: int
    _: KW_ONLY
    batch_size: int  # over all ranks and accumulated micro-batches
    num_steps: int  # optimizer steps per epoch
    seed: int
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1  # micro-batches per step
    epoch: int = 0  # of the next pass
    dataset: BatchDataset | None = field(default=None, init=False)  # draws the items of an epoch

    def __post_init__(self) -> None:
        if self.batch_size % (self.world_size * self.accumulate):
            raise ValueError(
                f"data.batch_size={self.batch_size} is for all ranks: it must be divisible by "
                f"{self.world_size} ranks x {self.accumulate} accumulated batches"
            )
        if self.num_items < 1 or self.num_steps < 1:
            raise ValueError(
                f"nothing to train on: {self.num_items} items, {self.num_steps} steps per epoch"
            )

    @property
    def sampler(self) -> Self:
        """Self, because Lightning calls `set_epoch` of `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; Lightning's Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[Draws]:
        epoch = self.epoch
        self.epoch += 1  # counted at the start of a pass, which may be abandoned
        length, draws = self.num_steps * self.batch_size, {"seed": self.seed, "epoch": epoch}
        if self.dataset is None:
            order = epoch_order(self.num_items, length, **draws)
        else:
            order = self.dataset.epoch_order(length, batch_size=self.batch_size, **draws)
        size = self.batch_size // (self.world_size * self.accumulate)
        for step in range(self.num_steps):
            for micro in range(self.accumulate):
                first = step * self.batch_size + (micro * self.world_size + self.rank) * size
                yield Draws(epoch, step, first, order[first : first + size])


def return_batch(batch: Batch) -> Batch:
    """Collate nothing: the data set returns whole batches."""
    return batch


class DeferredLoader(DataLoader[object]):
    """Loader that starts drawing when the first batch is requested.

    Lightning creates the iterator before it restores the epoch of a resumed run; workers would
    already have started on the patches of epoch 0.
    """

    def __iter__(self) -> Iterator[object]:  # type: ignore[override]
        yield from super().__iter__()


class ShardedDataModule(L.LightningDataModule):
    """Base of the data modules: divides work among ranks without repeating items.

    Args:
        batch_size: training batch size over all ranks and accumulated micro-batches.
        num_workers: loader processes per rank.
        seed: the run's seed.
        limit: use only the first `limit` images of each split (all if None).
    """

    kind: str  # `pairs` for enhancers, `rated` for scorers
    description: str = ""  # of the data, for readers of results; says if they are synthetic
    trains: bool = True  # whether there is a training split
    parts: tuple[str, ...] = ()  # have metrics of their own, such as `val/srcc/NAME`
    reread: bool = False  # compare stored files by content; set by commands for overwrite=true

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
        self.sampler: TrainSampler | None = None  # sampler of the latest training loader

    def fingerprint(self, split: str | None = None) -> str | None:
        """Return a hash of the data's content; None if settings and code determine it.

        Opens the data, packing them if necessary, and so raises an error if they are not usable.

        Args:
            split: `train` or `val`; both if None.
        """
        return None

    def dataset(self, split: str) -> BatchDataset:
        """Return `self.train` or `self.val`, calling `setup` if nobody has."""
        if not hasattr(self, split):
            self.setup("fit" if split == "train" else "validate")
        dataset: BatchDataset = getattr(self, split)
        return dataset

    def train_loader(self, dataset: BatchDataset, *, num_steps: int) -> DataLoader[object]:
        """Return a loader of this rank's share of `num_steps` global batches per epoch.

        Each pass through it is a new epoch with new patches. A Trainer sets the epoch; in a plain
        loop, epochs are counted from 0 across all training loaders of this data module.
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
        sampler.dataset = dataset
        if self.sampler is not None:
            sampler.set_epoch(self.sampler.epoch)
        self.sampler = sampler
        return self.loader(dataset, sampler)

    def val_loader(self, dataset: BatchDataset, *, batch_size: int = 1) -> DataLoader[object]:
        """Return a loader of this rank's share of the items; each item is on exactly one rank.

        Raises:
            ValueError: if there are fewer items than ranks: an idle rank would block the others.
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
    ) -> DataLoader[object]:
        """Return a loader of these batches that does not use torch's global random numbers."""
        return DeferredLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # Draws are not lists
            collate_fn=return_batch,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            generator=Generator(),
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )

"""The base of all data modules: samplers and loaders for any number of ranks."""

from collections.abc import Iterator
from typing import Any, Self

import lightning as L
from torch import Generator
from torch.utils.data import DataLoader, Sampler

from datamodules.sampling import BatchDataset, Draws, epoch_order


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

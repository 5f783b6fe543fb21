"""The data modules in a training loop of one's own, without Lightning's Trainer."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ShardedDataModule
from datamodules.benchmark import Benchmark
from datamodules.folders import PhotoFolders
from datamodules.rated import RatedFolder
from datamodules.sample import SamplePairs, SampleRated
from tests.conftest import quiet_trainer

PAIRS: dict[str, Any] = {"patch_size": 8, "batch_size": 4, "num_steps": 3}
RATED: dict[str, Any] = {"num_buckets": 5, "resize": 48, "crop": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of noise, with a table of ratings."""
    root = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for k in range(6):
        image = rng.integers(0, 256, (64 + k, 72, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "photos" / f"p{k}.png")
    rows = [f"p{k}.png,{2 + k / 3:.2f}" for k in range(6)]
    (root / "ratings.csv").write_text("\n".join(["image,mean", *rows]))
    return root


def photo_folders(root: Path, **more: Any) -> PhotoFolders:  # noqa: ANN401
    return PhotoFolders(str(root / "photos"), str(root / "photos"), **PAIRS, **more)


def rated_folder(root: Path, **more: Any) -> RatedFolder:  # noqa: ANN401
    return RatedFolder(str(root / "ratings.csv"), str(root / "photos"), **RATED, **more)


MODULES: list[Callable[..., ShardedDataModule]] = [
    photo_folders,
    rated_folder,
    lambda _, **more: SamplePairs(**PAIRS, limit=1, **more),
    lambda _, **more: SampleRated(num_train=8, num_val=4, **RATED, **more),
]


def content(batch: Any) -> bytes:  # noqa: ANN401
    """The bytes of every tensor of a batch that is ready."""
    return b"".join(part.numpy().tobytes() for part in batch if isinstance(part, Tensor))


def contents(loader: DataLoader[Any]) -> list[bytes]:
    """The batches of one pass."""
    return [content(batch.to_unit()) for batch in loader]


class Recorder(L.LightningModule):
    """Trains nothing, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[bytes]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: Any) -> Tensor:  # noqa: ANN401
        self.seen[-1].append(content(batch))
        return self.weight**2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Where the number of steps is asked for here, Lightning makes the loader's iterator
        # before it has read which epoch the checkpoint is of.
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "workers"), [*((make, 0) for make in MODULES), (photo_folders, 2)]
)
def test_each_pass_is_the_next_epoch(photos: Path, make: Any, workers: int) -> None:  # noqa: ANN401
    data = make(photos, num_workers=workers)
    loader = data.train_dataloader()  # nobody has called setup
    passes = [contents(loader) for _ in range(3)]
    assert len({batch for batches in passes for batch in batches}) == 3 * len(loader)
    # What Lightning's Trainer would show in the same epochs.
    reference = make(photos).train_dataloader()
    for epoch in (2, 0, 1):
        reference.batch_sampler.set_epoch(epoch)
        assert contents(reference) == passes[epoch]
    loader.batch_sampler.set_epoch(1)
    assert contents(loader) == passes[1]


@pytest.mark.parametrize("make", MODULES)
def test_a_new_loader_for_each_epoch_goes_on(photos: Path, make: Any) -> None:  # noqa: ANN401
    data, other = make(photos), make(photos)
    loader = other.train_dataloader()
    for _ in range(3):
        assert contents(data.train_dataloader()) == contents(loader)


def test_passes_that_are_left_early_count(photos: Path) -> None:
    loader = photo_folders(photos).train_dataloader()
    first = [next(iter(loader)).lr_BHWC for _ in range(2)]
    assert not torch.equal(*first)


@pytest.mark.parametrize("make", MODULES)
def test_validation_needs_no_setup(photos: Path, make: Any) -> None:  # noqa: ANN401
    loader = make(photos).val_dataloader()
    assert contents(loader) == contents(loader)
    assert len(contents(loader)) == len(loader) > 0


def test_a_benchmark_does_not_train(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"benchmark .* is for evaluation"):
        Benchmark(str(photos), **PAIRS).train_dataloader()
    with pytest.raises(ValueError, match=r"data\.train_hr=null"):
        PhotoFolders(None, str(photos / "photos"), **PAIRS).train_dataloader()


def test_batches_that_only_the_data_module_can_cut_out_say_so(photos: Path) -> None:
    data = photo_folders(photos, on_device=True)
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(ValueError, match=r"on_after_batch_transfer\(batch"):
        batch.to_unit()
    plain = next(iter(photo_folders(photos).train_dataloader())).to_unit()
    assert torch.equal(data.on_after_batch_transfer(batch, 0).lr_BCHW, plain.lr_BCHW)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_says_which_epoch_it_is(photos: Path, workers: int, tmp_path: Path) -> None:
    """A run that resumes in epoch 2, and one on data that other loops have used before."""
    reference = photo_folders(photos).train_dataloader()
    expected = [contents(reference) for _ in range(4)]

    def trained(epochs: int, **options: Any) -> list[list[bytes]]:  # noqa: ANN401
        data = photo_folders(photos, num_workers=workers)
        for _ in itertools.islice(data.train_dataloader(), 2):
            pass
        module = Recorder()
        trainer = quiet_trainer(max_epochs=epochs, limit_val_batches=0)
        trainer.fit(module, data, **options)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module.seen

    assert trained(2) == expected[:2]
    assert trained(4, ckpt_path=str(tmp_path / "2.ckpt"), weights_only=False) == expected[2:]

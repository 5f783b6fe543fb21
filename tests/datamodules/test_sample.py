import numpy as np
import pytest
import torch

from datamodules.div2k import dihedral
from datamodules.sample import TRAIN_PHOTOS, VAL_PHOTOS, SamplePairs, SampleRated, photo, rating
from datamodules.sampling import Draw
from networks.bicubic import imresize


@pytest.fixture(scope="module")
def pairs() -> SamplePairs:
    data = SamplePairs(2, patch_size=16, batch_size=4, num_steps=3, limit=2)
    data.setup()
    return data


def test_held_out_photos_do_not_train() -> None:
    assert not set(TRAIN_PHOTOS) & set(VAL_PHOTOS)
    assert {name.partition(".")[0] for name in VAL_PHOTOS} == {"chelsea", "coffee"}


def test_lr_is_the_shrunk_hr(pairs: SamplePairs) -> None:
    chelsea = pairs.val[0]
    original = photo("chelsea.png")
    assert chelsea.hr.shape == (3, 300, 450)  # 451 is odd
    assert torch.equal(chelsea.hr, original[:, :, :450])
    assert torch.equal(chelsea.lr, imresize(original[:, :, :450], 0.5))


def test_patches_are_aligned_pairs(pairs: SamplePairs) -> None:
    for position in range(12):
        lr, hr, _ = pairs.train[Draw(0, position, position % 2)]
        assert lr.shape == (3, 16, 16)
        assert hr.shape == (3, 32, 32)
        # Away from the mirrored borders, up to the rounding between the two passes, whose order a
        # transposed patch has the other way round.
        difference = (imresize(hr, 0.5).int() - lr.int())[:, 4:-4, 4:-4]
        assert difference.abs().max() <= 1


def test_patches_change_with_the_epoch_and_repeat_with_it(pairs: SamplePairs) -> None:
    assert torch.equal(pairs.train[Draw(1, 0, 0)].lr, pairs.train[Draw(1, 0, 0)].lr)
    assert not torch.equal(pairs.train[Draw(1, 0, 0)].lr, pairs.train[Draw(2, 0, 0)].lr)


def test_the_eight_flips_and_rotations_differ() -> None:
    image = torch.arange(9).view(1, 3, 3)
    seen = {tuple(dihedral(image, code).flatten().tolist()) for code in range(8)}
    turned = {
        tuple(np.rot90(m, k).flatten().tolist())
        for m in (image[0].numpy(), image[0].numpy().T)
        for k in range(4)
    }
    assert seen == turned


def test_too_large_patches_are_refused_by_name() -> None:
    data = SamplePairs(4, patch_size=130)
    with pytest.raises(ValueError, match="astronaut"):
        data.setup()


def test_ratings_fall_with_the_severity() -> None:
    buckets = np.arange(1, 11)
    means = [float((rating(s, 10).numpy() * buckets).sum()) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(7.8, abs=0.2)
    assert means[-1] == pytest.approx(2.2, abs=0.2)
    assert rating(0.3, 7).sum().item() == pytest.approx(1, abs=1e-6)


def test_rated_sample_is_the_same_every_time_and_says_it_is_synthetic() -> None:
    first, second = SampleRated(limit=6), SampleRated(limit=6, seed=3)
    for data in (first, second):
        data.setup()
    assert "SYNTHETIC" in first.description
    assert first.train.names == second.train.names
    assert len(first.train) == 6
    train, val = ([n.partition("-")[2] for n in d.names] for d in (first.train, first.val))
    assert not set(train) & set(val)  # no degradation is in both splits
    assert all(
        torch.equal(a, b) for a, b in zip(first.train.images, second.train.images, strict=True)
    )
    assert torch.equal(first.train[2].image, first.train[2].image)
    crops = {tuple(first.train[Draw(e, 0, 2)].image[0, :2, 0].tolist()) for e in range(8)}
    assert len(crops) > 1

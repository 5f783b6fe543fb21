import numpy as np
import pytest
import torch

from datamodules.batches import PatchBatch
from datamodules.degradations import Degradation
from datamodules.sample import TRAIN_PHOTOS, VAL_PHOTOS, SamplePairs, SampleRated, photo, rating
from datamodules.sampling import Draws
from images.pixels import to_bytes
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


def draws(epoch: int = 0, num: int = 12) -> Draws:
    return Draws(epoch, 0, 0, np.arange(num) % 2)


def test_patches_are_aligned_pairs(pairs: SamplePairs) -> None:
    raw = pairs.train.__getitems__(draws())
    assert isinstance(raw, PatchBatch)
    assert raw.lr_BHWC.shape == (12, 16, 16, 3)
    assert raw.hr_BHWC.shape == (12, 32, 32, 3)
    for batch in (raw._replace(code_B=torch.zeros(12, dtype=torch.int64)), raw):
        lr, hr = (to_bytes(x) for x in batch.to_unit())
        # Away from the mirrored borders, up to the rounding between the two passes, whose order a
        # transposed patch has the other way round.
        difference = (imresize(hr, 0.5).int() - lr.int())[..., 4:-4, 4:-4]
        assert difference.abs().max() <= 1


def test_patches_change_with_the_epoch_and_repeat_with_it(pairs: SamplePairs) -> None:
    first, again, other = (pairs.train.__getitems__(draws(e)) for e in (1, 1, 2))
    assert isinstance(first, PatchBatch)
    assert isinstance(again, PatchBatch)
    assert isinstance(other, PatchBatch)
    assert torch.equal(first.lr_BHWC, again.lr_BHWC)
    assert torch.equal(first.code_B, again.code_B)
    assert not torch.equal(first.lr_BHWC, other.lr_BHWC)


def test_too_small_photos_are_left_out_by_name() -> None:
    data = SamplePairs(4, patch_size=110)
    data.setup()
    assert data.train.skipped == ["rocket"]  # 640 x 427: 106 LR pixels
    assert 5 not in data.train.items
    data = SamplePairs(4, patch_size=400)
    with pytest.raises(ValueError, match=r"all 6 photos are smaller than a patch"):
        data.setup()


def test_degradations_reach_the_lr_photos() -> None:
    plain, blurred = SamplePairs(2), SamplePairs(2, degradation=Degradation(blur=1.6))
    for data in (plain, blurred):
        data.setup("validate")
    assert torch.equal(plain.val[0].hr, blurred.val[0].hr)
    assert torch.equal(
        Degradation(blur=1.6).apply_fixed(plain.val[0].lr, "chelsea"), blurred.val[0].lr
    )


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
    assert np.array_equal(first.train.names, second.train.names)
    assert len(first.train) == 6
    train, val = ([n.partition("-")[2] for n in d.names] for d in (first.train, first.val))
    assert not set(train) & set(val)  # no degradation is in both splits
    for k in range(len(first.train.images)):
        assert np.array_equal(first.train.images[k], second.train.images[k])
    centre = first.train.__getitems__([2]).images_BHWC[0]
    assert np.array_equal(centre, first.train.images[2][32:224, 32:224])
    crops = {
        first.train.__getitems__(Draws(e, 0, 0, np.array([2]))).images_BHWC.numpy().tobytes()
        for e in range(8)
    }
    assert len(crops) > 1

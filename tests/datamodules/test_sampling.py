import numpy as np
import pytest
import torch

from datamodules.base import TrainSampler
from datamodules.sampling import (
    Purpose,
    epoch_order,
    integers_below,
    orient,
    orient_batched,
    random_stream,
    random_words,
)


def test_streams_are_pure_functions_of_their_arguments() -> None:
    first = random_stream(1, epoch=2, position=3, purpose=Purpose.ORDER).random(4)
    assert np.array_equal(
        first, random_stream(1, epoch=2, position=3, purpose=Purpose.ORDER).random(4)
    )
    others = [
        random_stream(0, epoch=2, position=3, purpose=Purpose.ORDER),
        random_stream(1, epoch=0, position=3, purpose=Purpose.ORDER),
        random_stream(1, epoch=2, position=0, purpose=Purpose.ORDER),
        random_stream(1, epoch=2, position=3, purpose=Purpose.PATCH),
    ]
    for stream in others:
        assert not np.array_equal(first, stream.random(4))


def test_every_item_comes_once_before_any_comes_again() -> None:
    order = epoch_order(7, 18, seed=0, epoch=0)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert not np.array_equal(order, epoch_order(7, 18, seed=0, epoch=1))


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_make_up_the_same_global_batches(
    world_size: int, accumulate: int
) -> None:
    options = {"batch_size": 8, "num_steps": 3, "seed": 5}
    single = list(TrainSampler(10, **options))
    parts = [
        list(TrainSampler(10, rank=r, world_size=world_size, accumulate=accumulate, **options))
        for r in range(world_size)
    ]
    for step, batch in enumerate(single):
        joined, position = [], batch.first
        for micro in range(accumulate):
            for rank in range(world_size):
                part = parts[rank][step * accumulate + micro]
                assert (part.epoch, part.step, part.first) == (batch.epoch, step, position)
                position += len(part.items)
                joined += part.items.tolist()
        assert joined == batch.items.tolist()


def test_random_words_are_functions_of_the_position_alone() -> None:
    whole = random_words(3, epoch=2, first=10, num=8, purpose=Purpose.PATCH)
    halves = [random_words(3, epoch=2, first=f, num=4, purpose=Purpose.PATCH) for f in (10, 14)]
    assert np.array_equal(whole, np.concatenate(halves))
    others = [
        random_words(4, epoch=2, first=10, num=8, purpose=Purpose.PATCH),
        random_words(3, epoch=1, first=10, num=8, purpose=Purpose.PATCH),
        random_words(3, epoch=2, first=10, num=8, purpose=Purpose.CROP),
    ]
    assert len({words.tobytes() for words in (whole, *others)}) == 4


def test_numbers_below_a_bound_are_uniform() -> None:
    words = random_words(0, epoch=0, first=0, num=7000, purpose=Purpose.PATCH)
    numbers = integers_below(words, 7)
    counts = np.bincount(numbers.reshape(-1), minlength=7)
    assert len(counts) == 7
    # Chi-squared with 6 degrees of freedom: above 22.5 once in a thousand.
    assert ((counts - 4000) ** 2 / 4000).sum() < 22.5
    assert np.array_equal(integers_below(words[:, 0], 1), np.zeros(7000))


def test_orient_gives_each_patch_its_own_flip_or_rotation() -> None:
    patches = torch.randint(0, 256, (8, 5, 5, 3), dtype=torch.uint8)
    turned = orient(patches, torch.arange(8))
    assert torch.equal(turned, orient_batched(patches, torch.arange(8)))  # what a GPU does
    assert turned.shape == (8, 3, 5, 5)
    for code in range(8):
        image = patches[code].numpy()
        image = image[:, ::-1] if code & 1 else image
        image = image[::-1] if code & 2 else image
        image = image.transpose(1, 0, 2) if code & 4 else image
        assert np.array_equal(turned[code].numpy(), image.transpose(2, 0, 1))
    same = orient(patches[:1].expand(8, -1, -1, -1), torch.arange(8))
    assert len({t.numpy().tobytes() for t in same}) == 8


def test_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.batch_size=6 .* 4 ranks"):
        TrainSampler(10, batch_size=6, num_steps=1, seed=0, world_size=4)

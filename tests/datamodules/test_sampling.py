import numpy as np
import pytest

from datamodules.sampling import Draw, TrainSampler, epoch_order, random_stream


def test_streams_are_pure_functions_of_their_arguments() -> None:
    first = random_stream(1, epoch=2, position=3).random(4)
    assert np.array_equal(first, random_stream(1, epoch=2, position=3).random(4))
    others = [
        random_stream(0, epoch=2, position=3),
        random_stream(1, epoch=0, position=3),
        random_stream(1, epoch=2, position=0),
        random_stream(1, epoch=2, position=3, use=1),
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
        joined: list[Draw] = []
        for micro in range(accumulate):
            for rank in range(world_size):
                joined += parts[rank][step * accumulate + micro]
        assert joined == batch


def test_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.batch_size=6 .* 4 ranks"):
        TrainSampler(10, batch_size=6, num_steps=1, seed=0, world_size=4)

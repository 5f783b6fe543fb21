"""Pictures: which detail they enlarge."""

import time

import numpy as np
import pytest
import torch

from lightning_modules.pictures import detail


@pytest.mark.parametrize("size", [(40, 60), (33, 21), (5, 4), (3, 3)])
def test_detail_is_the_square_with_the_strongest_edges(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    gray = torch.from_numpy(image.astype(np.float64).sum(axis=2))
    edges = torch.zeros_like(gray)
    edges[:-1] += (gray[1:] - gray[:-1]).abs()
    edges[:, :-1] += (gray[:, 1:] - gray[:, :-1]).abs()
    top, left, side = detail(image)
    assert side == max(1, min(size) // 4)
    sums = torch.nn.functional.avg_pool2d(edges[None, None], side, stride=1)[0, 0]
    assert sums[top, left] == pytest.approx(sums.max().item())


def test_detail_of_a_large_photo_takes_no_minutes() -> None:
    image = np.zeros((1365, 2048, 3), np.uint8)
    image[700:900, 1000:1200:2] = 255
    begin = time.monotonic()
    top, left, side = detail(image)
    assert time.monotonic() - begin < 10
    assert top <= 700 < 900 <= top + side
    assert left <= 1000 < 1199 <= left + side

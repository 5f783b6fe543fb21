from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.image_metrics import image_metrics
from networks.bicubic import Bicubic, imresize
from tests.conftest import PHOTOS

SET5 = PHOTOS / "benchmark" / "Set5"
needs_set5 = pytest.mark.skipif(not SET5.is_dir(), reason="the Set5 photos are not at hand")


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@needs_set5
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_lr_images_of_set5_bit_for_bit(scale: int) -> None:
    photos = sorted((SET5 / "HR").glob("*.png"))
    assert len(photos) == 5
    for path in photos:
        hr = read(path)
        height, width = (side - side % scale for side in hr.shape[1:])
        lr = read(SET5 / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png")
        assert torch.equal(imresize(hr[:, :height, :width], 1 / scale), lr), path.stem


@needs_set5
@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_matlab_bicubic_baseline_of_set5(scale: int, published: float) -> None:
    values = []
    for path in sorted((SET5 / "HR").glob("*.png")):
        hr = read(path)
        height, width = (side - side % scale for side in hr.shape[1:])
        lr = read(SET5 / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png")[None] / 255.0
        sr = Bicubic(scale)(lr)
        values.append(
            image_metrics(sr, hr[None, :, :height, :width] / 255.0, scale)["psnr_y"].item()
        )
    assert np.mean(values) == pytest.approx(published, abs=0.02)


# A ramp with an edge, and what `imresize` made of it when it was bit-exact on all of Set5.
IMAGE = np.minimum(np.arange(12)[None] * 19 + np.arange(12)[:, None] * 7, 255).astype(np.uint8)
IMAGE[4:8, 3:9] = 255 - IMAGE[4:8, 3:9]


SHRUNK = {
    2: [
        [12, 50, 88, 127, 165, 203],
        [25, 68, 106, 138, 176, 218],
        [38, 115, 141, 94, 140, 237],
        [53, 117, 130, 83, 142, 251],
        [68, 108, 144, 176, 217, 253],
        [83, 121, 159, 199, 237, 255],
    ],
    3: [[23, 81, 142, 198], [51, 125, 114, 213], [71, 131, 120, 231], [88, 146, 208, 252]],
    4: [[38, 114, 191], [78, 116, 196], [94, 167, 240]],
}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_values_that_were_computed_once(scale: int) -> None:
    assert imresize(torch.from_numpy(IMAGE), 1 / scale).tolist() == SHRUNK[scale]


def test_matlab_kernel_by_hand() -> None:
    # Shrinking by 2, MATLAB's antialiased kernel has these 8 weights, in 1/256 (cubic(x/2)/2 at odd
    # quarters); borders are mirrored.
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    row = IMAGE.astype(float)
    padded = np.pad(row, ((3, 3), (0, 0)), mode="symmetric")
    rows = [(weights[:, None] * padded[2 * i : 2 * i + 8]).sum(axis=0) for i in range(6)]
    first = np.clip(np.floor(np.array(rows) + 0.5), 0, 255)
    padded = np.pad(first, ((0, 0), (3, 3)), mode="symmetric")
    columns = [(weights * padded[:, 2 * i : 2 * i + 8]).sum(axis=1) for i in range(6)]
    expected = np.clip(np.floor(np.array(columns).T + 0.5), 0, 255).astype(np.uint8)
    assert np.array_equal(imresize(torch.from_numpy(IMAGE), 0.5).numpy(), expected)


@pytest.mark.parametrize("factor", [1 / 4, 1 / 3, 1 / 2, 2.0, 3.0, 4.0])
def test_constant_image_stays_constant(factor: float) -> None:
    image = torch.full((3, 24, 36), 77, dtype=torch.uint8)
    out = imresize(image, factor)
    assert out.shape == (3, round(24 * factor), round(36 * factor))
    assert (out == 77).all()


def test_one_third_of_300_is_100() -> None:
    assert imresize(torch.zeros(1, 300, 3, dtype=torch.uint8), 1 / 3).shape == (1, 100, 1)

"""Graded degradations against SciPy, NumPy and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.graded import GRADED, degrade, gaussian
from images.transfer import to_linear, to_srgb

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def photos() -> Tensor:
    rng = np.random.default_rng(0)
    rough = rng.random((2, 3, 48, 64), np.float32)
    smooth = scipy.ndimage.gaussian_filter(rough, (0, 0, 1.5, 1.5))
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth))


def scipy_blur(photo: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    blurred: NDArray[np.float32] = scipy.ndimage.gaussian_filter(
        photo.astype(np.float64), (0, sigma, sigma), mode="mirror", radius=(0, 12, 12)
    )
    return blurred


def test_strength_zero_changes_nothing(photos: Tensor) -> None:
    for name in GRADED:
        worse = degrade(photos, name, torch.tensor([0.0, 0.5]))
        assert torch.equal(worse[0], photos[0])
        assert not torch.equal(worse[1], photos[1])


@pytest.mark.parametrize("sigma", [0.7, 2.0, 4.0])
def test_blur_is_scipys(photos: Tensor, sigma: float) -> None:
    found = gaussian(photos, torch.tensor([sigma, 1.0]))
    np.testing.assert_allclose(found[0], scipy_blur(photos[0].numpy(), sigma), atol=1e-6)
    worse = degrade(photos, "blur", torch.tensor([sigma / 4, 0]))
    np.testing.assert_allclose(worse[0], found[0], atol=LEVEL / 2 + 1e-6)


def test_sharpening_adds_what_a_blur_takes_away(photos: Tensor) -> None:
    worse = degrade(photos, "sharpening", torch.tensor([0.5, 0.0]))
    photo = photos[0].numpy()
    expected = np.clip(photo + 5 * (photo - scipy_blur(photo, 1)), 0, 1)
    np.testing.assert_allclose(worse[0], expected, atol=LEVEL / 2 + 1e-5)


def test_noise_has_the_stated_deviation() -> None:
    torch.manual_seed(0)
    gray = torch.full((2, 3, 256, 256), 0.5)
    worse = degrade(gray, "noise", torch.tensor([0.2, 0.5]))
    assert (255 * (worse[0] - 0.5)).std().item() == pytest.approx(10, rel=0.02)
    assert (255 * (worse[1] - 0.5)).std().item() == pytest.approx(25, rel=0.02)


def test_underexposure_is_measured_in_stops(photos: Tensor) -> None:
    worse = GRADED["underexposure"](photos, torch.tensor([0.25, 0.75]))
    for k, stops in enumerate((1, 3)):
        np.testing.assert_allclose(to_linear(worse[k]), to_linear(photos[k]) / 2**stops, atol=1e-6)


def test_transfer_has_the_values_of_the_standard() -> None:
    stored = torch.tensor([0.0, 0.04045, 0.5, 1.0])
    expected = [0.0, 0.04045 / 12.92, ((0.5 + 0.055) / 1.055) ** 2.4, 1.0]
    np.testing.assert_allclose(to_linear(stored), expected, atol=1e-7)
    np.testing.assert_allclose(to_srgb(to_linear(stored)), stored, atol=1e-6)


def test_ringing_removes_high_frequencies() -> None:
    """Waves below the limit stay, those above it go; sizes with whole periods have no borders."""
    x = torch.arange(241) / 24  # mirrored at whole and half periods
    slow, fast = torch.cos(2 * torch.pi * x), torch.cos(2 * torch.pi * 8 * x)
    wave = (0.5 + 0.2 * slow + 0.2 * fast).expand(1, 3, 241, 241)
    worse = degrade(wave, "ringing", torch.tensor([0.8]))[0, 0, 120]
    middle = slice(40, 200)
    np.testing.assert_allclose(worse[middle], (0.5 + 0.2 * slow)[middle], atol=0.02)


def test_blocks_get_worse(photos: Tensor) -> None:
    errors = [
        (degrade(photos, "blocks", torch.full((2,), s)) - photos).square().mean().item()
        for s in (0.1, 0.3, 0.6, 1.0)
    ]
    assert errors == sorted(errors)

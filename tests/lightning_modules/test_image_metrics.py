import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from lightning_modules.image_metrics import (
    MAX_PSNR,
    ImageMetrics,
    drift,
    image_metrics,
    luma,
    to_levels,
)
from lightning_modules.loss_terms import FeatureLoss
from lightning_modules.metric_catalogue import DOWN, METRICS, heading


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 15), size=(48, 60), mode="bicubic")
    hr = hr.clamp(0, 1)
    return (hr + 0.05 * torch.randn_like(hr)), hr


def as_uint8(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1).numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


def test_drift_of_contrast_and_saturation_by_hand() -> None:
    hr = torch.rand(2, 3, 16, 16)
    for factor in (0.5, 1.0, 1.5):
        around = hr.mean(dim=(2, 3), keepdim=True)
        gray = hr.mean(dim=1, keepdim=True)
        contrast = drift(around + factor * (hr - around), hr)["contrast_drift"]
        saturation = drift(gray + factor * (hr - gray), hr)["saturation_drift"]
        assert contrast.tolist() == pytest.approx([factor - 1] * 2, abs=1e-4)
        assert saturation.tolist() == pytest.approx([factor - 1] * 2, abs=1e-4)
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert all(value.item() == 0 for value in drift(flat, flat).values())


def test_psnr_in_the_div2k_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=2)["psnr"]
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (as_uint8(image)[8:-8, 8:-8] for image in (sr, hr))
        assert values[i].item() == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-4)


def test_psnr_and_ssim_in_the_benchmark_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=3)
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (rgb2ycbcr(as_uint8(image))[..., 0][3:-3, 3:-3] for image in (sr, hr))
        psnr = peak_signal_noise_ratio(b, a, data_range=255)
        assert values["psnr_y"][i].item() == pytest.approx(psnr, abs=1e-5)
        assert values["ssim"][i].item() == pytest.approx(reference_ssim(a, b), abs=1e-6)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    return float(
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
    )


def test_ssim_of_flat_pages_where_float32_is_off() -> None:
    page = torch.ones(1, 3, 120, 96)
    band = page.clone()
    band[..., 50:60, :] = 0.2
    values = [image_metrics(band, page, 2)["ssim"].item(), image_metrics(page, page, 2)["ssim"]]
    a, b = (rgb2ycbcr(as_uint8(image[0]))[..., 0][2:-2, 2:-2] for image in (band, page))
    assert values[0] == pytest.approx(reference_ssim(a, b), abs=1e-6)
    assert values[1] == 1


def test_equal_images_count_as_100_db_and_leave_means_finite() -> None:
    page = torch.full((1, 3, 40, 40), 0.7)
    values = image_metrics(page, page, 2)
    assert values["psnr"].item() == values["psnr_y"].item() == MAX_PSNR == 100


def test_metrics_do_not_change_under_autocast(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain = image_metrics(*pair, scale=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = image_metrics(*pair, scale=2)
    for name, value in plain.items():
        assert torch.equal(value, mixed[name])


def test_luma_of_black_and_white() -> None:
    levels = to_levels(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    assert luma(levels).flatten().tolist() == [16, 235]


def test_image_smaller_than_the_border_is_refused() -> None:
    with pytest.raises(ValueError, match="16x16"):
        image_metrics(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), scale=2)


def test_ms_ssim_is_measured_as_the_benchmark_ssim() -> None:
    torch.manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(1, 3, 30, 30), scale_factor=8).clamp(0, 1)
    sr = (hr + 0.05 * torch.randn_like(hr)).clamp(0, 1)
    luma_sr, luma_hr = (
        torch.from_numpy(rgb2ycbcr(as_uint8(image[0])))[None, None, 2:-2, 2:-2, 0]
        for image in (sr, hr)
    )
    theirs = multiscale_structural_similarity_index_measure(luma_sr, luma_hr, data_range=255.0)
    value = image_metrics(sr, hr, 2, ["ms_ssim"])["ms_ssim"]
    assert value.item() == pytest.approx(theirs.item(), abs=1e-3)  # theirs counts the border


def lightness(level: int) -> float:
    """CIE L* of a gray of sRGB."""
    light = ((level / 255 + 0.055) / 1.055) ** 2.4
    return 116 * float(light ** (1 / 3)) - 16


def test_delta_e_of_grays_is_that_of_the_formula() -> None:
    hr = torch.zeros(2, 3, 24, 24)
    sr = hr.clone()
    sr[0, :, :12] = 1.0  # half is white instead of black: 100 at the mean lightness 50
    hr[1], sr[1] = 100 / 255, 160 / 255
    low, high = lightness(100), lightness(160)
    from_middle = ((low + high) / 2 - 50) ** 2
    weight = 1 + 0.015 * from_middle / (20 + from_middle) ** 0.5
    values = image_metrics(sr, hr, 1, ["delta_e"])["delta_e"]
    assert values.tolist() == pytest.approx([50, (high - low) / weight], rel=1e-4)
    assert image_metrics(hr, hr, 1, ["delta_e"])["delta_e"].tolist() == [0, 0]


def error(sr: torch.Tensor, hr: torch.Tensor, exponent: float = 1.0) -> torch.Tensor:
    return ((sr - hr).abs() ** exponent).mean(dim=(1, 2, 3))


class Absolute(torch.nn.Module):
    """Draws random weights, which no training may notice."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return error(sr, hr)


def test_metrics_of_ones_own_get_whole_images_rounded_to_8_bits(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    sr, hr = pair
    expected = [
        np.abs(as_uint8(a).astype(float) - as_uint8(b)).mean() / 255
        for a, b in zip(sr, hr, strict=True)
    ]
    before = torch.random.get_rng_state()
    metrics = ImageMetrics(["psnr", f"{__name__}.Absolute", partial(error, exponent=2)])
    assert torch.equal(before, torch.random.get_rng_state())
    values = metrics(sr, hr, 2)
    assert values["absolute"].tolist() == pytest.approx(expected)
    assert values["psnr"].tolist() == image_metrics(sr, hr, 2)["psnr"].tolist()
    assert (values["error"] < values["absolute"] / 2).all()
    assert metrics.better == {"psnr": "higher", "absolute": "lower", "error": None}
    assert "RGB, no border" in metrics.about["absolute"].protocol


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["psnr", "psnr"], "metrics: psnr is given twice"),
        (["lpisp"], "no such metric as lpisp; there are psnr, psnr_y, ssim, ms_ssim, lpips"),
        (["nowhere.f"], "nowhere.f cannot be imported"),
        ([lambda sr, hr: 0], "<lambda>: a metric cannot have this name"),
    ],
)
def test_unusable_metrics_are_refused(metrics: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageMetrics(metrics)


def test_a_metric_returns_a_value_for_each_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    def mean(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return (sr - hr).mean()

    with pytest.raises(ValueError, match="metrics: mean returned 1 values for 2 images"):
        ImageMetrics([mean])(*pair, 2)


@pytest.mark.parametrize("name", METRICS)
def test_the_catalogue_is_complete(name: str) -> None:
    about = METRICS[name]
    module, _, attribute = about.function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))
    assert about.protocol.endswith(".")
    assert about.title.split()[0] in about.heading
    assert heading(name).endswith(DOWN) == (about.better == "lower") == (DOWN in about.protocol)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda sr, hr: 1 / 0, "metrics: .*: ZeroDivisionError: division by zero"),
        (lambda sr, hr: torch.ones(len(sr), dtype=torch.complex64), "returned complex numbers"),
    ],
)
def test_a_metric_that_fails_is_named(
    function: Callable[..., Any], message: str, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    function.__name__ = "broken"
    with pytest.raises(ValueError, match=message):
        ImageMetrics([function])(*pair, 2)


def test_features_of_each_image_are_compared_as_in_the_loss() -> None:
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 3, 64, 72), torch.rand(2, 3, 64, 72) ** 2
    found = ImageMetrics(["features"])(sr, hr, 2)["features"]
    loss = FeatureLoss("efficientnet_lite0", [3, 5, 7, 13]).eval()
    rounded = [(image * 255).round() / 255 for image in (sr, hr)]
    with torch.no_grad():
        expected = [loss(rounded[0][k : k + 1], rounded[1][k : k + 1]).item() for k in range(2)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found[0] != found[1]
    assert ImageMetrics(["features"])(hr, hr, 2)["features"].tolist() == [0, 0]
    assert METRICS["features"].better == "lower"

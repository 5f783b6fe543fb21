"""SSIM and MS-SSIM, compared with torchmetrics' and by hand."""

from typing import Any

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.functional.image import structural_similarity_index_measure as similarity_of

from networks.similarity import ms_ssim, num_scales


def pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random images and noisy copies, in [0, 1]."""
    torch.manual_seed(0)
    coarse = torch.rand(2, 3, height // 8 + 1, width // 8 + 1)
    hr = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1), hr


WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al., 2003


def reference(sr: torch.Tensor, hr: torch.Tensor, num: int) -> torch.Tensor:
    """MS-SSIM over some scales by torchmetrics' SSIM, where whole windows lie inside the image."""
    product = torch.ones(len(sr))
    for k in range(num):
        options: Any = {"data_range": 1.0, "reduction": "none"}
        _, structure_B = similarity_of(sr, hr, return_contrast_sensitivity=True, **options)
        _, full = similarity_of(sr, hr, return_full_image=True, **options)
        last_B = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
        exponent = WEIGHTS[k] / sum(WEIGHTS[:num]) * sum(WEIGHTS)
        product *= (last_B if k == num - 1 else structure_B).relu() ** exponent
        sr, hr = (torch.nn.functional.avg_pool2d(image, 2) for image in (sr, hr))
    return product


@pytest.mark.parametrize(
    ("height", "width", "num"),
    [(200, 177, 5), (176, 175, 4), (90, 99, 4), (44, 60, 3), (22, 22, 2), (12, 21, 1)],
)
def test_ms_ssim_takes_as_many_scales_as_fit(height: int, width: int, num: int) -> None:
    sr, hr = pair(height, width)
    assert num_scales(min(height, width)) == num
    torch.testing.assert_close(ms_ssim(sr, hr), reference(sr, hr, num), rtol=1e-5, atol=1e-5)
    levels = ms_ssim(255 * sr.double(), 255 * hr.double(), data_range=255.0)
    torch.testing.assert_close(levels.float(), ms_ssim(sr, hr), rtol=1e-5, atol=1e-5)


def test_ms_ssim_is_nearly_that_of_torchmetrics() -> None:
    """Torchmetrics' has windows beyond the border at the coarsest scale: 1e-4 at this size."""
    sr, hr = pair(200, 240)
    theirs = multiscale_structural_similarity_index_measure(
        sr, hr, data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ms_ssim(sr, hr), theirs, rtol=0, atol=5e-4)


def test_ms_ssim_has_a_gradient_even_where_it_is_zero_or_one() -> None:
    sr, hr = pair(64, 64)
    for image, value in ((hr, 1.0), (1 - hr, 0.0)):
        image = image.clone().requires_grad_()
        found = ms_ssim(image, hr)
        assert found.tolist() == pytest.approx([value, value], abs=1e-5)
        (gradient,) = torch.autograd.grad(found.sum(), image)
        assert gradient.isfinite().all()
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(ms_ssim(sr, hr).sum(), sr)
    better = ms_ssim(sr + 0.1 * gradient / gradient.abs().max(), hr)
    assert (better > ms_ssim(sr, hr)).all()


def test_images_below_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="10 pixels high or wide; 11 or more"):
        ms_ssim(torch.rand(1, 3, 10, 40), torch.rand(1, 3, 10, 40))

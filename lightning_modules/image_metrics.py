"""Fidelity of images to their references: PSNR and SSIM in two protocols.

Everything is computed outside autocast, per image, then averaged over images. Images are compared
in float64.

The two image protocols, which the field mixes up:

- DIV2K: RGB, a border of `scale + 6` pixels ignored: `psnr`.
- Benchmarks (Set5 and the like): BT.601 luma, a border of `scale` pixels ignored: `psnr_y` and
  `ssim`. The luma is not rounded, as in the published rows of networks; rounding it, as MATLAB does
  for uint8 images, costs 0.02 to 0.09 dB. A gray image goes through RGB to luma, too.

In both, images are clamped and rounded to 8 bits first. Equal images have `MAX_PSNR`.

Shape suffixes: B batch, C channels, H and W height and width.
"""

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from networks.similarity import ssim

LUMA = (65.481, 128.553, 24.966)  # BT.601, RGB in [0, 1] to 16..235
# dB that equal images count as, in place of infinity, which no mean survives. Code of the field
# returns 100 where the error is 0, such as that of RCAN; larger values are cut to it, too.
MAX_PSNR = 100.0


def to_levels(image_BCHW: Tensor) -> Tensor:
    """Convert [0, 1] to whole grey levels 0..255, float64; on the CPU where a device lacks it."""
    if image_BCHW.device.type == "mps":
        image_BCHW = image_BCHW.cpu()
    return (image_BCHW.float() * 255.0).round().clamp(0, 255).double()


def luma(levels_BCHW: Tensor) -> Tensor:
    """Convert RGB levels 0..255 to BT.601 luma 16..235, not rounded; B x 1 x H x W."""
    weights = torch.tensor(LUMA, dtype=levels_BCHW.dtype, device=levels_BCHW.device)
    return (levels_BCHW / 255.0 * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True) + 16.0


def crop_border(image_BCHW: Tensor, border: int) -> Tensor:
    """Cut `border` pixels from each side.

    Raises:
        ValueError: if nothing would be left.
    """
    height, width = image_BCHW.shape[-2:]
    if min(height, width) <= 2 * border:
        raise ValueError(
            f"an image of {width}x{height} pixels is too small for a border of {border}"
        )
    return image_BCHW[..., border : height - border, border : width - border]


def image_metrics(sr_BCHW: Tensor, hr_BCHW: Tensor, scale: int) -> dict[str, Tensor]:
    """Fidelity of each image to its reference.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].
        scale: HR pixels per LR pixel; sets the borders.

    Returns:
        `psnr` and `psnr_y` in dB (at most `MAX_PSNR`) and `ssim` within -1..1; B values each,
        float32.
    """
    with torch.autocast(sr_BCHW.device.type, enabled=False):
        sr, hr = to_levels(sr_BCHW), to_levels(hr_BCHW)
        sr_y, hr_y = (crop_border(luma(levels), scale) for levels in (sr, hr))
        sr, hr = (crop_border(levels, scale + 6) for levels in (sr, hr))
        values = {"psnr": psnr(sr, hr), "psnr_y": psnr(sr_y, hr_y), "ssim": ssim(sr_y, hr_y, 255.0)}
        return {name: value.to(sr_BCHW.device, torch.float32) for name, value in values.items()}


def drift(sr_BCHW: Tensor, hr_BCHW: Tensor) -> dict[str, Tensor]:
    """Measure how far contrast and saturation, which scorers tend to reward, moved from HR.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].

    Returns:
        `contrast_drift`: standard deviation of BT.601 luma over that of HR, less 1.
        `saturation_drift`: mean difference of the largest and the smallest colour channel over that
        of HR, less 1. B values each; 0 where nothing changed.
    """
    values = []
    for image in (sr_BCHW.float(), hr_BCHW.float()):
        weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1) / sum(LUMA)
        contrast_B = (image * weights).sum(dim=1).std(dim=(1, 2))
        saturation_B = (image.amax(dim=1) - image.amin(dim=1)).mean(dim=(1, 2))
        values.append(torch.stack([contrast_B, saturation_B]))
    sr, hr = values
    contrast_B, saturation_B = (sr - hr) / hr.clamp_min(1 / 255)  # HR may be gray, or empty
    return {"contrast_drift": contrast_B, "saturation_drift": saturation_B}


def psnr(levels_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each image in dB; images in 0..255."""
    value_B = peak_signal_noise_ratio(
        levels_BCHW, reference_BCHW, data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    return value_B.clamp(max=MAX_PSNR)

"""Structural similarity: SSIM (Wang et al., IEEE TIP 2004) and MS-SSIM (Wang et al., 2003).

Images are B x C x H x W in any range, which the functions are told. Both average where the whole
Gaussian window lies inside the image, as published. The window is separated, unlike torchmetrics',
which takes 20 times as long in float64 on a CPU.

Shape suffixes: B batch, C channels, H and W height and width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 11  # pixels of the Gaussian window
SIGMA = 1.5  # of the window, in pixels
K1, K2 = 0.01, 0.03  # of the range, squared: keep divisions by nearly nothing stable
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM's scales


def ssim(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float) -> Tensor:
    """Compute the structural similarity of each image, averaged over channels; B values, -1..1."""
    mean_x, mean_y, variances, covariance = moments(x_BCHW, y_BCHW)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    mean_B: Tensor = similarity.mean(dim=(1, 2, 3))
    return mean_B


def ms_ssim(x_BCHW: Tensor, y_BCHW: Tensor, data_range: float = 1.0) -> Tensor:
    """Compute the multi-scale structural similarity of each image; B values, 0..1.

    Differentiable everywhere. Where the images are anti-correlated at a scale, the value is 0, as
    is its gradient.

    An image whose shorter side is below 176 pixels is too small for five scales. It is compared at
    as many as fit (88 pixels: four, 44: three, 22: two, 11: one), their exponents scaled to the sum
    that all five have. Values over different numbers of scales should not be compared.

    Raises:
        ValueError: if the images are smaller than the window of 11 pixels.
    """
    num = num_scales(min(x_BCHW.shape[-2:]))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    factors = []
    for k in range(num):
        if k > 0:
            x_BCHW, y_BCHW = F.avg_pool2d(x_BCHW, 2), F.avg_pool2d(y_BCHW, 2)
        mean_x, mean_y, variances, covariance = moments(x_BCHW, y_BCHW)
        structure = (2 * covariance + c2) / (variances + c2)
        if k == num - 1:  # luminance counts at the coarsest scale only
            structure = structure * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        factors.append(structure.mean(dim=(1, 2, 3)))
    factors_SB = torch.stack(factors)
    weights_S = factors_SB.new_tensor(SCALE_WEIGHTS)
    weights_S = weights_S[:num] * (weights_S.sum() / weights_S[:num].sum())
    # A root has an infinite slope at 0, so it is taken of values above 0 only.
    powers_SB = factors_SB.clamp_min(1e-6) ** weights_S[:, None]
    return powers_SB.prod(dim=0) * (factors_SB > 0).all(dim=0)


def num_scales(side: int) -> int:
    """Return how many of MS-SSIM's five scales fit into an image with this shorter side.

    Raises:
        ValueError: if none does.
    """
    if side < SIDE:
        raise ValueError(f"ms_ssim: an image {side} pixels high or wide; {SIDE} or more are needed")
    return sum(side >> k >= SIDE for k in range(len(SCALE_WEIGHTS)))


def moments(x_BCHW: Tensor, y_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute both means, the sum of the variances and the covariance in each window."""
    place = torch.arange(SIDE, dtype=x_BCHW.dtype, device=x_BCHW.device) - SIDE // 2
    window = torch.exp(-0.5 * (place / SIGMA) ** 2)
    window = window / window.sum()
    maps = torch.cat([x_BCHW, y_BCHW, x_BCHW**2, y_BCHW**2, x_BCHW * y_BCHW])
    height, width = maps.shape[-2:]
    smooth = F.conv2d(maps.reshape(-1, 1, height, width), window.view(1, 1, -1, 1))
    smooth = F.conv2d(smooth, window.view(1, 1, 1, -1))
    smooth = smooth.view(*maps.shape[:2], *smooth.shape[-2:])
    mean_x, mean_y, square_x, square_y, product = smooth.chunk(5)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    return mean_x, mean_y, variances, product - mean_x * mean_y

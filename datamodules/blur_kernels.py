"""Blur kernels of realistic degradations: Gaussians, their relatives, and sinc filters.

Generalized Gaussians and plateaus are those of Liu et al., "Estimating generalized Gaussian blur
kernels for out-of-focus image deblurring" (TCSVT 2020), as in Real-ESRGAN (ICCVW 2021).

Shape suffixes: B batch, K side of a kernel.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.uniform import Floats, Integers, Uniform

SIDE = 21  # of the largest kernel, in pixels
KINDS = (
    *("iso", "aniso", "generalized_iso", "generalized_aniso"),
    *("plateau_iso", "plateau_aniso"),
)
ACROSS = np.arange(SIDE) - SIDE // 2.0


def draw_sides(draw: Uniform) -> Integers:
    """Draw the sides of kernels: odd, from 7 to `SIDE`."""
    return 7 + 2 * draw.whole(0, (SIDE - 7) // 2)


def gaussian_kernels(
    *,
    kind_B: Integers,
    side_B: Integers,
    sigma_B2: Floats,
    angle_B: Floats,
    generalized_B: Floats,
    plateau_B: Floats,
) -> Floats:
    """Compute Gaussian kernels and their relatives.

    With q the squared Mahalanobis distance from the centre, the kinds are exp(-q/2),
    exp(-q^beta/2) and 1/(1 + q^beta).

    Args:
        kind_B: indices of `KINDS`.
        side_B: sides in pixels; kernels are zero outside.
        sigma_B2: standard deviations along both axes; isotropic kernels use the first.
        angle_B: by which the axes are turned, in radians.
        generalized_B: beta of generalized Gaussians; below 1 they are peaked, above 1 flat.
        plateau_B: beta of plateaus; the higher, the steeper their edge.

    Returns:
        B x K x K; each sums to 1.
    """
    across_sigma = np.where(kind_B % 2 == 0, sigma_B2[:, 0], sigma_B2[:, 1])
    cos, sin = (x[:, None, None] for x in (np.cos(angle_B), np.sin(angle_B)))
    along = (cos * ACROSS + sin * ACROSS[:, None]) / sigma_B2[:, 0, None, None]
    across = (cos * ACROSS[:, None] - sin * ACROSS) / across_sigma[:, None, None]
    beta_B = np.where(kind_B < 4, np.where(kind_B < 2, 1.0, generalized_B), plateau_B)
    power_BKK = (along**2 + across**2) ** beta_B[:, None, None]
    is_plateau = (kind_B >= 4)[:, None, None]
    kernel_BKK = np.where(is_plateau, 1 / (1 + power_BKK), np.exp(-power_BKK / 2))
    return normalized(kernel_BKK, side_B)


def sinc_kernels(cutoff_B: Floats, side_B: Integers) -> Floats:
    """Compute circular low-pass filters, which ring at edges.

    Args:
        cutoff_B: cutoff frequencies in radians per pixel, up to pi.
        side_B: sides in pixels; kernels are zero outside.

    Returns:
        B x K x K; each sums to 1.
    """
    cutoff_B11 = cutoff_B[:, None, None]
    distance_KK = np.hypot(ACROSS, ACROSS[:, None])
    distance_KK[SIDE // 2, SIDE // 2] = 1  # the limit at the centre is set below
    bessel_BKK = torch.special.bessel_j1(torch.from_numpy(cutoff_B11 * distance_KK)).numpy()
    kernel_BKK = cutoff_B11 * bessel_BKK / (2 * np.pi * distance_KK)
    kernel_BKK[:, SIDE // 2, SIDE // 2] = cutoff_B**2 / (4 * np.pi)
    return normalized(kernel_BKK, side_B)


def normalized(kernel_BKK: Floats, side_B: Integers) -> Floats:
    """Cut kernels off at their sides and scale them to the sum 1."""
    reach_BKK = np.maximum(np.abs(ACROSS), np.abs(ACROSS[:, None])) <= side_B[:, None, None] // 2
    cut_BKK: Floats = kernel_BKK * reach_BKK
    cut_BKK /= cut_BKK.sum(axis=(1, 2), keepdims=True)
    return cut_BKK


def unless(applied_B: NDArray[np.bool_], kernel_BKK: Floats) -> Floats:
    """Replace the kernels that are not applied by one that changes nothing."""
    unchanged = np.zeros((SIDE, SIDE))
    unchanged[SIDE // 2, SIDE // 2] = 1
    return np.where(applied_B[:, None, None], kernel_BKK, unchanged)

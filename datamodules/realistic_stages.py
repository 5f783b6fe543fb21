"""The stages of a realistic degradation, for a batch of images of different sizes, on any device.

The images of a batch stand at the top left of one tensor, each with its own height and width. Every
stage reads only pixels within those sizes, so that an image comes out as it would alone. All random
numbers have been drawn before (`datamodules.realistic`).

Shape suffixes: B batch, C channels, H and W height and width, K side of a kernel.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Sizes = NDArray[np.int64]  # B x 2: height and width of each image
Numbers = NDArray[np.int64]  # one for each image

METHODS = ("area", "bilinear", "bicubic")  # of resizing, none with anti-aliasing but the first
PHOTONS = 256.0  # that a white pixel counts under Poisson noise of strength 1
# Rows Y, Cb and Cr (JFIF; ITU-R BT.601).
TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)
# The quantisation tables that the JPEG standard suggests (ITU-T T.81, tables K.1 and K.2).
LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


def mirrored(index: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map indices beyond either end to those mirrored at the end pixels, however far beyond."""
    last = length - 1
    index = np.abs(index) % np.maximum(2 * last, 1)
    within: NDArray[np.int64] = np.minimum(index, 2 * last - index)
    return within


def repeated(index: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map indices beyond either end to the end pixels."""
    return np.clip(index, 0, length - 1)


def extended(
    image_BCHW: Tensor,
    sizes_B2: Sizes,
    index: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]],
    places: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Tensor:
    """Read rows and columns of each image, of which some are beyond its borders.

    Args:
        image_BCHW: the images.
        sizes_B2: their sizes.
        index: `mirrored` or `repeated`.
        places: the rows and the columns to read, the same for all images.
    """
    for axis, place in enumerate(places):
        within = index(place[None], sizes_B2[:, axis, None])
        shape = [len(image_BCHW), 1, 1, 1]
        shape[2 + axis] = len(place)
        full = list(image_BCHW.shape)
        full[2 + axis] = len(place)
        where = torch.from_numpy(within).to(image_BCHW.device, non_blocking=True).view(shape)
        image_BCHW = image_BCHW.gather(2 + axis, where.expand(full))
    return image_BCHW


def blur(image_BCHW: Tensor, kernel_BKK: Tensor, sizes_B2: Sizes) -> Tensor:
    """Filter each image by its own kernel, mirrored at the borders."""
    from kornia.filters import filter2d

    reach = kernel_BKK.shape[-1] // 2
    height, width = sizes_B2.max(axis=0)
    places = np.arange(-reach, height + reach), np.arange(-reach, width + reach)
    around = extended(image_BCHW, sizes_B2, mirrored, places)
    blurred: Tensor = filter2d(around, kernel_BKK, padding="valid")
    return blurred


def resize(image_BCHW: Tensor, sizes_B2: Sizes, new_B2: Sizes, method_B: Numbers) -> Tensor:
    """Resize each image to its own new size, by its own method (an index of `METHODS`)."""
    height, width = new_B2.max(axis=0).tolist()
    out_BCHW = image_BCHW.new_zeros(*image_BCHW.shape[:2], height, width)
    for k, (old, new) in enumerate(zip(sizes_B2.tolist(), new_B2.tolist(), strict=True)):
        mode = METHODS[method_B[k]]
        out_BCHW[k : k + 1, :, : new[0], : new[1]] = F.interpolate(
            image_BCHW[k : k + 1, :, : old[0], : old[1]],
            new,
            mode=mode,
            align_corners=None if mode == "area" else False,
        )
    return out_BCHW


@lru_cache(maxsize=8)
def normal_table(device: torch.device) -> Tensor:
    """Compute the normal distribution's quantiles for the 65,536 values of a 16-bit number.

    Looking random numbers up in a table that was computed on the CPU gives the same noise on all
    devices.
    """
    middle = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(middle)
    return quantiles.float().to(device)


def add_noise(
    image_BCHW: Tensor,
    word_BCHW: Tensor,
    strength_B: Tensor,
    is_poisson_B: Tensor,
    is_gray_B: Tensor,
) -> Tensor:
    """Add Gaussian or Poisson noise to each image, to colours or to gray, and clamp to [0, 1].

    Args:
        image_BCHW: the images.
        word_BCHW: 16 random bits for each value, as int16; gray noise reads those of channel 0.
        strength_B: standard deviation in grey levels of 255; for Poisson noise, a factor.
        is_poisson_B: whether the noise is that of counting `PHOTONS` times the value.
        is_gray_B: whether the noise is the same in all channels.
    """
    from kornia.color import rgb_to_grayscale

    strength, is_poisson, is_gray = (
        x.view(-1, 1, 1, 1) for x in (strength_B, is_poisson_B, is_gray_B)
    )
    normal = normal_table(image_BCHW.device)[word_BCHW.int() + 2**15]
    normal = torch.where(is_gray, normal[:, :1], normal)
    light = torch.where(is_gray, rgb_to_grayscale(image_BCHW), image_BCHW).clamp(0, 1)
    expected = light * PHOTONS
    # Poisson's quantile from the normal one's, to second order (Cornish and Fisher, 1938).
    counts = nearest(expected + expected.sqrt() * normal + (normal**2 - 1) / 6).clamp(min=0)
    noise = torch.where(is_poisson, (counts - expected) / PHOTONS, normal / 255)
    return torch.addcmul(image_BCHW, strength, noise).clamp(0, 1)


def jpeg(image_BCHW: Tensor, sizes_B2: Sizes, quality_B: Numbers) -> Tensor:
    """Compress and decompress each image as a JPEG file with half the chroma resolution (4:2:0).

    kornia's codec rounds softly, for a gradient: a cube of what should be lost remains, which a
    network could learn to read. Here coefficients are rounded as in files.
    """
    height, width = image_BCHW.shape[-2:]
    places = np.arange(-(-height // 16) * 16), np.arange(-(-width // 16) * 16)
    image_BCHW = extended(image_BCHW, sizes_B2, repeated, places)
    to_ycc, to_rgb = color_matrices(image_BCHW.device, image_BCHW.dtype)
    ycc_BCHW = nearest(mix(to_ycc, to_levels(image_BCHW)))
    ycc_BCHW[:, 0] -= 128  # all three are signed now
    small_BCHW = nearest(F.avg_pool2d(ycc_BCHW[:, 1:], 2))
    luma_BCHW = coded(ycc_BCHW[:, :1], quality_B, LUMA)
    small_BCHW = coded(small_BCHW, quality_B, CHROMA)
    halves = tuple(np.arange(n) for n in small_BCHW.shape[-2:])
    small_BCHW = extended(small_BCHW, -(-sizes_B2 // 2), repeated, (halves[0], halves[1]))
    chroma_BCHW = F.interpolate(small_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)
    ycc_BCHW = torch.cat([luma_BCHW + 128, chroma_BCHW], dim=1)[..., :height, :width]
    return to_levels(mix(to_rgb, ycc_BCHW) / 255) / 255


@lru_cache(maxsize=8)
def color_matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the matrices from RGB to YCbCr and back."""
    to_ycc = torch.tensor(TO_YCC, dtype=torch.float64)
    return to_ycc.to(device, dtype), to_ycc.inverse().to(device, dtype)


def mix(matrix: Tensor, image_BCHW: Tensor) -> Tensor:
    """Multiply the channels of images by a 3 x 3 matrix."""
    return (matrix @ image_BCHW.flatten(2)).view(image_BCHW.shape)


def to_levels(image: Tensor) -> Tensor:
    """Convert [0, 1] to whole grey levels from 0 to 255, clamped."""
    return nearest(image * 255).clamp(0, 255)


def nearest(value: Tensor) -> Tensor:
    """Round to the nearest whole number, halves up.

    Halves are frequent here, because most of what is rounded is a mean of whole numbers. A small
    excess decides them the same way on all devices, whatever their last bits are.
    """
    return (value + (0.5 + 2**-10)).floor()


def coded(plane_BCHW: Tensor, quality_B: Numbers, table: tuple[int, ...]) -> Tensor:
    """Round the cosine coefficients of 8 x 8 blocks to multiples of a table's steps.

    Returns:
        The planes, rounded to whole levels from -128 to 127, like those given.
    """
    num, channels, height, width = plane_BCHW.shape
    step = torch.from_numpy(steps(quality_B, table)).to(plane_BCHW.device, non_blocking=True)
    step = step.view(num, 1, 1, 1, 8, 8)
    basis = cosines(plane_BCHW.device, plane_BCHW.dtype)
    blocks = plane_BCHW.view(num, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = nearest(basis @ blocks @ basis.T / step) * step
    blocks = nearest(basis.T @ coefficients @ basis).clamp(-128, 127)
    return blocks.transpose(3, 4).reshape(num, channels, height, width)


def steps(quality_B: Numbers, table: tuple[int, ...]) -> NDArray[np.float32]:
    """Scale a quantisation table by quality as libjpeg does; returns B x 64."""
    percent = np.where(quality_B < 50, 5000 // np.maximum(quality_B, 1), 200 - 2 * quality_B)
    scaled: NDArray[np.int64] = (np.array(table) * percent[:, None] + 50) // 100
    return scaled.clip(1, 255).astype(np.float32)


@lru_cache(maxsize=8)
def cosines(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Compute the orthonormal basis of the 8-point discrete cosine transform, rows frequencies."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    return basis.to(device, dtype)

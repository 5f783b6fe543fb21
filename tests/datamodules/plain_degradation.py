"""A slow, plain version of the realistic degradation, in NumPy and SciPy, image by image."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.special
from numpy.typing import NDArray

from datamodules.realistic import RealisticDraws, RoundDraws

METHODS = ("area", "bilinear", "bicubic")
Array = NDArray[np.float64]
LUMA = [
    *([16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55]),
    *([14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62]),
    *([18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92]),
    *([49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99]),
]
CHROMA = [
    *([17, 18, 24, 47, 99, 99, 99, 99], [18, 21, 26, 66, 99, 99, 99, 99]),
    *([24, 26, 56, 99, 99, 99, 99, 99], [47, 66, 99, 99, 99, 99, 99, 99]),
    *([[99] * 8] * 4),
]


def nearest(values: Array) -> Array:
    return np.floor(values + 0.5 + 2**-10)


def plain_kernel(
    kind: str, side: int, sigma: Sequence[float], angle: float, generalized: float, plateau: float
) -> Array:
    """By the inverse of the covariance matrix, pixel by pixel."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scales = [sigma[0], sigma[0] if kind.endswith("_iso") or kind == "iso" else sigma[1]]
    inverse = np.linalg.inv(turn @ np.diag(np.square(scales)) @ turn.T)
    kernel = np.zeros((21, 21))
    for y in range(-(side // 2), side // 2 + 1):
        for x in range(-(side // 2), side // 2 + 1):
            q = np.array([x, y]) @ inverse @ np.array([x, y])
            if kind.startswith("plateau"):
                value = 1 / (1 + q**plateau)
            else:
                value = math.exp(-0.5 * q ** (generalized if "generalized" in kind else 1))
            kernel[y + 10, x + 10] = value
    return kernel / kernel.sum()


def plain_sinc(cutoff: float, side: int) -> Array:
    kernel = np.zeros((21, 21))
    for y in range(-(side // 2), side // 2 + 1):
        for x in range(-(side // 2), side // 2 + 1):
            r = math.hypot(x, y)
            peak = cutoff**2 / (4 * math.pi)
            value = cutoff * scipy.special.j1(cutoff * r) / (2 * math.pi * r) if r else peak
            kernel[y + 10, x + 10] = value
    return kernel / kernel.sum()


def plain_blur(image: Array, kernel: Array) -> Array:
    each = [scipy.ndimage.correlate(channel, kernel, mode="mirror") for channel in image]
    return np.stack(each)


def taps(method: str, old: int, new: int) -> Array:
    """How much of each old pixel is in each new one."""
    matrix = np.zeros((new, old))
    for i in range(new):
        if method == "area":
            start, end = math.floor(i * old / new), math.ceil((i + 1) * old / new)
            matrix[i, start:end] = 1 / (end - start)
            continue
        place = (i + 0.5) * old / new - 0.5
        if method == "bilinear":
            place = max(place, 0.0)
        first = math.floor(place) - (method == "bicubic")
        for j in range(first, first + (4 if method == "bicubic" else 2)):
            d = abs(place - j)
            if method == "bilinear":
                weight = max(0.0, 1 - d)
            elif d <= 1:  # Keys' cubic with a = -0.75
                weight = 1.25 * d**3 - 2.25 * d**2 + 1
            else:
                weight = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[i, min(max(j, 0), old - 1)] += weight
    return matrix


def plain_resize(image: Array, size: Sequence[int], method: str) -> Array:
    rows, columns = (taps(method, *pair) for pair in zip(image.shape[1:], size, strict=True))
    return rows @ image @ columns.T


def plain_noise(image: Array, words: Array, strength: float, poisson: bool, gray: bool) -> Array:
    normal = scipy.special.ndtri((words + 2**15 + 0.5) / 2**16)
    if gray:
        normal = normal[:1]
    light = image
    if gray:
        light = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], image)[None]
    if not poisson:
        return np.clip(image + strength * normal / 255, 0, 1)
    mean = 256 * np.clip(light, 0, 1)
    counts = np.maximum(nearest(mean + np.sqrt(mean) * normal + (normal**2 - 1) / 6), 0)
    return np.clip(image + strength * (counts - mean) / 256, 0, 1)


def plain_plane(plane: Array, table: list[list[int]], quality: int) -> Array:
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    step = np.clip((np.array(table) * percent + 50) // 100, 1, 255)
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3) - 128
    waves = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
    blocks = scipy.fft.idctn(nearest(waves / step) * step, axes=(2, 3), norm="ortho") + 128
    return np.clip(nearest(blocks.transpose(0, 2, 1, 3).reshape(height, width)), 0, 255)


def plain_jpeg(image: Array, quality: int) -> Array:
    """Baseline JPEG with 4:2:0, chroma enlarged by the triangle filter."""
    height, width = image.shape[1:]
    image = np.clip(nearest(255 * image), 0, 255)
    image = np.pad(image, ((0, 0), (0, -height % 16), (0, -width % 16)), mode="edge")
    red, green, blue = image
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [plain_plane(nearest(y), LUMA, quality)]
    for color, factor in ((blue, 1.772), (red, 1.402)):
        chroma = nearest((color - y) / factor + 128)
        rows, columns = (n // 2 for n in chroma.shape)
        chroma = nearest(chroma.reshape(rows, 2, columns, 2).mean(axis=(1, 3)))
        chroma = plain_plane(chroma, CHROMA, quality)
        chroma = chroma[: -(-height // 2), : -(-width // 2)]
        size = [2 * n for n in chroma.shape]
        planes.append(plain_resize(chroma[None], size, "bilinear")[0, :height, :width] - 128)
    y = planes[0][:height, :width]
    cb, cr = planes[1:]
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    rgb = np.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue])
    return np.clip(nearest(rgb), 0, 255) / 255


def plain_round(image: Array, one: RoundDraws, k: int) -> Array:
    height, width = one.sizes_B2[k]
    image = plain_blur(image, one.kernel_BKK[k].double().numpy())
    image = plain_resize(image, (height, width), METHODS[one.method_B[k]])
    words = one.word_BCHW[k, :, :height, :width].numpy().astype(float)
    strength, poisson, gray = (
        x[k].item() for x in (one.strength_B, one.is_poisson_B, one.is_gray_B)
    )
    image = plain_noise(image, words, float(strength), bool(poisson), bool(gray))
    return plain_jpeg(image, int(one.quality_B[k]))


def plain_chain(hr: Array, draws: RealisticDraws, k: int, scale: int) -> Array:
    image = plain_round(plain_round(hr, draws.first, k), draws.second, k)
    if not draws.jpeg_last_B[k]:
        image = plain_jpeg(image, int(draws.quality_B[k]))
    size = [side // scale for side in hr.shape[1:]]
    image = plain_resize(image, size, METHODS[draws.method_B[k]])
    image = plain_blur(image, draws.sinc_BKK[k].double().numpy())
    if draws.jpeg_last_B[k]:
        image = plain_jpeg(image, int(draws.quality_B[k]))
    return np.clip(nearest(255 * image), 0, 255) / 255

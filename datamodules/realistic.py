"""Realistic degradation: photos as cameras, resizing and the web leave them.

Two rounds of blur, resizing, noise and JPEG, then a sinc filter and JPEG in either order with the
resizing to LR, as in Wang et al., "Real-ESRGAN: training real-world blind super-resolution with
pure synthetic data" (ICCVW 2021). Everything random is drawn here, on the CPU, each image from a
stream of its own; `datamodules.realistic_stages` applies it on any device.

Shape suffixes: B batch, C channels, H and W height and width, K side of a kernel.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules import realistic_stages as stages
from datamodules.blur_kernels import KINDS, draw_sides, gaussian_kernels, sinc_kernels, unless
from datamodules.drawn import DrawnDegradation, check_probability, check_range
from datamodules.realistic_stages import METHODS, Numbers, Sizes
from datamodules.uniform import Floats, Uniform, to_float

NUM_UNIFORM = 46  # random numbers of an image, before its noise

RESIZES = ("up", "down", "keep")


class RoundDraws(NamedTuple):
    """One round for a batch. Arrays stay on the CPU; tensors go to the training device."""

    kernel_BKK: Tensor
    sizes_B2: Sizes  # after resizing
    method_B: Numbers  # of resizing, an index of `METHODS`
    word_BCHW: Tensor  # random bits for the noise, int16
    strength_B: Tensor  # of the noise
    is_poisson_B: Tensor
    is_gray_B: Tensor
    quality_B: Numbers  # of JPEG


class RealisticDraws(NamedTuple):
    """All random choices for a batch."""

    first: RoundDraws
    second: RoundDraws
    sinc_BKK: Tensor
    method_B: Numbers  # of the resizing to LR
    quality_B: Numbers
    jpeg_last_B: NDArray[np.bool_]  # whether JPEG follows the resizing to LR, or precedes it
    corner_B2: Numbers  # row and column of the patch in LR, which is larger by twice the margin

    def apply(self, hr_BCHW: Tensor, scale: int) -> Tensor:
        """Degrade HR images in [0, 1] to LR images in [0, 1], with values of 8 bits."""
        image_BCHW = hr_BCHW
        sizes_B2 = np.full_like(self.first.sizes_B2, hr_BCHW.shape[-2:])
        lr_B2 = sizes_B2 // scale
        for one in (self.first, self.second):
            image_BCHW = stages.blur(image_BCHW, one.kernel_BKK, sizes_B2)
            image_BCHW = stages.resize(image_BCHW, sizes_B2, one.sizes_B2, one.method_B)
            sizes_B2 = one.sizes_B2
            image_BCHW = stages.add_noise(
                image_BCHW, one.word_BCHW, one.strength_B, one.is_poisson_B, one.is_gray_B
            )
            image_BCHW = stages.jpeg(image_BCHW, sizes_B2, one.quality_B)
        image_BCHW = self.compress(image_BCHW, sizes_B2, ~self.jpeg_last_B)
        image_BCHW = stages.resize(image_BCHW, sizes_B2, lr_B2, self.method_B)
        image_BCHW = stages.blur(image_BCHW, self.sinc_BKK, lr_B2)
        image_BCHW = self.compress(image_BCHW, lr_B2, self.jpeg_last_B)
        return stages.to_levels(image_BCHW) / 255

    def compress(self, image_BCHW: Tensor, sizes_B2: Sizes, chosen_B: NDArray[np.bool_]) -> Tensor:
        """Apply the last JPEG to some of the images."""
        if not chosen_B.any():
            return image_BCHW
        where = torch.from_numpy(np.flatnonzero(chosen_B)).to(image_BCHW.device)
        coded = stages.jpeg(image_BCHW[where], sizes_B2[chosen_B], self.quality_B[chosen_B])
        return image_BCHW.index_copy(0, where, coded)


@dataclass(frozen=True)
class Round:
    """Strengths of one round; a pair is [low, high], from which each image draws uniformly.

    Args:
        blur_probability: of a blur at all.
        sinc_probability: of a sinc filter, if blurred, instead of one of `kernels`.
        kernels: shares of the other kernels, by kind (see `datamodules.blur_kernels`).
        sigma: of the kernels, in pixels; anisotropic ones have two.
        generalized_beta: shape of generalized Gaussians; one half is drawn below 1.
        plateau_beta: shape of plateaus, drawn likewise.
        resize: shares of `up`, `down` and `keep`.
        resize_range: factors: the least of `down` and the greatest of `up`; relative to HR in the
            first round, to LR in the second.
        poisson_probability: of Poisson noise instead of Gaussian.
        gray_probability: of noise that is equal in all channels.
        gaussian: sigma of Gaussian noise in grey levels (0 to 255).
        poisson: strength of Poisson noise; 1 for 256 photons in a white pixel.
        jpeg: quality, 1 to 100.
    """

    blur_probability: float
    sinc_probability: float
    kernels: Mapping[str, float]
    sigma: list[float]
    generalized_beta: list[float]
    plateau_beta: list[float]
    resize: Mapping[str, float]
    resize_range: list[float]
    poisson_probability: float
    gray_probability: float
    gaussian: list[float]
    poisson: list[float]
    jpeg: list[int]

    def check(self, key: str) -> None:
        """Raise a ValueError that names the first value out of range, below this key."""
        for name in ("blur", "sinc", "poisson", "gray"):
            check_probability(f"{key}.{name}_probability", getattr(self, f"{name}_probability"))
        check_shares(f"{key}.kernels", self.kernels, KINDS)
        check_shares(f"{key}.resize", self.resize, RESIZES)
        check_range(f"{key}.sigma", self.sigma, 0.1, 10)
        check_range(f"{key}.generalized_beta", self.generalized_beta, 0.1, 10, around_one=True)
        check_range(f"{key}.plateau_beta", self.plateau_beta, 0.1, 10, around_one=True)
        check_range(f"{key}.resize_range", self.resize_range, 0.05, 4, around_one=True)
        check_range(f"{key}.gaussian", self.gaussian, 0, 255)
        check_range(f"{key}.poisson", self.poisson, 0, 100)
        check_range(f"{key}.jpeg", self.jpeg, 1, 100)

    def draw(
        self, draw: Uniform, streams: Sequence[np.random.Generator], unit: tuple[float, float]
    ) -> RoundDraws:
        """Draw one round.

        Args:
            draw: the uniform numbers of the images.
            streams: where their noise comes from; the numbers have been drawn already.
            unit: height and width that the factors of resizing refer to.
        """
        blurred, is_sinc = (draw.happens(p) for p in (self.blur_probability, self.sinc_probability))
        side_B = draw_sides(draw)
        cutoff_B = draw_cutoffs(draw, side_B)
        kernel_BKK = gaussian_kernels(
            kind_B=draw.pick([self.kernels.get(kind, 0) for kind in KINDS]),
            side_B=side_B,
            sigma_B2=np.stack([draw.between(*self.sigma) for _ in range(2)], axis=1),
            angle_B=draw.between(-np.pi, np.pi),
            generalized_B=draw.around_one(*self.generalized_beta),
            plateau_B=draw.around_one(*self.plateau_beta),
        )
        is_sinc = is_sinc[:, None, None]
        kernel_BKK = np.where(is_sinc, sinc_kernels(cutoff_B, side_B), kernel_BKK)
        sizes_B2 = self.draw_sizes(draw, unit)
        method_B = draw.whole(0, len(METHODS) - 1)
        is_poisson, is_gray = (
            draw.happens(p) for p in (self.poisson_probability, self.gray_probability)
        )
        level_B = draw.between(0, 1)
        amounts = [low + (high - low) * level_B for low, high in (self.gaussian, self.poisson)]
        return RoundDraws(
            to_float(unless(blurred, kernel_BKK)),
            sizes_B2,
            method_B,
            draw_words(streams, sizes_B2),
            to_float(np.where(is_poisson, amounts[1], amounts[0])),
            torch.from_numpy(is_poisson),
            torch.from_numpy(is_gray),
            draw.whole(*self.jpeg),
        )

    def draw_sizes(self, draw: Uniform, unit: tuple[float, float]) -> Sizes:
        """Draw the sizes after resizing, at least one pixel each."""
        low, high = self.resize_range
        kind_B = draw.pick([self.resize.get(kind, 0) for kind in RESIZES])
        place_B = draw.between(0, 1)
        factors = 1 + (high - 1) * place_B, low + (1 - low) * place_B, np.ones_like(place_B)
        factor_B = np.choose(kind_B, factors)
        sizes_B2: Sizes = np.floor(factor_B[:, None] * np.array(unit)).astype(np.int64)
        return np.maximum(sizes_B2, 1, dtype=np.int64)


@dataclass(frozen=True)
class RealisticDegradation(DrawnDegradation):
    """LR images for restoring real photos: `data.degradation=realistic`.

    Args:
        first: first round.
        second: second round; its resizing is relative to the LR size.
        final_sinc_probability: of the last sinc filter.
        final_jpeg: quality of the last JPEG, [low, high].
        margin: LR pixels that are degraded around a training patch and cut off, so that neither
            borders nor the grid of JPEG blocks have a fixed place in it.

    Raises:
        ValueError: for values out of range, or without the package kornia.
    """

    first: Round
    second: Round
    final_sinc_probability: float
    final_jpeg: list[int]
    margin: int = 8

    def __post_init__(self) -> None:
        if importlib.util.find_spec("kornia") is None:
            raise ValueError("data.degradation=realistic needs kornia: pip install '.[kornia]'")
        self.first.check("data.degradation.first")
        self.second.check("data.degradation.second")
        check_probability("data.degradation.final_sinc_probability", self.final_sinc_probability)
        check_range("data.degradation.final_jpeg", self.final_jpeg, 1, 100)
        if not 0 <= self.margin <= 64:
            raise ValueError(f"data.degradation.margin={self.margin}: 0 to 64 LR pixels")

    def label(self) -> str:
        """Return a short name for folders and descriptions."""
        return "realistic"

    def draw(
        self,
        streams: Sequence[np.random.Generator],
        size: tuple[int, int],
        scale: int,
        *,
        spare: int = 0,
    ) -> RealisticDraws:
        """Draw everything for a batch, see `DrawnDegradation.draw`."""
        draw = Uniform(streams, NUM_UNIFORM)
        height, width = size
        first = self.first.draw(draw, streams, (height, width))
        second = self.second.draw(draw, streams, (height / scale, width / scale))
        side_B = draw_sides(draw)
        kernel_BKK = sinc_kernels(draw.between(np.pi / 3, np.pi), side_B)
        drawn = RealisticDraws(
            first,
            second,
            to_float(unless(draw.happens(self.final_sinc_probability), kernel_BKK)),
            draw.whole(0, len(METHODS) - 1),
            draw.whole(*self.final_jpeg),
            draw.happens(0.5),
            np.stack([draw.whole(0, spare) for _ in range(2)], axis=1),
        )
        assert not draw.columns
        return drawn


def draw_cutoffs(draw: Uniform, side_B: Numbers) -> Floats:
    """Draw cutoff frequencies of sinc filters; small kernels cannot hold the lowest."""
    return draw.between(np.where(side_B < 13, np.pi / 3, np.pi / 5), np.pi)


def draw_words(streams: Sequence[np.random.Generator], sizes_B2: Sizes) -> Tensor:
    """Draw 16 random bits for each value of each image, B x 3 x H x W int16."""
    word_BCHW = np.zeros((len(streams), 3, *sizes_B2.max(axis=0)), np.int16)
    for out, stream, (height, width) in zip(word_BCHW, streams, sizes_B2.tolist(), strict=True):
        num = 3 * height * width
        words = stream.bit_generator.random_raw(-(-num // 4)).view(np.int16)[:num]
        out[:, :height, :width] = words.reshape(3, height, width)
    return torch.from_numpy(word_BCHW)


def check_shares(key: str, shares: Mapping[str, float], names: Sequence[str]) -> None:
    """Raise a ValueError unless the shares are of these names, none negative, not all 0."""
    if set(shares) - set(names) or min(shares.values(), default=0) < 0 or not sum(shares.values()):
        given = ", ".join(f"{name}: {share}" for name, share in shares.items())
        raise ValueError(
            f"{key}={{{given}}}: shares of {', '.join(names)}; 0 or more, not all of them 0"
        )

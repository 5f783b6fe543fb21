"""Show a frozen scorer random views of a patch, or the worst place near it.

Averaging over views removes from a scorer's gradient what depends on the exact position and value
of each pixel: simple transforms are a surprisingly effective defence against adversarial patterns
(arXiv 2404.06957, 2408.01541). Rating the worst place nearby keeps an enhancer from narrow peaks of
the score (RSA-FT, arXiv 2603.21175).

Each view of each patch draws from a stream of its own, a function of (seed, step, position in the
global batch, view), so that draws depend neither on ranks and micro-batches nor on interruptions.

Shape suffixes: B batch of patches, N views of all patches (all patches in the first view, then all
in the second, ...), C channels, H and W height and width, L length of a side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.drawn import check_range
from datamodules.realistic import draw_words
from datamodules.realistic_stages import Numbers, jpeg, normal_table
from datamodules.sampling import Purpose, random_stream
from datamodules.uniform import Uniform, to_float

VIEWS = ("shift", "flip", "noise", "resize", "jpeg")
NUM_UNIFORM = 5  # random numbers of a view, before its noise
GRADIENT_SCALE = 1024.0  # keeps small gradients in float16; normalising cancels it
EPSILON = 1e-12  # in the divisor, for a score that does not depend on the image


class ViewDraws(NamedTuple):
    """The random choices for the views of a batch, on the CPU."""

    shift_N2: Tensor  # by which the view looks further down and further right, whole pixels
    step_N: Tensor  # pixels of the patch for each of the view, down its side
    flip_N: Tensor  # -1 where left and right are exchanged, else 1
    quality_N: Numbers  # of JPEG
    word_NCHW: Tensor | None  # random bits for the noise, int16


@dataclass(frozen=True)
class Views:
    """Random views of patches, all of the patches' own size; borders are mirrored.

    Args:
        names: which of `VIEWS` change a view; the strengths of the others have no effect.
        num: views of each patch.
        shift: greatest shift in each direction, in pixels.
        noise: sigma of Gaussian noise, in grey levels (0 to 255).
        resize: factors about the centre, [low, high]; bilinear, with anti-aliasing.
        jpeg: quality, [low, high], 1 to 100. The gradient ignores the compression (Bengio, Léonard,
            Courville, 2013: straight-through estimator).
        seed: the run's seed.

    Raises:
        ValueError: if a name is unknown or a number is out of its range.
    """

    names: Sequence[str]
    num: int = 4
    shift: int = 8
    noise: float = 4.0
    resize: Sequence[float] = (0.8, 1.25)
    jpeg: Sequence[int] = (50, 95)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in VIEWS]
        if unknown or not self.names:
            raise ValueError(f"views=[{','.join(self.names)}]: allowed are {', '.join(VIEWS)}")
        if self.num < 1:
            raise ValueError(f"num_views={self.num}: 1 or more")
        if self.shift < 0:
            raise ValueError(f"shift={self.shift}: 0 or more pixels")
        if not 0 <= self.noise <= 255:
            raise ValueError(f"noise={self.noise}: 0 to 255 grey levels")
        check_range("resize", list(self.resize), 0.25, 4)
        check_range("jpeg", list(self.jpeg), 1, 100)

    def draw(self, step: int, first: int, patches_BCHW: Tensor) -> ViewDraws:
        """Draw everything for the views of a batch.

        Args:
            step: optimizer step.
            first: position of the first patch in the global batch.
            patches_BCHW: the patches.
        """
        num_patches, height, width = len(patches_BCHW), *patches_BCHW.shape[-2:]
        streams = [
            random_stream(
                self.seed,
                epoch=step,
                position=(first + patch) * self.num + view,
                purpose=Purpose.VIEWS,
            )
            for view in range(self.num)
            for patch in range(num_patches)
        ]
        draw = Uniform(streams, NUM_UNIFORM)
        shift = self.shift if "shift" in self.names else 0
        low, high = self.resize if "resize" in self.names else (1, 1)
        shift_N2 = np.stack([draw.whole(-shift, shift) for _ in range(2)], axis=1).astype(float)
        flip_N = np.where(draw.happens(0.5 * ("flip" in self.names)), -1.0, 1.0)
        step_N = 1 / draw.between(low, high)
        quality_N = draw.whole(*self.jpeg)
        sizes_N2 = np.full((len(streams), 2), (height, width))
        word_NCHW = draw_words(streams, sizes_N2) if "noise" in self.names else None
        return ViewDraws(
            to_float(shift_N2), to_float(step_N), to_float(flip_N), quality_N, word_NCHW
        )

    def apply(self, patches_BCHW: Tensor, draws: ViewDraws) -> Tensor:
        """Compute the views of patches in [0, 1], N x 3 x H x W; noise may leave [0, 1].

        Computed in float32, since bfloat16 has coarser steps than the noise.
        """
        device = patches_BCHW.device
        with torch.autocast(device.type, enabled=False):
            x_NCHW = patches_BCHW.float().repeat(self.num, 1, 1, 1)
            height, width = x_NCHW.shape[-2:]
            if {"shift", "flip", "resize"} & set(self.names):
                shift_N2, step_N, flip_N = (value.to(device) for value in draws[:3])
                down_NLL = resampling(shift_N2[:, 0], step_N, height)
                right_NLL = resampling(shift_N2[:, 1], step_N * flip_N, width)
                x_NCHW = down_NLL[:, None] @ x_NCHW @ right_NLL[:, None].mT
            if draws.word_NCHW is not None:
                normal_NCHW = normal_table(device)[draws.word_NCHW.to(device).int() + 2**15]
                x_NCHW = x_NCHW + self.noise / 255 * normal_NCHW
            if "jpeg" in self.names:
                sizes_N2 = np.full((len(x_NCHW), 2), (height, width))
                coded_NCHW = jpeg(x_NCHW.detach(), sizes_N2, draws.quality_N)
                x_NCHW = coded_NCHW + (x_NCHW - x_NCHW.detach())  # the latter is exactly 0
        return x_NCHW


def resampling(shift_N: Tensor, step_N: Tensor, length: int) -> Tensor:
    """Compute the matrices that shift, flip and resize one side of images about its middle.

    A matrix instead of reading pixels has a gradient that is summed in the same order every time,
    on GPUs too. A shift by whole pixels is exact.

    Args:
        shift_N: pixels by which the result looks further down the side.
        step_N: pixels of the input for each of the result, negative to flip; above 1 the filter
            widens accordingly, against aliasing.
        length: pixels of the side.

    Returns:
        N x L x L; rows are pixels of the result, sum to 1, and read what is beyond either end
        mirrored at the end pixels.
    """
    pixel_L = torch.arange(length, device=shift_N.device, dtype=torch.float32)
    last = length - 1
    place_NL = last / 2 + shift_N[:, None] + step_N[:, None] * (pixel_L - last / 2)
    place_NL = last - (place_NL.remainder(2 * last) - last).abs()  # mirrored, however far beyond
    width_N = step_N.abs().clamp_min(1)[:, None, None]

    def weigh(pixel: Tensor) -> Tensor:
        return (1 - (pixel - place_NL[..., None]).abs() / width_N).relu()

    weight_NLL = weigh(pixel_L)
    weight_NLL[..., 1:] += weigh(-pixel_L[1:])  # mirror images of the pixels
    weight_NLL[..., :-1] += weigh(2 * last - pixel_L[:-1])
    return weight_NLL / weight_NLL.sum(dim=-1, keepdim=True)


def worst_nearby(images_BCHW: Tensor, rate: Callable[[Tensor], Tensor], rho: float) -> Tensor:
    """Move images to where their scores are lowest nearby, to first order.

    `x - rho * g / rms(g)`, clamped to [0, 1], where g is the gradient of the score at x (RSA-FT,
    arXiv 2603.21175). The displacement is detached: the gradient of a score of the result, taken at
    the displaced place, reaches the images unchanged.

    Args:
        images_BCHW: the images in [0, 1].
        rate: maps images to one score each.
        rho: root mean square of each image's displacement, in grey levels (0 to 255).
    """
    here_BCHW = images_BCHW.detach().float().requires_grad_()
    with torch.enable_grad():
        (gradient_BCHW,) = torch.autograd.grad(GRADIENT_SCALE * rate(here_BCHW).sum(), here_BCHW)
    rms_B111 = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    step_BCHW = rho / 255 * gradient_BCHW / (rms_B111 + EPSILON)
    there_BCHW = (here_BCHW.detach() - step_BCHW).clamp(0, 1)
    return there_BCHW + (images_BCHW - images_BCHW.detach())  # the latter is exactly 0

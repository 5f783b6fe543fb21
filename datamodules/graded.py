"""Graded degradations: photos made worse by a known amount, so that their order is known.

Scorers learn the order as a ranking, and are checked for it (monotony). Images are RGB in [0, 1].

Shape suffixes: B batch, C channels, H and W height and width, K side of a kernel.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.realistic_stages import jpeg
from images.transfer import to_linear, to_srgb

REACH = 12  # pixels that blurs look at on each side: three sigma of the strongest


def blur(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Blur by a Gaussian of up to 4 pixels."""
    return gaussian(images_BCHW, 4 * strength_B)


def noise(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Add Gaussian noise of up to 50 grey levels, drawn by PyTorch's generator of the device."""
    sigma_B111 = 50 / 255 * strength_B.view(-1, 1, 1, 1)
    return images_BCHW + sigma_B111 * torch.randn_like(images_BCHW)


def blocks(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Compress as JPEG, with a quality from 95 down to 5, by the square root of the strength."""
    quality_B = (95 - 90 * strength_B.double().sqrt()).round().long().cpu().numpy()
    sizes_B2 = np.tile(np.array(images_BCHW.shape[-2:]), (len(images_BCHW), 1))
    return jpeg(images_BCHW, sizes_B2, quality_B)


def ringing(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Remove all frequencies above a limit, which falls with the root of the strength.

    The limit is at most the highest frequency of rows and columns, and at least 0.15 of it.
    """
    pad = [min(REACH, side - 1) for side in images_BCHW.shape[-2:]]
    padded = F.pad(images_BCHW, (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
    size = padded.shape[-2:]
    rows, columns = (
        torch.fft.fftfreq(size[0], device=padded.device),
        torch.fft.rfftfreq(size[1], device=padded.device),
    )
    radius_HW = 2 * torch.hypot(rows[:, None], columns)
    kept_BHW = radius_HW <= 1 - 0.85 * strength_B.view(-1, 1, 1).sqrt()
    spectrum = torch.fft.rfft2(padded.float()) * kept_BHW[:, None]
    filtered: Tensor = torch.fft.irfft2(spectrum, s=size)
    top, left = pad
    return filtered[..., top : size[0] - top, left : size[1] - left]


def sharpening(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Sharpen too much: add 2 to 8 times what a blur of one pixel takes away."""
    amount_B111 = (2 + 6 * strength_B).view(-1, 1, 1, 1) * (strength_B > 0).view(-1, 1, 1, 1)
    blurred_BCHW = gaussian(images_BCHW, torch.ones_like(strength_B))
    return images_BCHW + amount_B111 * (images_BCHW - blurred_BCHW)


def underexposure(images_BCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Expose up to 4 stops too little, in linear light."""
    factor_B111 = torch.exp2(-4 * strength_B).view(-1, 1, 1, 1)
    return to_srgb(factor_B111 * to_linear(images_BCHW))


Degradation = Callable[[Tensor, Tensor], Tensor]
# By name. At strength 0 they leave photos as they are (`blocks` almost); 1 is the strongest.
GRADED: dict[str, Degradation] = {
    function.__name__: function
    for function in (blur, noise, blocks, ringing, sharpening, underexposure)
}


def degrade(images_BCHW: Tensor, name: str, strength_B: Tensor) -> Tensor:
    """Degrade each image by its own strength, and round to 8 bits.

    Args:
        images_BCHW: the images in [0, 1].
        name: one of `GRADED`.
        strength_B: from 0, which leaves an image as it is, to 1.
    """
    worse_BCHW = GRADED[name](images_BCHW, strength_B)
    rounded_BCHW = (worse_BCHW.clamp(0, 1) * 255).round() / 255
    return torch.where((strength_B > 0).view(-1, 1, 1, 1), rounded_BCHW, images_BCHW)


def gaussian(images_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Blur each image by its own sigma in pixels, mirrored at the borders."""
    batch, channels, *size = images_BCHW.shape
    place = torch.arange(-REACH, REACH + 1, device=images_BCHW.device)
    window_BK = torch.exp(-0.5 * (place / sigma_B.clamp_min(0.05)[:, None]) ** 2)
    window_BK = (window_BK / window_BK.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    pad = [min(REACH, side - 1) for side in size]
    x = F.pad(images_BCHW, (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
    x = F.pad(x, (REACH - pad[1],) * 2 + (REACH - pad[0],) * 2, mode="replicate")
    x = x.reshape(1, batch * channels, *x.shape[-2:])
    for shape in ((-1, 1, 2 * REACH + 1, 1), (-1, 1, 1, 2 * REACH + 1)):
        x = F.conv2d(x, window_BK.view(shape), groups=batch * channels)
    return x.view(batch, channels, *size)

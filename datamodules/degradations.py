"""What makes a photo worse: bicubic shrinking, blur, noise, JPEG. All on 3 x H x W uint8 images."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from datamodules.images import to_array, to_bytes, to_tensor, to_unit
from networks.bicubic import imresize


def crop_to_multiple(image: Tensor, scale: int) -> Tensor:
    """Cuts the right and bottom edges so that both sides divide by `scale`."""
    height, width = image.shape[-2:]
    return image[..., : height - height % scale, : width - width % scale]


def bicubic_pair(hr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """LR and HR image of one photo: HR cropped to a multiple of `scale`, LR as MATLAB shrinks it.

    Returns:
        `3 x H/scale x W/scale` and `3 x H x W`.
    """
    hr = crop_to_multiple(hr, scale)
    return (hr if scale == 1 else imresize(hr, 1 / scale)), hr


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian of `sigma` pixels, cut off at 3 sigma; sigma 0 changes nothing."""
    if sigma == 0:
        return image
    size = 2 * int(np.ceil(3 * sigma)) + 1
    return to_bytes(transforms.gaussian_blur(to_unit(image), [size, size], [sigma, sigma]))


def gaussian_noise(image: Tensor, sigma: float, stream: np.random.Generator) -> Tensor:
    """Adds independent Gaussian noise of `sigma` grey levels of 255 to every value."""
    noise = torch.from_numpy(stream.standard_normal(image.shape, dtype=np.float32)) * sigma
    return (image + noise).round().clamp(0, 255).to(torch.uint8)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compresses and decompresses; quality from 1 (worst) to 95."""
    buffer = io.BytesIO()
    Image.fromarray(to_array(image)).save(buffer, "JPEG", quality=quality)
    return to_tensor(np.array(Image.open(buffer)))

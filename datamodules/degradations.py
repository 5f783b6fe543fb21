"""Degradations of 3 x H x W uint8 images: bicubic downscaling, blur, noise and JPEG."""

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from datamodules.sampling import name_stream
from images.pixels import to_array, to_bytes, to_tensor, to_unit
from networks.bicubic import imresize

Amount = float | list[float]  # a value, or [low, high] to draw from uniformly


@dataclass(frozen=True)
class Degradation:
    """Degradation of LR images, after downscaling: blur, then noise, then JPEG.

    The paper's deblurring uses `blur` alone. If a strength is [low, high], it is drawn for each
    image, either once or anew in each epoch. Noise and strengths that are drawn once depend only
    on the image's name, not on the run's seed.

    Args:
        blur: sigma of a Gaussian blur in LR pixels; 0 for none.
        kernel_size: side of its kernel, odd; None cuts off at 3 sigma.
        noise: sigma of Gaussian noise in grey levels of 255; 0 for none.
        jpeg: JPEG quality from 1 (worst) to 95; None for no compression.
        every_epoch: draw strengths and noise anew for each image and epoch, in training only.

    Raises:
        ValueError: for values out of range.
    """

    blur: Amount = 0.0
    kernel_size: int | None = None
    noise: Amount = 0.0
    jpeg: int | list[int] | None = None
    every_epoch: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("blur", 0, 50), ("noise", 0, 255), ("jpeg", 1, 95)):
            value = getattr(self, name)
            if value is None:
                continue
            ends = value if isinstance(value, list) else [value, value]
            if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
                raise ValueError(
                    f"data.degradation.{name}={value}: a value from {low} to {high}, or two, "
                    "[low,high], to draw from"
                )
        if self.kernel_size is not None and (self.kernel_size < 1 or self.kernel_size % 2 == 0):
            raise ValueError(f"data.degradation.kernel_size={self.kernel_size}: odd, 1 or more")
        # Stores are found by these values, so 0 from YAML and 0.0 from Python have to be the same.
        for name in ("blur", "noise"):
            value = getattr(self, name)
            value = [float(v) for v in value] if isinstance(value, list) else float(value)
            object.__setattr__(self, name, value)
        if self.blur == 0:
            object.__setattr__(self, "kernel_size", None)

    @property
    def margin(self) -> int:
        """Reach of the blur in pixels."""
        largest = self.blur[1] if isinstance(self.blur, list) else self.blur
        return blur_size(largest, self.kernel_size) // 2

    def label(self) -> str:
        """Return a short name for folders and descriptions, such as `blur1.6_jpeg40`, or ''."""
        parts = []
        for name in ("blur", "noise", "jpeg"):
            value = getattr(self, name)
            if value not in (0, None):
                text = f"{value[0]:g}-{value[1]:g}" if isinstance(value, list) else f"{value:g}"
                parts.append(f"{name}{text}")
                if name == "blur" and self.kernel_size is not None:
                    parts.append(f"kernel{self.kernel_size}")
        return "_".join(parts)

    def draw(self, stream: np.random.Generator) -> "Degradation":
        """Return a degradation in which each range is replaced by a value drawn from it."""
        blur, noise, jpeg = self.blur, self.noise, self.jpeg
        if isinstance(blur, list):
            blur = float(stream.uniform(blur[0], blur[1]))
        if isinstance(noise, list):
            noise = float(stream.uniform(noise[0], noise[1]))
        if isinstance(jpeg, list):
            jpeg = int(stream.integers(jpeg[0], jpeg[1] + 1))
        return replace(self, blur=blur, noise=noise, jpeg=jpeg)

    def apply(self, image: Tensor, stream: np.random.Generator) -> Tensor:
        """Degrade a 3 x H x W uint8 image by fixed strengths, with noise from the stream."""
        assert not isinstance(self.blur, list)
        assert not isinstance(self.noise, list)
        assert not isinstance(self.jpeg, list)
        image = gaussian_blur(image, self.blur, self.kernel_size)
        if self.noise:
            image = gaussian_noise(image, self.noise, stream)
        return image if self.jpeg is None else jpeg(image, self.jpeg)

    def apply_fixed(self, image: Tensor, name: str) -> Tensor:
        """Degrade a 3 x H x W uint8 image with random numbers determined by its name."""
        stream = name_stream(name)
        return self.draw(stream).apply(image, stream)

    def make_lr(self, hr: Tensor, scale: int, name: str) -> Tensor:
        """Make the LR photo of an HR photo (3 x H x W uint8), as in `apply_fixed`."""
        return self.apply_fixed(shrink(hr, scale), name)


def shrink(hr: Tensor, scale: int) -> Tensor:
    """Crop an HR photo to a multiple of the scale and downscale it by MATLAB's bicubic.

    Returns:
        `3 x H//scale x W//scale`.
    """
    height, width = hr.shape[-2:]
    hr = hr[..., : height - height % scale, : width - width % scale]
    return hr if scale == 1 else imresize(hr, 1 / scale)


def shrink_to(image: Tensor, side: int) -> Tensor:
    """Shrink a photo (3 x H x W uint8) until its shorter side has this many pixels, if it has more.

    By bicubic interpolation with antialiasing, like Pillow's.
    """
    if min(image.shape[-2:]) <= side:
        return image
    small: Tensor = transforms.resize(image, [side], InterpolationMode.BICUBIC, antialias=True)
    return small


def blur_size(sigma: float, kernel_size: int | None) -> int:
    """Return the side of a Gaussian kernel, by default cut off at 3 sigma."""
    return kernel_size or 2 * int(np.ceil(3 * sigma)) + 1


def gaussian_blur(image: Tensor, sigma: float, kernel_size: int | None = None) -> Tensor:
    """Apply a Gaussian blur of `sigma` pixels, mirrored at the borders; none below 0.1."""
    if sigma < 0.1:  # neighbours would weigh exp(-50); tiny sigmas would divide by zero
        return image
    size = blur_size(sigma, kernel_size)
    if min(image.shape[-2:]) <= size // 2:
        height, width = image.shape[-2:]
        raise ValueError(f"{width}x{height} pixels are too few for a blur over {size}")
    return to_bytes(transforms.gaussian_blur(to_unit(image), [size, size], [sigma, sigma]))


def gaussian_noise(image: Tensor, sigma: float, stream: np.random.Generator) -> Tensor:
    """Add independent Gaussian noise of `sigma` grey levels of 255 to each value."""
    noise = torch.from_numpy(stream.standard_normal(image.shape, dtype=np.float32)) * sigma
    return (image + noise).round().clamp(0, 255).to(torch.uint8)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress and decompress an image by JPEG, with a quality from 1 (worst) to 95."""
    buffer = io.BytesIO()
    Image.fromarray(to_array(image)).save(buffer, "JPEG", quality=quality)
    return to_tensor(np.array(Image.open(buffer)))

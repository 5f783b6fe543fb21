"""EDSR, the enhanced deep residual network for single-image super-resolution.

Lim, Son, Kim, Nah, Lee: "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPR workshops 2017, section 3. Modules are named as in the authors' PyTorch code, so that the keys
of their checkpoints match.

Inputs and outputs are RGB in [0, 1]. Internally, as published, pixels are in 0..255 with the DIV2K
mean subtracted.

Shape suffixes: B batch, C channels, H and W height and width of the input (the output is
`scale` times larger), F features.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.scales import check_scale

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB means of the 800 training photos, in [0, 1]
FACTORS: dict[int, list[int]] = {1: [], 2: [2], 3: [3], 4: [2, 2]}  # of the upsampling steps


class MeanShift(nn.Module):
    """Adds `sign * 255 * mean` to an image in 0..255.

    A fixed 1x1 convolution, because the authors' checkpoints contain one. Its 12 values are
    buffers: saved and loaded under the official names, but not trained or counted as parameters.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, mean: tuple[float, float, float] = DIV2K_MEAN, *, sign: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(3, 3, 1, 1))
        self.register_buffer("bias", torch.empty(3))
        # Computed on the CPU: on `meta`, torch.eye and torch.tensor take a second.
        self.weight.copy_(torch.eye(3, device="cpu").view(3, 3, 1, 1))
        self.bias.copy_(sign * 255.0 * torch.tensor(mean, device="cpu"))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shift images, B x 3 x H x W in 0..255, by the mean."""
        return F.conv2d(x_BCHW, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """Residual block without batch norm: two convolutions and a ReLU (figure 2c of the paper)."""

    def __init__(self, num_features: int, kernel_size: int = 3, res_scale: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            same_conv(num_features, num_features, kernel_size),
            nn.ReLU(inplace=True),
            same_conv(num_features, num_features, kernel_size),
        )
        self.res_scale = res_scale

    def forward(self, x_BFHW: Tensor) -> Tensor:
        """Map B x F x H x W to the same shape."""
        residual_BFHW: Tensor = self.body(x_BFHW)
        return x_BFHW + (residual_BFHW if self.res_scale == 1 else residual_BFHW * self.res_scale)


class Upsampler(nn.Sequential):
    """Sub-pixel convolutions: one step for x2 and x3, two steps of x2 for x4."""

    def __init__(self, scale: int, num_features: int) -> None:
        layers: list[nn.Module] = []
        for factor in FACTORS[scale]:
            layers.append(same_conv(num_features, num_features * factor**2, 3))
            layers.append(nn.PixelShuffle(factor))
        super().__init__(*layers)


class EDSR(nn.Module):
    """EDSR for one scale.

    The defaults are the paper's baseline; `conf/net/edsr_full.yaml` is the full-size network.

    Args:
        scale: 2, 3 or 4; or 1, which restores at the same size (deblurring).
        num_blocks: residual blocks (baseline 16, full 32).
        num_features: channels of the body (baseline 64, full 256).
        res_scale: factor on each residual (baseline 1, full 0.1, which stabilises 256 channels).

    Attributes:
        margin: LR pixels on each side that an output pixel depends on.

    Raises:
        ValueError: if `scale` is not 1, 2, 3 or 4, or a count is not positive.
    """

    last_layers = ("tail",)  # what model.train=tail trains

    def __init__(
        self,
        scale: int = 2,
        *,
        num_blocks: int = 16,
        num_features: int = 64,
        res_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_scale(self, scale)
        if num_blocks < 1 or num_features < 1:
            raise ValueError(
                f"num_blocks={num_blocks}, num_features={num_features}: both must be 1 or more"
            )
        self.scale = scale
        self.margin = math.ceil(1 + 2 * num_blocks + 1 + tail_reach(scale))
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Sequential(same_conv(3, num_features, 3))
        self.body = nn.Sequential(
            *(ResidualBlock(num_features, res_scale=res_scale) for _ in range(num_blocks)),
            same_conv(num_features, num_features, 3),
        )
        self.tail = nn.Sequential(Upsampler(scale, num_features), same_conv(num_features, 3, 3))
        self.add_mean = MeanShift(sign=1)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32, not clamped."""
        # The mean shifts and the last convolution stay in float32: bf16, with eight significant
        # bits, would cost up to one grey level of 255.
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            x_BCHW = self.sub_mean(lr_BCHW.float() * 255.0)
        x_BFHW = self.head(x_BCHW)
        x_BFHW = self.body(x_BFHW) + x_BFHW
        x_BFHW = self.tail[0](x_BFHW)
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            sr_BCHW: Tensor = self.add_mean(self.tail[1](x_BFHW.float())) / 255.0
        return sr_BCHW


def same_conv(num_in: int, num_out: int, kernel_size: int) -> nn.Conv2d:
    """Return a convolution with bias that keeps height and width."""
    return nn.Conv2d(num_in, num_out, kernel_size, padding=kernel_size // 2)


def tail_reach(scale: int) -> float:
    """Return how many LR pixels on each side the upsampler and the last convolution see."""
    reach, size = 0.0, 1
    for factor in FACTORS[scale]:
        reach += 1 / size
        size *= factor
    return reach + 1 / scale

"""CAN, the context aggregation network: dilated convolutions at full resolution.

Chen, Xu, Koltun: "Fast Image Processing with Fully-Convolutional Networks", ICCV 2017. Talebi and
Milanfar train it against a NIMA in "Learned Perceptual Image Enhancement", ICCP 2018. The
convolutions keep the size of an image; at scales above 1, the input is upscaled bicubically first.

Images are RGB in [0, 1]. Shape suffixes: B batch, C channels, H and W height and width of the
input, F features.
"""

import math

import torch
from torch import Tensor, nn

from networks.bicubic import REACH, upscale
from networks.scales import check_scale

MAX_LAYERS = 18  # the widest dilation is then 2^15, more than the size of any photo


class AdaptiveNorm(nn.Module):
    """`a * x + b * batch_norm(x)` with learned a and b, initially 1 and 0 (equation 3)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.identity = nn.Parameter(torch.ones(()))
        self.share = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm2d(num_features)

    def forward(self, x_BFHW: Tensor) -> Tensor:
        """Map B x F x H x W to the same shape."""
        mixed_BFHW: Tensor = self.identity * x_BFHW + self.share * self.norm(x_BFHW)
        return mixed_BFHW


class CAN(nn.Module):
    """CAN for one scale. The defaults are CAN24; 10 layers of 32 features are CAN32.

    Args:
        scale: 1, which restores at the same size; or 2, 3 or 4, after bicubic upscaling.
        num_layers: convolutions. The dilation doubles from layer to layer, from 1 to
            2^(num_layers - 3); it is 1 in the last layer but one, and the last is 1x1 (table 1).
        num_features: channels.
        normalize: use adaptive normalisation after each convolution, as published. Its batch norm
            makes results depend on how a batch is divided among ranks.

    Attributes:
        margin: LR pixels on each side that an output pixel depends on.

    Raises:
        ValueError: if `scale` is not 1, 2, 3 or 4, there are fewer than 3 layers or features, or
            more than `MAX_LAYERS` layers.
    """

    def __init__(
        self,
        scale: int = 1,
        *,
        num_layers: int = 9,
        num_features: int = 24,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_scale(self, scale)
        if num_layers < 3 or num_features < 3:
            raise ValueError(
                f"num_layers={num_layers}, num_features={num_features}: both must be 3 or more"
            )
        if num_layers > MAX_LAYERS:
            raise ValueError(f"num_layers={num_layers}: at most {MAX_LAYERS}")
        self.scale = scale
        dilations = [2**k for k in range(num_layers - 2)] + [1]
        self.margin = math.ceil(sum(dilations) / scale + (REACH if scale > 1 else 0))
        layers: list[nn.Module] = []
        width = 3
        for dilation in dilations:
            conv = nn.Conv2d(
                width, num_features, 3, padding=dilation, dilation=dilation, bias=not normalize
            )
            layers += [conv, *[AdaptiveNorm(num_features)] * normalize, nn.LeakyReLU(0.2)]
            width = num_features
            nn.init.zeros_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        last = nn.Conv2d(width, 3, 1)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)
        # The network starts as the identity (section 3.2). The last layer keeps random weights for
        # the features that are initially zero: with zero weights, no gradient would reach them.
        with torch.no_grad():
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    middle = layer.kernel_size[0] // 2
                    for k in range(3 if layer is last else layer.in_channels):
                        layer.weight[:, k, middle, middle] = 0.0
                        layer.weight[k, k, middle, middle] = 1.0

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32, not clamped."""
        x_BFHW = self.layers[:-1](upscale(lr_BCHW, self.scale))
        # In float32 because bf16 is no more precise than an 8-bit image.
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            sr_BCHW: Tensor = self.layers[-1](x_BFHW.float())
        return sr_BCHW

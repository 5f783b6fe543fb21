"""SRCNN, the first convolutional super-resolution network: three layers on the upscaled image.

Dong, Loy, He, Tang: "Image Super-Resolution Using Deep Convolutional Networks", IEEE TPAMI 2016.
The defaults are the paper's best trade-off, kernels of 9, 5 and 5 pixels with 64 and 32 filters
(section 4.3.3), on all three channels (section 4.5). The paper crops the borders; here they are
padded with zeros.

Images are RGB in [0, 1]. Shape suffixes: B batch, C channels, H and W height and width of the
input.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.bicubic import REACH, upscale
from networks.edsr import same_conv
from networks.scales import check_scale


class SRCNN(nn.Module):
    """SRCNN for one scale.

    Args:
        scale: 2, 3 or 4; or 1, which restores at the same size (deblurring).
        kernel_sizes: kernel sizes of the three convolutions, odd.
        num_features: number of filters of the first two convolutions.

    Attributes:
        margin: LR pixels on each side that an output pixel depends on.

    Raises:
        ValueError: if `scale` is not 1, 2, 3 or 4, there are not three odd kernel sizes, or there
            are not two positive numbers of filters.
    """

    def __init__(
        self,
        scale: int = 2,
        *,
        kernel_sizes: Sequence[int] = (9, 5, 5),
        num_features: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        check_scale(self, scale)
        kernels, widths = list(kernel_sizes), list(num_features)
        if len(kernels) != 3 or min(kernels) < 1 or any(size % 2 == 0 for size in kernels):
            raise ValueError(f"kernel_sizes={kernels}: three odd numbers")
        if len(widths) != 2 or min(widths) < 1:
            raise ValueError(f"num_features={widths}: two numbers, 1 or more")
        self.scale = scale
        reach = sum(size // 2 for size in kernels) / scale
        self.margin = math.ceil(reach + (REACH if scale > 1 else 0))
        self.layers = nn.Sequential(
            same_conv(3, widths[0], kernels[0]),
            nn.ReLU(inplace=True),
            same_conv(widths[0], widths[1], kernels[1]),
            nn.ReLU(inplace=True),
            same_conv(widths[1], 3, kernels[2]),
        )

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32, not clamped."""
        x_BCHW = self.layers[:-1](upscale(lr_BCHW, self.scale))
        # In float32 because bf16 is no more precise than an 8-bit image.
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            sr_BCHW: Tensor = self.layers[-1](x_BCHW.float())
        return sr_BCHW

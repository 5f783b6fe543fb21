"""MDSR, the multi-scale deep super-resolution network: a shared body with branches per scale.

Lim, Son, Kim, Nah, Lee: "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPR workshops 2017, section 3.3. Modules are named as in the authors' PyTorch code, so that the
keys of their checkpoints match: `pre_process.0` and `upsample.0` belong to the first scale, etc.

Inputs and outputs are RGB in [0, 1]. Internally, as published, pixels are in 0..255 with the DIV2K
mean subtracted.

Shape suffixes: B batch, C channels, H and W height and width of the input, F features.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.edsr import MeanShift, ResidualBlock, Upsampler, same_conv, tail_reach

PRE_KERNEL = 5  # kernel size before the body: a large receptive field evens out the scales


class MDSR(nn.Module):
    """MDSR for several scales.

    The defaults are the paper's baseline; `conf/net/mdsr_full.yaml` is the full-size network.

    Args:
        scales: one or more of 1, 2, 3 and 4, with a branch for each.
        num_blocks: residual blocks of the shared body (baseline 16, full 80).
        num_features: channels of the body (64 in both).
        res_scale: factor on each residual.

    Attributes:
        margin: LR pixels on each side that an output pixel depends on.

    Raises:
        ValueError: if a scale is not 1, 2, 3 or 4 or is repeated, or a count is not positive.
    """

    last_layers = ("upsample", "tail")  # what model.train=tail trains

    def __init__(
        self,
        scales: Sequence[int] = (2, 3, 4),
        *,
        num_blocks: int = 16,
        num_features: int = 64,
        res_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scales = list(scales)
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales={self.scales}: one or several different ones are needed")
        if not set(self.scales) <= {1, 2, 3, 4}:
            raise ValueError(f"scales={self.scales}: MDSR has the scales 1, 2, 3 and 4")
        if num_blocks < 1 or num_features < 1:
            raise ValueError(
                f"num_blocks={num_blocks}, num_features={num_features}: both must be 1 or more"
            )
        before = 2 * 2 * (PRE_KERNEL // 2)
        self.margin = max(
            math.ceil(1 + before + 2 * num_blocks + 1 + tail_reach(scale)) for scale in self.scales
        )
        self.sub_mean = MeanShift(sign=-1)
        self.head = nn.Sequential(same_conv(3, num_features, 3))
        self.pre_process = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(num_features, PRE_KERNEL) for _ in range(2)))
            for _ in self.scales
        )
        self.body = nn.Sequential(
            *(ResidualBlock(num_features, res_scale=res_scale) for _ in range(num_blocks)),
            same_conv(num_features, num_features, 3),
        )
        self.upsample = nn.ModuleList(Upsampler(scale, num_features) for scale in self.scales)
        self.tail = nn.Sequential(same_conv(num_features, 3, 3))
        self.add_mean = MeanShift(sign=1)

    def forward(self, lr_BCHW: Tensor, scale: int) -> Tensor:
        """Restore images at one scale.

        Args:
            lr_BCHW: B x 3 x H x W in [0, 1].
            scale: one of `scales`; only its branch is computed.

        Returns:
            B x 3 x scale*H x scale*W, float32, not clamped.

        Raises:
            ValueError: if there is no branch for the scale.
        """
        if scale not in self.scales:
            raise ValueError(f"scale={scale}: this MDSR has {', '.join(map(str, self.scales))}")
        branch = self.scales.index(scale)
        # In float32 for the reason given in `EDSR.forward`.
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            x_BCHW = self.sub_mean(lr_BCHW.float() * 255.0)
        x_BFHW = self.pre_process[branch](self.head(x_BCHW))
        x_BFHW = self.upsample[branch](self.body(x_BFHW) + x_BFHW)
        with torch.autocast(lr_BCHW.device.type, enabled=False):
            sr_BCHW: Tensor = self.add_mean(self.tail(x_BFHW.float())) / 255.0
        return sr_BCHW

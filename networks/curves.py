"""Curves, a network for tone and colour that adjusts a photo by what it sees in the shrunk photo.

A small convolutional network reads the photo, shrunk to 256 x 256 pixels, and predicts three
adjustments that are applied to every pixel at full resolution, one after the other:

1. a tone curve for each channel, smooth and increasing (global curves as in "Zero-Reference Deep
   Curve Estimation", Guo et al., CVPR 2020, and CURL, Moran et al., ICPR 2020; here a curve is the
   integral of a positive, piecewise linear slope, with a free value at black),
2. a 3 x 3 colour matrix,
3. a bilateral grid of affine colour transforms, read by place and luma ("Deep Bilateral Learning
   for Real-Time Image Enhancement", HDRNet, Gharbi et al., SIGGRAPH 2017). From the same paper come
   the two paths, for local and for global features, and the interpolation between cell centres.

The global path also gets the distributions of the three channels' values, which tell exposure and
colour cast directly; convolutions alone are slower to learn them.

A 3D look-up table (Zeng et al., TPAMI 2020; CLUT-Net, Zhang et al., ACM MM 2022) could replace 1
and 2, but mixes a fixed set of tables that has to be trained for each kind of photo.

A pixel's result depends on its own colour and, slowly, on its place: such a network can change tone
and colour, but cannot draw detail or patterns. It starts as the identity.

Images are RGB in [0, 1]. Shape suffixes: B batch, C channels, H and W height and width, K knots of
a curve, D levels of a distribution, L, Y and X cells of the grid by luma, rows and columns, M rows
of a matrix.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.shrunk import places, shrink

SIDE = 256  # pixels a side of the shrunk photo; four halvings make a grid of 16 x 16 (HDRNet)
NUM_LEVELS = 16  # of the distributions of values; enough to tell exposure, contrast and colour cast
LUMA = (0.299, 0.587, 0.114)  # BT.601


class Adjustment(NamedTuple):
    """What the network predicts for each photo; all zero is the identity.

    Attributes:
        black_BC: value of the curves at 0.
        log_slope_BCK: logarithm of their slopes at equidistant knots from 0 to 1.
        matrix_BMC: colour matrix minus the identity.
        grid_BMLYX: affine transforms, 3 x 4 in row order, minus the identity.
    """

    black_BC: Tensor
    log_slope_BCK: Tensor
    matrix_BMC: Tensor
    grid_BMLYX: Tensor


class Curves(nn.Module):
    """Tone curves, a colour matrix and a bilateral grid, predicted from the shrunk photo.

    Args:
        scale: 1; the size of a photo stays as it is.
        num_knots: knots of a curve, 2 or more.
        num_bins: cells of the grid by luma.
        num_features: channels after the first convolution; they double at each halving.

    Attributes:
        shrunk_side: side in pixels of the shrunk photo, see `networks.shrunk`.
        margin: 0: given the adjustment, a pixel depends on itself only.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, scale: int = 1, *, num_knots: int = 9, num_bins: int = 8, num_features: int = 8
    ) -> None:
        super().__init__()
        if scale != 1:
            raise ValueError(f"scale={scale}: Curves keeps the size; scale=1 is needed")
        given = {"num_knots": num_knots, "num_bins": num_bins, "num_features": num_features}
        least = {"num_knots": 2, "num_bins": 1, "num_features": 1}
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"{name}={value}: {least[name]} or more")
        self.scale = scale
        self.shrunk_side = SIDE
        self.margin = 0
        self.num_bins = num_bins
        widths = [num_features * factor for factor in (1, 2, 4, 8)]
        self.features = nn.Sequential(
            *halving(3, widths[0]),
            *halving(widths[0], widths[1]),
            *halving(widths[1], widths[2]),
            *halving(widths[2], widths[3]),
        )
        wide = widths[-1]
        self.local_path = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 3, padding=1)
        )
        self.global_path = nn.Sequential(
            *halving(wide, wide), *halving(wide, wide), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.summary = nn.Sequential(
            nn.Linear(wide + 3 * NUM_LEVELS, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()
        )
        self.fusion = nn.Linear(wide, wide)
        self.curves = nn.Linear(wide, 3 * (1 + num_knots))
        self.matrix = nn.Linear(wide, 9)
        self.grid = nn.Conv2d(wide, 12 * num_bins, 1)
        heads = (self.curves, self.matrix, self.grid)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
                if layer in heads:
                    nn.init.zeros_(layer.weight)
                else:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to the same size, float32, not clamped."""
        place_2HW = places((0, 0), lr_BCHW.shape[2:], lr_BCHW.shape[2:]).to(lr_BCHW.device)
        found = self.analyse(shrink(lr_BCHW, self.shrunk_side))
        return self.adjust(lr_BCHW, found, place_2HW[None])

    def analyse(self, small_BCHW: Tensor) -> Adjustment:
        """Predict the adjustments of photos from `shrunk_side` x `shrunk_side` pixels each."""
        features_BCYX = self.features(small_BCHW - 0.5)
        local_BCYX, global_BC = self.local_path(features_BCYX), self.global_path(features_BCYX)
        # In float32 because the curves amplify what is rounded here.
        with torch.autocast(small_BCHW.device.type, enabled=False):
            local_BCYX, global_BC = local_BCYX.float(), global_BC.float()
            global_BC = self.summary(torch.cat([global_BC, distributions(small_BCHW)], dim=1))
            fused_BCYX = F.relu(local_BCYX + self.fusion(global_BC)[:, :, None, None])
            curves_BCK = torch.unflatten(self.curves(global_BC), 1, (3, -1))
            return Adjustment(
                curves_BCK[:, :, 0],
                curves_BCK[:, :, 1:],
                torch.unflatten(self.matrix(global_BC), 1, (3, 3)),
                torch.unflatten(self.grid(fused_BCYX), 1, (12, self.num_bins)),
            )

    def adjust(self, tile_BCHW: Tensor, found: Adjustment, place_B2HW: Tensor) -> Tensor:
        """Apply adjustments to photos, or to tiles of them.

        Args:
            tile_BCHW: pixels in [0, 1].
            found: the adjustment of each image, or one for all.
            place_B2HW: places of the pixels, see `networks.shrunk.places`; or one for all.
        """
        with torch.autocast(tile_BCHW.device.type, enabled=False):
            x_BCHW = apply_curves(tile_BCHW.float(), found.black_BC, found.log_slope_BCK)
            x_BCHW = x_BCHW + products(found.matrix_BMC[..., None, None], x_BCHW)
            affine_BMHW = slice_grid(found.grid_BMLYX, luma(x_BCHW), place_B2HW)
            affine_BMCHW = torch.unflatten(affine_BMHW, 1, (3, 4))
            return x_BCHW + products(affine_BMCHW[:, :, :3], x_BCHW) + affine_BMCHW[:, :, 3]


def halving(num_in: int, num_out: int) -> list[nn.Module]:
    """Return a convolution that halves height and width, and its activation."""
    return [nn.Conv2d(num_in, num_out, 3, stride=2, padding=1), nn.ReLU()]


def distributions(small_BCHW: Tensor) -> Tensor:
    """Compute the distribution of each channel's values, cumulated over `NUM_LEVELS` levels.

    A value is divided between the two levels next to it, so that the result is differentiable.

    Returns:
        B x 3 * `NUM_LEVELS`, from -0.5 to 0.5.
    """
    value_BCN1 = F.avg_pool2d(small_BCHW, 4).clamp(0, 1).flatten(2)[..., None] * (NUM_LEVELS - 1)
    level_D = torch.arange(NUM_LEVELS, device=small_BCHW.device)
    share_BCD = (1 - (value_BCN1 - level_D).abs()).clamp(min=0).mean(2)
    return (share_BCD.cumsum(2) - 0.5).flatten(1)


def luma(x_BCHW: Tensor) -> Tensor:
    """Compute the luma of images, clamped to [0, 1]; B x H x W."""
    red_BHW, green_BHW, blue_BHW = x_BCHW.unbind(1)
    return (LUMA[0] * red_BHW + LUMA[1] * green_BHW + LUMA[2] * blue_BHW).clamp(0, 1)


def products(weight_BMCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Multiply a matrix at each pixel, or one for all pixels, by the pixel's colour."""
    return (weight_BMCHW * x_BCHW[:, None]).sum(2)


def apply_curves(x_BCHW: Tensor, black_BC: Tensor, log_slope_BCK: Tensor) -> Tensor:
    """Map each channel through its curve: the integral of a slope that is linear between knots.

    Args:
        x_BCHW: pixels in [0, 1].
        black_BC: see `Adjustment`.
        log_slope_BCK: see `Adjustment`.
    """
    slope_BCK = log_slope_BCK.exp().expand(x_BCHW.shape[0], -1, -1)
    num_parts = slope_BCK.shape[2] - 1  # between knots
    bend_BCK = slope_BCK.diff() / 2
    rise_BCK = slope_BCK[..., :-1] + bend_BCK
    start_BCK = rise_BCK.cumsum(2) - rise_BCK  # up to each part, times the number of parts
    at_BCN = x_BCHW.flatten(2) * num_parts
    part_BCN = at_BCN.detach().long().clamp(0, num_parts - 1)
    t_BCN = at_BCN - part_BCN
    start_BCN, slope_BCN, bend_BCN = (
        value_BCK.gather(2, part_BCN) for value_BCK in (start_BCK, slope_BCK, bend_BCK)
    )
    risen_BCN = start_BCN + t_BCN * (slope_BCN + t_BCN * bend_BCN)
    return (risen_BCN / num_parts).view_as(x_BCHW) + black_BC[..., None, None]


def slice_grid(grid_BMLYX: Tensor, luma_BHW: Tensor, place_B2HW: Tensor) -> Tensor:
    """Read a bilateral grid at each pixel's luma and place, by trilinear interpolation.

    Values stand at the centres of cells; beyond the outermost centres they are constant.

    Returns:
        B x M x H x W.
    """
    y_BHW, x_BHW = (place_BHW.expand_as(luma_BHW) for place_BHW in place_B2HW.unbind(1))
    at_BHW3 = torch.stack([x_BHW, y_BHW, luma_BHW], dim=3) * 2 - 1
    grid_BMLYX = grid_BMLYX.expand(luma_BHW.shape[0], -1, -1, -1, -1)
    read_BM1HW = F.grid_sample(
        grid_BMLYX, at_BHW3[:, None], padding_mode="border", align_corners=False
    )
    return read_BM1HW[:, :, 0]

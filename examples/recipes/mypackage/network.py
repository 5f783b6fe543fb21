"""A custom network: bilinear upscaling and one convolution."""

from torch import Tensor, nn


class MyNet(nn.Module):
    """Enlarge bilinearly, then convolve."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale, self.margin, self.conv = scale, 2, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge B x 3 x H x W images in [0, 1] `scale` times."""
        return self.conv(nn.functional.interpolate(lr, scale_factor=self.scale, mode="bilinear"))

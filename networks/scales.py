"""A common interface for single-scale and multi-scale networks."""

from torch import Tensor, nn

from networks.weights import name_of

SCALES = (1, 2, 3, 4)


def check_scale(network: nn.Module, scale: int) -> None:
    """Raise a ValueError unless the scale is 1 (restore at the same size), 2, 3 or 4."""
    if scale not in SCALES:
        raise ValueError(f"scale={scale}: {type(network).__name__} has the scales 1, 2, 3 and 4")


class AtScale(nn.Module):
    """Single-scale view of a multi-scale network.

    Args:
        net: network with `scales` that is called with images and a scale; not copied.
        scale: one of its scales.
    """

    def __init__(self, net: nn.Module, scale: int) -> None:
        super().__init__()
        self.net = net
        self.scale = scale
        self.margin: int | None = getattr(net, "margin", None)
        self.train(net.training)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W."""
        sr_BCHW: Tensor = self.net(lr_BCHW, self.scale)
        return sr_BCHW


def scale_of(net: nn.Module) -> int:
    """Return the scale of a single-scale network."""
    return int(net.scale)  # type: ignore[arg-type]


def scales_of(net: nn.Module) -> list[int]:
    """Return the scales of a network, from its attribute `scales` (MDSR) or `scale` (others).

    Raises:
        ValueError: if it has neither.
    """
    scales = getattr(net, "scales", None)
    if scales is None and not hasattr(net, "scale"):
        raise ValueError(f"{type(net).__name__} has no `scale`, which an enhancer needs")
    return [scale_of(net)] if scales is None else list(scales)


def at_scale(net: nn.Module, scale: int) -> nn.Module:
    """Return a single-scale network as it is, or a view of a multi-scale network at one scale.

    Raises:
        ValueError: if the network does not have this scale.
    """
    scales = scales_of(net)
    if scale not in scales:
        raise ValueError(
            f"scale={scale}: this {name_of(net)} is for x{', x'.join(map(str, scales))}"
        )
    return net if hasattr(net, "scale") else AtScale(net, scale)

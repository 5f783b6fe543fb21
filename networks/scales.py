"""Networks of one scale and of several behind one interface."""

from torch import Tensor, nn

SCALES = (1, 2, 3, 4)


def check_scale(network: nn.Module, scale: int) -> None:
    """Raises a ValueError unless it is a scale that networks have; 1 restores at the same size."""
    if scale not in SCALES:
        raise ValueError(f"scale={scale}: {type(network).__name__} has the scales 1, 2, 3 and 4")


class AtScale(nn.Module):
    """A network of several scales used at one of them.

    Args:
        net: takes images and a scale, and has `scales`; not copied.
        scale: one of them.
    """

    def __init__(self, net: nn.Module, scale: int) -> None:
        super().__init__()
        self.net = net
        self.scale = scale
        self.margin: int | None = getattr(net, "margin", None)
        self.train(net.training)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """What the network makes of the images at this scale."""
        return self.net(lr_BCHW, self.scale)  # type: ignore[no-any-return]


def scales_of(net: nn.Module) -> list[int]:
    """The scales of a network, which has `scales` (MDSR) or a `scale` (all others).

    Raises:
        ValueError: if it has neither.
    """
    scales = getattr(net, "scales", None)
    if scales is None and not hasattr(net, "scale"):
        raise ValueError(f"{type(net).__name__} has no `scale`, which an enhancer needs")
    return [int(net.scale)] if scales is None else list(scales)  # type: ignore[arg-type]


def at_scale(net: nn.Module, scale: int) -> nn.Module:
    """The network for one scale: itself if it has only that, else a view of it.

    Raises:
        ValueError: if it does not have the scale.
    """
    scales = scales_of(net)
    if scale not in scales:
        raise ValueError(
            f"scale={scale}: this {type(net).__name__} is for x{', x'.join(map(str, scales))}"
        )
    return net if hasattr(net, "scale") else AtScale(net, scale)

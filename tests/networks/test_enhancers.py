"""What all enhancers have in common."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks.bicubic import Bicubic, imresize, upscale
from networks.can import CAN
from networks.edsr import EDSR
from networks.mdsr import MDSR
from networks.scales import AtScale
from networks.srcnn import SRCNN


def positive(net: nn.Module) -> nn.Module:
    """With weights above zero no path from a pixel to another is cut by a ReLU."""
    for p in net.parameters():
        nn.init.uniform_(p, 0.5, 1.0)
        p.data /= max(1, p[0].numel() if p.ndim else 1)
    return net.double().eval()


def reach(net: nn.Module, scale: int, side: int) -> int:
    """LR pixels on each side that the outputs of one LR pixel depend on."""
    lr = torch.rand(1, 3, 2, side, dtype=torch.float64).requires_grad_()
    middle = side // 2
    sr = run(net, lr)
    found = 0
    for offset in range(scale):
        (gradient,) = torch.autograd.grad(
            sr[..., 0, middle * scale + offset].sum(), lr, retain_graph=True
        )
        touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        found = max(found, middle - int(touched.min()), int(touched.max()) - middle)
    return found


def run(net: nn.Module, lr: Tensor) -> Tensor:
    """Without casts to float32, which lose far-away gradients, and mean shifts below zero."""
    if isinstance(net, EDSR):
        x = net.head(lr)
        return net.tail(net.body(x) + x)
    if isinstance(net, AtScale):
        inner = net.net
        assert isinstance(inner, MDSR)
        k = inner.scales.index(net.scale)
        x = inner.pre_process[k](inner.head(lr))
        return inner.tail(inner.upsample[k](inner.body(x) + x))
    assert isinstance(net, SRCNN | CAN)
    return net.double().layers(upscale(lr, net.scale).double())


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["edsr", "mdsr", "srcnn", "can"])
def test_margin_is_the_reach_of_the_gradient(kind: str, scale: int) -> None:
    net: nn.Module
    if kind == "edsr":
        net = EDSR(scale, num_features=4)
    elif kind == "mdsr":
        net = AtScale(MDSR([scale], num_features=4), scale)
    elif kind == "srcnn":
        net = SRCNN(scale, num_features=[4, 4])
    else:
        net = CAN(scale, num_layers=6, num_features=3, normalize=False)
    margin = net.margin
    assert isinstance(margin, int)
    # The margin is rounded up, and the outer taps of the bicubic kernel may be zero.
    assert reach(positive(net), scale, 2 * margin + 9) in (margin, margin - 1)


def test_margins_of_the_published_networks() -> None:
    assert EDSR(2).margin == 36
    assert MDSR([2]).margin == 44


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [EDSR, SRCNN, CAN, Bicubic])
def test_every_scale_gives_its_size_in_float32(kind: type[nn.Module], scale: int) -> None:
    net = kind(scale).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sr = net(torch.rand(2, 3, 6, 8))
    assert sr.shape == (2, 3, 6 * scale, 8 * scale)
    assert sr.dtype == torch.float32
    with pytest.raises(ValueError, match="scale=5"):
        kind(5)


@pytest.mark.parametrize("kind", [EDSR, MDSR, SRCNN, CAN])
def test_the_last_convolution_stays_in_float32_under_autocast(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = AtScale(MDSR([2]), 2).eval() if kind is MDSR else kind(2).eval()
    if isinstance(net, CAN):  # hands on what it gets before it has learned
        nn.init.normal_(net.layers[-1].weight)  # type: ignore[arg-type]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        sr = net(torch.rand(1, 3, 16, 16))
    assert (sr == sr.bfloat16()).float().mean() < 0.1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_upscale_is_matlabs_before_rounding(scale: int) -> None:
    levels = torch.from_numpy(np.random.default_rng(0).integers(40, 216, (1, 3, 9, 7), np.uint8))
    exact = upscale(levels.float(), scale)
    rounded = imresize(levels, scale)  # rounds between the passes too
    assert (exact - rounded).abs().max() < 1.3
    assert (exact.round() != rounded).float().mean() < 0.4


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (2, 3)])
def test_upscale_takes_images_of_one_pixel(size: tuple[int, int]) -> None:
    levels = torch.from_numpy(np.random.default_rng(0).integers(40, 216, (1, 3, *size), np.uint8))
    assert (upscale(levels.float(), 2) - imresize(levels, 2)).abs().max() < 1.3


@pytest.mark.parametrize("normalize", [True, False])
def test_can_starts_as_the_identity_and_all_of_it_learns(normalize: bool) -> None:
    torch.manual_seed(0)
    net = CAN(1, num_layers=5, num_features=6, normalize=normalize)
    image = torch.rand(2, 3, 16, 16)
    assert torch.allclose(net(image), image, atol=1e-6)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        (net(image) - image.flip(3)).square().mean().backward()
        optimizer.step()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.flatten(1).any(dim=1).all() if p.ndim == 4 else p.grad.any(), name


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (SRCNN, {"kernel_sizes": [9, 4, 5]}, "three odd"),
        (SRCNN, {"num_features": [64]}, "two numbers"),
        (CAN, {"num_layers": 2}, "num_layers=2"),
    ],
)
def test_wrong_arguments(kind: type[nn.Module], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(2, **arguments)

"""EDSR and MDSR against their published formulas, written out on the weights alone.

Lim et al., CVPR workshops 2017, figures 2c, 3 and 5, and the names and ranges of the authors'
checkpoints: 0..255, the DIV2K mean subtracted, residuals scaled, a global skip around the body.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import correlate

from networks.edsr import EDSR
from networks.mdsr import MDSR

Array = NDArray[np.float64]
Weights = dict[str, Array]
MEAN = np.array([0.4488, 0.4371, 0.4040]).reshape(3, 1, 1)


def conv(x: Array, weights: Weights, name: str) -> Array:
    """A convolution padded by zeros, C x H x W."""
    filters, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    pad = filters.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    return np.stack([
        correlate(padded, kernel, mode="valid")[0] + value
        for kernel, value in zip(filters, bias, strict=True)
    ])  # fmt: skip


def block(x: Array, weights: Weights, name: str, res_scale: float = 1.0) -> Array:
    """A residual block."""
    inner = np.maximum(conv(x, weights, f"{name}.body.0"), 0)
    return x + res_scale * conv(inner, weights, f"{name}.body.2")


def shuffle(x: Array, factor: int) -> Array:
    """Channels c * factor^2 + i * factor + j become the pixel (i, j) of each factor x factor."""
    channels, height, width = x.shape[0] // factor**2, *x.shape[1:]
    out = np.zeros((channels, height * factor, width * factor))
    for c in range(channels):
        for i in range(factor):
            for j in range(factor):
                out[c, i::factor, j::factor] = x[c * factor**2 + i * factor + j]
    return out


def upsampled(x: Array, weights: Weights, name: str, scale: int) -> Array:
    """x2 and x3 in one step, x4 in two of x2; a shuffle takes a place of its own in the names."""
    for k, factor in enumerate({1: [], 2: [2], 3: [3], 4: [2, 2]}[scale]):
        x = shuffle(conv(x, weights, f"{name}.{2 * k}"), factor)
    return x


def body(x: Array, weights: Weights, num_blocks: int, res_scale: float) -> Array:
    """The residual blocks, a convolution and the global skip."""
    inner = x
    for k in range(num_blocks):
        inner = block(inner, weights, f"body.{k}", res_scale)
    return x + conv(inner, weights, f"body.{num_blocks}")


def loud(net: torch.nn.Module) -> Weights:
    """Random weights that make every part count, as arrays."""
    torch.manual_seed(0)
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            fan = parameter[0].numel()
            parameter.data.normal_(std=fan**-0.5)
        else:
            parameter.data.normal_()
    return {name: value.double().numpy() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("res_scale", [1.0, 0.1])
def test_edsr_is_the_published_network(scale: int, res_scale: float) -> None:
    net = EDSR(scale, num_blocks=2, num_features=5, res_scale=res_scale)
    weights = loud(net)
    lr = torch.rand(1, 3, 6, 7)
    x = conv(255 * (lr[0].double().numpy() - MEAN), weights, "head.0")
    x = upsampled(body(x, weights, 2, res_scale), weights, "tail.0", scale)
    expected = conv(x, weights, "tail.1") / 255 + MEAN
    with torch.no_grad():
        assert np.allclose(net(lr)[0].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mdsr_is_the_published_network(scale: int) -> None:
    net = MDSR(num_blocks=2, num_features=5, res_scale=0.5)
    weights = loud(net)
    lr, branch = torch.rand(1, 3, 6, 7), scale - 2
    x = conv(255 * (lr[0].double().numpy() - MEAN), weights, "head.0")
    for k in range(2):
        x = block(x, weights, f"pre_process.{branch}.{k}")
    x = upsampled(body(x, weights, 2, 0.5), weights, f"upsample.{branch}", scale)
    expected = conv(x, weights, "tail.0") / 255 + MEAN
    with torch.no_grad():
        assert np.allclose(net(lr, scale)[0].numpy(), expected, rtol=0, atol=1e-5)

"""`NIMA.score` of tensors as a loss: the gradient reaches the pixels, and no number changes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from datamodules.sample import photo
from images.pixels import to_unit
from lightning_modules.checkpoint import load_scorer
from networks.nima import NIMA, mean_score, resize_images
from networks.views import ResizeFilter, ResizeRule
from tests.conftest import SAMPLE_SCORER


def scorer(**view: object) -> NIMA:
    torch.manual_seed(0)
    net = NIMA("mnasnet_0_5", **({"resize": 64, "crop": 64} | view))  # type: ignore[arg-type]
    net.train()
    for _ in range(3):  # batch norms with statistics of their own
        net(torch.rand(4, 3, 64, 64))
    return net.eval()


def photos(height: int = 96, width: int = 80) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_score_can_be_minimised() -> None:
    net = load_scorer(SAMPLE_SCORER)
    images = to_unit(photo("chelsea.png")[None, :, :256, :256]).requires_grad_()
    loss = -net.score(images).mean()
    loss.backward()
    assert images.grad is not None
    step = 0.005 * images.grad.sign()
    down, up = (-net.score((images + s).clamp(0, 1)).mean() for s in (-step, step))
    assert down < loss - 0.1
    assert loss + 0.01 < up


def test_gradient_is_that_of_resizing_and_of_the_network() -> None:
    """Step by step: the network's at the rounded pixels, through the resizing alone."""
    net, images = scorer(), photos().requires_grad_()
    net.score(images).sum().backward()
    seen = net.prepare(images.detach()).requires_grad_()
    mean_score(net(seen)).sum().backward()
    small = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
    (expected,) = torch.autograd.grad(small, images, seen.grad)
    torch.testing.assert_close(images.grad, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("resize_filter", ["bilinear", "nearest"])
@pytest.mark.parametrize("rule", ["squash", "short_side", "native"])
def test_a_crop_leaves_the_gradient_zero_around_it(rule: str, resize_filter: str) -> None:
    net = scorer(resize=96, crop=48, resize_rule=rule, resize_filter=resize_filter)
    images = photos(96, 96).requires_grad_()
    net.score(images).sum().backward()
    assert images.grad is not None
    assert (images.grad[..., 24:72, 24:72] != 0).float().mean() > 0.9
    assert images.grad[..., :24, :].abs().max() == images.grad[..., 72:].abs().max() == 0


@pytest.mark.parametrize("size", [(64, 64), (96, 80), (33, 50)])
def test_a_gradient_changes_no_value(size: tuple[int, int]) -> None:
    images = photos(*size) * 1.2 - 0.1  # also beyond [0, 1]
    view: tuple[ResizeRule, ResizeFilter, int, int] = ("squash", "bilinear", 64, 64)
    plain = resize_images(images, *view)
    assert torch.equal(plain, resize_images(images.clone().requires_grad_(), *view).detach())
    levels = plain.numpy().astype(np.float64) * 255
    assert np.abs(levels - levels.round()).max() < 1e-4
    assert levels.min() == 0
    assert levels.max() == pytest.approx(255)


def test_without_images_that_require_it_no_gradient_is_recorded(tmp_path: object) -> None:
    net = scorer()
    assert not net.score(photos()).requires_grad
    with torch.no_grad():
        assert not net.score(photos().requires_grad_()).requires_grad
    with torch.inference_mode():
        assert net.score(photos()).shape == (2,)
    Image.new("RGB", (70, 70), "red").save(f"{tmp_path}/red.png")
    assert isinstance(net.score(f"{tmp_path}/red.png"), float)
    assert not net.rate(f"{tmp_path}/red.png").requires_grad


def test_what_is_no_image_is_still_refused() -> None:
    with pytest.raises(ValueError, match="float images"):
        scorer().score(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a path or a tensor is needed, not a ndarray"):
        scorer().score(np.zeros((64, 64, 3)))  # type: ignore[call-overload]

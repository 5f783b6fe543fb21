"""LPIPS and DISTS, compared with torchmetrics' own, which take the same weights from the cache."""

from pathlib import Path
from typing import Literal

import pytest
import torch
import torchvision
from torchmetrics.functional.image import (
    deep_image_structure_and_texture_similarity,
    learned_perceptual_image_patch_similarity,
)

from networks.perceptual import DISTS, LPIPS, TORCHVISION
from networks.perceptual_files import ADDRESS, FILES, perceptual_problem
from tests.fake_weights import fill_cache, go_offline


def photos() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    hr = torch.rand(2, 3, 40, 50)
    return (hr + 0.1 * torch.randn_like(hr)).clamp(0, 1), hr


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_distances_are_those_of_torchmetrics(
    net: Literal["alex", "vgg", "squeeze"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sr, hr = photos()
    fill_cache(tmp_path / "whole", net, whole=True)
    fill_cache(tmp_path / "ours", net, whole=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "whole"))

    if net == "vgg":
        theirs = deep_image_structure_and_texture_similarity(sr, hr)
    else:
        theirs = learned_perceptual_image_patch_similarity(
            sr, hr, net_type=net, reduction="none", normalize=True
        )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "ours"))
    before = torch.random.get_rng_state()
    ours = DISTS() if net == "vgg" else LPIPS(net)
    assert torch.equal(before, torch.random.get_rng_state())  # a metric changes no training
    torch.testing.assert_close(ours(sr, hr), theirs)
    assert theirs.min() > 0.001
    assert ours(hr, hr).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert ours(sr[:1], hr[:1]).shape == (1,)
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(ours(sr, hr).sum(), sr)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()
    assert not any(p.requires_grad for p in ours.parameters())
    assert not any(module.training for module in ours.train().modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(sr, hr), theirs)


def test_lpips_with_vgg_takes_weights_from_a_file(tmp_path: Path) -> None:
    path = fill_cache(tmp_path, "vgg", whole=False)
    sr, hr = photos()
    distance = LPIPS("vgg", weights=path)
    assert (distance(sr, hr) > 0).all()
    with pytest.raises(ValueError, match="LPIPS: an image of 50x15 pixels; its network needs 16"):
        distance(sr[:, :, :15], hr[:, :, :15])
    assert perceptual_problem("lpips", "vgg", path) is None


@pytest.mark.parametrize(("name", "net"), [("lpips", "alex"), ("lpips", "vgg"), ("dists", "vgg")])
def test_missing_weights_are_named_with_their_address_and_folder(
    name: str,
    net: Literal["alex", "vgg", "squeeze"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offline = go_offline(tmp_path, monkeypatch)
    problem = perceptual_problem(name, net if name == "lpips" else None)
    assert problem is not None
    assert "\n" not in problem
    for part in (name, ADDRESS + FILES[net], "no network", str(offline)):
        assert part in problem
    with pytest.raises(ValueError, match="could not download"):
        LPIPS(net) if name == "lpips" else DISTS()


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    path = fill_cache(tmp_path, "squeeze", whole=False)
    with pytest.raises(ValueError, match="not the weights of this AlexNet"):
        LPIPS("alex", weights=path)
    assert perceptual_problem("dists", weights=tmp_path / "none.pth") == (
        f"dists: weights={tmp_path / 'none.pth'}: no such file"
    )
    assert perceptual_problem("lpips", "resnet") == (
        "lpips: net=resnet: allowed are alex, vgg, squeeze"
    )


def test_the_files_are_those_of_torchvision() -> None:
    for net, name in TORCHVISION.items():
        assert torchvision.models.get_model_weights(name).DEFAULT.url == ADDRESS + FILES[net]

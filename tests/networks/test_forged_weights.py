"""Small files that declare much, or hold what no network has, are refused in one line."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_modules.building import build_network
from lightning_modules.checkpoint import load_network
from networks.bare_weights import own_network
from networks.timm_backbone import timm_backbone

SPAN = "networks.spandrel_net.SpandrelNet"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"body.0.weight": torch.empty(2**40, 3, 0, 3)}, "it has no values"),
        ({"head.0.weight": torch.empty(0, 3, 3, 3)}, "it has no values"),
        ({"relative_position_index_SA": torch.empty(4096, 0)}, "it has no values"),
    ],
)
def test_shapes_without_values(state: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path / "a.pth", "enhancer")


@pytest.mark.parametrize("odd", [torch.tensor(1.0), torch.ones(3)])
def test_layers_of_other_dimensions_are_not_ours(odd: Tensor) -> None:
    ours = {"body.0.body.0.weight": torch.ones(4, 4, 3, 3)}
    assert own_network({**ours, "head.0.weight": odd}, None) is None
    many = {f"pre_process.{k}.a": torch.ones(1) for k in range(5000)}
    many |= {"head.0.weight": torch.ones(4, 3, 3, 3), "pre_process.0.0.body.0.weight": odd}
    assert own_network({**ours, **many}, None) is None
    curves = {f"{name}.weight": odd for name in ("features.0", "curves", "matrix", "grid")}
    assert own_network(curves, None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 64}, "options.window_size=64: at most 32"),
        ({"img_size": 1024}, "options.img_size=1024: at most 256"),
        ({"depths": [2] * 1000}, "options.depths: at most 64 numbers"),
    ],
)
def test_options_that_would_take_gigabytes(options: dict[str, object], message: str) -> None:
    spec = {"_target_": SPAN, "arch": "SwinIR", "scale": 2, "options": options}
    with pytest.raises(ValueError, match=message):
        build_network(spec)


def test_a_checkpoint_cannot_have_a_metric_built() -> None:
    """LPIPS would fetch its weights, or open a file that the record names."""
    with pytest.raises(ValueError, match="a metric, neither an enhancer nor a scorer"):
        build_network({"_target_": "networks.perceptual.LPIPS", "weights": "/etc/hostname"})


def test_crops_are_bounded_before_a_backbone_is_built() -> None:
    with pytest.raises(ValueError, match="crop=3670016: 1 to 4096"):
        timm_backbone("maxvit_tiny_tf_224", crop=3670016)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((8, 3, 3, 3), torch.nan), "holds values that are not finite"),
        (torch.ones(8, 3, 3, 3, dtype=torch.int64), "is torch.int64; weights are needed"),
    ],
)
def test_weights_that_are_no_numbers(value: Tensor, message: str, tmp_path: Path) -> None:
    from spandrel.architectures.Compact import Compact

    state = Compact(num_feat=8, num_conv=1, upscale=2).state_dict()
    torch.save({**state, "body.0.weight": value}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path / "a.pth", "enhancer")

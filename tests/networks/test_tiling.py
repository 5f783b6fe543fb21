from itertools import product

import pytest
import torch
from torch import nn

from networks import tiling
from networks.bicubic import Bicubic
from networks.can import CAN
from networks.edsr import EDSR
from networks.mdsr import MDSR
from networks.scales import at_scale
from networks.srcnn import SRCNN
from networks.tiling import SelfEnsemble, auto_tile, restore, spans

CPU = torch.device("cpu")


def photo(height: int, width: int, levels: int = 255) -> torch.Tensor:
    torch.manual_seed(0)
    dtype = torch.uint8 if levels == 255 else torch.int32
    return torch.randint(0, levels + 1, (3, height, width)).to(dtype)


def network(kind: str, scale: int) -> nn.Module:
    torch.manual_seed(0)
    if kind == "edsr":
        net: nn.Module = EDSR(scale, num_blocks=3, num_features=16)
    elif kind == "mdsr":
        net = at_scale(MDSR(num_blocks=2, num_features=16), scale)
    elif kind == "can":
        net = CAN(scale, num_layers=5)
        for layer in net.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.2)
    else:
        net = SRCNN(scale) if kind == "srcnn" else Bicubic(scale)
    last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1:]
    for layer in last:  # untrained networks give almost nothing
        layer.weight.data *= 10
    return net.eval()


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        *product(["edsr", "mdsr", "can", "srcnn", "bicubic"], [2, 3, 4]),
        *product(["edsr", "srcnn"], [1]),
    ],
)
def test_tiled_equals_untiled(kind: str, scale: int) -> None:
    net = network(kind, scale)
    lr = photo(61, 83)
    whole = restore(net, lr, device=CPU, tile=None)
    assert len(whole.unique()) > 50
    assert whole.shape == (3, 61 * scale, 83 * scale)
    assert whole.dtype == torch.uint8
    for tile in (17, 40):
        tiled = restore(net, lr, device=CPU, tile=tile)
        if kind != "can":
            assert (tiled != whole).sum() == 0
        else:  # its dilated convolutions add up in another order at some widths
            difference = (tiled.int() - whole.int()).abs()
            assert difference.max() <= 1
            assert (difference > 0).float().mean() < 1e-4


@pytest.mark.parametrize("tile", [100, 150])
def test_can_at_the_same_size_is_exact_in_tiles(tile: int) -> None:
    net, levels = network("can", 1), photo(301, 263)
    whole, tiled = (restore(net, levels, device=CPU, tile=side) for side in (None, tile))
    assert len(whole.unique()) == 256
    difference = (tiled.int() - whole.int()).abs()
    assert difference.max() <= 1  # it may add up in another order, as above
    assert (difference > 0).float().mean() < 1e-5


@pytest.mark.parametrize("kind", ["edsr", "mdsr", "can", "srcnn"])
def test_batches_of_tiles_equal_tiles_one_by_one(kind: str) -> None:
    net = network(kind, 2)
    lr = photo(61, 83)
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    ticks: list[tuple[int, int]] = []
    batched = restore(
        net, lr, device=CPU, tile=20, at_once=3, on_tile=lambda *tick: ticks.append(tick)
    )
    assert sum(sizes) == 4 * 5
    assert 1 < max(sizes) <= 3
    assert ticks == [(k, 20) for k in range(1, 21)]
    sizes.clear()
    one_by_one = restore(net, lr, device=CPU, tile=20)
    assert sizes == [1] * 20
    difference = (batched.int() - one_by_one.int()).abs()
    assert difference.max() <= 1  # a batch may add up in another order
    assert (difference > 0).float().mean() < 1e-4


def test_without_its_margin_tiles_would_differ() -> None:
    net = network("edsr", 2)
    lr = photo(40, 40)
    whole = restore(net, lr, device=CPU, tile=None)
    setattr(net, "margin", 3)  # noqa: B010  # the network may be of any class
    assert (restore(net, lr, device=CPU, tile=20) != whole).sum() > 0


def test_spans_cover_a_side_evenly() -> None:
    found = list(spans(10, 4, 2))
    assert [(s.start, s.stop) for s in found] == [(0, 3), (3, 6), (6, 10)]
    assert [(s.first, s.last) for s in found] == [(0, 5), (1, 8), (4, 10)]


def test_sixteen_bits() -> None:
    lr = photo(20, 20, 65535)
    fine = restore(network("edsr", 2), lr, device=CPU, levels=65535)
    coarse = restore(network("edsr", 2), lr.div(257, rounding_mode="floor"), device=CPU, levels=255)
    assert (fine / 257 - coarse).abs().mean() < 1.5  # the input has lost its lower bits
    inside = fine[(fine > 0) & (fine < 65535)]
    assert (inside % 257 != 0).float().mean() > 0.9  # more than 8 bits


def test_self_ensemble_is_the_mean_over_eight_orientations() -> None:
    net = network("edsr", 2)
    lr = torch.rand(1, 3, 9, 14)
    expected = torch.zeros(1, 3, 18, 28)
    with torch.no_grad():
        for mirrored in (False, True):
            for turned in range(4):
                x = lr.flip(2) if mirrored else lr
                y = net(x.rot90(turned, (2, 3))).rot90(-turned, (2, 3))
                expected += (y.flip(2) if mirrored else y) / 8
        found = SelfEnsemble(net)(lr)
        assert torch.allclose(found, expected, atol=1e-6)
        # It does not matter how the photo lies.
        turned_result = SelfEnsemble(net)(lr.rot90(1, (2, 3))).rot90(-1, (2, 3))
    assert torch.allclose(found, turned_result, atol=1e-6)


def test_wrong_tiles_and_networks_that_declare_no_margin() -> None:
    class Plain(nn.Module):
        scale = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    lr = photo(20, 20)
    assert torch.equal(restore(Plain(), lr, device=CPU, tile=20), lr)
    assert torch.equal(restore(Plain(), lr, device=CPU, tile=10), lr)  # it is measured
    with pytest.raises(ValueError, match="tile=0"):
        restore(Plain(), lr, device=CPU, tile=0)


def test_tiles_are_smaller_where_a_pixel_takes_more_memory() -> None:
    assert auto_tile(EDSR(2)) == 512
    assert auto_tile(EDSR(4)) == 256
    assert auto_tile(at_scale(MDSR(), 3)) == 341
    with torch.device("meta"):
        assert auto_tile(EDSR(2, num_blocks=1, num_features=256)) == 256
        assert auto_tile(EDSR(4, num_blocks=1, num_features=256)) == 128


def test_an_ensemble_in_tiles_equals_one_in_one_piece() -> None:
    net = SelfEnsemble(network("edsr", 2))
    lr = photo(45, 61)
    whole, tiled = (restore(net, lr, device=CPU, tile=tile) for tile in (None, 20))
    assert torch.equal(whole, tiled)


def test_a_network_that_does_not_say_its_margin_is_used_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiling, "TILE_SR", 32)  # 16 LR pixels a side
    monkeypatch.setattr(tiling, "MIN_TILE", 1)
    net = EDSR(2, num_blocks=1, num_features=4).eval()
    lr = photo(20, 40)
    tiled = restore(net, lr, device=CPU)
    del net.margin
    assert torch.equal(restore(net, lr, device=CPU), tiled)

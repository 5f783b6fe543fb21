"""The tone network: its three adjustments against NumPy, and tiles against whole photos."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from networks.curves import Adjustment, Curves, apply_curves, distributions, slice_grid
from networks.shrunk import places, shrink
from networks.tiling import SelfEnsemble, auto_tile, num_tiles, restore

CPU = torch.device("cpu")
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def net() -> Curves:
    """With random weights, also in the layers that are zero at the start."""
    torch.manual_seed(0)
    net = Curves().eval()
    for head in (net.curves, net.matrix, net.grid):
        nn.init.normal_(head.weight, std=0.02)
    return net


def adjustment(num: int = 1, num_knots: int = 9, num_bins: int = 8) -> Adjustment:
    return Adjustment(
        torch.zeros(num, 3),
        torch.zeros(num, 3, num_knots),
        torch.zeros(num, 3, 3),
        torch.zeros(num, 12, num_bins, 16, 16),
    )


def adjusted(image_BCHW: Tensor, found: Adjustment) -> Floats:
    size = image_BCHW.shape[2:]
    place_B2HW = places((0, 0), size, size)[None]
    return Curves().adjust(image_BCHW, found, place_B2HW).detach().double().numpy()


def sliced(grid_MLYX: Floats, luma: float, y: float, x: float) -> Floats:
    """Read a bilateral grid at one point, as HDRNet defines it."""
    sides = grid_MLYX.shape[1:]
    at = [place * side - 0.5 for place, side in zip((luma, y, x), sides, strict=True)]
    value = np.zeros(len(grid_MLYX))
    for corner in itertools.product(*([int(np.floor(c)), int(np.floor(c)) + 1] for c in at)):
        share = np.prod([1 - abs(c - k) for c, k in zip(at, corner, strict=True)])
        cell = tuple(min(max(k, 0), side - 1) for k, side in zip(corner, sides, strict=True))
        value += share * grid_MLYX[:, cell[0], cell[1], cell[2]]
    return value


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (37, 53), (20, 400), (301, 259)])
def test_it_starts_as_the_identity_at_every_size(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    assert torch.equal(Curves()(image), image)


def test_it_is_small() -> None:
    assert sum(p.numel() for p in Curves().parameters()) == 196_567


def test_a_curve_is_the_integral_of_its_slope() -> None:
    """Slopes 2 -> 0.5 -> 1 at 0, 1/2 and 1; integrated numerically, on a fine grid."""
    log_slope = torch.tensor([[[2.0, 0.5, 1.0], [1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]]).log()
    black = torch.tensor([[0.1, 0.0, -0.2]])
    x = np.linspace(0, 1, 101)
    image = torch.from_numpy(x).float()[None, None, None].expand(1, 3, 1, -1)
    red, green, blue = apply_curves(image, black, log_slope)[0, :, 0].double().numpy()
    fine = np.linspace(0, 1, 100_001)
    slope = np.interp(fine, [0, 0.5, 1], [2.0, 0.5, 1.0])
    risen = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2) * 1e-5])
    assert np.allclose(red, 0.1 + np.interp(x, fine, risen), atol=1e-6)
    assert np.allclose(green, x, atol=1e-6)
    assert np.allclose(blue, 3 * x - 0.2, atol=1e-6)


def test_curves_increase_and_have_no_corners() -> None:
    torch.manual_seed(0)
    image = torch.linspace(0, 1, 2001).expand(1, 3, 1, -1)
    y = apply_curves(image, torch.zeros(1, 3), 2 * torch.randn(1, 3, 9)).double()
    slope = y.diff() * 2000
    assert slope.min() > 0
    assert slope.diff().abs().max() < 0.1  # a corner would be a jump


def test_distributions_are_numpys_of_cells_of_four_pixels() -> None:
    levels = np.random.default_rng(0).integers(0, 16, (1, 3, 6, 8))  # in fifteenths
    image = np.repeat(np.repeat(levels, 4, axis=2), 4, axis=3) / 15
    found = distributions(torch.from_numpy(image).float()).reshape(3, 16).numpy()
    for channel in range(3):
        counts = np.bincount(levels[0, channel].flatten(), minlength=16)
        assert np.allclose(found[channel], np.cumsum(counts) / 48 - 0.5, atol=1e-5)
    between = distributions(torch.full((1, 3, 8, 8), 2.25 / 15)).reshape(3, 16)
    assert torch.allclose(between[:, 1:4].diff(), torch.tensor([0.75, 0.25]), atol=1e-5)


def test_the_matrix_is_numpys() -> None:
    torch.manual_seed(0)
    image, matrix = torch.rand(2, 3, 5, 7), torch.randn(2, 3, 3)
    found = adjusted(image, adjustment(2)._replace(matrix_BMC=matrix))
    whole = (matrix + torch.eye(3)).double().numpy()
    assert np.allclose(found, np.einsum("bij,bjhw->bihw", whole, image.double()), atol=1e-6)


def test_a_constant_grid_is_one_affine_transform() -> None:
    torch.manual_seed(0)
    image, affine = torch.rand(2, 3, 9, 6), torch.randn(12)
    grid = affine[None, :, None, None, None].expand(2, 12, 8, 16, 16)
    found = adjusted(image, adjustment(2)._replace(grid_BMLYX=grid))
    rows = affine.double().numpy().reshape(3, 4)
    expected = image.double().numpy()
    expected = expected + np.einsum("ij,bjhw->bihw", rows[:, :3], expected)
    assert np.allclose(found, expected + rows[:, 3, None, None], atol=1e-5)


def test_slicing_is_trilinear_interpolation_at_each_pixel() -> None:
    generator = np.random.default_rng(0)
    grid = generator.standard_normal((2, 12, 8, 16, 16))
    luma = generator.random((2, 5, 40))
    luma[:, 0, :2] = 0, 1
    place = places((0, 0), (5, 40), (5, 40))[None]
    found = slice_grid(torch.from_numpy(grid).float(), torch.from_numpy(luma).float(), place)
    for b, i, j in itertools.product(range(2), range(5), range(40)):
        expected = sliced(grid[b], luma[b, i, j], (i + 0.5) / 5, (j + 0.5) / 40)
        assert np.allclose(found[b, :, i, j].double().numpy(), expected, atol=2e-5)


def test_the_three_adjustments_follow_each_other() -> None:
    """A pixel that is made brighter by its curve reads the grid at its new luma."""
    found = adjustment()
    found.log_slope_BCK.fill_(np.log(2.0))
    found.grid_BMLYX[:, 3] = torch.linspace(0, 7, 8)[:, None, None]  # added to red, by luma
    image = torch.full((1, 3, 4, 4), 0.3)
    matrix = found.matrix_BMC.clone()
    matrix[:, 2, 2] = -0.5  # blue is halved
    red, green, blue = adjusted(image, found._replace(matrix_BMC=matrix))[0, :, 0, 0]
    luma = 0.6 * (0.299 + 0.587) + 0.3 * 0.114
    assert np.allclose([red, green, blue], [0.6 + 8 * luma - 0.5, 0.6, 0.3], atol=1e-5)


@pytest.mark.parametrize("size", [(61, 83), (32, 32), (40, 600), (301, 77)])
def test_tiles_give_the_result_of_the_whole_photo(net: Curves, size: tuple[int, int]) -> None:
    levels = torch.randint(0, 65536, (3, *size), dtype=torch.int32)
    whole = restore(net, levels, device=CPU, tile=None, levels=65535)
    tiled = restore(net, levels, device=CPU, tile=29, levels=65535)
    batched = restore(net, levels, device=CPU, tile=29, levels=65535, at_once=3)
    with torch.no_grad():
        direct = (net(levels[None] / 65535) * 65535)[0]
    assert (whole - levels).abs().float().mean() > 500
    assert (tiled - whole).abs().max() == 0
    assert (batched - whole).abs().max() == 0
    assert (whole - direct.clamp(0, 65535)).abs().max() < 1  # of 65535
    assert num_tiles(net, 3000, 4000, "auto") == 12 * 16
    assert auto_tile(net) == 256


def test_self_ensemble_in_tiles_is_the_mean_over_eight_orientations(net: Curves) -> None:
    levels = torch.randint(0, 65536, (3, 45, 61), dtype=torch.int32)
    tiled = restore(SelfEnsemble(net), levels, device=CPU, tile=20, levels=65535)
    expected = torch.zeros(1, 3, 45, 61)
    with torch.no_grad():
        for mirrored, turns in itertools.product((False, True), range(4)):
            image = levels[None] / 65535
            image = (image.flip(2) if mirrored else image).rot90(turns, (2, 3))
            result = net(image).rot90(-turns, (2, 3))
            expected += (result.flip(2) if mirrored else result) / 8
    plain = restore(net, levels, device=CPU, tile=20, levels=65535)
    assert (tiled - (expected[0] * 65535).clamp(0, 65535)).abs().max() < 2
    assert (tiled - plain).abs().max() > 20


def test_all_of_it_learns() -> None:
    torch.manual_seed(0)
    net = Curves()
    image = torch.rand(2, 3, 48, 64)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (net(image) - image.square()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    image, place = torch.rand(1, 3, 3, 4), places((0, 0), (3, 4), (3, 4))[None]
    parts = [torch.randn_like(part) * 0.1 for part in adjustment(num_knots=3, num_bins=2)]
    directions = [torch.randn_like(part) for part in parts]

    def total(step: float) -> Tensor:
        found = Adjustment(*(p + step * d for p, d in zip(parts, directions, strict=True)))
        return Curves().adjust(image, found, place).double().square().sum()

    leaves = [part.requires_grad_() for part in parts]
    gradients = torch.autograd.grad(total(0.0), leaves)
    products = [(g * d).sum() for g, d in zip(gradients, directions, strict=True)]
    slope = torch.stack(products).sum()
    assert torch.allclose(slope, (total(1e-3) - total(-1e-3)).float() / 2e-3, rtol=1e-3)


def test_adjustments_stay_in_float32_under_autocast(net: Curves) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = net.analyse(shrink(image, net.shrunk_side))
        assert {part.dtype for part in found} == {torch.float32}
        result = net(image)
    assert result.dtype == torch.float32
    assert (result == result.bfloat16()).float().mean() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 2}, "scale=2: Curves keeps the size; scale=1 is needed"),
        ({"num_knots": 1}, "num_knots=1: 2 or more"),
        ({"num_bins": 0}, "num_bins=0: 1 or more"),
        ({"num_features": 0}, "num_features=0: 1 or more"),
    ],
)
def test_wrong_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curves(**arguments)


def test_coarsest_settings_work() -> None:
    net = Curves(num_knots=2, num_bins=1, num_features=1)
    image = torch.rand(1, 3, 10, 10)
    assert torch.equal(net(image), image)

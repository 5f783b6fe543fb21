"""Robustness and monotony of toy scorers whose answers are known, and of NIMAs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.graded import GRADED
from datamodules.sample import photo
from images.pixels import to_unit
from lightning_modules.loss_terms import AestheticLoss
from lightning_modules.robustness import (
    LEVELS,
    STRENGTHS,
    Gain,
    centre,
    falls,
    monotony,
    patch_score,
    robustness,
    whole_score,
)
from networks.nima import NIMA
from tests.conftest import SAMPLE_SCORER

CPU = torch.device("cpu")


def linear(weight_CHW: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images_BCHW: (images_BCHW * weight_CHW).sum(dim=(1, 2, 3))


def brightness(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.mean(dim=(1, 2, 3))


def sharpness(images_BCHW: Tensor) -> Tensor:
    return images_BCHW.diff(dim=2).square().mean(dim=(1, 2, 3))


def by_key(gains: list[Gain]) -> dict[tuple[str, float, bool, str], Gain]:
    return {gain[:4]: gain for gain in gains}


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    names = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")
    return [centre(to_unit(photo(name))[None], 96) for name in names]


def test_a_linear_score_gains_the_step_times_its_slope() -> None:
    """For w.x, a step t along w / rms(w) adds t |w|^2 / rms(w), and t (v.w) / rms(w) to v.x."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(2, 3, 8, 9)).astype(np.float32)
    images = rng.uniform(0.2, 0.8, (5, 3, 8, 9)).astype(np.float32)
    scores = {"w": linear(torch.from_numpy(w)), "v": linear(torch.from_numpy(v))}
    found = by_key(robustness(scores, torch.from_numpy(images)[:, None]))
    assert len(found) == 2 * len(LEVELS) * 2 * 2
    unit = w / np.sqrt(np.mean(w.astype(np.float64) ** 2))
    for levels in LEVELS:
        for rater, weight in (("w", w), ("v", v)):
            gain = found["w", levels, False, rater]
            expected = levels / 255 * np.sum(unit * weight)
            sd = np.std([np.sum(image * weight) for image in images], ddof=1)
            assert gain.score == pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert gain.sds == pytest.approx(expected / sd, rel=1e-3, abs=1e-4)
            eight = np.round(255 * images + levels * unit) / 255
            expected = np.mean(np.sum((eight - images) * weight, axis=(1, 2, 3)))
            rounded = found["w", levels, True, rater]
            assert rounded.score == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_rounding_undoes_a_small_step_on_a_flat_image() -> None:
    gray, white = torch.full((1, 3, 16, 16), 100 / 255), torch.ones(1, 3, 16, 16)
    found = by_key(robustness({"mean": brightness}, [gray]))
    for levels, rounded in ((0.08, 0), (0.25, 0), (0.77, 1)):
        step = found["mean", levels, False, "mean"]
        assert 255 * step.score == pytest.approx(levels, abs=1e-4)
        assert np.isnan(step.sds)  # of one photo
        assert 255 * found["mean", levels, True, "mean"].score == pytest.approx(rounded, abs=1e-4)
    assert all(gain.score == 0 for gain in robustness({"mean": brightness}, [white]))


def test_a_score_without_slope_gains_nothing() -> None:
    gains = robustness({"flat": lambda x: 0 * x.sum(dim=(1, 2, 3))}, [torch.rand(1, 3, 8, 8)] * 2)
    assert {gain.score for gain in gains} == {0}


def test_toys_fall_with_what_they_measure(photos: list[Tensor]) -> None:
    state = torch.get_rng_state()
    scores = {"brightness": brightness, "sharpness": sharpness}
    found = monotony(scores, photos, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name for _, name in found} == set(GRADED)
    everything = [1.0] * len(STRENGTHS)
    assert falls(found["brightness", "underexposure"]) == (everything, everything)
    assert falls(found["sharpness", "blur"]) == (everything, everything)
    for kind in ("sharpening", "noise"):
        assert falls(found["sharpness", kind]) == ([0] * len(STRENGTHS),) * 2
    again, other = monotony(scores, photos, seed=3), monotony(scores, photos, seed=4)
    assert all(torch.equal(found[key], again[key]) for key in found)
    assert not torch.equal(found["brightness", "noise"], other["brightness", "noise"])


def test_falls_are_counted_from_clean_and_from_the_step_before() -> None:
    scores_NS = torch.tensor([[5.0, 4, 3], [5, 4, 4.5], [5, 5, 6], [5, 5.5, 4]])
    assert falls(scores_NS) == ([0.5, 0.75], [0.5, 0.5])


@pytest.mark.parametrize(
    ("num_buckets", "side", "timm"), [(7, 224, False), (10, 80, False), (5, 192, True)]
)
def test_the_views_of_a_scorer(num_buckets: int, side: int, timm: bool) -> None:
    """Patches are seen as in the loss, whole photos as in `score`."""
    torch.manual_seed(0)
    if timm:
        pytest.importorskip("timm")
        net = NIMA("test_vit", library="timm", num_buckets=num_buckets, resize=64, crop=64).eval()
    else:
        trained = str(SAMPLE_SCORER)
        net = NIMA("mnasnet_0_5", pretrained=trained, num_buckets=num_buckets).eval()
    images = torch.rand(2, 3, side, side + 10)
    patches = centre(images)
    loss = AestheticLoss(net)
    patch, whole = patch_score(net, CPU), whole_score(net, CPU)
    for k in range(2):
        expected = num_buckets - loss(patches[k : k + 1], patches[k : k + 1])
        assert patch(images)[k].item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(whole(images), net.score(images), atol=1e-5, rtol=0)
    gains = by_key(robustness({"net": patch}, patches[:, None]))
    assert gains["net", 0.08, False, "net"].score > 0
    # The first-order gain: a step t along g / rms(g) adds t |g|^2 / rms(g).
    x = patches.clone().requires_grad_()
    (g,) = torch.autograd.grad(patch(x).sum(), x)
    slope = (g.flatten(1).norm(dim=1) * g[0].numel() ** 0.5).mean()
    gain = gains["net", 0.08, False, "net"].score
    assert gain == pytest.approx((0.08 / 255 * slope).item(), rel=0.2)

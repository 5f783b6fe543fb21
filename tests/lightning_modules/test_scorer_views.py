"""The aesthetic term's views, worst place and ensemble, on scorers whose values have closed forms.

The toy scorers rate by a given function of the pixels, such as one that is linear and answers to a
planted pattern.
"""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.realistic_stages import jpeg
from lightning_modules.checkpoint import load_scorer
from lightning_modules.gradients import gradient_sums
from lightning_modules.loss_terms import AestheticLoss
from lightning_modules.losses import HybridLoss, LossSum, Term
from lightning_modules.scorer_views import VIEWS, ViewDraws, Views, resampling
from networks.nima import NIMA, inference_copy, mean_score
from tests.conftest import SAMPLE_SCORER, shallow

SIDE = 192  # smaller patches are enlarged
STEEP = 0.01  # slope of linear scores
place = torch.arange(SIDE)
CHECKERS = (STEEP * (1.0 - 2 * ((place[:, None] + place) % 2))).expand(3, SIDE, SIDE)
SLOPE = (STEEP * (place - place.float().mean()) / SIDE).expand(3, SIDE, SIDE)


class Toy(nn.Module):
    """Rates images by a function of their pixels, B x 3 x H x W to B."""

    def __init__(self, rate: Callable[[Tensor], Tensor], num_buckets: int = 10) -> None:
        super().__init__()
        self.rate = rate
        self.num_buckets = num_buckets

    def forward(self, images: Tensor) -> Tensor:
        """Give the two extreme ratings the weights whose mean is the score."""
        share = (self.rate(images) - 1) / (self.num_buckets - 1)
        middle = share.new_zeros(len(share), self.num_buckets - 2)
        return torch.cat([1 - share[:, None], middle, share[:, None]], dim=1)

    def prepare(self, images: Tensor) -> Tensor:
        return images


def linear(weight: Tensor, mean: float = 5.0) -> Any:  # noqa: ANN401
    """A score that rises along a pattern from gray on."""
    return Toy(lambda images: mean + (weight * (images - 0.5)).sum(dim=(1, 2, 3)))


def term(scorer: Any, **options: Any) -> AestheticLoss:  # noqa: ANN401
    return AestheticLoss(scorer, **options)


def gradient(loss: AestheticLoss, sr: Tensor, hr: Tensor | None = None) -> Tensor:
    """The term's gradient at the SR pixels, with the sign of the score's, of each image alone."""
    sr = sr.clone().requires_grad_()
    loss(sr, sr.detach() if hr is None else hr).backward()
    assert sr.grad is not None
    return -len(sr) * sr.grad


def patches(num: int = 1, side: int = SIDE) -> Tensor:
    torch.manual_seed(0)
    return 0.3 + 0.4 * torch.rand(num, 3, side, side)


def given_draws(monkeypatch: pytest.MonkeyPatch, shift: list[tuple[int, int]], flip: list[int]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Makes all views shift and flip as told."""
    num = len(flip)
    draws = ViewDraws(
        torch.tensor(shift).float(),
        torch.ones(num),
        torch.tensor(flip).float(),
        np.full(num, 50),
        None,
    )
    monkeypatch.setattr(Views, "draw", lambda *_: draws)


def test_without_options_the_term_is_bit_for_bit_the_plain_one() -> None:
    scorer = shallow(load_scorer(SAMPLE_SCORER), 5)
    plain = inference_copy(scorer)
    sr, hr = patches(2, 64), patches(2, 64) ** 2
    seen = [F.interpolate(x.clamp(0, 1), (192, 192), mode="bilinear") for x in (sr, hr)]
    scores = [mean_score(plain(x)) for x in seen]
    assert torch.equal(term(scorer)(sr, hr), 10 - scores[0].mean())
    hinge = term(scorer, mode="hinge", views=[], rho=0)(sr, hr)
    assert torch.equal(hinge, (scores[1] - scores[0]).relu().mean())


def test_a_checkerboard_cancels_between_two_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    views = {"views": ["shift"], "num_views": 2}
    given_draws(monkeypatch, [(0, 0), (0, 1)], [1, 1])
    found = gradient(term(linear(CHECKERS), **views), patches())[0]
    inside = slice(1, SIDE - 2)  # mirrored pixels at the border count twice
    assert torch.equal(found[..., inside], torch.zeros_like(found[..., inside]))
    # The smooth direction stays, half a pixel aside.
    found = gradient(term(linear(SLOPE), **views), patches())[0]
    expected = (SLOPE - STEEP / SIDE / 2)[..., inside]
    assert torch.allclose(found[..., inside], expected, atol=1e-3 * STEEP)


def test_what_is_left_of_a_checkerboard_is_the_drawn_shifts_excess() -> None:
    loss = term(linear(CHECKERS), views=["shift"], num_views=5, shift=3)
    loss.at(7, 4)
    sr = patches(2)
    assert loss.views is not None
    shift_N2 = loss.views.draw(7, 4, sr).shift_N2
    assert shift_N2.abs().max() == 3
    parity_VB = (1 - 2 * (shift_N2.sum(dim=1) % 2)).view(5, 2)
    found = gradient(loss, sr)[..., 4:-4, 4:-4] / CHECKERS[:, 4:-4, 4:-4]
    expected = parity_VB.mean(dim=0).view(2, 1, 1, 1).expand(found.shape)
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_antisymmetric_filter_cancels_between_an_image_and_its_mirror_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = torch.randn(3, SIDE, SIDE) * STEEP
    odd, even = pattern - pattern.flip(-1), pattern + pattern.flip(-1)
    given_draws(monkeypatch, [(0, 0), (0, 0)], [1, -1])
    views = {"views": ["flip"], "num_views": 2}
    assert not gradient(term(linear(odd), **views), patches()).any()
    assert torch.allclose(gradient(term(linear(even), **views), patches())[0], even, atol=1e-6)


def test_noise_adds_the_trace_of_a_quadratic_score() -> None:
    sr = patches()
    scorer: Any = Toy(lambda images: 5 + 0.02 * (images - sr).square().sum(dim=(1, 2, 3)))
    loss = term(scorer, views=["noise"], noise=6.0, num_views=4)
    expected = 5 + 0.02 * (6 / 255) ** 2 * 3 * SIDE**2
    assert 10 - loss(sr, sr).item() == pytest.approx(expected, abs=0.01 * (expected - 5))


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0), (1.0, -5), (1.0, 40), (1.6, 3), (2.5, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_enlarged_and_shifted_views_are_scipys(factor: float, shift: int, flip: int) -> None:
    row = np.random.default_rng(0).random(21)
    offset = np.arange(21) - 10
    expected = map_coordinates(row, [10 + shift + flip * offset / factor], order=1, mode="mirror")
    matrix = resampling(torch.tensor([shift]).float(), torch.tensor([flip / factor]), 21)
    assert np.allclose(matrix[0].double().numpy() @ row, expected, atol=1e-6)


def test_shrunk_views_are_torchs_with_antialiasing() -> None:
    image = torch.rand(1, 3, 64, 64)
    loss = Views(["resize"], num=1, resize=[0.5, 0.5])
    found = loss.apply(image, loss.draw(0, 0, image))
    expected = F.interpolate(image, (32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(found[..., 18:46, 18:46], expected[..., 2:30, 2:30], atol=1e-5)


def test_jpeg_views_are_real_jpeg_with_the_gradient_of_none() -> None:
    sr, weight = patches(2, 40).requires_grad_(), torch.randn(4, 3, 40, 40)
    views = Views(["jpeg"], num=2, jpeg=[30, 30])
    found = views.apply(sr, views.draw(0, 0, sr))
    sizes, quality = np.full((2, 2), 40), np.full(2, 30)
    expected = jpeg(sr.detach(), sizes, quality)
    assert torch.equal(found[:2], expected)
    assert torch.equal(found[2:], expected)
    assert not torch.equal(expected, sr)
    (found * weight).sum().backward()
    assert sr.grad is not None
    assert torch.allclose(sr.grad, weight[:2] + weight[2:])


def test_each_view_of_each_patch_has_its_own_draws_whatever_the_batch() -> None:
    views = Views(VIEWS, num=3, seed=5)
    whole, part = (views.draw(11, first, patches(num, 16)) for first, num in ((0, 4), (2, 2)))
    other = views.draw(12, 0, patches(4, 16))
    seeded = Views(VIEWS, num=3, seed=6).draw(11, 0, patches(4, 16))
    for name in ViewDraws._fields:
        values, share, later, another = (
            np.asarray(getattr(draws, name)) for draws in (whole, part, other, seeded)
        )
        by_view = values.reshape(3, 4, *values.shape[1:])  # view by view
        assert np.array_equal(by_view[:, 2:].reshape(share.shape), share), name
        assert not np.array_equal(values, later), name
        assert not np.array_equal(values, another), name
        assert name == "flip_N" or len(np.unique(values, axis=0)) > 6, name


def test_views_are_computed_in_float32_under_autocast() -> None:
    sr = patches(2, 48)
    views = Views(VIEWS, num=2)
    draws = views.draw(0, 0, sr)
    with torch.autocast("cpu", torch.bfloat16):
        found = views.apply(sr, draws)
    assert found.dtype == torch.float32
    assert torch.equal(found, views.apply(sr, draws))


def test_rho_lowers_a_linear_score_by_rho_times_the_gradients_norm() -> None:
    pattern = torch.randn(3, SIDE, SIDE) * STEEP
    sr = patches(2)
    plain, worst = term(linear(pattern)), term(linear(pattern), rho=0.5)
    num = 3 * SIDE**2
    drop = 0.5 / 255 * np.linalg.norm(pattern.double().numpy()) * np.sqrt(num)
    assert (worst(sr, sr) - plain(sr, sr)).item() == pytest.approx(drop, rel=1e-4)
    assert torch.allclose(gradient(worst, sr), gradient(plain, sr), atol=1e-7)
    assert torch.equal(term(linear(pattern * 0), rho=0.5)(sr, sr), torch.tensor(5.0))


def test_rho_takes_the_gradient_at_the_displaced_place() -> None:
    sr, top = patches(2), torch.full((3, SIDE, SIDE), 0.45)
    scorer: Any = Toy(lambda images: 5 - 0.01 * (images - top).square().sum(dim=(1, 2, 3)))
    away = (sr - top).double().numpy()
    rms = np.sqrt((away**2).mean(axis=(1, 2, 3), keepdims=True))
    expected = -2 * 0.01 * (away + 2 / 255 * away / rms)  # the score falls away from its top
    found = gradient(term(scorer, rho=2.0), sr)
    assert np.allclose(found.double().numpy(), expected, rtol=1e-3, atol=1e-7)


def test_the_displaced_image_stays_within_the_range_and_keeps_its_gradient() -> None:
    sr = torch.where(patches() > 0.5, 0.999, 0.001)
    found = gradient(term(linear(CHECKERS), rho=3.0), sr)[0]
    assert torch.allclose(found, CHECKERS)
    seen: list[Tensor] = []

    def look(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return 5 + (CHECKERS * images).sum(dim=(1, 2, 3))

    term(Toy(look), rho=3.0)(sr, sr)
    assert [value.item() for value in seen[-1].aminmax()] == [0, 1]


def test_hr_is_rated_as_sr_is() -> None:
    options: dict[str, Any] = {"views": list(VIEWS), "num_views": 2, "rho": 0.5, "mode": "hinge"}
    loss = term(shallow(load_scorer(SAMPLE_SCORER), 5), **options)
    sr = patches(2, 64)
    assert loss(sr, sr).item() == 0
    values = []
    for step in (0, 0, 1):  # views are the same as long as the step is
        loss.at(step, 0)
        values.append([loss(sr, sr**2).item(), loss(sr**2, sr).item()])
    assert values[0] == values[1] != values[2]
    assert max(values[0]) > 0
    feature = term(load_scorer(SAMPLE_SCORER), mode="feature", views=["jpeg"], num_views=1)
    assert feature(sr, sr).item() == 0
    assert feature(sr, sr**2).item() > 0


def test_a_hinge_has_no_gradient_above_its_target() -> None:
    sr = torch.stack([torch.full((3, SIDE, SIDE), level) for level in (0.4, 0.6)])
    weight = torch.full((3, SIDE, SIDE), 10.0 / (3 * SIDE**2))  # scores 4 and 6
    loss = term(linear(weight), mode="hinge", target=5.5)
    assert loss(sr, sr).item() == pytest.approx(0.5 * (5.5 - 4), abs=1e-3)
    found = gradient(loss, sr)
    assert torch.allclose(found[0], weight)
    assert not found[1].any()
    value, scores = loss.whole(sr, sr)
    assert value.item() == pytest.approx(0.75, abs=1e-3)
    assert scores.tolist() == pytest.approx([4, 6], abs=1e-3)


def test_several_scorers_are_averaged_or_the_lowest_counts_for_each_image() -> None:
    dark = torch.full((3, SIDE, SIDE), -10.0 / (3 * SIDE**2))
    sr = torch.stack([torch.full((3, SIDE, SIDE), level) for level in (0.4, 0.6)])
    second: Any = Toy(lambda images: 3.5 + 2 * (images - 0.5).sum(dim=(1, 2, 3)) / SIDE**2, 7)
    scores = np.array([[6, 4], [1 + 9 / 6 * (2.5 - 0.6), 1 + 9 / 6 * (2.5 + 0.6)]])  # 1..7 to 1..10
    for reduce, expected in (("mean", scores.mean(axis=0)), ("min", scores.min(axis=0))):
        loss = term([linear(dark), second], reduce=reduce)
        assert loss(sr, sr).item() == pytest.approx(10 - expected.mean(), abs=1e-3)
        value, found = loss.whole(sr, sr)
        assert value.item() == pytest.approx(10 - expected.mean(), abs=1e-3)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)
        assert loss.ensemble.score(sr).tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert scores.argmin(axis=0).tolist() == [1, 0]
    found = gradient(loss, sr)  # of the lowest scorer alone
    assert torch.allclose(found[0], torch.full_like(dark, 9 / 6 * 2 / SIDE**2))
    assert torch.allclose(found[1], dark)


def test_views_are_averaged_before_the_lowest_scorer_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_draws(monkeypatch, [(0, 0), (0, 0)], [1, -1])
    sr = 0.5 + SLOPE[None] * 10
    scorers = [linear(SLOPE), linear(-SLOPE)]  # one falls by what the other rises, and flips turn
    loss = term(scorers, reduce="min", views=["flip"], num_views=2)
    assert loss(sr, sr).item() == pytest.approx(5, abs=1e-4)
    assert term(scorers, reduce="min")(sr, sr).item() > 5.01


def test_whole_photos_are_rated_without_views_or_displacement() -> None:
    scorer = load_scorer(SAMPLE_SCORER)
    sr, hr = patches(1, 210), patches(1, 210) ** 2
    plain = LossSum({"a": Term(AestheticLoss(scorer), 1)}).eval()(sr, hr)
    options: dict[str, Any] = {"views": list(VIEWS), "rho": 1.0}
    found = LossSum({"a": Term(AestheticLoss(scorer, **options), 1)}).eval()(sr, hr)
    assert torch.equal(found.total, plain.total)
    assert torch.equal(found.scores["a"], plain.scores["a"])


def test_measuring_gradients_draws_the_same_views_again() -> None:
    loss = LossSum({"a": Term(term(linear(CHECKERS), views=["shift"], num_views=3), 1)})
    loss.at(4, 10, first=2)
    sr = patches(2)
    squares = [gradient_sums(loss, sr, sr).terms_T.item() for _ in range(2)]
    assert squares[0] == squares[1]
    loss.at(4, 10, first=0)
    assert gradient_sums(loss, sr, sr).terms_T.item() != squares[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ["shfit"]}, r"views=\[shfit\]: allowed are shift, flip, noise, resize, jpeg"),
        ({"views": ["flip"], "num_views": 0}, "num_views=0: 1 or more"),
        ({"views": ["shift"], "shift": -1}, "shift=-1: 0 or more"),
        ({"views": ["noise"], "noise": -1}, "noise=-1: 0 to 255"),
        ({"views": ["resize"], "resize": [0.1, 1]}, r"resize=\[0.1, 1\]: \[low,high\] from 0.25"),
        ({"views": ["jpeg"], "jpeg": [90, 50]}, r"jpeg=\[90, 50\]: \[low,high\] from 1 to 100"),
        ({"rho": -1}, "rho=-1: 0 to 255 grey levels"),
        ({"rho": float("nan")}, "rho=nan: 0 to 255 grey levels"),
        ({"rho": 1.0, "mode": "feature"}, "rho=1.0: mode=feature has no scores"),
        ({"reduce": "min", "mode": "feature"}, "reduce=min: mode=feature has no scores"),
        ({"reduce": "max"}, "reduce=max: allowed are mean, min"),
        ({"mode": "hinge", "target": 11}, "target=11: hr, or a score from 1 to 10"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        term(linear(CHECKERS), **options)
    with pytest.raises(ValueError, match="one scorer or more"):
        term([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of Dynamo
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_term_with_views_is_the_uncompiled_one() -> None:
    scorer: NIMA = shallow(load_scorer(SAMPLE_SCORER), 3)
    options: dict[str, Any] = {"views": list(VIEWS), "num_views": 2, "rho": 0.5, "mode": "hinge"}
    sr, hr = patches(2, 48), patches(2, 48) ** 0.5
    plain, compiled = term(scorer, **options), term(scorer, **options)
    compiled.compile(mode="default", dynamic=False)
    assert compiled.ensemble._compiled_call_impl is not None
    for step in range(2):
        plain.at(step, 0)
        compiled.at(step, 0)
        assert torch.allclose(gradient(compiled, sr, hr), gradient(plain, sr, hr), atol=1e-6)


def test_autocast_rates_views_with_finite_gradients() -> None:
    options: dict[str, Any] = {"views": list(VIEWS), "num_views": 2, "rho": 0.5}
    loss = HybridLoss(0.1, SAMPLE_SCORER)
    loss.parts["aesthetic"] = Term(AestheticLoss(SAMPLE_SCORER, **options), 0.1)  # type: ignore[index]
    sr = patches(2, 48).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = loss.train()(sr, sr.detach()).total
    total.backward()
    assert sr.grad is not None
    assert sr.grad.isfinite().all()
    assert sr.grad.any()

import logging

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import (
    AestheticLoss,
    HybridLoss,
    Mode,
    emd_batch,
    emd_loss,
    emd_per_sample,
    gradient_squares,
    l1_loss,
    l2_loss,
)
from networks.nima import NIMA, mean_score
from tests.conftest import SAMPLE_SCORER


def distributions(num: int, k: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(k), num))


@pytest.mark.parametrize("k", [2, 7, 10])
def test_emd_r1_is_wassersteins_distance_over_k(k: int) -> None:
    p, q = distributions(20, k, 0), distributions(20, k, 1)
    support = np.arange(1, k + 1)
    expected = [wasserstein_distance(support, support, a, b) / k for a, b in zip(p, q, strict=True)]
    assert np.allclose(emd_per_sample(p, q, r=1), expected, atol=1e-6)
    assert emd_loss(p, q, r=1).item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_emd_r2_by_hand() -> None:
    p = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    q = torch.tensor([[0, 0, 1.0, 0], [0, 0.5, 0.5, 0]])
    # Cumulative differences: (1, 1, 0, 0) and (.5, .5, 0, 0).
    each = [np.sqrt(2 / 4), np.sqrt(2 * 0.25 / 4)]
    assert emd_loss(p, q).item() == pytest.approx(np.mean(each), abs=1e-6)
    assert emd_batch(p, q).item() == pytest.approx(np.sqrt((2 + 0.5) / 8), abs=1e-6)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_emd_gradient_at_equality_is_a_number(r: int) -> None:
    p = distributions(4, 10, 0).float().requires_grad_()
    emd_loss(p, p.detach().clone(), r).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()
    (gradient,) = torch.autograd.grad(emd_batch(p, p.detach().clone()), p)
    assert gradient.isfinite().all()


def test_emd_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="two B x K"):
        emd_loss(torch.ones(2, 10), torch.ones(2, 7))


def test_l2_is_in_units_of_255() -> None:
    sr, hr = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.5 - 2 / 255)
    assert l2_loss(sr, hr).item() == pytest.approx(4.0, rel=1e-4)


def test_l1_is_in_units_of_255() -> None:
    sr, hr = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    expected = 255 * np.abs(sr.numpy() - hr.numpy()).mean()
    assert l1_loss(sr, hr).item() == pytest.approx(expected, rel=1e-5)
    assert HybridLoss(0, fidelity="l1")(sr, hr).total.item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def scorer() -> NIMA:
    torch.manual_seed(0)
    return NIMA("mnasnet_0_5", num_buckets=7)


def test_aesthetic_loss_is_k_minus_the_mean_score(scorer: NIMA) -> None:
    images = torch.rand(3, 3, 192, 192) * 1.4 - 0.2
    loss = AestheticLoss(scorer)
    with torch.no_grad():
        expected = 7 - mean_score(scorer.eval()(images.clamp(0, 1))).mean()
        assert torch.allclose(loss(images, images), expected, atol=1e-4)


def test_scorer_is_frozen_unregistered_and_a_copy(scorer: NIMA) -> None:
    loss = AestheticLoss(scorer)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert not loss.scorer.training
    loss.train()
    assert not loss.scorer.training
    assert not any(p.requires_grad for p in loss.scorer.parameters())
    assert all(p.requires_grad for p in scorer.parameters())
    loss.to(torch.float64)
    assert next(loss.scorer.parameters()).dtype == torch.float64  # it follows the loss


def test_gradient_of_the_aesthetic_term_reaches_the_pixels(scorer: NIMA) -> None:
    sr = torch.rand(1, 3, 64, 64, requires_grad=True)
    hr = sr.detach().clone()
    terms = HybridLoss(0.5, lambda: scorer)(sr, hr)
    assert list(terms.terms) == ["l2", "aesthetic"]
    assert terms.terms["l2"].item() == 0
    assert terms.total.item() == pytest.approx(0.5 * terms.terms["aesthetic"].item())
    terms.total.backward()
    assert sr.grad is not None
    assert (sr.grad != 0).float().mean() > 0.5


def test_small_patches_are_enlarged_with_one_warning(
    scorer: NIMA, caplog: pytest.LogCaptureFixture
) -> None:
    loss = HybridLoss(0.1, lambda: scorer)
    seen = []
    assert loss.aesthetic is not None
    loss.aesthetic.scorer.features.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[-2:])
    )
    with caplog.at_level(logging.WARNING):
        for size in ((48, 48), (48, 48), (192, 256)):
            loss(torch.rand(1, 3, *size), torch.rand(1, 3, *size))
    assert seen == [(192, 192), (192, 192), (192, 256)]
    assert len(caplog.records) == 1


def test_gamma_zero_does_not_build_the_scorer() -> None:
    def never() -> NIMA:
        raise AssertionError("built")

    sr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    terms = HybridLoss(0, never)(sr, hr)
    assert list(terms.terms) == ["l2"]
    assert torch.equal(terms.total, l2_loss(sr, hr))


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
def test_negative_gamma_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        HybridLoss(gamma)


def test_gamma_without_scorer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a scorer"):
        HybridLoss(0.1)


def test_hinge_charges_only_what_is_lost_against_hr(scorer: NIMA) -> None:
    torch.manual_seed(1)
    sr, hr = torch.rand(4, 3, 192, 192), torch.rand(4, 3, 192, 192) ** 3
    with torch.no_grad():
        scores = [mean_score(scorer.eval()(images)).numpy() for images in (sr, hr)]
        loss = AestheticLoss(scorer, "hinge")
        for order in (1, -1):
            a, b = (sr, hr)[::order]
            lost = (scores[1] - scores[0]) * order
            assert loss(a, b).item() == pytest.approx(np.maximum(lost, 0).mean(), abs=1e-4)
        assert loss(sr, sr).item() == 0


def test_feature_mode_is_the_relative_distance_of_pooled_features() -> None:
    torch.manual_seed(1)
    sr, hr = torch.rand(3, 3, 192, 192), torch.rand(3, 3, 192, 192) ** 2
    scorer = load_scorer(SAMPLE_SCORER)
    with torch.no_grad():
        x, y = (
            scorer.features((images - scorer.mean) / scorer.std).numpy().mean(axis=(2, 3))
            for images in (sr, hr)
        )
    expected = (((x - y) ** 2).sum(axis=1) / (y**2).sum(axis=1)).mean()
    loss = AestheticLoss(scorer, "feature")
    sr.requires_grad_()
    assert loss(sr, hr).item() == pytest.approx(expected, rel=1e-3)
    assert loss(hr, hr).item() == 0
    loss(sr, hr).backward()
    assert sr.grad is not None
    assert sr.grad.any()


def test_gamma_warms_up_over_its_share_of_the_training(scorer: NIMA) -> None:
    loss = HybridLoss(0.4, lambda: scorer, warmup=0.25)
    weights = []
    for progress in (0, 0.125, 0.25, 0.9):
        loss.at(progress)
        weights.append(loss.weight)
    assert weights == pytest.approx([0, 0.2, 0.4, 0.4])
    plain = HybridLoss(0.4, lambda: scorer)
    plain.at(0)
    assert plain.weight == 0.4


def test_at_gamma_0_a_scorer_is_there_for_validation_alone(scorer: NIMA) -> None:
    sr, hr = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    calls = []
    assert HybridLoss(0, lambda: calls.append(1) or scorer).aesthetic is None  # type: ignore[func-returns-value]
    assert calls == []
    loss = HybridLoss(0, lambda: scorer, score_always=True)
    assert loss.aesthetic is not None
    assert "aesthetic" not in loss(sr, hr).terms
    assert loss(sr, hr).total.item() == l2_loss(sr, hr).item()
    with pytest.raises(ValueError, match="needs a scorer"):
        HybridLoss(0, score_always=True)


def test_gradient_squares_by_two_backward_passes(scorer: NIMA) -> None:
    torch.manual_seed(1)
    start, hr = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    expected = []
    for part in ("aesthetic", "l2"):
        sr = start.clone().requires_grad_()
        HybridLoss(0.3, scorer)(sr, hr).terms[part].backward()
        assert sr.grad is not None
        expected.append((sr.grad.numpy().astype(np.float64) ** 2).sum())
    loss = HybridLoss(0.3, lambda: scorer)
    assert gradient_squares(loss, start, hr).tolist() == pytest.approx(expected, rel=1e-4)


class Charbonnier(HybridLoss):
    def fidelity_terms(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> dict[str, Tensor]:
        charbonnier = ((255 * (sr_BCHW - hr_BCHW)) ** 2 + 1).sqrt().mean()
        return {"charbonnier": charbonnier, "bias": 255 * (sr_BCHW - hr_BCHW).mean().abs()}


def test_terms_of_ones_own_are_summed_and_share_the_gradient(scorer: NIMA) -> None:
    torch.manual_seed(1)
    start, hr = torch.rand(2, 3, 192, 192), torch.rand(2, 3, 192, 192)
    loss = Charbonnier(0.3, scorer)
    sr = start.clone().requires_grad_()
    total, terms, _ = loss(sr, hr)
    difference = 255 * (start.double() - hr.double()).numpy()
    own = np.sqrt(difference**2 + 1).mean() + abs(difference.mean())
    with torch.no_grad():
        rated = 7 - mean_score(scorer.eval()(start)).mean().item()
    assert list(terms) == ["charbonnier", "bias", "aesthetic"]
    assert total.item() == pytest.approx(own + 0.3 * rated, rel=1e-5)
    sr = start.clone().requires_grad_()
    sum(loss.fidelity_terms(sr, hr).values()).backward()  # type: ignore[union-attr]
    assert sr.grad is not None
    expected = (sr.grad.double() ** 2).sum().item()
    assert gradient_squares(loss, start, hr)[1].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", ["linear", "hinge", "feature"])
def test_whole_photos_are_seen_by_the_scorers_own_rule(mode: Mode) -> None:
    torch.manual_seed(1)
    scorer = load_scorer(SAMPLE_SCORER)
    sr, hr = torch.rand(2, 3, 150, 250), torch.rand(2, 3, 150, 250) ** 2
    with torch.no_grad():
        total, terms, score_B = HybridLoss(0.3, scorer, mode=mode, warmup=0.5).eval()(sr, hr)
        scores = [scorer.score(images).numpy() for images in (sr, hr)]
        x, y = (scorer.pooled_features(scorer.prepare(images)).numpy() for images in (sr, hr))
    expected = {
        "linear": 10 - scores[0].mean(),
        "hinge": np.maximum(scores[1] - scores[0], 0).mean(),
        "feature": (((x - y) ** 2).sum(axis=1) / (y**2).sum(axis=1)).mean(),
    }[mode]
    assert score_B is not None
    assert score_B.tolist() == pytest.approx(scores[0].tolist(), abs=1e-4)
    assert terms["aesthetic"].item() == pytest.approx(expected, abs=1e-4)
    assert total.item() == pytest.approx(terms["l2"].item() + 0.3 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "hing"}, "linear, hinge, feature"),
        ({"fidelity": "l3"}, "l2, l1"),
        ({"warmup": 2.0}, "0 to 1"),
    ],
)
def test_wrong_options(scorer: NIMA, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridLoss(0.1, lambda: scorer, **options)  # type: ignore[arg-type]

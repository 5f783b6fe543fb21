import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from lightning_modules.checkpoint import load_scorer
from lightning_modules.loss_terms import AestheticLoss, Mode, l1_loss, l2_loss
from lightning_modules.losses import (
    HybridLoss,
    LossSum,
    Term,
    build_loss,
    emd_batch,
    emd_loss,
    emd_per_sample,
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
    assert LossSum({"l1": Term(l1_loss, 3)})(sr, hr).total.item() == pytest.approx(
        3 * expected, rel=1e-5
    )


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
    loss = HybridLoss(0.1, scorer)
    frozen = loss.aesthetics["aesthetic"].scorer
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    loss.train()
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in scorer.parameters())
    loss.to(torch.float64)
    assert next(frozen.parameters()).dtype == torch.float64  # it follows the loss
    assert copy.deepcopy(loss).aesthetics["aesthetic"].scorer is frozen  # averages share it


def test_gradient_of_the_aesthetic_term_reaches_the_pixels(scorer: NIMA) -> None:
    sr = torch.rand(1, 3, 64, 64, requires_grad=True)
    hr = sr.detach().clone()
    terms = HybridLoss(0.5, scorer)(sr, hr)
    assert list(terms.terms) == ["l2", "aesthetic"]
    assert terms.terms["l2"].item() == 0
    assert terms.total.item() == pytest.approx(0.5 * terms.terms["aesthetic"].item())
    terms.total.backward()
    assert sr.grad is not None
    assert (sr.grad != 0).float().mean() > 0.5


def test_small_patches_are_enlarged_with_one_warning(
    scorer: NIMA, caplog: pytest.LogCaptureFixture
) -> None:
    loss = HybridLoss(0.1, scorer)
    seen = []
    loss.aesthetics["aesthetic"].scorer.features.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[-2:])
    )
    with caplog.at_level(logging.WARNING):
        for size in ((48, 48), (48, 48), (192, 256)):
            loss(torch.rand(1, 3, *size), torch.rand(1, 3, *size))
    assert seen == [(192, 192), (192, 192), (192, 256)]
    assert len(caplog.records) == 1


def test_gamma_zero_does_not_build_the_scorer() -> None:
    sr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    terms = HybridLoss(0, "no such file")(sr, hr)
    assert list(terms.terms) == ["l2"]
    assert torch.equal(terms.total, l2_loss(sr, hr))


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
def test_negative_gamma_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        HybridLoss(gamma, SAMPLE_SCORER)


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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.4, 0.4, 0.4]),
        ({"warmup": 0.25}, [0, 0.2, 0.4, 0.4]),
        ({"from_step": 25}, [0, 0, 0.4, 0.4]),
        ({"warmup": 0.5, "from_step": 25}, [0, 0, 0, 0.4]),
    ],
)
def test_a_weight_follows_its_schedule(options: dict[str, Any], expected: list[float]) -> None:
    term = Term(l2_loss, 0.4, **options)
    weights = []
    for step in (0, 12.5, 25, 90):  # of 100
        term.at(step, 100)  # type: ignore[arg-type]
        weights.append(term.now)
    assert weights == pytest.approx(expected)


def test_a_schedule_weighs_training_alone() -> None:
    sr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    loss = LossSum({"l2": Term(l2_loss), "l1": Term(l1_loss, 2, from_step=10)})
    loss.at(9, 20)
    assert loss(sr, hr).total.item() == pytest.approx(l2_loss(sr, hr).item())
    whole = l2_loss(sr, hr).item() + 2 * l1_loss(sr, hr).item()
    assert loss.eval()(sr, hr).total.item() == pytest.approx(whole)


def test_at_gamma_0_a_scorer_is_there_for_validation_alone() -> None:
    sr, hr = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8)
    fidelity = {"_target_": "lightning_modules.loss_terms.l2_loss"}
    settings = {
        "_target_": "lightning_modules.loss_terms.AestheticLoss",
        "weight": 0,
        "scorer": str(SAMPLE_SCORER),
        "score_always": False,
    }
    assert build_loss({"l2": fidelity, "aesthetic": settings}).aesthetics == {}
    assert build_loss({"l2": fidelity, "aesthetic": None}).aesthetics == {}
    loss = build_loss({"l2": fidelity, "aesthetic": {**settings, "score_always": True}})
    assert loss.aesthetics.keys() == {"aesthetic"}
    assert loss.names == ["l2"]
    assert loss(sr, hr).terms.keys() == {"l2"}
    assert loss(sr, hr).total.item() == l2_loss(sr, hr).item()
    with pytest.raises(ValueError, match="no term has a weight above 0"):
        build_loss({"aesthetic": settings})


def variation(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    return 255 * sr_BCHW.diff(dim=-1).abs().mean(dim=(1, 2, 3))  # one value for each image


def test_terms_of_ones_own_are_weighed_and_summed(scorer: NIMA) -> None:
    torch.manual_seed(1)
    sr, hr = torch.rand(2, 3, 192, 192), torch.rand(2, 3, 192, 192)
    loss = LossSum(
        {
            "l2": Term(l2_loss),
            "tv": Term(variation, 0.5),
            "aesthetic": Term(AestheticLoss(scorer), 0.3),
            "hinge": Term(AestheticLoss(scorer, "hinge"), 20),  # as many scorers as wanted
            "off": Term(l1_loss, 0),
        }
    )
    total, terms, scores = loss(sr, hr)
    with torch.no_grad():
        rated = [mean_score(scorer.eval()(images)).numpy() for images in (sr, hr)]
    expected = {
        "l2": 65025 * ((sr - hr).double().numpy() ** 2).mean(),
        "tv": 255 * np.abs(np.diff(sr.numpy(), axis=-1)).mean(),
        "aesthetic": 7 - rated[0].mean(),
        "hinge": np.maximum(rated[1] - rated[0], 0).mean(),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-3)
    assert total.item() == pytest.approx(
        expected["l2"]
        + 0.5 * expected["tv"]
        + 0.3 * expected["aesthetic"]
        + 20 * expected["hinge"],
        rel=1e-4,
    )
    assert scores == {}  # whole photos alone are rated
    assert loss.eval()(sr, hr).scores.keys() == {"aesthetic", "hinge"}


@pytest.mark.parametrize("mode", ["linear", "hinge", "feature"])
def test_whole_photos_are_seen_by_the_scorers_own_rule(mode: Mode) -> None:
    torch.manual_seed(1)
    scorer = load_scorer(SAMPLE_SCORER)
    sr, hr = torch.rand(2, 3, 150, 250), torch.rand(2, 3, 150, 250) ** 2
    with torch.no_grad():
        total, terms, found = HybridLoss(0.3, scorer, mode).eval()(sr, hr)
        scores = [scorer.score(images).numpy() for images in (sr, hr)]
        x, y = (scorer.pooled_features(scorer.prepare(images)).numpy() for images in (sr, hr))
    expected = {
        "linear": 10 - scores[0].mean(),
        "hinge": np.maximum(scores[1] - scores[0], 0).mean(),
        "feature": (((x - y) ** 2).sum(axis=1) / (y**2).sum(axis=1)).mean(),
    }[mode]
    assert found["aesthetic"].tolist() == pytest.approx(scores[0].tolist(), abs=1e-4)
    assert terms["aesthetic"].item() == pytest.approx(expected, abs=1e-4)
    assert total.item() == pytest.approx(terms["l2"].item() + 0.3 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 2.0}, "0 to 1"),
        ({"weight": -1}, "0 or more"),
        ({"weight": float("nan")}, "0 or more"),
        ({"from_step": -1}, "0 or more"),
    ],
)
def test_wrong_options_of_a_term(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Term(l2_loss, **options)


def test_an_unknown_mode_is_refused(scorer: NIMA) -> None:
    with pytest.raises(ValueError, match="linear, hinge, feature"):
        AestheticLoss(scorer, "hing")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [lambda sr, hr: sr - hr, lambda sr, hr: 1.0])
def test_a_term_is_one_value_or_one_for_each_image(function: Any) -> None:  # noqa: ANN401
    loss = LossSum({"own": Term(function)})
    with pytest.raises(ValueError, match=r"loss\.own: should be one value, or one for each image"):
        loss(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))

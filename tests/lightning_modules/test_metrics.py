import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import kendalltau, pearsonr, spearmanr
from torch.multiprocessing.spawn import spawn

from lightning_modules.metrics import (
    NIMAScore,
    RatingMetrics,
    baselines,
    fitted_lcc,
    rating_metrics,
)
from networks.nima import NIMA


def test_rating_metrics_against_scipy() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(10), 40), rng.dirichlet(np.ones(10), 40)
    p[:10] = p[10:20]  # ties
    k = np.arange(1, 11)
    means, stds = [], []
    for d in (p, q):
        means.append(d @ k)
        stds.append(np.sqrt(np.maximum(0, d @ k**2 - (d @ k) ** 2)))
    values = rating_metrics(torch.from_numpy(p), torch.from_numpy(q))
    assert values["srcc"].item() == pytest.approx(spearmanr(*means)[0], abs=1e-5)
    assert values["krcc"].item() == pytest.approx(kendalltau(*means)[0], abs=1e-5)
    assert values["lcc"].item() == pytest.approx(pearsonr(*means)[0], abs=1e-5)
    rmse = np.sqrt(np.mean((means[0] - means[1]) ** 2))
    assert values["rmse"].item() == pytest.approx(rmse, abs=1e-5)
    assert values["srcc_std"].item() == pytest.approx(spearmanr(*stds)[0], abs=1e-5)
    assert values["lcc_std"].item() == pytest.approx(pearsonr(*stds)[0], abs=1e-5)
    assert values["accuracy"].item() == pytest.approx(np.mean((means[0] > 5) == (means[1] > 5)))


def test_kendalls_tau_by_hand() -> None:
    """Of the six pairs, four agree and one does not; one is a tie in the predictions: tau-b."""
    p, q = (torch.tensor(means)[:, None] for means in ([0.1, 0.2, 0.2, 0.4], [0.2, 0.1, 0.3, 0.4]))
    values = rating_metrics(torch.cat([1 - p, p], dim=1), torch.cat([1 - q, q], dim=1))
    assert values["krcc"].item() == pytest.approx((4 - 1) / np.sqrt(5 * 6), abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_correlation_after_the_logistic_fit(sign: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 10, 60)
    y = 2 + 5 / (1 + np.exp(-sign * (x - 6) / 0.4)) + 0.1 * rng.standard_normal(60)

    def curve(b: np.ndarray) -> np.ndarray:
        fitted: np.ndarray = b[1] + (b[0] - b[1]) / (1 + np.exp(-(x - b[2]) / abs(b[3])))
        return fitted

    start = np.array([7.0, 2.0, 6.0, 0.5] if sign > 0 else [2.0, 7.0, 6.0, 0.5])
    best = minimize(lambda b: np.sum((curve(b) - y) ** 2), start, method="Nelder-Mead", tol=1e-10)
    found = fitted_lcc(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(pearsonr(curve(best.x), y)[0], abs=1e-4)
    assert found > 0.995 > abs(pearsonr(x, y)[0])
    assert np.isnan(fitted_lcc(torch.ones(9), torch.rand(9)))
    assert np.isnan(fitted_lcc(torch.rand(4), torch.rand(4)))


def test_constant_prediction_has_no_correlation() -> None:
    p = torch.full((5, 10), 0.1)
    q = torch.softmax(torch.randn(5, 10), dim=1)
    assert rating_metrics(p, q)["srcc"].isnan()
    assert rating_metrics(p, q)["lcc"].isnan()


@pytest.mark.parametrize(("num_buckets", "middle"), [(10, 5), (7, 4), (5, 3)])
def test_accuracy_is_at_the_middle_of_the_scale(num_buckets: int, middle: int) -> None:
    p = torch.nn.functional.one_hot(torch.tensor([middle - 1, middle]), num_buckets).float()
    q = torch.nn.functional.one_hot(torch.tensor([middle - 1, middle - 1]), num_buckets).float()
    assert rating_metrics(p, q)["accuracy"].item() == 0.5


def test_correlation_of_ties_is_that_of_mean_ranks() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    q = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.7, 0.3], [0.1, 0.9]])
    ranks = np.array([1.5, 1.5, 4, 3]), np.array([3, 1.5, 1.5, 4])
    expected = np.corrcoef(*ranks)[0, 1]
    assert rating_metrics(p, q)["srcc"].item() == pytest.approx(expected, abs=1e-6)


def test_baselines_against_numpy() -> None:
    rng = np.random.default_rng(0)
    train, q = (torch.from_numpy(rng.dirichlet(np.ones(7), 400)).float() for _ in range(2))
    votes = rng.integers(20, 300, 400)
    values = baselines(train, q, votes, draws=20)
    true = q.double().numpy()
    difference = (train.numpy().mean(axis=0) - q.numpy()).cumsum(axis=1)
    constant = np.sqrt((difference**2).mean(axis=1)).mean()
    assert values["emd_constant"] == pytest.approx(constant, abs=1e-6)
    assert np.isnan(values["srcc_constant"])
    found: dict[str, list[float]] = {
        "emd": [],
        "emd_r1": [],
        "emd_batch": [],
        "srcc": [],
        "acc": [],
    }
    k = np.arange(1, 8)
    for _ in range(20):
        drawn = np.stack(
            [rng.multinomial(n, x / x.sum()) / n for n, x in zip(votes, true, strict=True)]
        )
        d = (drawn - true).cumsum(axis=1)
        found["emd"].append(np.sqrt((d**2).mean(axis=1)).mean())
        found["emd_r1"].append(np.abs(d).mean())
        found["emd_batch"].append(np.sqrt((d**2).mean()))
        found["srcc"].append(spearmanr(drawn @ k, true @ k)[0])
        found["acc"].append(np.mean((drawn @ k > 4) == (true @ k > 4)))
    for name in ("emd", "emd_r1", "emd_batch"):
        assert values[f"{name}_floor"] == pytest.approx(np.mean(found[name]), rel=0.02), name
    assert values["srcc_floor"] == pytest.approx(np.mean(found["srcc"]), abs=0.002)
    assert values["accuracy_floor"] == pytest.approx(np.mean(found["acc"]), abs=0.01)
    assert "emd_floor" not in baselines(train, q, None)
    assert baselines(train, q, votes)["emd_floor"] == baselines(train, q, votes)["emd_floor"]


def gather(rank: int, address: str, results: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{address}", rank=rank, world_size=2
    )
    p, q = (torch.load(f"{results}/{name}.pt") for name in ("p", "q"))
    metric = RatingMetrics()
    score = NIMAScore(small_scorer())
    items = torch.arange(rank, 9, 2)
    for batch in items.split(2):
        metric.update(p[batch], q[batch], batch)
        score.update(images()[batch])
    torch.save((metric.compute(), score.compute()), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


def images() -> torch.Tensor:
    return torch.rand(9, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def small_scorer() -> NIMA:
    torch.manual_seed(0)
    return NIMA("mnasnet_0_5", num_buckets=7, resize=48, crop=48).eval()


@pytest.mark.ddp
def test_two_ranks_measure_like_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(7), 9)).float() for _ in range(2))
    torch.save(p, tmp_path / "p.pt")
    torch.save(q, tmp_path / "q.pt")
    spawn(gather, (str(tmp_path / "address"), str(tmp_path)), nprocs=2)
    expected = rating_metrics(p, q)
    score = small_scorer().score(images()).mean().item()
    for rank in (0, 1):
        values, found = torch.load(tmp_path / f"{rank}.pt")
        assert {name: value.item() for name, value in values.items()} == pytest.approx(
            {name: value.item() for name, value in expected.items()}, abs=1e-6
        )
        assert found.item() == pytest.approx(score, abs=1e-5)


def test_nima_score_is_a_torchmetrics_metric() -> None:
    scorer = small_scorer()
    metric = NIMAScore(scorer)
    expected = scorer.score(images())
    assert metric(images()[:4]).item() == pytest.approx(expected[:4].mean().item(), abs=1e-5)
    metric.update(images()[4:])
    assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-5)
    metric.reset()
    metric.update((images() * 255).round().to(torch.uint8))
    assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-2)
    assert metric.higher_is_better
    assert metric.plot_upper_bound == 7
    each = NIMAScore(scorer, reduction="none")
    for image in images():
        each.update(image[None])
    assert torch.allclose(each.compute(), expected, atol=1e-5)
    holder = torch.nn.ModuleDict({"metric": metric})
    assert not holder.state_dict()
    assert not list(holder.parameters())
    holder.half()
    each.update(images())  # the scorer stays in float32
    assert pickle.loads(pickle.dumps(each)).compute().tolist() == each.compute().tolist()


def test_nima_score_reads_checkpoints_and_refuses_nonsense(scorer_file: Path) -> None:
    assert 1 <= NIMAScore(scorer_file)(images()).item() <= 10
    with pytest.raises(ValueError, match="mean and none"):
        NIMAScore(scorer_file, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="B x 3 x H x W"):
        NIMAScore(scorer_file).update(torch.rand(3, 8, 8))

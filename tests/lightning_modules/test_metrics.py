import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.multiprocessing.spawn import spawn

from lightning_modules.metrics import (
    MAX_PSNR,
    NIMAScore,
    RatingMetrics,
    baselines,
    drift,
    image_metrics,
    luma,
    rating_metrics,
    to_levels,
)
from networks.nima import NIMA


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 15), size=(48, 60), mode="bicubic")
    hr = hr.clamp(0, 1)
    return (hr + 0.05 * torch.randn_like(hr)), hr


def as_uint8(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1).numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


def test_drift_of_contrast_and_saturation_by_hand() -> None:
    hr = torch.rand(2, 3, 16, 16)
    for factor in (0.5, 1.0, 1.5):
        around = hr.mean(dim=(2, 3), keepdim=True)
        gray = hr.mean(dim=1, keepdim=True)
        contrast = drift(around + factor * (hr - around), hr)["contrast_drift"]
        saturation = drift(gray + factor * (hr - gray), hr)["saturation_drift"]
        assert contrast.tolist() == pytest.approx([factor - 1] * 2, abs=1e-4)
        assert saturation.tolist() == pytest.approx([factor - 1] * 2, abs=1e-4)
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert all(value.item() == 0 for value in drift(flat, flat).values())


def test_psnr_in_the_div2k_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=2)["psnr"]
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (as_uint8(image)[8:-8, 8:-8] for image in (sr, hr))
        assert values[i].item() == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-4)


def test_psnr_and_ssim_in_the_benchmark_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=3)
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (rgb2ycbcr(as_uint8(image))[..., 0][3:-3, 3:-3] for image in (sr, hr))
        psnr = peak_signal_noise_ratio(b, a, data_range=255)
        assert values["psnr_y"][i].item() == pytest.approx(psnr, abs=1e-5)
        assert values["ssim"][i].item() == pytest.approx(reference_ssim(a, b), abs=1e-6)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    return float(
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
    )


def test_ssim_of_flat_pages_where_float32_is_off() -> None:
    page = torch.ones(1, 3, 120, 96)
    band = page.clone()
    band[..., 50:60, :] = 0.2
    values = [image_metrics(band, page, 2)["ssim"].item(), image_metrics(page, page, 2)["ssim"]]
    a, b = (rgb2ycbcr(as_uint8(image[0]))[..., 0][2:-2, 2:-2] for image in (band, page))
    assert values[0] == pytest.approx(reference_ssim(a, b), abs=1e-6)
    assert values[1] == 1


def test_equal_images_count_as_100_db_and_leave_means_finite() -> None:
    page = torch.full((1, 3, 40, 40), 0.7)
    values = image_metrics(page, page, 2)
    assert values["psnr"].item() == values["psnr_y"].item() == MAX_PSNR == 100


def test_metrics_do_not_change_under_autocast(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain = image_metrics(*pair, scale=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = image_metrics(*pair, scale=2)
    for name, value in plain.items():
        assert torch.equal(value, mixed[name])


def test_luma_of_black_and_white() -> None:
    levels = to_levels(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    assert luma(levels).flatten().tolist() == [16, 235]


def test_image_smaller_than_the_border_is_refused() -> None:
    with pytest.raises(ValueError, match="16x16"):
        image_metrics(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), scale=2)


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
    assert values["lcc"].item() == pytest.approx(pearsonr(*means)[0], abs=1e-5)
    assert values["srcc_std"].item() == pytest.approx(spearmanr(*stds)[0], abs=1e-5)
    assert values["lcc_std"].item() == pytest.approx(pearsonr(*stds)[0], abs=1e-5)
    assert values["accuracy"].item() == pytest.approx(np.mean((means[0] > 5) == (means[1] > 5)))


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

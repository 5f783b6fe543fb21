import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lightning_modules.metrics import image_metrics, luma, rating_metrics, to_levels


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hr = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 15), size=(48, 60), mode="bicubic")
    hr = hr.clamp(0, 1)
    return (hr + 0.05 * torch.randn_like(hr)), hr


def as_uint8(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1).numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)


def test_psnr_in_the_div2k_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=2)["psnr"]
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (as_uint8(image)[8:-8, 8:-8] for image in (sr, hr))
        assert values[i].item() == pytest.approx(peak_signal_noise_ratio(b, a), abs=1e-4)


def test_psnr_and_ssim_in_the_benchmark_protocol(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = image_metrics(*pair, scale=3)
    for i, (sr, hr) in enumerate(zip(*pair, strict=True)):
        a, b = (rgb2ycbcr(as_uint8(image))[..., 0].round()[3:-3, 3:-3] for image in (sr, hr))
        psnr = peak_signal_noise_ratio(b, a, data_range=255)
        assert values["psnr_y"][i].item() == pytest.approx(psnr, abs=1e-3)
        ssim = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert values["ssim"][i].item() == pytest.approx(ssim, abs=1e-4)


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
    p[:10, 0] += 0
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

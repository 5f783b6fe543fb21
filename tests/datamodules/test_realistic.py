"""Realistic degradation against a slow, plain version in NumPy, SciPy and Pillow."""

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from datamodules import realistic_stages as stages
from datamodules.batches import PairBatch
from datamodules.blur_kernels import KINDS, gaussian_kernels, sinc_kernels
from datamodules.folders import PhotoFolders
from datamodules.realistic import RealisticDegradation
from datamodules.sample import SamplePairs, photo
from datamodules.sampling import Draws, Purpose, random_stream
from images.pixels import to_unit
from system.places import CONF
from tests.datamodules.plain_degradation import (
    Array,
    plain_blur,
    plain_chain,
    plain_jpeg,
    plain_kernel,
    plain_noise,
    plain_resize,
    plain_sinc,
)

pytest.importorskip("kornia")


@lru_cache
def settings(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data: DictConfig = compose("train", ["data/degradation=realistic", *words]).data
    return data


def realistic(*words: str) -> RealisticDegradation:
    found = instantiate(settings(*words).degradation, _convert_="all")
    assert isinstance(found, RealisticDegradation)
    return found


def sample(**options: Any) -> SamplePairs:  # noqa: ANN401
    options = {"batch_size": 4, "patch_size": 16, "num_steps": 2, "limit": 2, **options}
    return SamplePairs(options.pop("scale", 2), degradation=realistic(), **options)


def batches(data: SamplePairs, epochs: int = 1) -> list[PairBatch]:
    loader = data.train_dataloader()
    found = [batch for _ in range(epochs) for batch in loader]
    return [data.on_after_batch_transfer(batch, 0) for batch in found]


def streams(num: int, epoch: int = 0) -> list[np.random.Generator]:
    return [
        random_stream(0, epoch=epoch, position=k, purpose=Purpose.REALISTIC) for k in range(num)
    ]


def hr_patches(num: int, height: int = 96, width: int = 96) -> Tensor:
    photos = [photo(name) for name in ("chelsea.png", "coffee.png", "astronaut.png")]
    cut = [photos[k % 3][:, 9 * k : 9 * k + height, 50 : 50 + width] for k in range(num)]
    return to_unit(torch.stack(cut))


def psnr(one: Array, other: Array) -> float:
    return float(-10 * np.log10(np.mean((one - other) ** 2)))


def test_kernels_are_those_of_their_formulas() -> None:
    stream = np.random.default_rng(0)
    num = 3 * len(KINDS)
    kind = np.arange(num) % len(KINDS)
    side = 7 + 2 * stream.integers(0, 8, num)
    sigma, (angle, generalized, plateau) = (
        stream.uniform(0.2, 3, (num, 2)),
        (stream.uniform(low, high, num) for low, high in ((-3, 3), (0.5, 4), (1, 2))),
    )
    kernels = gaussian_kernels(
        kind_B=kind,
        side_B=side,
        sigma_B2=sigma,
        angle_B=angle,
        generalized_B=generalized,
        plateau_B=plateau,
    )
    cutoff = stream.uniform(np.pi / 5, np.pi, num)
    sincs = sinc_kernels(cutoff, side)
    for k in range(num):
        shape = (angle[k], generalized[k], plateau[k])
        expected = plain_kernel(KINDS[kind[k]], int(side[k]), sigma[k], *shape)
        np.testing.assert_allclose(kernels[k], expected, atol=1e-12)
        np.testing.assert_allclose(sincs[k], plain_sinc(cutoff[k], int(side[k])), atol=1e-7)


def test_images_of_any_size_are_blurred_as_if_alone() -> None:
    sizes = np.array([[40, 33], [6, 40], [1, 2]])  # smaller than the kernel, too
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    kernels = torch.rand(3, 21, 21, generator=torch.Generator().manual_seed(1))
    kernels /= kernels.sum(dim=(1, 2), keepdim=True)
    blurred = stages.blur(images, kernels, sizes)
    for k, (height, width) in enumerate(sizes):
        expected = plain_blur(
            images[k, :, :height, :width].double().numpy(), kernels[k].double().numpy()
        )
        np.testing.assert_allclose(blurred[k, :, :height, :width], expected, atol=2e-6)


@pytest.mark.parametrize("method", range(3))
def test_resizing_is_by_the_named_filter(method: int) -> None:
    images = hr_patches(3, 40, 40)
    old = np.array([[40, 40], [31, 40], [40, 17]])
    new = np.array([[60, 59], [7, 13], [40, 17]])
    resized = stages.resize(images, old, new, np.full(3, method))
    for k in range(3):
        image = images[k, :, : old[k, 0], : old[k, 1]].double().numpy()
        expected = plain_resize(image, new[k], stages.METHODS[method])
        np.testing.assert_allclose(resized[k, :, : new[k, 0], : new[k, 1]], expected, atol=3e-6)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("poisson", [False, True])
def test_noise_is_normal_or_poisson(poisson: bool, gray: bool) -> None:
    images = hr_patches(1)
    words = torch.from_numpy(np.random.default_rng(0).integers(-(2**15), 2**15, (1, 3, 96, 96)))
    flags = torch.tensor([poisson]), torch.tensor([gray])
    noisy = stages.add_noise(images, words.short(), torch.tensor([2.0]), *flags)
    expected = plain_noise(
        images[0].double().numpy(), words[0].numpy().astype(float), 2.0, poisson, gray
    )
    differing = np.abs(noisy[0].numpy() - expected)
    # A count may round the other way; it is 2 of 256 then.
    assert np.mean(differing > 1e-5) < 1e-4
    assert differing.max() < 2.1 / 256


@pytest.mark.parametrize("light", [0.004, 0.02, 0.1, 0.5])
def test_poisson_noise_is_that_of_counted_photons(light: float) -> None:
    image = torch.full((1, 3, 300, 300), light)
    stream = np.random.default_rng(1)
    words = torch.from_numpy(stream.integers(-(2**15), 2**15, image.shape)).short()
    off = torch.tensor([False])
    noisy = stages.add_noise(image, words, torch.ones(1), ~off, off).numpy() * 256
    real = stream.poisson(light * 256, image.shape)
    tolerance = 0.02 if light * 256 >= 5 else 0.06
    assert noisy.mean() == pytest.approx(real.mean(), rel=tolerance)
    assert noisy.std() == pytest.approx(real.std(), rel=tolerance)
    levels = np.arange(6)
    shares, expected = (
        np.mean(np.round(x).ravel()[:, None] <= levels, axis=0) for x in (noisy, real)
    )
    np.testing.assert_allclose(shares, expected, atol=0.03)


@pytest.mark.parametrize("size", [(96, 96), (51, 70), (5, 3)])
def test_jpeg_is_the_quantised_cosine_transform(size: tuple[int, int]) -> None:
    images = hr_patches(3)
    sizes, quality = np.tile(size, (3, 1)), np.array([10, 50, 95])
    coded = stages.jpeg(images, sizes, quality)[..., : size[0], : size[1]]
    for k in range(3):
        image = images[k, :, : size[0], : size[1]].double().numpy()
        np.testing.assert_allclose(coded[k], plain_jpeg(image, int(quality[k])), atol=1e-6)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_is_nearly_that_of_pillow(quality: int) -> None:
    image = photo("chelsea.png")
    height, width = image.shape[1:]
    coded = stages.jpeg(to_unit(image)[None], np.array([[height, width]]), np.array([quality]))
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    real = np.array(Image.open(buffer)).transpose(2, 0, 1) / 255
    assert psnr(coded[0].double().numpy(), real) > 46  # kornia's codec: 41.5 dB at 30
    loss, expected = (
        psnr(coded[0].numpy(), to_unit(image).numpy()),
        psnr(real, to_unit(image).numpy()),
    )
    assert loss == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_whole_chain_is_that_of_the_plain_version(scale: int) -> None:
    hr = hr_patches(10, 96, 80)
    draws = realistic().draw(streams(10, epoch=scale), (96, 80), scale)
    lr = draws.apply(hr, scale).numpy()
    expected = np.stack([plain_chain(hr[k].double().numpy(), draws, k, scale) for k in range(10)])
    assert lr.shape == expected.shape == (10, 3, 96 // scale, 80 // scale)
    # Float rounding decides now and then how a value is rounded, and JPEG spreads that.
    assert np.mean(np.abs(lr - expected) > 1e-5) < 0.05
    assert np.abs(lr - expected).mean() < 0.1 / 255


def test_an_image_comes_out_of_a_batch_as_it_would_alone() -> None:
    hr = hr_patches(6)
    drawn = realistic()
    together = drawn.draw(streams(6), (96, 96), 2).apply(hr, 2)
    for k, stream in enumerate(streams(6)):
        alone = drawn.draw([stream], (96, 96), 2).apply(hr[k : k + 1], 2)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"on_device": True}])
def test_patches_do_not_depend_on_workers_or_where_they_are_cut(options: dict[str, Any]) -> None:
    for scale in (2, [2, 3]):
        plain, other = batches(sample(scale=scale)), batches(sample(scale=scale, **options))
        for one, two in zip(plain, other, strict=True):
            assert torch.equal(one.lr_BCHW, two.lr_BCHW)
            assert torch.equal(one.hr_BCHW, two.hr_BCHW)
            assert one.lr_BCHW.shape == (4, 3, 16, 16)
            assert one.hr_BCHW.shape[-1] == 16 * one.scale
            levels = one.lr_BCHW * 255
            torch.testing.assert_close(levels, levels.round())


def test_patches_depend_on_their_position_alone() -> None:
    data = sample()
    train = data.dataset("train")
    order = np.arange(4) % 2
    whole = train.__getitems__(Draws(3, 5, 20, order)).to_unit()  # type: ignore[attr-defined]
    half = train.__getitems__(Draws(3, 5, 22, order[2:])).to_unit()  # type: ignore[attr-defined]
    torch.testing.assert_close(whole.lr_BCHW[2:], half.lr_BCHW, rtol=0, atol=1e-5)
    next_epoch = train.__getitems__(Draws(4, 5, 20, order)).to_unit()  # type: ignore[attr-defined]
    assert not torch.equal(whole.lr_BCHW, next_epoch.lr_BCHW)


def test_lr_patches_show_what_hr_patches_show() -> None:
    data = sample(patch_size=48, num_steps=6, limit=None)
    for batch in batches(data):
        small = torch.nn.functional.interpolate(batch.hr_BCHW, scale_factor=0.5, mode="area")
        for lr, hr in zip(batch.lr_BCHW, small, strict=True):
            if hr.std() > 0.1:  # there is something to see
                pair = torch.stack([lr.flatten(), hr.flatten()])
                assert torch.corrcoef(pair)[0, 1] > 0.5


def test_validation_photos_depend_on_their_names_alone() -> None:
    one, other = sample(seed=0, limit=1), sample(seed=1, limit=1)
    one.setup("validate")
    other.setup("validate")
    assert torch.equal(one.val[0].lr, other.val[0].lr)
    assert one.val[0].lr.shape[-1] == one.val[0].hr.shape[-1] // 2
    drawn = realistic()
    hr = photo("chelsea.png")[:, :64, :65]
    assert drawn.make_lr(hr, 3, "a").shape == (3, 21, 21)
    assert not torch.equal(drawn.make_lr(hr, 2, "a"), drawn.make_lr(hr, 2, "b"))


def test_folders_store_lr_photos_for_validation_alone(tmp_path: Path) -> None:
    for folder, name in (("train", "coffee.png"), ("val", "chelsea.png")):
        (tmp_path / folder).mkdir()
        array = photo(name)[:, :120, :160].permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / folder / name)
    data = PhotoFolders(
        str(tmp_path / "train"),
        str(tmp_path / "val"),
        scale=2,
        degradation=realistic(),
        patch_size=16,
        num_steps=1,
        batch_size=2,
    )
    data.setup()
    stored = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("packed/*/*/"))
    assert stored == ["HR", "HR", "X2-realistic"]
    expected = realistic().make_lr(photo("chelsea.png")[:, :120, :160], 2, "chelsea")
    assert torch.equal(data.val[0].lr, expected)
    assert batches(data)[0].lr_BCHW.shape == (2, 3, 16, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "first.jpeg=[30,120]",
            r"data.degradation.first.jpeg=\[30, 120\]: \[low,high\] from 1 to 100",
        ),
        ("second.sigma=[2,1]", r"data.degradation.second.sigma=\[2, 1\]"),
        (
            "first.blur_probability=1.1",
            "data.degradation.first.blur_probability=1.1: a probability",
        ),
        ("final_sinc_probability=-1", "data.degradation.final_sinc_probability=-1: a probability"),
        ("first.kernels={iso:-1}", "data.degradation.first.kernels={iso: -1, aniso: 0.25"),
        ("second.resize={up:0,down:0,keep:0}", "not all of them 0"),
        ("second.resize_range=[1.1,1.2]", "low up to 1 and high from 1"),
        ("margin=65", "data.degradation.margin=65: 0 to 64 LR pixels"),
    ],
)
def test_strengths_out_of_range_are_refused(word: str, message: str) -> None:
    with pytest.raises(InstantiationException) as caught:
        realistic(f"data.degradation.{word}")
    assert re.search(message, str(caught.value.__cause__))


def test_photos_that_need_the_margin_are_refused_by_size() -> None:
    with pytest.raises(ValueError, match=r"data\.patch_size=500 LR pixels with 8 around it"):
        sample(patch_size=500, limit=1).setup()


def test_given_lr_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.train_lr=a: is not read"):
        PhotoFolders(str(tmp_path), str(tmp_path), train_lr="a", degradation=realistic())

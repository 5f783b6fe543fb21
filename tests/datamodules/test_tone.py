"""Tone degradation against closed forms in NumPy."""

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
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from datamodules.batches import PairBatch
from datamodules.folders import PhotoFolders
from datamodules.sample import SamplePairs, photo
from datamodules.sampling import Draws, Purpose, random_stream
from datamodules.tone import STAGES, ToneDegradation, ToneDraws, white_balance
from images.pixels import to_bytes, to_unit
from system.places import CONF

Array = NDArray[np.float64]


@lru_cache
def settings(choice: str, *words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data: DictConfig = compose("train", [f"data/degradation={choice}", "scale=1", *words]).data
    return data


def tone(*words: str, choice: str = "tone") -> ToneDegradation:
    found = instantiate(settings(choice, *words).degradation, _convert_="all")
    assert isinstance(found, ToneDegradation)
    return found


def only(stage: str) -> ToneDegradation:
    """All photos go through one stage and no other."""
    shares = ",".join(f"{name}:{int(name == stage)}" for name in STAGES)
    return tone("data.degradation.mild=0", f"data.degradation.probability={{{shares}}}")


def sample(**options: Any) -> SamplePairs:  # noqa: ANN401
    options = {"batch_size": 4, "patch_size": 32, "num_steps": 2, "limit": 2, **options}
    return SamplePairs(1, degradation=tone(), **options)


def batches(data: SamplePairs, epochs: int = 1) -> list[PairBatch]:
    loader = data.train_dataloader()
    found = [batch for _ in range(epochs) for batch in loader]
    return [data.on_after_batch_transfer(batch, 0) for batch in found]


def streams(num: int, epoch: int = 0) -> list[np.random.Generator]:
    return [
        random_stream(0, epoch=epoch, position=k, purpose=Purpose.REALISTIC) for k in range(num)
    ]


def patches(num: int) -> Tensor:
    photos = [photo(name) for name in ("chelsea.png", "coffee.png", "astronaut.png")]
    cut = [photos[k % 3][:, 9 * k : 9 * k + 40, 50:98] for k in range(num)]
    return to_unit(torch.stack(cut))


def linear(values: Array) -> Array:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: Array) -> Array:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def gray(values: Array) -> Array:
    return np.einsum("c,chw->hw", [0.299, 0.587, 0.114], values)[None]


def plain(image: Array, draws: ToneDraws, k: int) -> Array:
    """All stages, image by image, before rounding."""
    strengths = [x[k].double().numpy() for x in draws if isinstance(x, Tensor)]
    t, a, gain, gamma, contrast, saturation = strengths
    image = encoded((linear(image) * t + a * (1 - t)) * gain[:, None, None])
    image = 0.5 + contrast * (image**gamma - 0.5)
    return gray(image) + saturation * (image - gray(image))


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_its_closed_form(stage: str) -> None:
    draws, images = only(stage).draw(streams(6), (40, 48), 1), patches(6)
    toned = draws.apply(images, 1).double().numpy()
    for k in range(6):
        image = images[k].double().numpy()
        t, a = draws.transmission_B[k].item(), draws.airlight_B[k].item()
        gain = draws.gain_BC[k].double().numpy()[:, None, None]
        gamma, contrast, saturation = (
            x[k].item() for x in (draws.gamma_B, draws.contrast_B, draws.saturation_B)
        )
        expected = {
            "haze": encoded(linear(image) * t + a * (1 - t)),
            "exposure": encoded(linear(image) * gain[1]),
            "white_balance": encoded(linear(image) * gain),
            "gamma": image**gamma,
            "contrast": 0.5 + contrast * (image - 0.5),
            "saturation": gray(image) + saturation * (image - gray(image)),
        }[stage]
        changed = np.abs(toned[k] - np.clip(expected, 0, 1)).max()
        assert changed < 0.501 / 255  # rounded to 8 bits
        assert np.abs(toned[k] - image).max() > 1 / 255
        if stage == "exposure":
            assert gain.max() == gain.min()  # no cast
    np.testing.assert_allclose(toned * 255, np.round(toned * 255), atol=1e-4)


def test_the_whole_chain_is_that_of_the_plain_version() -> None:
    draws, images = tone().draw(streams(24, epoch=1), (40, 48), 1), patches(24)
    toned = draws.apply(images, 1).double().numpy()
    for k in range(24):
        expected = np.clip(plain(images[k].double().numpy(), draws, k), 0, 1)
        assert np.abs(toned[k] - expected).max() < 0.501 / 255


def test_a_wrong_white_balance_keeps_the_luminance_of_grays() -> None:
    warmer, greener = np.array([0.0, 1.0, -0.5]), np.array([0.0, 0.0, 0.25])
    gains = white_balance(warmer, greener)
    np.testing.assert_allclose(gains @ [0.2126, 0.7152, 0.0722], 1)
    np.testing.assert_allclose(np.log2(gains[:, 0] / gains[:, 2]), warmer)
    middle = np.sqrt(gains[:, 0] * gains[:, 2])
    np.testing.assert_allclose(np.log2(gains[:, 1] / middle), greener, atol=1e-12)


def test_neutral_strengths_change_no_color() -> None:
    one, zero = torch.ones(1), torch.zeros(1)
    draws = ToneDraws(one, zero, torch.ones(1, 3), one, one, one, np.zeros((1, 2), np.int64))
    levels = torch.arange(256, dtype=torch.uint8)
    image = torch.stack([levels, levels.flip(0), levels.roll(77)]).view(1, 3, 16, 16)
    assert torch.equal(to_bytes(draws.apply(to_unit(image), 1)), image)


def test_stages_are_as_frequent_as_asked_and_some_photos_are_mild() -> None:
    draws = tone().draw(streams(4000), (8, 8), 1)
    gray_gain = draws.gain_BC @ torch.tensor([0.2126, 0.7152, 0.0722])
    strong = {
        "haze": draws.transmission_B < 1 - 0.03 * 0.41,
        "gamma": (draws.gamma_B - 1).abs() > 0.03 * 0.51,
        "exposure": gray_gain.log2().abs() > 0.03 * 2.01,
    }
    shares = tone().probability
    for name, is_strong in strong.items():  # of the nine in ten that are not mild, nearly
        assert is_strong.float().mean() == pytest.approx(0.9 * shares[name], abs=0.04)
    assert gray_gain.log2().min() == pytest.approx(-2, abs=0.02)
    assert gray_gain.log2().max() == pytest.approx(1, abs=0.02)
    mild = tone("data.degradation.mild=1").draw(streams(30), (40, 48), 1)
    error = (mild.apply(patches(30), 1) - patches(30)).square().mean(dim=(1, 2, 3))
    assert (-10 * error.log10()).median() > 36
    assert (error > 0).all()  # else PSNR would count as 100 dB


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"on_device": True}])
def test_patches_do_not_depend_on_workers_or_where_they_are_cut(options: dict[str, Any]) -> None:
    for one, two in zip(batches(sample()), batches(sample(**options)), strict=True):
        assert torch.equal(one.lr_BCHW, two.lr_BCHW)
        assert torch.equal(one.hr_BCHW, two.hr_BCHW)
        assert one.lr_BCHW.shape == one.hr_BCHW.shape == (4, 3, 32, 32)


def test_patches_depend_on_their_position_alone() -> None:
    train = sample().dataset("train")
    order = np.arange(4) % 2
    whole = train.__getitems__(Draws(3, 5, 20, order)).to_unit()  # type: ignore[attr-defined]
    half = train.__getitems__(Draws(3, 5, 22, order[2:])).to_unit()  # type: ignore[attr-defined]
    assert torch.equal(whole.lr_BCHW[2:], half.lr_BCHW)  # as on the second of two ranks
    next_epoch = train.__getitems__(Draws(4, 5, 20, order)).to_unit()  # type: ignore[attr-defined]
    assert not torch.equal(whole.lr_BCHW, next_epoch.lr_BCHW)


def test_validation_photos_depend_on_their_names_alone() -> None:
    one, other = sample(seed=0, limit=1), sample(seed=1, limit=1)
    one.setup("validate")
    other.setup("validate")
    assert torch.equal(one.val[0].lr, other.val[0].lr)
    assert not torch.equal(one.val[0].lr, one.val[0].hr)
    hr = photo("chelsea.png")[:, :64, :65]
    assert not torch.equal(tone().make_lr(hr, 1, "a"), tone().make_lr(hr, 1, "b"))


def test_realistic_degradation_follows_on_toned_patches() -> None:
    pytest.importorskip("kornia")
    both = tone(choice="tone_realistic")
    assert both.label() == "tone_realistic"
    assert both.margin == 8
    draws, images = both.draw(streams(3), (40, 48), 2, spare=16), patches(3)
    lr = draws.apply(images, 2)
    assert lr.shape == (3, 3, 20, 24)
    assert draws.then is not None
    np.testing.assert_array_equal(draws.corner_B2, draws.then.corner_B2)
    toned = draws._replace(then=None).apply(images, 2)
    assert torch.equal(draws.then.apply(toned, 2), lr)
    data = SamplePairs(2, degradation=both, batch_size=2, patch_size=16, num_steps=1, limit=1)
    (batch,) = batches(data)
    assert batch.hr_BCHW.shape == (2, 3, 32, 32)


def test_folders_train_on_shrunk_photos_and_validate_on_whole_ones(tmp_path: Path) -> None:
    for folder, name in (("train", "coffee.png"), ("val", "chelsea.png")):
        (tmp_path / folder).mkdir()
        array = photo(name)[:, :120, :160].permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / folder / name)
    options: dict[str, Any] = {"patch_size": 48, "num_steps": 1, "batch_size": 2, "shrink_to": 60}
    given = str(tmp_path / "train"), str(tmp_path / "val")
    data = PhotoFolders(*given, scale=1, degradation=tone(), **options)
    data.setup()
    stored = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("packed/*/*/"))
    assert stored == ["HR", "HR-60", "X1-tone"]
    assert data.train.hr.sizes.tolist() == [[60, 80]]
    small = Image.open(tmp_path / "train" / "coffee.png").resize((80, 60), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(data.train.hr[0], np.array(small), atol=1)
    expected = tone().make_lr(photo("chelsea.png")[:, :120, :160], 1, "chelsea")
    assert torch.equal(data.val[0].lr, expected)
    plain = PhotoFolders(*given, scale=2, **(options | {"patch_size": 24}))
    plain.setup()
    assert plain.train.lr[2].sizes.tolist() == [[30, 40]]
    with pytest.raises(ValueError, match=r"data\.train_lr=a: is not read, because data\.shrink_to"):
        PhotoFolders(*given, train_lr="a", scale=1, **options)


def test_built_in_photos_are_shrunk_for_training_alone() -> None:
    data = sample(shrink_to=100)
    data.setup()
    assert data.train.hr.sizes.min(axis=1).tolist() == [100, 100]
    assert data.val.hr.sizes.tolist() == [[300, 451], [400, 600]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "data.degradation.exposure=[-7,1]",
            r"data.degradation.exposure=\[-7, 1\]: \[low,high\] from -6 to 6",
        ),
        ("data.degradation.contrast=[1.2,0.5]", r"data.degradation.contrast=\[1.2, 0.5\]"),
        ("data.degradation.mild=1.5", "data.degradation.mild=1.5: a probability is from 0 to 1"),
        (
            "data.degradation.probability.haze=-1",
            "data.degradation.probability.haze=-1: a probability",
        ),
        (
            "+data.degradation.probability.fog=0.5",
            "probability=haze, .*fog: of haze, exposure, white_balance",
        ),
    ],
)
def test_strengths_out_of_range_are_refused(word: str, message: str) -> None:
    with pytest.raises(InstantiationException) as caught:
        tone(word)
    assert re.search(message, str(caught.value.__cause__))


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scale=2: data\.degradation=tone keeps the size"):
        SamplePairs(2, degradation=tone())
    with pytest.raises(ValueError, match=r"data\.shrink_to=16: not below data\.patch_size=32"):
        sample(shrink_to=16)

import numpy as np
import pytest
import scipy.ndimage
import torch

from datamodules.degradations import Degradation, gaussian_blur, jpeg, shrink
from datamodules.sample import photo
from datamodules.sampling import Purpose, random_stream


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return photo("chelsea.png")[:, :120, :160]


@pytest.mark.parametrize(("sigma", "kernel_size"), [(1.6, None), (1.6, 7), (0.5, 3)])
def test_blur_is_a_gaussian_with_mirrored_borders(
    image: torch.Tensor, sigma: float, kernel_size: int | None
) -> None:
    radius = (kernel_size or 2 * int(np.ceil(3 * sigma)) + 1) // 2
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    expected = image.numpy().astype(float)
    for axis in (1, 2):
        expected = scipy.ndimage.correlate1d(expected, taps, axis=axis, mode="mirror")
    blurred = gaussian_blur(image, sigma, kernel_size).numpy()
    assert np.abs(blurred - expected).max() <= 0.51


def test_noise_has_its_strength_and_jpeg_its_quality(image: torch.Tensor) -> None:
    gray = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noisy = Degradation(noise=10.0).apply_fixed(gray, "a").float()
    assert noisy.std().item() == pytest.approx(10, rel=0.02)
    assert noisy.mean().item() == pytest.approx(128, abs=0.2)
    errors = [(jpeg(image, q).float() - image).abs().mean().item() for q in (95, 50, 10)]
    assert errors == sorted(errors)
    assert torch.equal(Degradation(jpeg=40).apply_fixed(image, "a"), jpeg(image, 40))


def test_blur_comes_before_noise_before_jpeg(image: torch.Tensor) -> None:
    everything = Degradation(blur=1.0, noise=5.0, jpeg=40).apply_fixed(image, "name")
    noisy = Degradation(noise=5.0).apply_fixed(gaussian_blur(image, 1.0), "name")
    assert torch.equal(everything, jpeg(noisy, 40))


def test_fixed_depends_on_the_name_alone(image: torch.Tensor) -> None:
    drawn = Degradation(blur=[0.5, 3.0], noise=[1.0, 9.0], jpeg=[10, 90])
    assert torch.equal(drawn.apply_fixed(image, "a"), drawn.apply_fixed(image, "a"))
    assert not torch.equal(drawn.apply_fixed(image, "a"), drawn.apply_fixed(image, "b"))


def test_ranges_are_drawn_from(image: torch.Tensor) -> None:
    drawn = [
        Degradation(blur=[0.5, 3.0], jpeg=[10, 12]).draw(
            random_stream(0, position=k, purpose=Purpose.STRENGTH)
        )
        for k in range(200)
    ]
    blurs = [float(d.blur) for d in drawn]  # type: ignore[arg-type]
    assert 0.5 <= min(blurs) < 0.6
    assert 2.9 < max(blurs) <= 3.0
    assert {d.jpeg for d in drawn} == {10, 11, 12}
    assert {d.noise for d in drawn} == {0.0}


@pytest.mark.parametrize(
    "values",
    [{"blur": -1}, {"blur": [2.0, 1.0]}, {"blur": [1.0]}, {"jpeg": 0}, {"jpeg": 96},
     {"noise": 300}, {"kernel_size": 4}],
)  # fmt: skip
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"data.degradation.{name}="):
        Degradation(**values)  # type: ignore[arg-type]


def test_labels_tell_degradations_apart() -> None:
    labels = [
        Degradation().label(),
        Degradation(blur=1.6).label(),
        Degradation(blur=1.6, kernel_size=7).label(),
        Degradation(blur=[1.0, 2.0], noise=3, jpeg=40).label(),
    ]
    assert labels == ["", "blur1.6", "blur1.6_kernel7", "blur1-2_noise3_jpeg40"]


def test_tiny_sigmas_change_nothing(image: torch.Tensor) -> None:
    assert torch.equal(gaussian_blur(image, 1e-46), image)
    assert torch.equal(gaussian_blur(image, 0.1), image)  # as does the smallest that is computed


def test_too_small_for_a_blur_is_said() -> None:
    with pytest.raises(ValueError, match="9x4 pixels are too few for a blur over 31"):
        gaussian_blur(torch.zeros(3, 4, 9, dtype=torch.uint8), 5.0)


def test_shrinking_crops_to_a_multiple_first(image: torch.Tensor) -> None:
    assert shrink(image[:, :100, :101], 3).shape == (3, 33, 33)
    assert torch.equal(shrink(image[:, :100, :101], 3), shrink(image[:, :99, :99], 3))

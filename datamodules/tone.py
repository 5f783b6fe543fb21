"""Tone degradation: photos that are hazy, badly exposed, colour-cast or flat, each as a whole.

Every stage maps colours to colours, the same way everywhere in a photo. Haze, exposure and white
balance act on light and are computed in linear light (sRGB, IEC 61966-2-1), in which values beyond
white are lost, as in a camera. Gamma, contrast and saturation are what editors and displays do to
the file's values. The haze is that of Koschmieder's law, I = J t + A (1 - t), at one distance.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.drawn import DegradationDraws, DrawnDegradation, check_probability, check_range
from datamodules.realistic_stages import Numbers, to_levels
from datamodules.uniform import Floats, Uniform, to_float
from images.transfer import to_linear, to_srgb

STAGES = ("haze", "exposure", "white_balance", "gamma", "contrast", "saturation")  # in this order
# Share of the strengths in mild photos: hardly visible, about 40 dB. Equal photos would count as
# 100 dB and decide every mean.
MILD = 0.03
NUM_UNIFORM = 15  # random numbers of an image
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear light (ITU-R BT.709)
LUMA = (0.299, 0.587, 0.114)  # of a file's values (ITU-R BT.601)


class ToneDraws(NamedTuple):
    """The strengths of a batch; a stage that a photo does not go through has no effect."""

    transmission_B: Tensor  # 1 without haze
    airlight_B: Tensor
    gain_BC: Tensor  # of exposure and white balance
    gamma_B: Tensor
    contrast_B: Tensor
    saturation_B: Tensor
    corner_B2: Numbers  # see `DegradationDraws`
    then: DegradationDraws | None = None  # how the images are degraded next

    def apply(self, hr_BCHW: Tensor, scale: int) -> Tensor:
        """Degrade HR images in [0, 1] to LR images in [0, 1], with values of 8 bits."""
        light, veil, gamma, contrast, saturation = (
            x.view(-1, 1, 1, 1)
            for x in (
                self.transmission_B,
                self.airlight_B * (1 - self.transmission_B),
                *(self.gamma_B, self.contrast_B, self.saturation_B),
            )
        )
        image_BCHW = to_linear(hr_BCHW) * light + veil
        image_BCHW = to_srgb((image_BCHW * self.gain_BC[..., None, None]).clamp(0, 1))
        image_BCHW = (image_BCHW**gamma - 0.5) * contrast + 0.5
        luma = image_BCHW.new_tensor(LUMA).view(1, 3, 1, 1)
        gray = (image_BCHW * luma).sum(dim=1, keepdim=True)
        toned_BCHW = to_levels(torch.lerp(gray.expand_as(image_BCHW), image_BCHW, saturation)) / 255
        return toned_BCHW if self.then is None else self.then.apply(toned_BCHW, scale)


@dataclass(frozen=True)
class ToneDegradation(DrawnDegradation):
    """LR photos of wrong tones and the same size: `data.degradation=tone`.

    Strengths are [low, high], from which each photo draws uniformly.

    Args:
        mild: probability that a photo is nearly left alone: all stages at 3 % of their strength.
        probability: of each of the `STAGES` otherwise; a photo that none applies to is mild, too.
        transmission: share of the scene's light that reaches the camera through haze.
        airlight: brightness of the haze, in linear light.
        exposure: stops; each doubles the light, or halves it below 0.
        temperature: stops between red and blue; above 0 is too warm.
        tint: stops of green; above 0 is too green.
        gamma: exponent of values; above 1 darkens the middle tones.
        contrast: factor of the distance to mid grey, 0.5.
        saturation: factor of the distance to gray.
        then: a degradation that follows, such as the realistic one.

    Raises:
        ValueError: for values out of range.
    """

    mild: float
    probability: Mapping[str, float]
    transmission: list[float]
    airlight: list[float]
    exposure: list[float]
    temperature: list[float]
    tint: list[float]
    gamma: list[float]
    contrast: list[float]
    saturation: list[float]
    then: DrawnDegradation | None = None

    def __post_init__(self) -> None:
        check_probability("data.degradation.mild", self.mild)
        for name, value in self.probability.items():
            check_probability(f"data.degradation.probability.{name}", value)
        if set(self.probability) - set(STAGES):
            given = ", ".join(self.probability)
            raise ValueError(f"data.degradation.probability={given}: of {', '.join(STAGES)}")
        limits = {"transmission": (0.05, 1), "airlight": (0, 1), "exposure": (-6, 6)}
        limits |= {"temperature": (-4, 4), "tint": (-4, 4), "gamma": (0.1, 10)}
        limits |= {"contrast": (0.05, 4), "saturation": (0, 4)}
        for name, (low, high) in limits.items():
            check_range(f"data.degradation.{name}", getattr(self, name), low, high)

    @property
    def margin(self) -> int:  # type: ignore[override]
        """That of the degradation that follows; none for tones, which have no neighbours."""
        return self.then.margin if self.then else 0

    def label(self) -> str:
        """Return the name of the choice."""
        return f"tone_{self.then.label()}" if self.then else "tone"

    def check_scales(self, scales: Sequence[int]) -> None:
        """Raise a ValueError unless LR is as large as HR, or the next degradation shrinks it."""
        if self.then is None and list(scales) != [1]:
            given = ", ".join(map(str, scales))
            raise ValueError(
                f"scale={given}: data.degradation=tone keeps the size and needs scale=1; "
                "tone_realistic also makes LR photos smaller"
            )

    def draw(
        self,
        streams: Sequence[np.random.Generator],
        size: tuple[int, int],
        scale: int,
        *,
        spare: int = 0,
    ) -> ToneDraws:
        """Draw everything for a batch, see `DrawnDegradation.draw`."""
        draw = Uniform(streams, NUM_UNIFORM)
        mild_B = draw.happens(self.mild)
        happens = {name: draw.happens(self.probability.get(name, 0)) for name in STAGES}
        mild_B |= ~np.any(list(happens.values()), axis=0)

        def drawn(stage: str, ends: list[float], neutral: float) -> Floats:
            share_B = np.where(mild_B, MILD, happens[stage])
            return neutral + share_B * (draw.between(*ends) - neutral)

        transmission_B = drawn("haze", self.transmission, 1)
        airlight_B = draw.between(*self.airlight)
        light_B = 2 ** drawn("exposure", self.exposure, 0)
        warmer_B, greener_B = (
            drawn("white_balance", ends, 0) for ends in (self.temperature, self.tint)
        )
        gain_BC = white_balance(warmer_B, greener_B) * light_B[:, None]
        gamma_B = drawn("gamma", self.gamma, 1)
        contrast_B = drawn("contrast", self.contrast, 1)
        saturation_B = drawn("saturation", self.saturation, 1)
        assert not draw.columns
        then = None
        corner_B2 = np.zeros((len(streams), 2), np.int64)
        if self.then is not None:
            then = self.then.draw(streams, size, scale, spare=spare)
            corner_B2 = then.corner_B2
        return ToneDraws(
            to_float(transmission_B),
            to_float(airlight_B),
            to_float(gain_BC),
            to_float(gamma_B),
            to_float(contrast_B),
            to_float(saturation_B),
            corner_B2,
            then,
        )


def white_balance(warmer_B: Floats, greener_B: Floats) -> Floats:
    """Return gains of red, green and blue (B x 3) that keep the luminance of grays.

    Args:
        warmer_B: stops by which red gains on blue.
        greener_B: stops by which green gains on the mean of the two.
    """
    gain_B3: Floats = 2 ** np.stack([warmer_B / 2, greener_B, -warmer_B / 2], axis=1)
    gain_B3 /= (gain_B3 @ np.array(LUMINANCE))[:, None]
    return gain_B3

"""The image metrics that have a name: the one place to add another.

`metrics=[psnr,lpips]` in trainings and `evaluate` chooses from them; tables, reports and dashboards
take headings, digits and directions from here. Imports nothing heavy: `image_metrics` computes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# What a metric's function compares, always clamped and rounded to 8 bits:
# rgb: RGB in 0..255, float64, without a border of scale + 6 pixels
# luma: BT.601 luma in 16..235, float64, without a border of `scale` pixels
# whole: whole RGB images in [0, 1], float32
Images = Literal["rgb", "luma", "whole"]
Direction = Literal["higher", "lower"]

DIV2K = "DIV2K: RGB, border of scale + 6 pixels ignored."
BENCHMARK = "Benchmark: BT.601 luma, not rounded, border of scale pixels ignored."
ROUNDED = "Images are rounded to 8 bits first; means are over images."
DOWN = "\N{DOWNWARDS ARROW}"  # after headings of metrics that should be low
LOWER = f"{DOWN} lower is better."


@dataclass(frozen=True)
class ImageMetric:
    """How a metric is computed and shown.

    Attributes:
        function: dotted path of a function that maps B images and B references to B values, or of a
            class of networks that do.
        title: short name, for reports and dashboards.
        heading: of `evaluate`'s table, where it names the protocol.
        protocol: a line that says what is compared.
        images: see `Images`.
        arguments: of the function beside the images, or of the class.
        digits: decimals in tables.
        better: which values are better; None if unknown.
        unit: of the values, if any.
        backbone: network whose features are compared, if any: a perceptual distance.
    """

    function: str
    title: str
    heading: str
    protocol: str
    images: Images = "whole"
    arguments: Mapping[str, object] = field(default_factory=dict)
    digits: int = 4
    better: Direction | None = "higher"
    unit: str = ""
    backbone: str = ""

    @property
    def arrow(self) -> str:
        """Return what headings end in: an arrow if lower values are better."""
        return f" {DOWN}" if self.better == "lower" else ""


METRICS = {
    "psnr": ImageMetric(
        "lightning_modules.image_metrics.psnr",
        *("PSNR", "PSNR (DIV2K)", DIV2K, "rgb"),
        digits=2,
        unit="dB",
    ),
    "psnr_y": ImageMetric(
        "lightning_modules.image_metrics.psnr",
        *("PSNR Y", "PSNR (benchmark)", BENCHMARK, "luma"),
        digits=2,
        unit="dB",
    ),
    "ssim": ImageMetric(
        "networks.similarity.ssim",
        *("SSIM", "SSIM (benchmark)", BENCHMARK, "luma"),
        {"data_range": 255.0},
    ),
    "ms_ssim": ImageMetric(
        "networks.similarity.ms_ssim",
        *("MS-SSIM", "MS-SSIM"),
        "MS-SSIM: as benchmark SSIM, over five scales; fewer if a side is below 176 pixels.",
        "luma",
        {"data_range": 255.0},
    ),
    "lpips": ImageMetric(
        "networks.perceptual.LPIPS",
        *("LPIPS", "LPIPS"),
        f"LPIPS: RGB, no border, AlexNet, version 0.1. {LOWER}",
        arguments={"net": "alex"},
        better="lower",
        backbone="alexnet",
    ),
    "lpips_vgg": ImageMetric(
        "networks.perceptual.LPIPS",
        *("LPIPS VGG", "LPIPS VGG"),
        f"LPIPS VGG: RGB, no border, VGG-16, version 0.1. {LOWER}",
        arguments={"net": "vgg"},
        better="lower",
        backbone="vgg16",
    ),
    "lpips_squeeze": ImageMetric(
        "networks.perceptual.LPIPS",
        *("LPIPS Squeeze", "LPIPS Squeeze"),
        f"LPIPS Squeeze: RGB, no border, SqueezeNet 1.1, version 0.1. {LOWER}",
        arguments={"net": "squeeze"},
        better="lower",
        backbone="squeezenet1_1",
    ),
    "dists": ImageMetric(
        "networks.perceptual.DISTS",
        *("DISTS", "DISTS"),
        f"DISTS: RGB, no border, VGG-16, not resized. {LOWER}",
        better="lower",
        backbone="vgg16",
    ),
    "features": ImageMetric(
        "lightning_modules.feature_metric.Features",
        *("Features", "Features"),
        f"Features: RGB, no border, EfficientNet-Lite0 on ImageNet, relative distance. {LOWER}",
        better="lower",
        backbone="efficientnet_lite0",
    ),
    "delta_e": ImageMetric(
        "lightning_modules.image_metrics.delta_e",
        *("Delta E", "Delta E (CIEDE2000)"),
        f"Delta E: mean CIEDE2000 of sRGB pixels, no border; 1 is just visible. {LOWER}",
        digits=2,
        better="lower",
    ),
}
DEFAULT = ("psnr", "psnr_y", "ssim")
# Of the metrics that scorers give, which have settings of their own.
SCORES = {"score": "score", "score_judge": "judge"}
JUDGE = "judge_"  # start of the names of the scores by several judges


def is_score(name: str) -> bool:
    """Return whether a measurement comes from a scorer."""
    return name in SCORES or name.startswith(JUDGE)


def heading(name: str, about: Mapping[str, ImageMetric] = METRICS) -> str:
    """Return the heading of a metric or score in `evaluate`'s table."""
    if name in about:
        return about[name].heading + about[name].arrow
    return SCORES.get(name, name)


def digits(name: str, about: Mapping[str, ImageMetric] = METRICS) -> int:
    """Return the decimals of a metric or score in tables."""
    return about[name].digits if name in about else 2 if is_score(name) else 4


def direction(name: str, better: Mapping[str, Direction | None]) -> Direction | None:
    """Return which values of a metric or score are better.

    Args:
        name: of a metric, or of a score.
        better: of the metrics that were measured.
    """
    return "higher" if is_score(name) else better.get(name)


def judges_among(names: Iterable[str]) -> list[str]:
    """Return the measurements that judge: perceptual distances, and scores but the scorer's."""
    return [
        name
        for name in names
        if (is_score(name) and name != "score") or (name in METRICS and METRICS[name].backbone)
    ]


def protocols(about: Iterable[ImageMetric]) -> str:
    """Describe how metrics are measured, a line for each protocol."""
    return "".join(f"{line}\n" for line in dict.fromkeys([*(m.protocol for m in about), ROUNDED]))

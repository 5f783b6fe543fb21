"""Compare images with their references: the metrics of `metric_catalogue`, and any others.

Everything is computed outside autocast, per image, then averaged over images. Images are clamped
and rounded to 8 bits first. PSNR and SSIM compare in float64, networks in float32.

Two protocols, which the field mixes up:

- DIV2K: RGB, a border of `scale + 6` pixels ignored: `psnr`.
- Benchmarks (Set5 and the like): BT.601 luma, a border of `scale` pixels ignored: `psnr_y`, `ssim`
  and `ms_ssim`. The luma is not rounded, as in the published rows of networks; rounding it, as
  MATLAB does for uint8 images, costs 0.02 to 0.09 dB. A gray image goes through RGB to luma, too.

Equal images have `MAX_PSNR`.

Shape suffixes: B batch, C channels, H and W height and width.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from lightning_modules.metric_catalogue import (
    DEFAULT,
    LOWER,
    METRICS,
    SCORES,
    Direction,
    ImageMetric,
    Images,
)
from lightning_modules.metric_names import is_baseline

# Names in logs that mean something else.
RESERVED = {"loss", *SCORES, "contrast_drift", "saturation_drift"}
RESERVED |= {"grad_ratio", "grad_share", "weight"}
LUMA = (65.481, 128.553, 24.966)  # BT.601, RGB in [0, 1] to 16..235
# dB that equal images count as, in place of infinity, which no mean survives. Code of the field
# returns 100 where the error is 0, such as that of RCAN; larger values are cut to it, too.
MAX_PSNR = 100.0


def to_levels(image_BCHW: Tensor) -> Tensor:
    """Convert [0, 1] to whole grey levels 0..255, float64; on the CPU where a device lacks it."""
    if image_BCHW.device.type == "mps":
        image_BCHW = image_BCHW.cpu()
    return (image_BCHW.float() * 255.0).round().clamp(0, 255).double()


def luma(levels_BCHW: Tensor) -> Tensor:
    """Convert RGB levels 0..255 to BT.601 luma 16..235, not rounded; B x 1 x H x W."""
    weights = torch.tensor(LUMA, dtype=levels_BCHW.dtype, device=levels_BCHW.device)
    return (levels_BCHW / 255.0 * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True) + 16.0


def crop_border(image_BCHW: Tensor, border: int) -> Tensor:
    """Cut `border` pixels from each side.

    Raises:
        ValueError: if nothing would be left.
    """
    height, width = image_BCHW.shape[-2:]
    if min(height, width) <= 2 * border:
        raise ValueError(
            f"an image of {width}x{height} pixels is too small for a border of {border}"
        )
    return image_BCHW[..., border : height - border, border : width - border]


class ImageMetrics:
    """Image metrics chosen by name, and those of the user's own.

    Args:
        metrics: names in `metric_catalogue.METRICS`; dotted paths of functions or classes; or
            functions and networks themselves. What is not in the catalogue gets the whole RGB
            images in [0, 1], B x 3 x H x W, rounded to 8 bits: first SR, then HR. It returns B
            values, is called by the name of its function or class in logs, and may have an
            attribute `higher_is_better`.

    Attributes:
        about: each metric's description by name.

    Raises:
        ValueError: if a metric is unknown, given twice, cannot be built, or has no usable name.
    """

    def __init__(self, metrics: Sequence[str | Callable[..., Any]] = DEFAULT) -> None:
        self.about: dict[str, ImageMetric] = {}
        self.functions: dict[str, Callable[..., Any]] = {}
        for given in metrics:
            with torch.random.fork_rng(devices=[]):  # a metric's network changes no training
                name, about, function = found(given)
            if not name.isidentifier() or is_baseline(name) or name in RESERVED:
                raise ValueError(f"metrics: {name}: a metric cannot have this name")
            if name in self.about:
                raise ValueError(f"metrics: {name} is given twice")
            self.about[name] = about
            self.functions[name] = function

    @property
    def better(self) -> dict[str, Direction | None]:
        """Return which values of each metric are better: `higher`, `lower` or unknown."""
        return {name: about.better for name, about in self.about.items()}

    def __call__(self, sr_BCHW: Tensor, hr_BCHW: Tensor, scale: int) -> dict[str, Tensor]:
        """Compare images in [0, 1] with their references; B values of each metric, float32.

        Args:
            sr_BCHW: restored images, which are clamped.
            hr_BCHW: references.
            scale: HR pixels per LR pixel; sets the borders.

        Raises:
            ValueError: if the images are too small, or a metric does not return B values.
        """
        pairs: dict[Images, tuple[Tensor, Tensor]] = {}
        values = {}
        with torch.autocast(sr_BCHW.device.type, enabled=False):
            for name, function in self.functions.items():
                about = self.about[name]
                if about.images not in pairs:
                    pairs[about.images] = (
                        prepared(sr_BCHW, about.images, scale),
                        prepared(hr_BCHW, about.images, scale),
                    )
                if isinstance(function, nn.Module):
                    function.to(sr_BCHW.device)
                try:
                    value_B = torch.as_tensor(function(*pairs[about.images])).reshape(-1)
                except ValueError:
                    raise
                except Exception as error:  # a metric of the user's own may raise what it likes
                    reason = str(error).partition("\n")[0]
                    raise ValueError(
                        f"metrics: {name}: {type(error).__name__}: {reason}"
                    ) from error
                if value_B.is_complex():
                    raise ValueError(f"metrics: {name} returned complex numbers")
                if len(value_B) != len(sr_BCHW):
                    raise ValueError(
                        f"metrics: {name} returned {len(value_B)} values for {len(sr_BCHW)} images"
                    )
                values[name] = value_B.to(sr_BCHW.device, torch.float32)
        return values


def prepared(image_BCHW: Tensor, images: Images, scale: int) -> Tensor:
    """Round images and convert them to what a metric compares, see `Images`."""
    if images == "whole":
        return (image_BCHW.float() * 255.0).round().clamp(0, 255) / 255.0
    levels_BCHW = to_levels(image_BCHW)
    if images == "rgb":
        return crop_border(levels_BCHW, scale + 6)
    return crop_border(luma(levels_BCHW), scale)


def found(given: str | Callable[..., Any]) -> tuple[str, ImageMetric, Callable[..., Any]]:
    """Return a metric's name, its description and its function.

    Raises:
        ValueError: if it is unknown or cannot be built.
    """
    if isinstance(given, str) and given in METRICS:
        about = METRICS[given]
        return given, about, built(located(about.function), about.arguments)
    if isinstance(given, str) and "." not in given:
        raise ValueError(
            f"metrics: no such metric as {given}; there are {', '.join(METRICS)}, and functions of "
            "your own by their dotted path"
        )
    target = located(given) if isinstance(given, str) else given
    name = name_of(target)
    if name in METRICS and isinstance(target, nn.Module):  # LPIPS with weights from a file
        return name, METRICS[name], target
    better = getattr(target, "higher_is_better", None)
    source = getattr(target, "func", target)  # of a partial
    where = source if inspect.isroutine(source) or inspect.isclass(source) else type(source)
    about = ImageMetric(
        function=given if isinstance(given, str) else f"{where.__module__}.{where.__qualname__}",
        title=name,
        heading=name,
        protocol=f"{name}: RGB, no border, by {where.__module__}.{where.__qualname__}.",
        better=None if better is None else "higher" if better else "lower",
    )
    if about.better == "lower":
        about = replace(about, protocol=f"{about.protocol} {LOWER}")
    return name, about, built(target, {})


def located(path: str) -> Any:  # noqa: ANN401
    """Import a function or class by its dotted path.

    Raises:
        ValueError: if there is none.
    """
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"metrics: {path} cannot be imported ({error})") from error


def built(target: Any, arguments: Mapping[str, object]) -> Callable[..., Any]:  # noqa: ANN401
    """Build a network, in eval mode, or bind a function's arguments."""
    if inspect.isclass(target):
        target = target(**arguments)
    elif arguments:
        target = partial(target, **arguments)
    if not callable(target):
        raise ValueError(f"metrics: {target!r} is neither a function nor a network")
    return target.eval() if isinstance(target, nn.Module) else target


def name_of(target: Any) -> str:  # noqa: ANN401
    """Return the name of a metric in logs: its own, that of its function, or of its class."""
    if isinstance(given := getattr(target, "name", None), str):
        return given
    target = getattr(target, "func", target)  # of a partial
    if inspect.isroutine(target):
        return target.__name__
    name: str = (target if inspect.isclass(target) else type(target)).__name__
    return name.lower()


def image_metrics(
    sr_BCHW: Tensor, hr_BCHW: Tensor, scale: int, metrics: Sequence[str] = DEFAULT
) -> dict[str, Tensor]:
    """Fidelity of each image to its reference.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].
        scale: HR pixels per LR pixel; sets the borders.
        metrics: see `ImageMetrics`.

    Returns:
        `psnr` and `psnr_y` in dB (at most `MAX_PSNR`) and `ssim` within -1..1, or the chosen
        metrics; B values each, float32.
    """
    return ImageMetrics(metrics)(sr_BCHW, hr_BCHW, scale)


def drift(sr_BCHW: Tensor, hr_BCHW: Tensor) -> dict[str, Tensor]:
    """Measure how far contrast and saturation, which scorers tend to reward, moved from HR.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].

    Returns:
        `contrast_drift`: standard deviation of BT.601 luma over that of HR, less 1.
        `saturation_drift`: mean difference of the largest and the smallest colour channel over that
        of HR, less 1. B values each; 0 where nothing changed.
    """
    values = []
    for image in (sr_BCHW.float(), hr_BCHW.float()):
        weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1) / sum(LUMA)
        contrast_B = (image * weights).sum(dim=1).std(dim=(1, 2))
        saturation_B = (image.amax(dim=1) - image.amin(dim=1)).mean(dim=(1, 2))
        values.append(torch.stack([contrast_B, saturation_B]))
    sr, hr = values
    contrast_B, saturation_B = (sr - hr) / hr.clamp_min(1 / 255)  # HR may be gray, or empty
    return {"contrast_drift": contrast_B, "saturation_drift": saturation_B}


def psnr(levels_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each image in dB; images in 0..255."""
    value_B = peak_signal_noise_ratio(
        levels_BCHW, reference_BCHW, data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    return value_B.clamp(max=MAX_PSNR)


def delta_e(image_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """Compute the mean colour difference CIEDE2000 of each image; sRGB in [0, 1].

    In CIELAB under D65. Sharma, Wu, Dalal: "The CIEDE2000 color-difference formula", Color Research
    and Application 30, 2005.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    one, other = (
        rgb2lab(x.cpu().double().numpy(), channel_axis=1) for x in (image_BCHW, reference_BCHW)
    )
    difference_BHW = deltaE_ciede2000(one, other, channel_axis=1)  # type: ignore[no-untyped-call]
    return torch.from_numpy(difference_BHW.mean(axis=(1, 2)))

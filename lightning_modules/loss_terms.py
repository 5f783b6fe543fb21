"""Terms of an enhancer's loss: how far SR is from HR, or from what people like.

A term is a function or module that takes SR and HR, B x 3 x H x W in [0, 1], and returns one value,
or one for each image; SR is not clamped. `conf/loss/` has one file for each. Pixel differences are
in 0..255 units.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.checkpoint import load_scorer
from lightning_modules.scorer_ensemble import Ensemble, Reduce
from lightning_modules.scorer_views import Views, worst_nearby
from networks.nima import NIMA
from networks.pretrained import load_pretrained
from networks.similarity import ms_ssim
from networks.timm_backbone import find_backbone
from networks.views import Library

log = logging.getLogger(__name__)

Mode = Literal["linear", "hinge", "feature"]
Show = Callable[[Tensor], Tensor]  # from patches to what the scorers see
EPSILON = 1e-12  # inside roots, whose slope at 0 is infinite, and in divisors
MIN_SCORER_SIDE = 192  # pixels; a NIMA's features are 3 to 5 times too large on smaller images


def l2_loss(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """Mean squared error of images in [0, 1], **in 0..255 units**; a scalar."""
    return 65025.0 * F.mse_loss(sr_BCHW.float(), hr_BCHW.float())


def l1_loss(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """Mean absolute error of images in [0, 1], **in 0..255 units**; a scalar."""
    return 255.0 * F.l1_loss(sr_BCHW.float(), hr_BCHW.float())


def charbonnier_loss(sr_BCHW: Tensor, hr_BCHW: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Charbonnier's smooth L1, `mean sqrt(d^2 + epsilon^2)`, **in 0..255 units**; a scalar.

    Lai et al., LapSRN, CVPR 2017, section 3.3.

    Args:
        sr_BCHW: images in [0, 1].
        hr_BCHW: what they are compared with.
        epsilon: below it the loss is quadratic; of the difference in [0, 1].
    """
    difference = sr_BCHW.float() - hr_BCHW.float()
    return 255.0 * (difference.square() + epsilon**2).sqrt().mean()


def ms_ssim_loss(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """1 - MS-SSIM of each image, on RGB in [0, 1]; B values within 0..1.

    Zhao et al., "Loss Functions for Image Restoration with Neural Networks", IEEE TCI 2017.

    Raises:
        ValueError: if the images are smaller than 11 pixels.
    """
    with torch.autocast(sr_BCHW.device.type, enabled=False):  # its variances are small differences
        return 1 - ms_ssim(sr_BCHW.float(), hr_BCHW.float())


class ColorLoss(nn.Module):
    """Mean squared error of blurred images **in 0..255 units**: of colours, not of detail.

    Ignatov et al., DPED, ICCV 2017, section 3.1.1.

    Args:
        sigma: of the Gaussian blur, in pixels. It is cut at three sigma; borders are reflected.

    Raises:
        ValueError: if sigma is not positive.
    """

    window: Tensor

    def __init__(self, sigma: float = 3.0) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma={sigma}: above 0")
        self.radius = math.ceil(3 * sigma)
        place = torch.arange(-self.radius, self.radius + 1)
        window = torch.exp(-0.5 * (place / sigma) ** 2)
        self.register_buffer("window", window / window.sum())

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compare images; a scalar. Both sides have to be longer than three sigma."""
        x_BCHW = sr_BCHW.float() - hr_BCHW.float()  # a blur is linear
        radius, channels = self.radius, x_BCHW.shape[1]
        x_BCHW = F.pad(x_BCHW, (radius,) * 4, mode="reflect")
        for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
            kernel = self.window.view(shape).repeat(channels, 1, 1, 1)
            x_BCHW = F.conv2d(x_BCHW, kernel, groups=channels)
        return 65025.0 * x_BCHW.square().mean()


class FeatureLoss(nn.Module):
    """Distance of a backbone's features of SR and HR: a perceptual loss.

    For each layer, the squared distance of the features relative to the squared norm of those of
    HR, averaged over layers (Johnson, Alahi, Fei-Fei, ECCV 2016, section 3.2, made independent of
    the layers' ranges). 0 for equal images; about 1 for unrelated ones.

    Args:
        backbone: one of `networks.backbones.BACKBONES`, or of the library's.
        layers: names of its modules whose outputs are compared, such as `3` or `3.layers`.
        weights: `imagenet`, or a file, as `pretrained` of a NIMA.
        library: `timm`, or None for our own.

    Raises:
        ValueError: if backbone or layers are unknown, or the weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        layers: Sequence[str | int],
        weights: str = "imagenet",
        library: Library | None = None,
    ) -> None:
        super().__init__()
        kind = find_backbone(backbone, library)
        self.net = kind.build()
        if kind.load is not None:
            kind.load(self.net, weights)
        else:
            load_pretrained(self.net, backbone, weights)
        modules = dict(self.net.named_modules())
        self.layers = [str(name) for name in layers]
        unknown = [name for name in self.layers if not name or name not in modules]
        if unknown or not layers:
            raise ValueError(
                f"layers=[{','.join(self.layers)}]: {backbone} has the modules "
                f"{', '.join(name for name, _ in self.net.named_children())} and those inside them"
            )
        self.seen: dict[str, Tensor] = {}
        for name in self.layers:
            modules[name].register_forward_hook(partial(self.keep, name))
        self.register_buffer("mean", torch.tensor(kind.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(kind.std).view(1, 3, 1, 1))

    def keep(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Keep a layer's output; the layers after it may work in place."""
        self.seen[name] = output.clone()

    def features(self, images_BCHW: Tensor) -> list[Tensor]:
        """Compute the features of images, which are clamped to [0, 1]."""
        self.net((images_BCHW.clamp(0, 1) - self.mean) / self.std)
        found = [self.seen[name] for name in self.layers]
        self.seen = {}
        return found

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compare images, in float32; a scalar."""
        with torch.autocast(sr_BCHW.device.type, enabled=False):
            with torch.no_grad():
                hr = self.features(hr_BCHW.float())
            pairs = zip(self.features(sr_BCHW.float()), hr, strict=True)
        distances = [relative_distance(a.flatten(1), b.flatten(1)) for a, b in pairs]
        return torch.stack(distances).mean()


class AestheticLoss(nn.Module):
    """Aesthetic loss computed by one or several frozen scorers.

    Modes:

    - `linear`: `K - mean score` ("Neural Image Enhancement and Assessment", section 2.3.1): any
      score can be raised, also above that of HR. A scalar within 0..K-1.
    - `hinge`: `max(0, target - score of SR)` of each image. With HR's own score as the target, only
      what SR loses against its own HR is charged, so that nothing is gained by pleasing the scorer
      more than the original does (the margin of a ranking loss, with HR in place of a constant).
      With a constant, the reward stops where an image is good enough (ReFL). A scalar within
      0..K-1.
    - `feature`: squared distance of the scorer's pooled features of SR and HR, relative to the
      squared norm of those of HR (a perceptual loss: Johnson, Alahi, Fei-Fei, ECCV 2016; pooled,
      since the scorer looks at pooled features only). A scalar, 0 where they are equal.

    The score of a patch is that of the patch itself, or the mean over random views of it, or that
    at the worst place nearby, or both. HR is rated as SR is: the same views, its own worst place.
    Whole photos are rated as they are.

    Args:
        scorer: any NIMA, which is copied, or a checkpoint, or several of these, see `Ensemble`. K
            is the number of buckets of the first one.
        mode: see above.
        score_always: at weight 0, too, the scorer rates validation photos: so that a curve of
            scores by gamma begins there.
        trusted: modules that the scorer's class may come from, besides `networks`.
        target: of the hinge: `hr` or a score from 1 to K.
        reduce: how several scorers are combined, see `Ensemble`.
        rho: grey levels (root mean square) to the worst place nearby, see `worst_nearby`; 0 is off.
        views: names of what changes random views, see `Views`; none is the patch itself.
        num_views: views of each patch, each drawn anew.
        shift: see `Views`, as all that follows.
        noise: sigma in grey levels.
        resize: range of factors.
        jpeg: range of qualities.
        seed: the run's seed.

    Attributes:
        step: optimizer steps so far; random views depend on it.
        first: position of the next batch's first patch in the global batch; likewise.

    Raises:
        ValueError: if an option is unknown or out of its range, or the checkpoint is not a
            scorer's.
    """

    def __init__(
        self,
        scorer: NIMA | str | Path | Sequence[NIMA | str | Path],
        mode: Mode = "linear",
        score_always: bool = False,
        trusted: Sequence[str] = (),
        *,
        target: Literal["hr"] | float = "hr",
        reduce: Reduce = "mean",
        rho: float = 0.0,
        views: list[str] | None = None,
        num_views: int = 4,
        shift: int = 8,
        noise: float = 4.0,
        resize: Sequence[float] = (0.8, 1.25),
        jpeg: Sequence[int] = (50, 95),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode}: allowed are {', '.join(get_args(Mode))}")
        given = scorer if isinstance(scorer, Sequence) and not isinstance(scorer, str) else [scorer]
        loaded = [load_scorer(s, trusted) if isinstance(s, str | Path) else s for s in given]
        self.ensemble = Ensemble(loaded, reduce)
        if target != "hr" and not 1 <= target <= self.ensemble.num_buckets:
            raise ValueError(
                f"target={target}: hr, or a score from 1 to {self.ensemble.num_buckets}"
            )
        if not 0 <= rho <= 255:
            raise ValueError(f"rho={rho}: 0 to 255 grey levels")
        if mode == "feature" and (rho or reduce != "mean"):
            option = f"rho={rho}" if rho else f"reduce={reduce}"
            raise ValueError(f"{option}: mode=feature has no scores; mode=linear and hinge have")
        self.mode = mode
        self.score_always = score_always
        self.target = target
        self.rho = rho
        self.views = (
            Views(views, num_views, shift, noise, resize, jpeg, seed=seed) if views else None
        )
        self.step = self.first = 0
        self._warned = False

    @property
    def scorer(self) -> NIMA:
        """Return the scorer, the first of several."""
        return self.ensemble.scorers[0]

    def at(self, step: int, first: int) -> None:
        """Set the step and the position that the next random views are drawn for."""
        self.step, self.first = step, first

    def compile(self, *args: object, **options: object) -> None:
        """Compile the term as `nn.Module.compile` does; with views or rho, only its scores.

        Views are drawn on the CPU, and the worst place nearby takes a backward pass.
        """
        apart = self.views is not None or self.rho > 0
        compile_term = self.ensemble.compile if apart else super().compile
        compile_term(*args, **options)

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Mean of the term over a batch of patches.

        The scorer sees the images clamped to [0, 1], whole, at their own size; below 192 pixels
        they are enlarged to it, bilinearly.
        """
        show = enlarged if self.views is None else self.drawn_views(self.views, sr_BCHW)
        sr_BCHW, hr_BCHW = sr_BCHW.clamp(0, 1), hr_BCHW.clamp(0, 1)
        if self.mode == "feature":
            with torch.no_grad():
                target = self.ensemble.features(show(hr_BCHW))
            return mean_distance(self.ensemble.features(show(sr_BCHW)), target)
        score_B = self.rate(sr_BCHW, show)
        if self.mode == "linear":
            return self.ensemble.num_buckets - score_B.mean()
        with torch.no_grad():
            target_B = self.rate(hr_BCHW, show) if self.target == "hr" else self.target
        return (target_B - score_B).relu().mean()

    def rate(self, images_BCHW: Tensor, show: Show) -> Tensor:
        """Rate patches in [0, 1] as they are shown to the scorers; B."""

        def score(images_BCHW: Tensor) -> Tensor:
            score_SN = self.ensemble(show(images_BCHW))
            return self.ensemble.combined(score_SN.unflatten(1, (-1, len(images_BCHW))).mean(dim=1))

        if self.rho > 0:
            images_BCHW = worst_nearby(images_BCHW, score, self.rho)
        return score(images_BCHW)

    def whole(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the term for whole photos, which the scorer sees by its own rule, as they are.

        Returns:
            The mean of the term over the photos, and the score of each SR photo.
        """
        sr_BCHW = sr_BCHW.clamp(0, 1)
        score_B = self.ensemble.score(sr_BCHW)
        if self.mode == "linear":
            return self.ensemble.num_buckets - score_B.mean(), score_B
        if self.mode == "hinge":
            target_B = self.ensemble.score(hr_BCHW) if self.target == "hr" else self.target
            return (target_B - score_B).relu().mean(), score_B
        features = (self.ensemble.features(images, whole=True) for images in (sr_BCHW, hr_BCHW))
        return mean_distance(*features), score_B

    def drawn_views(self, views: Views, patches_BCHW: Tensor) -> Show:
        """Draw the views of this step's patches; SR and HR are shown in the same ones."""
        draws = views.draw(self.step, self.first, patches_BCHW)
        return lambda images_BCHW: enlarged(views.apply(images_BCHW, draws))

    def warn_of(self, images_BCHW: Tensor) -> None:
        """Warn once that patches are enlarged; not in `forward`, which may be compiled."""
        side = min(images_BCHW.shape[-2:])
        if side < MIN_SCORER_SIDE and not self._warned:
            self._warned = True
            log.warning(
                "the scorer sees patches of %d pixels enlarged to %d, and the blur changes its "
                "scores (data.patch_size x scale >= %d avoids this)",
                side,
                MIN_SCORER_SIDE,
                MIN_SCORER_SIDE,
            )


def enlarged(images_BCHW: Tensor) -> Tensor:
    """Enlarge patches that are too small for scorers."""
    side = min(images_BCHW.shape[-2:])
    if side >= MIN_SCORER_SIDE:
        return images_BCHW
    size = [round(length * MIN_SCORER_SIDE / side) for length in images_BCHW.shape[-2:]]
    return F.interpolate(images_BCHW, size=size, mode="bilinear")


def mean_distance(sr: Sequence[Tensor], hr: Sequence[Tensor]) -> Tensor:
    """Average `relative_distance` over several scorers' features."""
    pairs = zip(sr, hr, strict=True)
    return torch.stack([relative_distance(sr_BF, hr_BF) for sr_BF, hr_BF in pairs]).mean()


def relative_distance(sr_BC: Tensor, hr_BC: Tensor) -> Tensor:
    """Average the squared distance of features, relative to the squared norm of those of HR."""
    distance_B = (sr_BC - hr_BC).float().square().sum(dim=1)
    return (distance_B / (hr_BC.float().square().sum(dim=1) + EPSILON)).mean()

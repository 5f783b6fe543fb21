"""Terms of an enhancer's loss: how far SR is from HR, or from what people like.

A term is a function or module that takes SR and HR, B x 3 x H x W in [0, 1], and returns one value,
or one for each image; SR is not clamped. `conf/loss/` has one file for each. Pixel differences are
in 0..255 units.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.checkpoint import load_scorer
from networks.nima import NIMA, inference_copy, mean_score
from networks.pretrained import load_pretrained
from networks.similarity import ms_ssim
from networks.timm_backbone import find_backbone
from networks.views import Library

log = logging.getLogger(__name__)

Mode = Literal["linear", "hinge", "feature"]
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
    """Aesthetic loss computed by a frozen scorer.

    Modes:

    - `linear`: `K - mean score` ("Neural Image Enhancement and Assessment", section 2.3.1): any
      score can be raised, also above that of HR. A scalar within 0..K-1.
    - `hinge`: `max(0, score of HR - score of SR)` of each image: only what SR loses against its own
      HR is charged, so that nothing is gained by pleasing the scorer more than the original does
      (the margin of a ranking loss, with HR in place of a constant). A scalar within 0..K-1.
    - `feature`: squared distance of the scorer's pooled features of SR and HR, relative to the
      squared norm of those of HR (a perceptual loss: Johnson, Alahi, Fei-Fei, ECCV 2016; pooled,
      since the scorer looks at pooled features only). A scalar, 0 where they are equal.

    Args:
        scorer: any NIMA, which is copied, or a checkpoint. K is its number of buckets.
        mode: see above.
        score_always: at weight 0, too, the scorer rates validation photos: so that a curve of
            scores by gamma begins there.
        trusted: modules that the scorer's class may come from, besides `networks`.

    Raises:
        ValueError: if the mode is unknown, or the checkpoint is not a scorer's.
    """

    def __init__(
        self,
        scorer: NIMA | str | Path,
        mode: Mode = "linear",
        score_always: bool = False,
        trusted: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode}: allowed are {', '.join(get_args(Mode))}")
        loaded = scorer if isinstance(scorer, NIMA) else load_scorer(scorer, trusted)
        self.scorer = inference_copy(loaded)
        self.mode = mode
        self.score_always = score_always
        self._warned = False

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Mean of the term over a batch of patches.

        The scorer sees the images clamped to [0, 1], whole, at their own size; below 192 pixels
        they are enlarged to it, bilinearly.
        """
        sr_BCHW = self.view(sr_BCHW)
        if self.mode == "linear":
            return self.scorer.num_buckets - mean_score(self.scorer(sr_BCHW)).mean()
        with torch.no_grad():
            hr_BCHW = self.view(hr_BCHW)
            target = (
                self.scorer.pooled_features(hr_BCHW)
                if self.mode == "feature"
                else self.scorer(hr_BCHW)
            )
        if self.mode == "hinge":
            return (mean_score(target) - mean_score(self.scorer(sr_BCHW))).relu().mean()
        return relative_distance(self.scorer.pooled_features(sr_BCHW), target)

    def whole(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the term for whole photos, which the scorer sees by its own rule.

        Returns:
            The mean of the term over the photos, and the mean score of each SR photo.
        """
        seen_BCHW = self.scorer.prepare(sr_BCHW.clamp(0, 1))
        score_B = mean_score(self.scorer(seen_BCHW))
        if self.mode == "linear":
            return self.scorer.num_buckets - score_B.mean(), score_B
        hr_BCHW = self.scorer.prepare(hr_BCHW)
        if self.mode == "hinge":
            return (mean_score(self.scorer(hr_BCHW)) - score_B).relu().mean(), score_B
        features = (self.scorer.pooled_features(images) for images in (seen_BCHW, hr_BCHW))
        return relative_distance(*features), score_B

    def view(self, images_BCHW: Tensor) -> Tensor:
        """Prepare a batch of patches for the scorer: clamp, and enlarge small ones."""
        images_BCHW = images_BCHW.clamp(0, 1)
        side = min(images_BCHW.shape[-2:])
        if side >= MIN_SCORER_SIDE:
            return images_BCHW
        size = [round(length * MIN_SCORER_SIDE / side) for length in images_BCHW.shape[-2:]]
        return F.interpolate(images_BCHW, size=size, mode="bilinear")

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


def relative_distance(sr_BC: Tensor, hr_BC: Tensor) -> Tensor:
    """Average the squared distance of features, relative to the squared norm of those of HR."""
    distance_B = (sr_BC - hr_BC).float().square().sum(dim=1)
    return (distance_B / (hr_BC.float().square().sum(dim=1) + EPSILON)).mean()

"""NIMA: a convolutional network that predicts the distribution of people's ratings of a photo.

Talebi and Milanfar: "NIMA: Neural Image Assessment", IEEE TIP 2018. The classifier of a backbone is
replaced by global average pooling and a fully connected layer with softmax over K buckets; bucket k
(1..K) means a rating of k. "Neural Image Enhancement and Assessment" uses MnasNet as the backbone.

Images are RGB in [0, 1], at least 32 pixels high and wide.

Shape suffixes: B batch, C channels, H and W height and width, F features, K rating buckets.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from images.pixels import to_unit
from images.reading import read_image
from networks.backbones import COUNTER, SameConv2d, StridedConv2d, map_by_order
from networks.keras_files import read_keras
from networks.pretrained import load_pretrained
from networks.timm_backbone import find_backbone
from networks.views import MAX_VIEW, VIEW_ARGUMENTS, Library, Precision, ResizeFilter, ResizeRule
from networks.weights import load_weights
from system.places import expanded

# With fewer channels, casting takes the time that bfloat16 saves, and scores change by over 0.01.
MIN_BF16_CHANNELS = 96
MAX_SIDE = 30_000  # pixels
# Batch norms are folded into these alone: other subclasses may use their weights in another way.
FOLDABLE = (nn.Conv2d, StridedConv2d, SameConv2d)


class NIMA(nn.Module):
    """Predicts the distribution of ratings of a photo.

    Args:
        backbone: name of the part before the head: one of `BACKBONES`, or of `library`.
        num_buckets: K, the number of possible ratings (10 for AVA).
        dropout: probability of dropping a feature before the last layer (0.75 in the NIMA paper
            with pretrained features; use less from scratch).
        pretrained: initial weights of the backbone: `imagenet` downloads the published weights, a
            path reads them from a file (see `load_pretrained`), None initialises randomly.
        resize_rule: how whole images are resized: `squash` to `resize` x `resize` as in the papers;
            `short_side` to a shorter side of `resize`, keeping the aspect ratio; `native` not at
            all, so that the crop is a patch at full resolution.
        resize_filter: `bilinear`, with anti-aliasing, or `nearest`.
        resize: target side in pixels; ignored by `native`. None takes 256, or what the weights of
            the library were tested with.
        crop: side in pixels of the crop that the network sees: random in training, else central.
            None takes 192, or what the weights of the library were trained with.
        mean: subtracted from RGB in [0, 1]; None takes what the published weights expect.
        std: divides the result; None takes what the published weights expect.
        library: where the backbone comes from: `timm`, or None for one of `BACKBONES`.
        drop_path: of timm's backbones, see `timm_backbone`.

    Attributes:
        arguments: arguments that build this network again, as plain data, without `pretrained`.
        only_side: side in pixels of the only images that the backbone takes; others are resized to
            it, bilinearly. None means any.

    Raises:
        ValueError: for an unknown backbone, fewer than two buckets, or a crop larger than `resize`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "mnasnet_1_0",
        *,
        num_buckets: int = 10,
        dropout: float = 0.75,
        pretrained: str | None = None,
        resize_rule: ResizeRule = "squash",
        resize_filter: ResizeFilter = "bilinear",
        resize: int | None = None,
        crop: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        library: Library | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        kind = find_backbone(backbone, library, crop=crop, drop_path=drop_path)
        if num_buckets < 2:
            raise ValueError(f"num_buckets={num_buckets}: a distribution needs 2 or more")
        resize = kind.resize if resize is None else resize
        crop = kind.crop if crop is None else crop
        check_view(resize_rule, resize_filter, resize, crop)
        mean, std = (list(a or b) for a, b in ((mean, kind.mean), (std, kind.std)))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean={mean} std={std}: three numbers each, those of std above 0")
        self.backbone = backbone
        self.num_buckets = num_buckets
        self.resize_rule: ResizeRule = resize_rule
        self.resize_filter: ResizeFilter = resize_filter
        self.resize = resize
        self.crop = crop
        self.arguments: dict[str, object] = {
            "backbone": backbone,
            "num_buckets": num_buckets,
            "dropout": dropout,
            "resize_rule": resize_rule,
            "resize_filter": resize_filter,
            "resize": resize,
            "crop": crop,
            "mean": mean,
            "std": std,
        }
        if library is not None:
            self.arguments |= {"library": library, "drop_path": drop_path}
        self.only_side = kind.only_side
        self.features = kind.build()
        if pretrained is not None and kind.load is not None:
            kind.load(self.features, pretrained)
        elif pretrained is not None:
            load_pretrained(self.features, backbone, pretrained)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(kind.num_features, num_buckets)
        # Not saved as buffers: checkpoints contain them as constructor arguments.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Rate images at their own size: B x 3 x H x W in [0, 1] to p_BK, float32, rows sum to 1.

        The gradient reaches the pixels.
        """
        logits_BK: Tensor = self.head(self.dropout(self.pooled_features(images_BCHW)))
        return logits_BK.float().softmax(dim=1)

    def pooled_features(self, images_BCHW: Tensor) -> Tensor:
        """Average the features over each image: B x 3 x H x W in [0, 1] to B x F."""
        side = self.only_side
        if side is not None and images_BCHW.shape[-2:] != (side, side):
            images_BCHW = F.interpolate(images_BCHW, (side, side), mode="bilinear", antialias=True)
        x: Tensor = self.features((images_BCHW - self.mean) / self.std)
        return x.mean(dim=(2, 3)) if x.ndim == 4 else x  # timm's are pooled already

    def set_view(
        self,
        *,
        resize_rule: ResizeRule | None = None,
        resize_filter: ResizeFilter | None = None,
        resize: int | None = None,
        crop: int | None = None,
    ) -> None:
        """Change how whole images are resized and cropped; None leaves a setting unchanged.

        Scores are comparable only if they were computed with the same view.

        Raises:
            ValueError: if the constructor would refuse these arguments.
        """
        resize_rule = self.resize_rule if resize_rule is None else resize_rule
        resize_filter = self.resize_filter if resize_filter is None else resize_filter
        resize = self.resize if resize is None else resize
        crop = self.crop if crop is None else crop
        check_view(resize_rule, resize_filter, resize, crop)
        self.resize_rule, self.resize_filter = resize_rule, resize_filter
        self.resize, self.crop = resize, crop
        self.arguments |= {name: getattr(self, name) for name in VIEW_ARGUMENTS}

    def prepare(self, images_BCHW: Tensor) -> Tensor:
        """Resize whole images by this scorer's rule, round to 8 bits, and crop the centre.

        The rule changes scores by up to 0.7, so all images that are compared must go through it:
        training and validation data, score, evaluate.
        """
        x_BCHW = resize_images(
            images_BCHW, self.resize_rule, self.resize_filter, self.resize, self.crop
        )
        top, left = ((side - self.crop) // 2 for side in x_BCHW.shape[-2:])
        return x_BCHW[..., top : top + self.crop, left : left + self.crop]

    def rate(self, images: Tensor | str | Path) -> Tensor:
        """Rate whole images of any size.

        For images that require a gradient, it reaches the pixels as if `prepare` did not round; it
        is zero outside the crop. To train on patches, use `lightning_modules.losses.AestheticLoss`,
        which does not crop them.

        Args:
            images: B x 3 x H x W in [0, 1], or the path of one image file.

        Returns:
            p_BK for a batch, p_K for a file.

        Raises:
            ValueError: if the file cannot be read, or the tensor is not images in [0, 1].
        """
        p_BK: Tensor
        if isinstance(images, Tensor):
            check_images(images)
            with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
                p_BK = self(self.prepare(images))
            return p_BK
        if not isinstance(images, str | Path):
            raise ValueError(f"a path or a tensor is needed, not a {type(images).__name__}")
        image_BCHW = to_unit(read_image(expanded(images)))[None].to(self.mean.device)
        with torch.no_grad():
            p_BK = self(self.prepare(image_BCHW))
        return p_BK[0]

    @overload
    def score(self, images: Tensor) -> Tensor: ...

    @overload
    def score(self, images: str | Path) -> float: ...

    def score(self, images: Tensor | str | Path) -> Tensor | float:
        """Return the mean score, in 1..K, of each image of a batch, or of one image file.

        Takes the same images as `rate`, with the same gradient, so that
        `-scorer.score(images).mean()` is a loss.
        """
        if isinstance(images, Tensor):
            return mean_score(self.rate(images))
        return mean_score(self.rate(images)[None]).item()


def load_keras_nima(path: Path) -> NIMA:
    """Load a NIMA on MobileNet from a Keras file written by idealo's image-quality-assessment.

    Like these networks were trained, it sees whole photos squashed to 224 x 224 by nearest-pixel
    sampling.

    Raises:
        ValueError: if the file is not a Keras file, or contains another network.
    """
    state = read_keras(path)
    last = list(state.values())[-1] if state else torch.empty(0)
    num_buckets = len(last) if last.ndim else 0
    try:
        with torch.device("meta"):  # allocates nothing: the number of buckets is not checked yet
            own = NIMA("mobilenet_v1", num_buckets=max(2, num_buckets)).state_dict()
        needed = sum(not name.endswith(COUNTER) for name in own)
        if len(state) != needed:
            raise ValueError(f"{len(state)} tensors where {needed} are needed")
        mapped = map_by_order(state, own)
    except ValueError as error:
        raise ValueError(f"{path}: not a NIMA on MobileNet ({error})") from error
    scorer = NIMA(
        "mobilenet_v1",
        num_buckets=num_buckets,
        resize_rule="squash",
        resize_filter="nearest",
        resize=224,
        crop=224,
    )
    own = scorer.state_dict()
    load_weights(scorer, own | mapped, path)  # keeps the counters of the batch norms
    return scorer.eval()


def check_images(images_BCHW: Tensor) -> None:
    """Raise unless the input is a batch of images in [0, 1], give or take an enhancer's overshoot.

    Raises:
        ValueError: describing the input.
    """
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or not images_BCHW.numel():
        raise ValueError(f"B x 3 x H x W images are needed, not {tuple(images_BCHW.shape)}")
    if not images_BCHW.is_floating_point():
        raise ValueError(f"float images in [0, 1] are needed, not {images_BCHW.dtype}")
    low, high = (value.item() for value in images_BCHW.aminmax())
    if not (low >= -1 and high <= 2):
        raise ValueError(f"images in [0, 1] are needed, not from {low:g} to {high:g}")


def check_view(rule: ResizeRule, resize_filter: ResizeFilter, resize: int, crop: int) -> None:
    """Raise unless the rule and filter exist and the crop fits into the resized image.

    Raises:
        ValueError: describing what is allowed.
    """
    if rule not in get_args(ResizeRule):
        raise ValueError(f"resize_rule={rule}: allowed are {', '.join(get_args(ResizeRule))}")
    if resize_filter not in get_args(ResizeFilter):
        allowed = ", ".join(get_args(ResizeFilter))
        raise ValueError(f"resize_filter={resize_filter}: allowed are {allowed}")
    if crop < 32 or (rule != "native" and crop > resize):
        raise ValueError(f"crop={crop}, resize={resize}: 32 <= crop <= resize is needed")
    if max(crop, resize) > MAX_VIEW:
        raise ValueError(f"crop={crop}, resize={resize}: at most {MAX_VIEW}")


def resize_images(
    images_BCHW: Tensor, rule: ResizeRule, resize_filter: ResizeFilter, resize: int, crop: int
) -> Tensor:
    """Resize images by a rule and a filter (see `NIMA`), rounded to steps of 1/255.

    `native` only enlarges images that are smaller than the crop, keeping the aspect ratio. The
    gradient ignores the rounding (Bengio, Léonard, Courville, 2013: straight-through estimator).

    Raises:
        ValueError: if an image is so narrow that its longer side would exceed `MAX_SIDE`.
    """
    height, width = images_BCHW.shape[-2:]
    short = min(height, width)
    if rule == "squash":
        size = (resize, resize)
    else:
        aim = resize if rule == "short_side" else max(short, crop)
        size = (max(aim, round(height * aim / short)), max(aim, round(width * aim / short)))
    if max(size) > max(MAX_SIDE, height, width):
        raise ValueError(
            f"{width} x {height} pixels would become {size[1]} x {size[0]}: it is too narrow"
        )
    if size != (height, width):
        images_BCHW = images_BCHW.float()
        if resize_filter == "nearest":
            rows, columns = (
                nearest_pixels(old, new).to(images_BCHW.device)
                for old, new in zip((height, width), size, strict=True)
            )
            images_BCHW = images_BCHW[..., rows[:, None], columns]
        else:
            images_BCHW = F.interpolate(images_BCHW, size=size, mode="bilinear", antialias=True)
    levels_BCHW = (images_BCHW * 255.0).clamp(0, 255)
    rounded_BCHW = levels_BCHW.round()
    if levels_BCHW.requires_grad:
        rounded_BCHW = levels_BCHW + (rounded_BCHW - levels_BCHW).detach()  # exact below 256
    return rounded_BCHW / 255.0


def nearest_pixels(old: int, new: int) -> Tensor:
    """Return, for each new pixel, the index of the old pixel under its centre, as in Pillow.

    Pillow accumulates the scale in double precision. At some sizes (512 to 224), a centre on the
    border of two pixels thus belongs to the first; PyTorch's `nearest-exact` takes the second.
    """
    steps = np.full(new, old / new)
    steps[0] /= 2
    return torch.from_numpy(np.cumsum(steps).astype(np.int64)).clamp_max(old - 1)


def mean_score(p_BK: Tensor) -> Tensor:
    """Return the mean of each distribution: B x K to B, in 1..K."""
    buckets_K = torch.arange(1, p_BK.shape[1] + 1, device=p_BK.device, dtype=p_BK.dtype)
    return (p_BK * buckets_K).sum(dim=1)


def std_score(p_BK: Tensor) -> Tensor:
    """Return the standard deviation of each distribution: B x K to B, in 0..(K-1)/2."""
    buckets_K = torch.arange(1, p_BK.shape[1] + 1, device=p_BK.device, dtype=p_BK.dtype)
    variance_B = (p_BK * (buckets_K - mean_score(p_BK)[:, None]) ** 2).sum(dim=1)
    return variance_B.clamp_min(0).sqrt()


def fold_batch_norms(module: nn.Module) -> None:
    """Fold batch norms into the convolutions that they follow in a Sequential, in place.

    In eval mode, results change only by rounding. A folded module must not be trained.
    """
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        for i in range(len(child) - 1):
            conv, norm = child[i], child[i + 1]
            plain = type(conv) in FOLDABLE and type(norm) is nn.BatchNorm2d
            if plain and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                child[i] = fuse_conv_bn_eval(conv.eval(), norm.eval())
                child[i + 1] = nn.Identity()


def inference_copy(scorer: NIMA, precision: Precision = "float32") -> NIMA:
    """Return a faster frozen copy: batch norms folded, channels last, eval mode.

    Gradients still reach the pixels.

    Args:
        scorer: the original, which is not changed.
        precision: `bfloat16` applies to the wide 1x1 convolutions, which are most of the work. The
            others stay in float32: rounding the few weights of a depthwise convolution or of the
            first one changes scores by up to 0.1, rounding the wide ones by less than 0.01 for most
            scorers and by 0.03 for idealo's (measured, see benchmarks).
    """
    fast = copy.deepcopy(scorer).eval().requires_grad_(False)
    fold_batch_norms(fast)
    if precision == "bfloat16":
        for name, module in list(fast.named_modules()):
            if (
                isinstance(module, nn.Conv2d)
                and module.groups == 1
                and min(module.in_channels, module.out_channels) >= MIN_BF16_CHANNELS
            ):
                fast.set_submodule(name, BFloat16Conv2d(module))
    return fast.to(memory_format=torch.channels_last)


class BFloat16Conv2d(nn.Module):
    """A copy of a convolution, computed in bfloat16, that returns float32."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = copy.deepcopy(conv).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve B x C x H x W in bfloat16."""
        out: Tensor = self.conv(x.bfloat16())
        return out.float()

"""NIMA: a convolutional network that predicts how people's ratings of a photo are distributed.

Talebi and Milanfar: "NIMA: Neural Image Assessment", IEEE TIP 2018. A backbone's classifier is
replaced by global average pooling and a fully connected layer with softmax over K buckets; bucket k
(1..K) scores k. "Neural Image Enhancement and Assessment" takes MnasNet.

Images are RGB in [0, 1]; any height and width from 32 pixels up.

Shape suffixes: B batch, C channels, H and W height and width, F features, K rating buckets.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from images.pixels import to_unit
from images.reading import read_image
from networks.backbones import BACKBONES, COUNTER, in_order
from networks.keras_files import read_keras
from networks.weights import load_pretrained, load_weights

ResizeRule = Literal["squash", "short_side", "native"]
ResizeFilter = Literal["bilinear", "nearest"]
Precision = Literal["float32", "bfloat16"]
WIDE = 96  # channels; below, casting costs what bfloat16 saves, and scores move by 0.01 and more
MAX_SIDE = 30_000  # pixels
MAX_VIEW = 4096  # pixels a side that a NIMA may be made for: its first layer takes half a gigabyte
VIEW = ("resize_rule", "resize_filter", "resize", "crop")  # the arguments that say what a NIMA sees


class NIMA(nn.Module):
    """Predicts the distribution of ratings of a photo.

    Args:
        backbone: name of the convolutional part, one of `BACKBONES`.
        num_buckets: K, the number of ratings that people could choose from (10 for AVA).
        dropout: probability of dropping a feature before the last layer (0.75 in the NIMA paper,
            on pretrained features; lower from scratch).
        pretrained: where the backbone starts: `imagenet` fetches the published weights, a path
            reads them from a file (see `load_pretrained`), None draws random ones.
        resize_rule: how whole images become small: `squash` to `resize` x `resize` (the papers),
            `short_side` to `resize` with the aspect kept, or `native`: not at all, so that the crop
            is a patch at full resolution.
        resize_filter: `bilinear`, with anti-aliasing, or `nearest`, which takes single pixels.
        resize: side in pixels that the rule aims at; not read by `native`.
        crop: side of the crop that the network sees: random in training, the centre otherwise.
        mean: what is subtracted from RGB in [0, 1]; what the published weights expect if None.
        std: what it is divided by; likewise.

    Attributes:
        arguments: what builds this network again, as plain data: everything but `pretrained`.

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
        resize: int = 256,
        crop: int = 192,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone={backbone}: allowed are {', '.join(BACKBONES)}")
        if num_buckets < 2:
            raise ValueError(f"num_buckets={num_buckets}: a distribution needs 2 or more")
        check_view(resize_rule, resize_filter, resize, crop)
        kind = BACKBONES[backbone]
        mean, std = (list(a or b) for a, b in ((mean, kind.mean), (std, kind.std)))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean={mean} std={std}: three numbers each, those of std above 0")
        self.backbone = backbone
        self.num_buckets = num_buckets
        self.resize_rule: ResizeRule = resize_rule
        self.resize_filter: ResizeFilter = resize_filter
        self.resize = resize
        self.crop = crop
        self.arguments: dict[str, Any] = {
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
        self.features = kind.build()
        if pretrained is not None:
            load_pretrained(self.features, backbone, pretrained)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(kind.num_features, num_buckets)
        # Not saved: they are constructor arguments, which the checkpoint carries as such.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Rates images as they are: B x 3 x H x W in [0, 1] to p_BK, float32, rows sum to 1.

        The gradient reaches the pixels.
        """
        logits_BK: Tensor = self.head(self.dropout(self.pooled(images_BCHW)))
        return logits_BK.float().softmax(dim=1)

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        """Features averaged over each image as it is: B x 3 x H x W in [0, 1] to B x F."""
        x_BFHW: Tensor = self.features((images_BCHW - self.mean) / self.std)
        return x_BFHW.mean(dim=(2, 3))

    def look(self, view: Mapping[str, Any]) -> None:
        """Changes how whole images become what the network sees: any of the arguments in `VIEW`.

        Scores of another view are another measure, comparable among themselves only.

        Raises:
            ValueError: as the constructor.
        """
        given = {name: view.get(name, getattr(self, name)) for name in VIEW}
        check_view(*given.values())
        for name, value in given.items():
            setattr(self, name, value)
            self.arguments[name] = value

    def prepare(self, images_BCHW: Tensor) -> Tensor:
        """Applies this scorer's rule for whole images: resize, round to 8 bits, centre crop.

        The rule moves a score by up to 0.7, so everything that is compared goes through this one:
        training and validation data, score, evaluate.
        """
        x_BCHW = resize_images(
            images_BCHW, self.resize_rule, self.resize_filter, self.resize, self.crop
        )
        top, left = ((side - self.crop) // 2 for side in x_BCHW.shape[-2:])
        return x_BCHW[..., top : top + self.crop, left : left + self.crop]

    def rate(self, images: Tensor | str | Path) -> Tensor:
        """Rate whole images of any size.

        The gradient reaches the pixels of images that require one, as if `prepare` did not round;
        a rule that crops leaves it zero outside of the crop. Of others none is recorded. To train
        on patches use `lightning_modules.losses.AestheticLoss`, which shows them whole.

        Args:
            images: B x 3 x H x W in [0, 1], or the path of one image file.

        Returns:
            p_BK; of a file p_K.

        Raises:
            ValueError: if the file cannot be read, or these are no images in [0, 1].
        """
        if isinstance(images, Tensor):
            check_images(images)
            with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
                return self(self.prepare(images))  # type: ignore[no-any-return]
        if not isinstance(images, str | Path):
            raise ValueError(f"a path or a tensor is needed, not a {type(images).__name__}")
        image_BCHW = to_unit(read_image(Path(images).expanduser()))[None].to(self.mean.device)
        with torch.no_grad():
            return self(self.prepare(image_BCHW))[0]  # type: ignore[no-any-return]

    @overload
    def score(self, images: Tensor) -> Tensor: ...

    @overload
    def score(self, images: str | Path) -> float: ...

    def score(self, images: Tensor | str | Path) -> Tensor | float:
        """Mean score, within 1..K, of what `rate` takes: B values; of a file a number.

        `-scorer.score(images).mean()` is a loss of the images: see `rate` on its gradient.
        """
        if isinstance(images, Tensor):
            return mean_score(self.rate(images))
        return mean_score(self.rate(images)[None]).item()


def keras_nima(path: Path) -> NIMA:
    """A NIMA on MobileNet from a Keras file, as idealo's image-quality-assessment writes them.

    It sees whole photos squashed to 224 x 224 by taking the nearest pixels, as it was trained.

    Raises:
        ValueError: if the file is no Keras file, or of another network.
    """
    state = read_keras(path)
    last = list(state.values())[-1] if state else torch.empty(0)
    num_buckets = len(last) if last.ndim else 0
    view = {"resize_rule": "squash", "resize_filter": "nearest", "resize": 224, "crop": 224}
    try:
        with torch.device("meta"):  # without memory, for a number of buckets that nobody checked
            own = NIMA("mobilenet_v1", num_buckets=max(2, num_buckets)).state_dict()
        needed = sum(not name.endswith(COUNTER) for name in own)
        if len(state) != needed:
            raise ValueError(f"{len(state)} tensors where {needed} are needed")
        mapped = in_order(state, own)
    except ValueError as error:
        raise ValueError(f"{path}: not a NIMA on MobileNet ({error})") from error
    scorer = NIMA("mobilenet_v1", num_buckets=num_buckets, **view)  # type: ignore[arg-type]
    own = scorer.state_dict()
    load_weights(scorer, own | mapped, path)  # the counters of the batch norms stay
    return scorer.eval()


def check_images(images_BCHW: Tensor) -> None:
    """Refuses what are no images in [0, 1]; some overshoot of an enhancer is let through.

    Raises:
        ValueError: saying what was given.
    """
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3 or not images_BCHW.numel():
        raise ValueError(f"B x 3 x H x W images are needed, not {tuple(images_BCHW.shape)}")
    if not images_BCHW.is_floating_point():
        raise ValueError(f"float images in [0, 1] are needed, not {images_BCHW.dtype}")
    low, high = (value.item() for value in images_BCHW.aminmax())
    if not (low >= -1 and high <= 2):
        raise ValueError(f"images in [0, 1] are needed, not from {low:g} to {high:g}")


def check_view(rule: ResizeRule, resize_filter: ResizeFilter, resize: int, crop: int) -> None:
    """Refuses unknown rules and filters, and crops that the rule does not leave room for.

    Raises:
        ValueError: saying what is allowed.
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
    """Resizes by a rule and a filter (see `NIMA`), rounded to steps of 1/255.

    `native` enlarges only what is smaller than the crop, keeping the aspect. The gradient passes
    the rounding unchanged (Bengio, Léonard, Courville, 2013: the straight-through estimator).

    Raises:
        ValueError: for an image so narrow that it would become longer than `MAX_SIDE`.
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
        rounded_BCHW = levels_BCHW + (rounded_BCHW - levels_BCHW).detach()  # exact: less than 256
    return rounded_BCHW / 255.0


def nearest_pixels(old: int, new: int) -> Tensor:
    """The pixel of `old` under the centre of each of `new`, just as Pillow finds it.

    Pillow adds up the scale in double precision, so that at some sizes (512 to 224) a centre on the
    border of two pixels falls to the first; PyTorch's `nearest-exact` takes the second.
    """
    steps = np.full(new, old / new)
    steps[0] /= 2
    return torch.from_numpy(np.cumsum(steps).astype(np.int64)).clamp_max(old - 1)


def mean_score(p_BK: Tensor) -> Tensor:
    """Mean of each distribution: B x K to B, within 1..K."""
    buckets_K = torch.arange(1, p_BK.shape[1] + 1, device=p_BK.device, dtype=p_BK.dtype)
    return (p_BK * buckets_K).sum(dim=1)


def std_score(p_BK: Tensor) -> Tensor:
    """Standard deviation of each distribution: B x K to B, within 0..(K-1)/2."""
    buckets_K = torch.arange(1, p_BK.shape[1] + 1, device=p_BK.device, dtype=p_BK.dtype)
    variance_B = (p_BK * (buckets_K - mean_score(p_BK)[:, None]) ** 2).sum(dim=1)
    return variance_B.clamp_min(0).sqrt()


def fold_batch_norms(module: nn.Module) -> None:
    """Merges every batch norm that follows a convolution in a Sequential into it, in place.

    Changes nothing but rounding in eval mode; a folded module must not be trained.
    """
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        for i in range(len(child) - 1):
            conv, norm = child[i], child[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                child[i] = fuse_conv_bn_eval(conv.eval(), norm.eval())
                child[i + 1] = nn.Identity()


def inference_copy(scorer: NIMA, precision: Precision = "float32") -> NIMA:
    """A frozen copy that computes the same faster: batch norms folded, channels last, eval mode.

    The gradient to the pixels is kept.

    Args:
        scorer: left as it is.
        precision: `bfloat16` computes the wide 1x1 convolutions in it, which is most of the work.
            The others stay in float32: rounding the few weights of a depthwise or of the first
            convolution moves scores by up to 0.1, rounding these by less than 0.01 on most scorers
            and by 0.03 on idealo's (measured, see benchmarks).
    """
    fast = copy.deepcopy(scorer).eval().requires_grad_(False)
    fold_batch_norms(fast)
    if precision == "bfloat16":
        for name, module in list(fast.named_modules()):
            if isinstance(module, nn.Conv2d) and is_wide(module):
                fast.set_submodule(name, BFloat16Conv2d(module))
    return fast.to(memory_format=torch.channels_last)


def is_wide(conv: nn.Conv2d) -> bool:
    """Whether a convolution gains much by bfloat16, and loses little."""
    channels = min(conv.in_channels, conv.out_channels)
    return conv.groups == 1 and channels >= WIDE


class BFloat16Conv2d(nn.Module):
    """A convolution computed in bfloat16, float32 outside.

    Args:
        conv: its weights are copied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = copy.deepcopy(conv).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        return self.conv(x.bfloat16()).float()  # type: ignore[no-any-return]

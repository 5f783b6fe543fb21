"""NIMA: a convolutional network that predicts how people's ratings of a photo are distributed.

Talebi and Milanfar: "NIMA: Neural Image Assessment", IEEE TIP 2018. Here on MnasNet, as in
"Neural Image Enhancement and Assessment": the classifier is replaced by global average pooling and
a fully connected layer with softmax over K buckets; bucket k (1..K) scores k.

Images are RGB in [0, 1]; any height and width from 32 pixels up.

Shape suffixes: B batch, C channels, H and W height and width, F features, K rating buckets.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

ResizeRule = Literal["squash", "short_side", "native"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def mnasnet(name: str) -> Callable[[str | None], tuple[nn.Module, int]]:
    """Builder of torchvision's MnasNet of one width; returns its features and their number."""

    def build(pretrained: str | None) -> tuple[nn.Module, int]:
        # Only `layers` is kept: the MNASNet class itself refuses state dicts that lack PyTorch's
        # `_metadata`, which is what safetensors files and stripped checkpoints are.
        network = torchvision.models.get_model(name, weights=imagenet_weights(name, pretrained))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                # torchvision's 3e-4 needs ten thousand steps before the running statistics mean
                # anything; short trainings would be worse than the constant predictor.
                module.momentum = 0.1
        return network.layers, network.classifier[1].in_features

    return build


BACKBONES = {
    "mnasnet_0_5": mnasnet("mnasnet0_5"),
    "mnasnet_0_75": mnasnet("mnasnet0_75"),
    "mnasnet_1_0": mnasnet("mnasnet1_0"),
    "mnasnet_1_3": mnasnet("mnasnet1_3"),
}


def imagenet_weights(name: str, pretrained: str | None) -> object | None:
    """Torchvision's ImageNet weights of a model, fetched if need be; None where not asked for.

    Raises:
        ValueError: if `pretrained` is unknown, or the file is neither here nor can be fetched.
    """
    if pretrained is None:
        return None
    if pretrained != "imagenet":
        raise ValueError(f"pretrained={pretrained}: allowed are null and imagenet")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise ValueError(
            f"pretrained=imagenet: could not fetch {weights.url} ({error}); "
            f"download it elsewhere and put it into {folder}"
        ) from error
    return weights  # type: ignore[no-any-return]


class NIMA(nn.Module):
    """Predicts the distribution of ratings of a photo.

    Args:
        backbone: name of the convolutional part, one of `BACKBONES`.
        num_buckets: K, the number of ratings that people could choose from (10 for AVA).
        dropout: probability of dropping a feature before the last layer (0.75 in the NIMA paper,
            on pretrained features; lower from scratch).
        pretrained: `imagenet` starts from torchvision's weights, None from random ones.
        resize_rule: how whole images become small: `squash` to `resize` x `resize` (the papers),
            `short_side` to `resize` with the aspect kept, or `native`: not at all, so that the crop
            is a patch at full resolution.
        resize: side in pixels that the rule aims at; not read by `native`.
        crop: side of the crop that the network sees: random in training, the centre otherwise.
        mean: what is subtracted from RGB in [0, 1].
        std: what it is divided by.

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
        resize: int = 256,
        crop: int = 192,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone={backbone}: allowed are {', '.join(BACKBONES)}")
        if num_buckets < 2:
            raise ValueError(f"num_buckets={num_buckets}: a distribution needs 2 or more")
        check_sizes(resize_rule, resize, crop)
        self.backbone = backbone
        self.num_buckets = num_buckets
        self.resize_rule: ResizeRule = resize_rule
        self.resize = resize
        self.crop = crop
        self.features, num_features = BACKBONES[backbone](pretrained)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, num_buckets)
        # Not saved: they are constructor arguments, which the checkpoint carries as such.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Rates images as they are: B x 3 x H x W in [0, 1] to p_BK, float32, rows sum to 1.

        The gradient reaches the pixels.
        """
        x_BFHW = self.features((images_BCHW - self.mean) / self.std)
        logits_BK: Tensor = self.head(self.dropout(x_BFHW.mean(dim=(2, 3))))
        return logits_BK.float().softmax(dim=1)

    def prepare(self, images_BCHW: Tensor) -> Tensor:
        """Applies this scorer's rule for whole images: resize, round to 8 bits, centre crop.

        The rule moves a score by up to 0.7, so everything that is compared goes through this one:
        training and validation data, score, evaluate.
        """
        x_BCHW = resize_images(images_BCHW, self.resize_rule, self.resize, self.crop)
        top, left = ((side - self.crop) // 2 for side in x_BCHW.shape[-2:])
        return x_BCHW[..., top : top + self.crop, left : left + self.crop]

    @torch.no_grad()
    def rate(self, images_BCHW: Tensor) -> Tensor:
        """Rates whole images of any size: B x 3 x H x W in [0, 1] to p_BK."""
        return self(self.prepare(images_BCHW))  # type: ignore[no-any-return]

    @torch.no_grad()
    def score(self, images_BCHW: Tensor) -> Tensor:
        """Mean score of whole images of any size: B x 3 x H x W in [0, 1] to B, within 1..K."""
        return mean_score(self.rate(images_BCHW))


def check_sizes(rule: ResizeRule, resize: int, crop: int) -> None:
    """Refuses crops that the rule does not leave room for.

    Raises:
        ValueError: saying what is needed.
    """
    if rule not in get_args(ResizeRule):
        raise ValueError(f"resize_rule={rule}: allowed are {', '.join(get_args(ResizeRule))}")
    if crop < 32 or (rule != "native" and crop > resize):
        raise ValueError(f"crop={crop}, resize={resize}: 32 <= crop <= resize is needed")


def resize_images(images_BCHW: Tensor, rule: ResizeRule, resize: int, crop: int) -> Tensor:
    """Resizes by a rule (see `NIMA`), bilinear with anti-aliasing, rounded to steps of 1/255.

    `native` enlarges only what is smaller than the crop, keeping the aspect.
    """
    height, width = images_BCHW.shape[-2:]
    short = min(height, width)
    if rule == "squash":
        size = (resize, resize)
    else:
        aim = resize if rule == "short_side" else max(short, crop)
        size = (max(aim, round(height * aim / short)), max(aim, round(width * aim / short)))
    if size != (height, width):
        images_BCHW = F.interpolate(images_BCHW.float(), size=size, mode="bilinear", antialias=True)
    return (images_BCHW * 255.0).round().clamp(0, 255) / 255.0


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

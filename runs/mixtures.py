"""Measure mixtures of two networks, and plot them."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from images.pixels import to_unit
from lightning_modules.image_metrics import ImageMetrics
from lightning_modules.interpolation import mixed
from lightning_modules.metric_catalogue import heading
from networks.scales import at_scale
from networks.tiling import restore
from runs.measuring import mean_row, measure
from runs.raters import Rater
from system.progress import progress


def measure_mixtures(
    first: nn.Module,
    second: nn.Module,
    steps: int,
    photos: Any,  # noqa: ANN401
    raters: dict[str, Rater],
    device: torch.device,
) -> list[dict[str, float]]:
    """Measure the means over the photos at each of `steps` shares of the second network."""
    start, end = ({k: v.clone() for k, v in net.state_dict().items()} for net in (first, second))
    net = first.to(device)
    for rater in raters.values():
        rater.net.to(device)
    shares = [k / (steps - 1) for k in range(steps)]
    rows: list[list[dict[str, float]]] = [[] for _ in shares]
    places = [(s, k) for s in range(steps) for k in range(len(photos))]
    metrics = ImageMetrics()
    loaded = None
    for s, k in progress(places, "evaluating", len(places)):
        if s != loaded:
            net.load_state_dict(mixed(start, end, shares[s]))
            loaded = s
        photo = photos[k]
        sr = to_unit(restore(at_scale(net, photo.scale), photo.lr, device=device)).to(device)
        rows[s].append(measure(sr, to_unit(photo.hr).to(device), photo.scale, raters, metrics))
    keys = list(rows[0][0])
    return [
        {"share": share, **mean_row(part, keys)} for share, part in zip(shares, rows, strict=True)
    ]


def curve(rows: list[dict[str, float]], names: list[str], raters: dict[str, Rater]) -> Figure:
    """Plot each score over PSNR, or PSNR over the share if there is no scorer."""
    figure = Figure(figsize=(6.5, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    psnr = [row["psnr"] for row in rows]
    if raters:
        for name in raters:
            label = f"{heading(name)} (1..{raters[name].net.num_buckets})"
            axes.plot(psnr, [row[name] for row in rows], "o-", label=label)
        place = next(iter(raters))
        for row in rows:
            axes.annotate(
                f"{row['share']:g}",
                (row["psnr"], row[place]),
                textcoords="offset points",
                xytext=(5, 5),
                fontsize=8,
            )
        axes.set_xlabel("PSNR in dB (DIV2K protocol)")
        axes.set_ylabel("mean score")
        axes.legend()
    else:
        axes.plot([row["share"] for row in rows], psnr, "o-")
        axes.set_xlabel("share of the second network")
        axes.set_ylabel("PSNR in dB (DIV2K protocol)")
    axes.set_title(f"from {names[0]} (0) to {names[1]} (1)", fontsize=10)
    axes.grid(alpha=0.3)
    return figure

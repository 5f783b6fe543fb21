"""python run.py interpolate: measure mixtures of two networks, for a fidelity-score curve.

Weights of two trainings of the same network are mixed, `(1 - share) * first + share * second`,
for example those with gamma = 0 and with a gamma above it (Wang et al., "ESRGAN", ECCV workshops
2018, section 3.4). Two trainings give a whole curve, as a grid of gammas would.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pydantic import Field
from torch import nn

from configuration.own_data import own_data
from configuration.parsing import changed
from datamodules.base import ShardedDataModule
from images.pixels import to_unit
from lightning_modules.checkpoint import load_network
from lightning_modules.interpolation import mixed, same_network
from lightning_modules.pictures import save_figure
from networks.scales import at_scale
from networks.tiling import restore
from runs.invocation import Invocation
from runs.measuring import (
    HEADINGS,
    PROTOCOLS,
    Measurement,
    Measuring,
    describe,
    digits,
    mean_row,
    measure,
    measuring_problems,
    named,
    run_measurement,
    with_scale,
    write_csv,
)
from runs.raters import Rater, class_names, load_raters, rater_files
from runs.requirements import require_kind
from runs.results import Result
from system.progress import progress
from system.terminal import format_table


class Options(Measuring):
    """Keys of conf/interpolate.yaml that are not groups."""

    checkpoints: list[str] = Field(min_length=2, max_length=2)
    steps: int = Field(ge=2, le=101)  # shares have two digits


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that neither types nor signatures reveal."""
    yield from require_kind(cfg, "pairs")
    # A single file, which is no list, is `Options`' to refuse.
    paths = [] if isinstance(cfg.checkpoints, str) else list(cfg.checkpoints)
    yield from measuring_problems(cfg, "checkpoints", paths)


def run(cfg: DictConfig, invocation: Invocation) -> Result:
    """Write curve.csv, curve.png and result.json, and print a table."""
    paths = list(cfg.checkpoints)
    loaded = [load_network(path, "enhancer", cfg.trusted) for path in paths]
    (first, one), (second, two) = loaded
    same_network(one, two)
    data = own_data(cfg, invocation.overrides, [one, two], paths)
    cfg = with_scale(changed(cfg, {"data": data}), [first, second], paths)
    files = {f"checkpoints.{k}": path for k, path in enumerate(paths)} | rater_files(cfg)
    names = list(named(loaded, paths))

    raters = load_raters(cfg)

    def work(data: ShardedDataModule, folder: Path, device: torch.device) -> Measurement:
        photos: Any = data.val  # type: ignore[attr-defined]
        rows = measure_mixtures(first, second, cfg.steps, photos, raters, device)
        keys = [key for key in HEADINGS if key in rows[0]]
        write_csv(folder / "curve.csv", ["share", *keys], rows)
        save_figure(curve(rows, names, raters), folder / "curve.png")
        scales = f"x{', x'.join(map(str, photos.lr))}"
        title = f"from {names[0]} to {names[1]} ({scales}) on {data.description}"
        lines = [[f"{row['share']:.2f}", *digits(row, keys)] for row in rows]
        text = format_table(title, ["share", *(HEADINGS[key] for key in keys)], lines)
        note = describe(raters)
        if any(isinstance(module, nn.BatchNorm2d) for module in first.modules()):
            note = f"batch norms are mixed too: points between the ends are approximate\n{note}"
        metrics = {f"{key}/{row['share']:.2f}": row[key] for row in rows for key in keys}
        return Measurement(
            f"{text}\n{PROTOCOLS}{note}\n", metrics, ["curve.csv", "curve.png"], note
        )

    classes = class_names(loaded, raters)
    return run_measurement(cfg, invocation, files, "val", work, classes)


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
    loaded = None
    for s, k in progress(places, "evaluating", len(places)):
        if s != loaded:
            net.load_state_dict(mixed(start, end, shares[s]))
            loaded = s
        photo = photos[k]
        sr = to_unit(restore(at_scale(net, photo.scale), photo.lr, device=device)).to(device)
        rows[s].append(measure(sr, to_unit(photo.hr).to(device), photo.scale, raters))
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
            label = f"{HEADINGS[name]} (1..{raters[name].net.num_buckets})"
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

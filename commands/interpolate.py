"""python run.py interpolate: measure mixtures of two networks, for a fidelity-score curve.

Weights of two trainings of the same network are mixed, `(1 - share) * first + share * second`,
for example those with gamma = 0 and with a gamma above it (Wang et al., "ESRGAN", ECCV workshops
2018, section 3.4). Two trainings give a whole curve, as a grid of gammas would.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pydantic import Field

from configuration.own_data import own_data
from configuration.parsing import changed
from lightning_modules.metric_catalogue import DEFAULT, METRICS, SCORES, heading, protocols
from runs.invocation import Invocation
from runs.measuring_options import MeasuringOptions, measuring_problems
from runs.requirements import require_kind
from runs.results import Result
from system.terminal import format_table

if TYPE_CHECKING:
    import torch

    from datamodules.base import ShardedDataModule
    from runs.measuring import Measurement


class Options(MeasuringOptions):
    """Keys of conf/interpolate.yaml that are not groups."""

    checkpoints: list[str] = Field(min_length=2, max_length=2)
    steps: int = Field(ge=2, le=101)  # shares have two digits


def problems(cfg: DictConfig) -> Iterator[str]:
    """Check the name of the run, and that files exist."""
    # A single file, which is no list, is `Options`' to refuse.
    paths = [] if isinstance(cfg.checkpoints, str) else list(cfg.checkpoints)
    yield from measuring_problems(cfg, "checkpoints", paths)


def class_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the kind of the data set."""
    yield from require_kind(cfg, "pairs")


def run(cfg: DictConfig, invocation: Invocation) -> Result:
    """Write curve.csv, curve.png and result.json, and print a table."""
    from torch import nn

    from lightning_modules.checkpoint import load_network
    from lightning_modules.interpolation import same_network
    from lightning_modules.pictures import save_figure
    from runs import measuring
    from runs.mixtures import curve, measure_mixtures
    from runs.raters import class_names, load_raters, rater_files

    paths = list(cfg.checkpoints)
    loaded = [load_network(path, "enhancer", cfg.trusted, scale=cfg.scale) for path in paths]
    (first, one), (second, two) = loaded
    same_network(one, two)
    data = own_data(cfg, invocation.overrides, [one, two], paths)
    cfg = measuring.with_scale(changed(cfg, {"data": data}), [first, second], paths)
    files = {f"checkpoints.{k}": path for k, path in enumerate(paths)} | rater_files(cfg)
    names = list(measuring.named(loaded, paths))

    raters = load_raters(cfg)

    def work(data: "ShardedDataModule", folder: Path, device: "torch.device") -> "Measurement":
        photos: Any = data.val  # type: ignore[attr-defined]
        rows = measure_mixtures(first, second, cfg.steps, photos, raters, device)
        keys = [key for key in (*DEFAULT, *SCORES) if key in rows[0]]
        measuring.write_csv(folder / "curve.csv", ["share", *keys], rows)
        save_figure(curve(rows, names, raters), folder / "curve.png")
        scales = f"x{', x'.join(map(str, photos.lr))}"
        title = f"from {names[0]} to {names[1]} ({scales}) on {data.description}"
        lines = [[f"{row['share']:.2f}", *measuring.formatted(row, keys)] for row in rows]
        text = format_table(title, ["share", *map(heading, keys)], lines)
        note = measuring.describe(raters)
        if any(isinstance(module, nn.BatchNorm2d) for module in first.modules()):
            note = f"batch norms are mixed too: points between the ends are approximate\n{note}"
        metrics = {f"{key}/{row['share']:.2f}": row[key] for row in rows for key in keys}
        text += f"\n{protocols(METRICS[name] for name in DEFAULT)}{note}\n"
        return measuring.Measurement(text, metrics, ["curve.csv", "curve.png"], note)

    classes = class_names(loaded, raters)
    return measuring.run_measurement(cfg, invocation, files, "val", work, classes)

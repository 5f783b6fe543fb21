"""python run.py interpolate: measures networks between two, for a curve of fidelity and score.

Weights of two trainings of the same network are mixed, `(1 - share) * first + share * second`,
for example those with gamma = 0 and with a gamma above it (Wang et al., "ESRGAN", ECCV workshops
2018, section 3.4). Two trainings give a whole curve, as a grid of gammas would.
"""

import logging
from collections.abc import Iterator
from typing import Any, Literal

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor, nn

from commands.config import check_name, require_file, require_kind
from commands.device import pick_device
from commands.evaluate import (
    HEADINGS,
    PROTOCOLS,
    Rater,
    describe,
    load_raters,
    mean_row,
    measure,
    rater_files,
    record_name,
    set_scale,
    write_csv,
)
from commands.run_folder import Identity, State, current, decide, finish, locked, read_json, start
from commands.terminal import table
from datamodules.images import to_unit
from datamodules.parallel import progress
from lightning_modules.checkpoint import load_network
from lightning_modules.pictures import save_figure
from networks.scales import at_scale
from networks.tiling import restore

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Keys of conf/interpolate.yaml that are not groups."""

    model_config = ConfigDict(strict=True)

    checkpoints: list[str] = Field(min_length=2, max_length=2)
    steps: int = Field(ge=2)
    scale: Literal[1, 2, 3, 4] | None
    device: str
    name: str | None
    seed: NonNegativeInt
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that neither types nor signatures show."""
    yield from check_name(cfg)
    yield from require_kind(cfg, "pairs")
    for path in cfg.checkpoints:
        yield from require_file("checkpoints", path)
    yield from require_file("scorer.checkpoint", cfg.scorer.checkpoint)
    yield from require_file("judge.checkpoint", cfg.judge.checkpoint)


def interpolate(cfg: DictConfig) -> None:
    """Writes curve.csv, curve.png and result.json, and prints a table."""
    folder = current()
    paths = list(cfg.checkpoints)
    loaded = [load_network(path, kind="enhancer") for path in paths]
    (first, one), (second, two) = loaded
    if one["net"] != two["net"]:
        raise ValueError(f"checkpoints: {paths[0]} is {one['net']}, {paths[1]} {two['net']}")
    set_scale(cfg, [first, second], paths)
    files = {f"checkpoints.{k}": path for k, path in enumerate(paths)} | rater_files(cfg)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    datamodule: Any = instantiate(cfg.data, _convert_="all")
    data = datamodule.fingerprint("val")
    identity = Identity({str(key): value for key, value in config.items()}, files, data=data)
    state = decide(folder, identity, resume=False, overwrite=cfg.overwrite, stale=cfg.stale)
    if state is not State.FINISHED:
        device = pick_device(cfg.device)
        raters = load_raters(cfg, device)
        with locked(folder):
            start(folder, state, identity, cfg)
            datamodule.setup("validate")
            rows = measured(first, second, cfg.steps, datamodule.val, raters, device)
            keys = [key for key in HEADINGS if key in rows[0]]
            write_csv(folder / "curve.csv", ["share", *keys], rows)
            names = [record_name(record) for _, record in loaded]
            save_figure(curve(rows, names, raters), folder / "curve.png")
            note = describe(raters)
            title = f"from {names[0]} to {names[1]} on {datamodule.description}"
            lines = [
                [f"{row['share']:.2f}", *(f"{row[k]:.{4 if k == 'ssim' else 2}f}" for k in keys)]
                for row in rows
            ]
            text = table(title, ["share", *(HEADINGS[key] for key in keys)], lines)
            (folder / "table.txt").write_text(f"{text}\n{PROTOCOLS}{note}\n")
            metrics = {f"{key}/{row['share']:.2f}": row[key] for row in rows for key in keys}
            written = ["curve.csv", "curve.png", "result.json"]
            finish(folder, identity, metrics, files=written, device=str(device), note=note)
    result = read_json(folder / "result.json")
    assert result is not None
    log.info("\n%s", (folder / "table.txt").read_text())
    for path in result["files"]:
        log.info("%s", folder / path)


def mixed(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between two state dicts; 0 is the first, 1 the second. Counters are the first's."""
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value
        for name, value in first.items()
    }


def measured(
    first: nn.Module,
    second: nn.Module,
    steps: int,
    photos: Any,  # noqa: ANN401
    raters: dict[str, Rater],
    device: torch.device,
) -> list[dict[str, float]]:
    """Means over the photos at each of `steps` shares of the second network."""
    start, end = ({k: v.clone() for k, v in net.state_dict().items()} for net in (first, second))
    net = first.to(device)
    shares = [k / (steps - 1) for k in range(steps)]
    rows: list[list[dict[str, Any]]] = [[] for _ in shares]
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
    """PSNR against each score, from the first network to the second; by share without a scorer."""
    figure = Figure(figsize=(6.5, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    psnr = [row["psnr"] for row in rows]
    if raters:
        for name in raters:
            axes.plot(psnr, [row[name] for row in rows], "o-", label=HEADINGS[name])
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
        axes.set_ylabel(f"mean score (1..{next(iter(raters.values())).net.num_buckets})")
        if len(raters) > 1:
            axes.legend()
    else:
        axes.plot([row["share"] for row in rows], psnr, "o-")
        axes.set_xlabel("share of the second network")
        axes.set_ylabel("PSNR in dB (DIV2K protocol)")
    axes.set_title(f"from {names[0]} (0) to {names[1]} (1)", fontsize=10)
    axes.grid(alpha=0.3)
    return figure

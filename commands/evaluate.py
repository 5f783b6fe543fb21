"""python run.py evaluate: measures a checkpoint on held-out photos, beside its baseline."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from torch import nn

from commands.config import check_name, require_file, require_kind
from commands.device import pick_device
from commands.run_folder import (
    Identity,
    State,
    current,
    decide,
    finish,
    locked,
    read_json,
    shorter,
    start,
)
from commands.terminal import metrics_table, table
from datamodules.images import to_bytes, to_unit, write_image
from datamodules.parallel import progress
from datamodules.sampling import ShardedDataModule
from lightning_modules.checkpoint import Record, load_network, load_scorer
from lightning_modules.losses import emd_per_sample
from lightning_modules.metrics import Predictions, baselines, image_metrics, rating_metrics
from lightning_modules.pictures import comparison, save_before_after, save_rating_pictures
from networks.bicubic import Bicubic
from networks.nima import NIMA, VIEW, mean_score, std_score

log = logging.getLogger(__name__)

HEADINGS = {
    "psnr": "PSNR (DIV2K)",
    "psnr_y": "PSNR (benchmark)",
    "ssim": "SSIM (benchmark)",
    "score": "score",
}
PROTOCOLS = """\
DIV2K: RGB, border of scale + 6 pixels ignored. Benchmark: BT.601 luma in whole levels, border of
scale pixels ignored. Both on images rounded to 8 bits, averaged over images.
"""


class Options(BaseModel):
    """Keys of conf/evaluate.yaml that are not groups."""

    model_config = ConfigDict(strict=True)

    checkpoint: str
    scale: Literal[1, 2, 3, 4] | None
    device: str
    name: str | None
    seed: NonNegativeInt
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that neither types nor signatures show."""
    yield from check_name(cfg)
    yield from require_file("checkpoint", cfg.checkpoint)
    yield from require_file("scorer.checkpoint", cfg.scorer.checkpoint)


def evaluate(cfg: DictConfig) -> None:
    """Measures, writes result.json, per_image.csv and pictures, and prints a table."""
    folder = current()
    network, record = load_network(cfg.checkpoint)
    for problem in require_kind(cfg, "pairs" if record["kind"] == "enhancer" else "rated"):
        raise ValueError(f"{cfg.checkpoint} is a checkpoint of kind {record['kind']}; {problem}")
    files = {"checkpoint": cfg.checkpoint}
    if record["kind"] == "enhancer":
        if cfg.scale not in (None, network.scale):
            raise ValueError(f"scale={cfg.scale}, but {cfg.checkpoint} is for x{network.scale}")
        cfg.scale = network.scale
        if "scale" in cfg.data and cfg.data.scale != cfg.scale:
            raise ValueError(f"data.scale={cfg.data.scale}: {cfg.checkpoint} is for x{cfg.scale}")
        if cfg.scorer.checkpoint is not None:
            files["scorer.checkpoint"] = cfg.scorer.checkpoint
    else:
        assert isinstance(network, NIMA)
        sizes = {name: getattr(network, name) for name in ("num_buckets", *VIEW)}
        for name, value in sizes.items():
            if cfg.scorer[name] not in (None, value):
                raise ValueError(
                    f"scorer.{name}={cfg.scorer[name]}, but {cfg.checkpoint} has {value}"
                )
        cfg.scorer = {"checkpoint": None, **sizes}
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    datamodule: ShardedDataModule = instantiate(cfg.data, _convert_="all")
    # A scorer's constant predictor is the mean of the training data, an enhancer needs none.
    data = datamodule.fingerprint("val" if record["kind"] == "enhancer" else None)
    identity = Identity({str(key): value for key, value in config.items()}, files, data=data)
    state = decide(folder, identity, resume=False, overwrite=cfg.overwrite, stale=cfg.stale)
    if state is not State.FINISHED:
        pick_device(cfg.device)
        if cfg.scorer.checkpoint is not None:
            load_scorer(cfg.scorer.checkpoint)
        with locked(folder):
            start(folder, state, identity, cfg)
            measure = evaluate_enhancer if record["kind"] == "enhancer" else evaluate_scorer
            measure(cfg, network, record, datamodule, folder, identity)
    result = read_json(folder / "result.json")
    assert result is not None
    log.info("\n%s", (folder / "table.txt").read_text())
    for path in result["files"]:
        log.info("%s", folder / path)


def evaluate_enhancer(
    cfg: DictConfig,
    net: nn.Module,
    record: Record,
    datamodule: ShardedDataModule,
    folder: Path,
    identity: Identity,
) -> None:
    """PSNR, SSIM and score of bicubic, the network and HR on every validation photo."""
    device = pick_device(cfg.device)
    scale = int(cfg.scale)
    nets = {"bicubic": Bicubic(scale), record_name(record): net.to(device)}
    scorer = load_scorer(cfg.scorer.checkpoint).to(device) if cfg.scorer.checkpoint else None
    note = ""
    if scorer is not None:
        _, scorer_record = load_network(cfg.scorer.checkpoint, kind="scorer")
        note = f"scorer: {shorter(cfg.scorer.checkpoint)}, trained on {scorer_record['data']}"
    datamodule.setup("validate")
    rows: list[dict[str, Any]] = []
    files = []
    photos: Any = datamodule.val  # type: ignore[attr-defined]
    items = (photos[k] for k in range(len(photos)))
    for photo in progress(items, "evaluating", len(photos)):
        lr, hr = to_unit(photo.lr).to(device), to_unit(photo.hr).to(device)
        with torch.inference_mode():
            results = {name: each(lr[None])[0].clamp(0, 1) for name, each in nets.items()}
        for name, image in {**results, "HR": hr}.items():
            row: dict[str, Any] = {"image": photo.name, "net": name}
            values = {} if name == "HR" else image_metrics(image[None], hr[None], scale)
            if scorer is not None:
                values["score"] = scorer.score(image[None])
            rows.append(row | {key: value.item() for key, value in values.items()})
        own = {name: image for name, image in results.items() if name != "bicubic"}
        images = folder / "images"
        write_image(images / f"{photo.name}_lr.png", photo.lr, overwrite=True)
        write_image(images / f"{photo.name}_sr.png", to_bytes(*own.values()), overwrite=True)
        path = images / f"{photo.name}.png"
        save_before_after(comparison(lr, hr, own, scale, scorer), path, note)
        files.append(str(path.relative_to(folder)))
    names = [*nets, "HR"]
    keys = [key for key in HEADINGS if any(key in row for row in rows)]
    means = {name: mean_row([row for row in rows if row["net"] == name], keys) for name in names}
    write_csv(folder / "per_image.csv", ["image", "net", *keys], rows)
    lines = [
        [label, name, *(f"{values[key]:.{4 if key == 'ssim' else 2}f}" if key in values else "-"
                        for key in keys)]
        for label, name, values in [(r["image"], r["net"], r) for r in rows]
        + [("mean", name, means[name]) for name in names]
    ]  # fmt: skip
    title = f"{shorter(cfg.checkpoint)} (x{scale}) on {datamodule.description}"
    text = table(title, ["photo", "net", *(HEADINGS[key] for key in keys)], lines)
    own_name = record_name(record)
    gain = means[own_name]["psnr"] - means["bicubic"]["psnr"]
    text += f"\n{own_name} over bicubic: {gain:+.2f} dB PSNR (DIV2K)\n{PROTOCOLS}{note}\n"
    (folder / "table.txt").write_text(text)
    metrics = {f"{key}/{name}": v for name, values in means.items() for key, v in values.items()}
    metrics["psnr_gain"] = gain
    files = [*files, "per_image.csv", "result.json"]
    finish(folder, identity, metrics, files=files, device=str(device), world_size=1, note=note)


def evaluate_scorer(
    cfg: DictConfig,
    net: nn.Module,
    record: Record,
    datamodule: ShardedDataModule,
    folder: Path,
    identity: Identity,
) -> None:
    """EMD, correlations and accuracy beside the baselines, per photo too, and in pictures."""
    device = pick_device(cfg.device)
    net = net.to(device)
    datamodule.setup("validate")
    batches = datamodule.val_dataloader()
    with torch.inference_mode():
        pairs = [
            (net(batch.to_unit().images_BCHW.to(device)).cpu(), batch.p_BK)
            for batch in progress(batches, "evaluating", len(batches))
        ]
    p_NK, q_NK = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    metrics = {name: value.item() for name, value in rating_metrics(p_NK, q_NK).items()}
    data: Any = datamodule
    metrics |= baselines(data.train.p_NK, data.val.p_NK, data.val.num_votes_N)
    title = f"{shorter(cfg.checkpoint)} on {len(p_NK)} images: {datamodule.description}"
    (folder / "table.txt").write_text(metrics_table(title, metrics))
    values = {
        "mean": mean_score(p_NK),
        "std": std_score(p_NK),
        "true_mean": mean_score(q_NK),
        "true_std": std_score(q_NK),
        "emd": emd_per_sample(p_NK, q_NK),
    }
    per_image = [
        {"image": name} | {key: value[k].item() for key, value in values.items()}
        for k, name in enumerate(data.val.names.tolist())
    ]
    write_csv(folder / "per_image.csv", ["image", *values], per_image)
    items = torch.arange(len(p_NK))
    pictures = save_rating_pictures(
        Predictions(p_NK, q_NK, items), data.val, folder / "images", str(shorter(cfg.checkpoint))
    )
    files = [str(path.relative_to(folder)) for path in pictures.values()]
    files += ["per_image.csv", "result.json"]
    finish(folder, identity, metrics, files=files, device=str(device), world_size=1)


def record_name(record: Record) -> str:
    """What a table calls the network: its class and gamma."""
    return f"{record['net']['_target_'].rpartition('.')[2]} gamma={record['gamma']:g}"


def mean_row(rows: list[dict[str, Any]], keys: list[str]) -> dict[str, float]:
    """Means over images of the columns that all rows have."""
    return {
        key: sum(row[key] for row in rows) / len(rows)
        for key in keys
        if all(key in row for row in rows)
    }


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """A table with a header; columns that a row lacks are empty."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

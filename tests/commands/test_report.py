"""The report: what is read, the numbers, the figures, the page, and the page in a browser."""

import itertools
import json
import re
import shutil
import statistics
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from commands import album, figures
from commands.run_table import (
    Run,
    differing,
    find_folders,
    mean_and_std,
    newest_of_equal,
    pareto,
    read_run,
    read_runs,
    settings_of,
    variant_keys,
)
from tests.conftest import Finished

Cli = Callable[..., Finished]

NETS = {"edsr": "networks.edsr.EDSR", "mdsr": "networks.mdsr.MDSR"}
PHOTOS = ("chelsea", "coffee")


def make_run(
    folder: Path,
    *,
    net: str = "edsr",
    scale: int = 2,
    gamma: float = 0.0,
    seed: int = 0,
    lr: float = 1e-4,
    scorer: str | None = "a" * 64,
    judge: str | None = None,
    data: dict[str, Any] | None = None,
    psnr: float = 33.0,
    score: float | None = None,
    epochs: int = 8,
    finished: bool = True,
    about: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
) -> Path:
    """Writes the run folder of an enhancer as train does, with made-up metrics.

    `about` and `result` change what run.json and result.json hold beside the rest.
    """
    scales = [2, 3, 4] if net == "mdsr" else [scale]
    net_spec = {"_target_": NETS[net], **({"scales": scales} if net == "mdsr" else {})}
    config: dict[str, Any] = {
        "model": {"_target_": "lightning_modules.enhancement.EnhancementModule"},
        "net": net_spec,
        "data": {"_target_": "datamodules.div2k.DIV2K", "batch_size": 16, "seed": seed}
        | (data or {}),
        "optim": {"optimizer": {"lr": lr}},
        "gamma": gamma,
        "scale": None if net == "mdsr" else scale,
        "seed": seed,
        "epochs": epochs,
    }
    inputs = {"data": f"{scales}"}
    if gamma > 0 and scorer is not None:
        config["scorer"] = {"checkpoint": "outputs/nima/best.ckpt"}
        inputs["scorer.checkpoint"] = scorer
    if judge is not None:
        config["judge"] = {"checkpoint": "outputs/judge/checkpoints/best.ckpt"}
        inputs["judge.checkpoint"] = judge
    settings = {
        "net._target_": net_spec["_target_"],
        "optim.optimizer.lr": lr,
        "model.optimizer.lr": lr,
        "model.loss.gamma": gamma,
        "data.seed": seed,
        **{f"data.{key}": value for key, value in (data or {}).items()},
        **{key: config[key] for key in ("gamma", "scale", "seed", "epochs")},
    }
    record = {
        "run_id": "0123456789ab",
        "command": "train",
        "choices": {"net": net},
        "sweep": folder.parent.name if "sweeps" in folder.parts else None,
        "config": config,
        "config_hash": f"{settings}{inputs}",
        "settings": settings,
        "inputs": inputs,
        "code_hash": "c",
    } | (about or {})
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    fall = {s: 3.6 * (s - 2) for s in scales}  # dB that a larger scale costs
    metrics = {f"val/psnr/x{s}": psnr - fall[s] for s in scales}
    if score is not None:
        metrics |= {f"val/score/x{s}": score for s in scales}
    if judge is not None:
        metrics |= {f"val/score_judge/x{s}": 5.1 - 0.2 * gamma for s in scales}
    if len(scales) == 1:
        metrics = {name.rpartition("/")[0]: value for name, value in metrics.items()}
    else:
        metrics["val/psnr"] = statistics.fmean(metrics[f"val/psnr/x{s}"] for s in scales)
    names = ["epoch", "step", "train/loss", *metrics]
    lines = [",".join(names)]
    for epoch in range(epochs if finished else epochs // 2):
        behind = 1.5 * 0.6**epoch
        lines.append(f"{epoch},{10 * epoch},{20 + 60 * 0.6**epoch + gamma * 5}")
        values = [v - behind if "psnr" in name else v for name, v in metrics.items()]
        lines.append(",".join([str(epoch), str(10 * epoch + 9), "", *map(str, values)]))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if finished:
        content = {
            "metrics": metrics,
            "monitor": "val/psnr",
            "best_epoch": epochs,
            "epochs": epochs,
            "data": "DIV2K: 800 photos train, 100 validate",
            "wall_time_s": 60 * psnr,
            "device": "cuda:0",
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "finished": "2026-01-01T00:00:00+00:00",
            "warnings": [],
        }
        (folder / "result.json").write_text(json.dumps(record | content | (result or {})))
        make_photos(folder / "images", scales, psnr, score, seed)
    return folder


def make_photos(
    images: Path, scales: list[int], psnr: float, score: float | None, seed: int
) -> None:
    """Writes photos.json and crops: SR is HR with noise, the more the lower PSNR."""
    (images / "crops").mkdir(parents=True)
    rows = []
    noise = np.random.default_rng(seed).normal(0, 255 * 10 ** (-psnr / 20), (96, 96, 3))
    for name, scale in itertools.product(PHOTOS, scales):
        photo = Image.open(Path(skimage.data.__file__).parent / f"{name}.png").convert("RGB")
        hr = photo.crop((144, 60, 240, 156))
        lr = hr.resize((96 // scale, 96 // scale), Image.Resampling.BICUBIC)
        sr = Image.fromarray(np.clip(np.asarray(hr) + noise, 0, 255).astype(np.uint8))
        row: dict[str, Any] = {"id": name, "scale": scale, "box": [60, 144, 96, 96]}
        row |= {"psnr": psnr - 3.6 * (scale - 2), "ssim": 0.93, "psnr_bicubic": 31.0 - 2 * scale}
        if score is not None:
            row |= {"score": score, "score_bicubic": 4.9, "score_hr": 5.4}
        bicubic = lr.resize(hr.size, Image.Resampling.BICUBIC)
        for kind, picture in {"lr": lr, "bicubic": bicubic, "sr": sr, "hr": hr}.items():
            row[kind] = f"crops/{name}_x{scale}_{kind}.png"
            picture.save(images / row[kind])
        rows.append(row)
    (images / "photos.json").write_text(json.dumps({"epoch": 8, "photos": rows}))


def make_sweep(
    folder: Path, gammas: tuple[float, ...], seeds: int, scales: tuple[int, ...] = (2, 3, 4)
) -> None:
    """A sweep over gamma, net, scale and seed: PSNR falls and the score rises with gamma."""
    rng = np.random.default_rng(0)
    for gamma, seed in itertools.product(gammas, range(seeds)):
        for net, scale in [*(("edsr", scale) for scale in scales), ("mdsr", 2)]:
            loss = (1.2 if net == "edsr" else 0.9) * gamma**1.3
            psnr = (34.6 if net == "edsr" else 34.4) - loss + rng.normal(0, 0.04)
            score = 5.0 + 0.5 * gamma**0.6 + rng.normal(0, 0.02) if gamma else None
            make_run(
                folder / f"gamma-{gamma:g}_net-{net}_scale-{scale}_seed-{seed}",
                net=net,
                scale=scale,
                gamma=gamma,
                seed=seed,
                psnr=psnr,
                score=score,
            )

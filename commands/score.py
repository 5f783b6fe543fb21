"""python run.py score: rates image files."""

import csv
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict

from commands.config import require_file
from commands.device import pick_device
from commands.run_folder import shorter
from commands.terminal import table
from datamodules.images import find_images, read_image, to_unit
from datamodules.parallel import progress
from lightning_modules.checkpoint import load_network
from networks.nima import NIMA, mean_score, std_score

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Keys of conf/score.yaml."""

    model_config = ConfigDict(strict=True)

    input: str
    checkpoint: str
    output: str | None
    device: str
    overwrite: bool


def problems(cfg: DictConfig) -> Iterator[str]:
    """Mistakes that types do not show."""
    yield from require_file("checkpoint", cfg.checkpoint)
    try:
        find_images(cfg.input)
    except ValueError as error:
        yield str(error)
    if cfg.output is not None:
        if Path(cfg.output).suffix != ".csv":
            yield f"output={cfg.output}: a name that ends in .csv is needed"
        if Path(cfg.output).expanduser().is_dir():
            yield f"output={cfg.output}: is a folder"
        elif Path(cfg.output).expanduser().exists() and not cfg.overwrite:
            yield f"output={cfg.output} exists: overwrite=true replaces it"


def score(cfg: DictConfig) -> None:
    """Prints a table, best first; bad files are named at the end, with exit code 1."""
    device = pick_device(cfg.device)
    scorer, record = load_network(cfg.checkpoint, kind="scorer")
    assert isinstance(scorer, NIMA)
    scorer.to(device)
    rated: list[tuple[Path, float, float, list[float]]] = []
    bad = []
    paths = find_images(cfg.input)
    for path in progress(paths, "scoring", len(paths)):
        try:
            image_BCHW = to_unit(read_image(path))[None].to(device)
        except ValueError as error:
            bad.append(str(error))
            continue
        with torch.inference_mode():
            p_BK = scorer.rate(image_BCHW)
        mean, std = mean_score(p_BK).item(), std_score(p_BK).item()
        rated.append((path, mean, std, p_BK[0].tolist()))
    rows = [
        [str(path), f"{mean:.3f}", f"{std:.3f}"]
        for path, mean, std, _ in sorted(rated, key=lambda item: -item[1])
    ]
    if rows:
        columns = ["image", f"mean (1..{scorer.num_buckets})", "std"]
        title = f"scorer: {shorter(cfg.checkpoint)}, trained on {record['data']}"
        log.info("%s", table(title, columns, rows))
    if cfg.output is not None and rated:
        path = Path(cfg.output).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            buckets = [f"p{k}" for k in range(1, scorer.num_buckets + 1)]
            writer.writerow(["image", "mean", "std", *buckets])
            writer.writerows([str(image), mean, std, *p] for image, mean, std, p in rated)
        os.replace(temporary, path)
        log.info("%s", path)
    if bad:
        log.error("%d not scored:\n  %s", len(bad), "\n  ".join(bad))
        sys.exit(1)

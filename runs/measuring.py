"""Measure networks on held-out photos, in a run folder."""

import csv
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from configuration.parsing import changed
from configuration.trust import targets
from datamodules.base import ShardedDataModule
from lightning_modules.image_metrics import ImageMetrics
from lightning_modules.independence import dependence
from lightning_modules.metric_catalogue import Direction, digits
from lightning_modules.record import Record
from networks.scales import scales_of
from runs.code_identity import code_files
from runs.identity import Identity
from runs.invocation import Invocation
from runs.raters import Rater
from runs.results import Result
from runs.run_folder import State, decide, start
from system.device import pick_device
from system.files import writing
from system.json_files import JsonObject
from system.locks import locked
from system.places import display_path
from system.terminal import differing_part

log = logging.getLogger(__name__)


class Measurement(NamedTuple):
    """Outcome of a measurement: a table as text, metrics, and the files written, with a note.

    `better` says which values of an image metric are better; `nets` is as in `Result`.
    """

    text: str
    metrics: dict[str, float]
    files: list[str]
    note: str = ""
    better: dict[str, Direction | None] | None = None
    nets: dict[str, JsonObject] | None = None


def run_measurement(
    cfg: DictConfig,
    invocation: Invocation,
    files: dict[str, str],
    split: str | None,
    work: Callable[[ShardedDataModule, Path, torch.device], Measurement],
    networks: Iterable[str],
) -> Result:
    """Measure in a run folder unless its result exists already; print the result and return it.

    Args:
        cfg: resolved configuration with the keys of `MeasuringOptions` and `data`.
        invocation: the command, with the run folder.
        files: input files by key.
        split: split whose photos belong to the run's identity; None means all.
        work: does the measurement; called only if there is no result yet.
        networks: full names of the network classes, whose code belongs to the identity.
    """
    folder = invocation.folder
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    datamodule: ShardedDataModule = instantiate(cfg.data, _convert_="all")
    datamodule.reread = cfg.overwrite
    data = datamodule.fingerprint(split)
    code = code_files([f"commands.{invocation.command}", *targets(config), *networks])
    identity = Identity({str(key): value for key, value in config.items()}, files, code, data)
    state = decide(folder, identity, resume=False, overwrite=cfg.overwrite, stale=cfg.stale)
    if state is not State.FINISHED:
        device = pick_device(cfg.device)
        with locked(folder):
            start(invocation, state, identity, cfg)
            datamodule.setup("validate")
            made = work(datamodule, folder, device)
            with writing(folder / "table.txt"):
                (folder / "table.txt").write_text(made.text, encoding="utf-8")
            Result(
                folder,
                made.metrics,
                str(device),
                files=[*made.files, "result.json"],
                note=made.note,
                better=made.better,
                nets=made.nets,
            ).write(identity)
    result = Result.read(folder)
    log.info("\n%s", (folder / "table.txt").read_text(encoding="utf-8"))
    for path in result.paths:
        log.info("%s", path)
    return result


def with_scale(cfg: DictConfig, nets: list[nn.Module], paths: list[str]) -> DictConfig:
    """Return the configuration with the scale to measure at.

    That is the requested one, or all that the networks share.

    Raises:
        ValueError: if the networks have no scale in common, or lack the requested one.
    """
    shared = [s for s in scales_of(nets[0]) if all(s in scales_of(net) for net in nets)]
    each = ", ".join(
        f"{path} is for x{', x'.join(map(str, scales_of(net)))}"
        for path, net in zip(paths, nets, strict=True)
    )
    if not shared:
        raise ValueError(f"the checkpoints have no scale in common: {each}")
    if cfg.scale not in (None, *shared):
        raise ValueError(f"scale={cfg.scale}, but {each}")
    scales = shared if cfg.scale is None else [cfg.scale]
    scale = scales[0] if len(scales) == 1 else None
    if "scale" in cfg.data and cfg.data.scale not in (None, scale):
        raise ValueError(f"data.scale={cfg.data.scale}: set scale, which the data follow")
    return changed(cfg, {"scale": scale, "data.scale": scales if scale is None else scale})


def named(loaded: list[tuple[nn.Module, Record]], paths: list[str]) -> dict[str, nn.Module]:
    """Name the networks by class and gamma, and by file if two share these."""
    names = [record.label for _, record in loaded]
    alike = [path for name, path in zip(names, paths, strict=True) if names.count(name) > 1]
    parts = {path: differing_part(path, alike) for path in alike}
    unique = []
    for k, (name, path) in enumerate(zip(names, paths, strict=True), 1):
        if names.count(name) > 1:
            clear = [parts[other] for other in alike].count(parts[path]) == 1
            name += f" ({parts[path] if clear else k})"
        unique.append(name)
    return dict(zip(unique, (net for net, _ in loaded), strict=True))


def describe(raters: dict[str, Rater]) -> str:
    """Describe scorer and judges, and what they have in common."""
    what = {"score": "scorer", "score_judge": "judge"}
    lines = [
        f"{what.get(name, name)}: {display_path(rater.path)}, trained on {rater.record.data}"
        + "".join(f", {key}={value}" for key, value in rater.view.items())
        for name, rater in raters.items()
    ]
    judges = {name: rater.record for name, rater in raters.items() if name != "score"}
    for name, record in judges.items() if "score" in raters else ():
        who = "the judge" if name == "score_judge" else name
        lines += dependence(raters["score"].record, record, who)
    return "\n".join(lines)


def measure(
    image_CHW: Tensor,
    hr_CHW: Tensor | None,
    scale: int,
    raters: dict[str, Rater],
    metrics: ImageMetrics,
) -> dict[str, float]:
    """Measure the scores of one image in [0, 1], and its fidelity to HR if that is given."""
    values = {} if hr_CHW is None else metrics(image_CHW[None], hr_CHW[None], scale)
    for name, rater in raters.items():
        values[name] = rater.net.score(image_CHW[None])
    return {name: value.item() for name, value in values.items()}


def formatted(values: Mapping[str, float], keys: list[str]) -> list[str]:
    """Format the values of a table row; a dash where one is missing."""
    return [f"{values[key]:.{digits(key)}f}" if key in values else "-" for key in keys]


def mean_row(rows: list[dict[str, float]], keys: list[str]) -> dict[str, float]:
    """Average the columns that all rows have."""
    return {
        key: sum(row[key] for row in rows) / len(rows)
        for key in keys
        if all(key in row for row in rows)
    }


def write_csv(path: Path, columns: list[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file with a header; columns that a row lacks stay empty."""
    with writing(path), open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

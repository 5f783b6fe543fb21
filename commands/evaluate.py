"""python run.py evaluate: measure a checkpoint and its baseline on held-out photos."""

import logging
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from configuration.own_data import use_own_data
from datamodules.base import ShardedDataModule
from datamodules.batches import Pair
from images.pixels import to_unit
from images.writing import write_image
from lightning_modules.checkpoint import load_network
from lightning_modules.losses import emd_per_sample
from lightning_modules.metrics import (
    MAX_PSNR,
    Predictions,
    baselines,
    rating_metrics,
)
from lightning_modules.pictures import comparison, save_before_after, save_rating_pictures
from lightning_modules.record import Record
from networks.bicubic import Bicubic
from networks.nima import NIMA, VIEW_ARGUMENTS, mean_score, std_score
from networks.scales import at_scale
from networks.tensor_files import printable
from networks.tiling import SelfEnsemble, restore
from runs.measuring import (
    HEADINGS,
    PROTOCOLS,
    Measuring,
    Result,
    describe,
    digits,
    mean_row,
    measure,
    measuring_problems,
    named,
    record_name,
    run_measurement,
    set_scale,
    write_csv,
)
from runs.metrics_table import metrics_table
from runs.raters import Rater, class_names, load_raters, rater_files, view_of
from runs.requirements import require_kind
from system.places import display_path
from system.progress import progress
from system.terminal import format_table

log = logging.getLogger(__name__)

Row = dict[str, Any]  # measurements of one image, with `image`, `scale` and `net`
Means = dict[tuple[int | None, str], dict[str, float]]  # by scale (None: all scales) and network


class Options(Measuring):
    """Keys of conf/evaluate.yaml that are not groups."""

    checkpoint: str | list[str]
    self_ensemble: bool
    pictures: NonNegativeInt | None
    rows: PositiveInt | None


def problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that neither types nor signatures reveal."""
    paths = checkpoints(cfg)
    if not paths:
        yield "checkpoint=[]: one or several files"
    yield from measuring_problems(cfg, "checkpoint", paths)


def checkpoints(cfg: DictConfig) -> list[str]:
    """Return the checkpoints to measure."""
    return [cfg.checkpoint] if isinstance(cfg.checkpoint, str) else list(cfg.checkpoint)


def run(cfg: DictConfig) -> None:
    """Measure, write result.json, per_image.csv and pictures, and print a table."""
    paths = checkpoints(cfg)
    loaded = [load_network(path, trusted=cfg.trusted) for path in paths]
    if len({record.kind for _, record in loaded}) > 1:
        raise ValueError("checkpoint: enhancers and scorers are measured apart")
    use_own_data(cfg, [record for _, record in loaded], paths)
    for path, (_, record) in zip(paths, loaded, strict=True):
        for problem in require_kind(cfg, "pairs" if record.kind == "enhancer" else "rated"):
            raise ValueError(f"{path} is a checkpoint of kind {record.kind}; {problem}")
    kind = loaded[0][1].kind
    key = "checkpoint" if isinstance(cfg.checkpoint, str) else "checkpoint.{}"
    files = {key.format(k): path for k, path in enumerate(paths)}
    if kind == "enhancer":
        set_scale(cfg, [net for net, _ in loaded], paths)
        files |= rater_files(cfg)
    else:
        if len(paths) > 1:
            raise ValueError("checkpoint: scorers are measured one at a time")
        if cfg.self_ensemble:
            raise ValueError("self_ensemble=true: is for enhancers")
        for name, value in view_of(cfg, "judge").items():
            raise ValueError(f"judge.{name}={value}: is for enhancers; a scorer has no judge")
        network = loaded[0][0]
        assert isinstance(network, NIMA)
        sizes = {name: getattr(network, name) for name in ("num_buckets", *VIEW_ARGUMENTS)}
        for name, value in sizes.items():
            if cfg.scorer[name] not in (None, value):
                raise ValueError(f"scorer.{name}={cfg.scorer[name]}, but {paths[0]} has {value}")
        cfg.scorer = {"checkpoint": None, **sizes}

    raters = load_raters(cfg) if kind == "enhancer" else {}
    remarks = degradation_remarks(cfg, [record for _, record in loaded])

    def work(data: ShardedDataModule, folder: Path, device: torch.device) -> Result:
        if kind == "enhancer":
            nets = named(loaded, paths)
            return evaluate_enhancers(cfg, nets, raters, remarks, data, folder, device)
        remark = split_remark(cfg, loaded[0][1])
        return evaluate_scorer(loaded[0][0], paths[0], remark, data, folder, device)

    # A scorer's constant predictor is the mean of the training data, an enhancer needs none.
    networks = class_names(loaded, raters)
    run_measurement(cfg, files, "val" if kind == "enhancer" else None, work, networks)


def degradation_remarks(cfg: DictConfig, records: list[Record]) -> list[str]:
    """Note the networks that were trained on LR photos degraded in another way.

    Raises:
        ValueError: if LR would be HR, at scale 1.
    """
    names = ("blur", "noise", "jpeg")
    node = cfg.data.get("degradation")
    given = node and {name: node[name] or 0 for name in names}  # null is none
    made = not (cfg.data.get("val_lr") or cfg.data.get("root"))
    if cfg.scale == 1 and made and given and not any(given.values()):
        raise ValueError("scale 1: LR would be HR; give the data.degradation that is to be undone")
    remarks = []
    for record in records:
        trained = record.trained_degradation
        if not trained or not given:
            continue
        differing = [name for name in names if (trained[name] or 0) != given[name]]
        if differing:
            shown = " ".join(f"data.degradation.{name}={trained[name]}" for name in differing)
            remarks.append(f"{record_name(record)} was trained with {shown}, not measured so here")
    return remarks


def split_remark(cfg: DictConfig, record: Record) -> str:
    """Warn if the scorer may have been trained on photos that it is now measured on.

    Args:
        cfg: the configuration, with the data to measure on.
        record: the scorer's record; that of an exported one lacks the split of its images.

    Returns:
        The warning; empty if there is no reason for one.
    """
    trained = record.data_config
    measured = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(measured, dict)
    if trained.get("_target_") != measured["_target_"] or measured.get("val_list") is not None:
        return ""  # a list was chosen by hand
    keys = ("split", "val_list", "test_list", "val_share", "split_seed")
    differing = [key for key in keys if trained.get(key) != measured.get(key)]
    if not differing:
        return ""
    shown = printable(" ".join(f"data.{key}={trained.get(key)}" for key in differing))
    return (
        f"was trained with {shown}, which is not the split here: where the images are the same, "
        "some that are measured have trained it (data.val_list=FILE names those that have not)"
    )


def check_names(names: list[str]) -> None:
    """Refuse photos whose pictures would overwrite each other.

    Raises:
        ValueError: naming the photos.
    """
    for name in names:
        stem = re.sub(r"_(lr|sr\d*)$", "", name)
        if stem != name and stem in names:
            raise ValueError(f"photos {stem} and {name}: {stem}'s results would have {name}'s name")


def evaluate_enhancers(
    cfg: DictConfig,
    own: dict[str, nn.Module],
    raters: dict[str, Rater],
    remarks: list[str],
    datamodule: ShardedDataModule,
    folder: Path,
    device: torch.device,
) -> Result:
    """Measure the baseline, the networks and HR on every validation photo."""
    for module in (*own.values(), *(rater.net for rater in raters.values())):
        module.to(device)
    scorer = raters["score"].net if "score" in raters else None
    note = "\n".join(filter(None, [*remarks, describe(raters)]))
    source = describe({"score": raters["score"]}) if scorer is not None else ""  # in the pictures
    photos: Any = datamodule.val  # type: ignore[attr-defined]
    check_names(photos.hr.names.tolist())
    scales = list(photos.lr)
    baseline = "bicubic" if scales != [1] else "input"  # the same at scale 1
    rows: list[Row] = []
    files = ["per_image.csv"]
    for k in progress(range(len(photos)), "evaluating", len(photos)):
        photo = photos[k]
        nets = {baseline: Bicubic(photo.scale), **networks_at(photo.scale, own, cfg.self_ensemble)}
        made = {name: restore(net, photo.lr, device=device) for name, net in nets.items()}
        rows += photo_rows(photo, made, raters, device)
        if cfg.pictures is None or k // len(scales) < cfg.pictures:
            stem = f"{photo.name}_x{photo.scale}" if len(scales) > 1 else photo.name
            sr = {name: made[name] for name in own}
            files.append(save_images(folder, stem, photo, sr, scorer, source))
    rows.sort(key=lambda row: row["scale"])
    keys = [key for key in HEADINGS if any(key in row for row in rows)]
    write_csv(folder / "per_image.csv", ["image", "scale", "net", *keys], rows)
    means = mean_rows(rows, scales, [baseline, *own, "HR"], keys)
    which = ", ".join(str(display_path(path)) for path in checkpoints(cfg))
    which += " with self-ensemble" if cfg.self_ensemble else ""
    title = f"{which} (x{', x'.join(map(str, scales))}) on {datamodule.description}"
    shown = rows if cfg.rows is None or len(rows) <= cfg.rows else []
    text = enhancer_table(title, shown, means, keys, several=len(scales) > 1) + "\n"
    if not shown:
        text += f"means of {len(photos.hr)} photos; each is in per_image.csv (rows=null: here)\n"
    gains, lines = psnr_gains(means, list(own), baseline, several=len(scales) > 1)
    text += "".join(f"{line}\n" for line in lines)
    metrics = {
        f"{key}/{name}{scale_suffix(scale, several=len(scales) > 1)}": value
        for (scale, name), mean in means.items()
        for key, value in mean.items()
    }
    note = "\n".join(filter(None, [note, *exact_remarks(rows, own, baseline)]))
    return Result(f"{text}{PROTOCOLS}{note}\n", metrics | gains, files, note)


def networks_at(
    scale: int, networks: dict[str, nn.Module], self_ensemble: bool
) -> dict[str, nn.Module]:
    """Return the networks for one scale, as self-ensembles if wanted."""
    nets = {name: at_scale(net, scale) for name, net in networks.items()}
    return {name: SelfEnsemble(net) for name, net in nets.items()} if self_ensemble else nets


def photo_rows(
    photo: Pair, made: dict[str, Tensor], raters: dict[str, Rater], device: torch.device
) -> list[Row]:
    """Measure the images that the networks made of one photo, and HR: a row for each.

    Args:
        photo: LR and HR, uint8.
        made: uint8 images by network.
        raters: scorer and judge.
        device: where scores are computed.
    """
    hr = to_unit(photo.hr).to(device)
    results = {name: to_unit(image).to(device) for name, image in made.items()}
    return [
        {"image": photo.name, "scale": photo.scale, "net": name}
        | measure(image, None if name == "HR" else hr, photo.scale, raters)
        for name, image in {**results, "HR": hr}.items()
    ]


def mean_rows(rows: list[Row], scales: list[int], names: list[str], keys: list[str]) -> Means:
    """Average over the photos, by scale and network; with several scales also over all of them."""
    return {
        (scale, name): mean_row(
            [r for r in rows if r["net"] == name and scale in (None, r["scale"])], keys
        )
        for scale in ([*scales, None] if len(scales) > 1 else scales)
        for name in names
    }


def enhancer_table(
    title: str, rows: list[Row], means: Means, keys: list[str], *, several: bool
) -> str:
    """Format the rows of the photos and below them the means.

    Args:
        title: the line above the table.
        rows: measurements of single photos; may be empty.
        means: see `mean_rows`.
        keys: the columns.
        several: whether there are several scales, which then have a column.
    """
    listed = [(r["image"], f"x{r['scale']}", r["net"], r) for r in rows]
    listed += [
        ("mean", "all" if scale is None else f"x{scale}", name, values)
        for (scale, name), values in means.items()
    ]
    lines = [
        [label, *[at] * several, name, *digits(values, keys)] for label, at, name, values in listed
    ]
    columns = ["photo", *["scale"] * several, "net", *(HEADINGS[key] for key in keys)]
    return format_table(title, columns, lines)


def psnr_gains(
    means: Means, own: list[str], baseline: str, *, several: bool
) -> tuple[dict[str, float], list[str]]:
    """Compute by how much PSNR each network exceeds the baseline.

    Returns:
        The gains in dB by metric name, and a line of text for each.
    """
    gains, lines = {}, []
    for (scale, name), mean in means.items():
        if name in own:
            suffix = scale_suffix(scale, several=several)
            gain = mean["psnr"] - means[scale, baseline]["psnr"]
            gains[f"psnr_gain/{name}{suffix}" if len(own) > 1 else f"psnr_gain{suffix}"] = gain
            where = f" at x{scale}" if suffix else ""
            lines.append(f"{name} over {baseline}{where}: {gain:+.2f} dB PSNR (DIV2K)")
    return gains, lines


def scale_suffix(scale: int | None, *, several: bool) -> str:
    """Return the end of a metric's name: `/x2`, or nothing for a single scale or all of them."""
    return f"/x{scale}" if several and scale is not None else ""


def exact_remarks(rows: list[Row], own: Iterable[str], baseline: str) -> list[str]:
    """Explain how exactly restored photos count, and state the gains on all others.

    Args:
        rows: the measurements, one for each photo, scale and network.
        own: names of the networks.
        baseline: the network they are compared with.
    """
    exact = {(row["image"], row["scale"]) for row in rows if row.get("psnr") == MAX_PSNR}
    if not exact:
        return []
    counts = Counter(row["net"] for row in rows if row.get("psnr") == MAX_PSNR)
    lines = [
        f"{name} restores {count} of {sum(row['net'] == name for row in rows)} photos exactly; in "
        f"the means each counts as {MAX_PSNR:g} dB"
        for name, count in counts.items()
    ]
    others = [row for row in rows if (row["image"], row["scale"]) not in exact]
    means = {
        name: statistics.fmean(found)
        for name in (baseline, *own)
        if (found := [row["psnr"] for row in others if row["net"] == name])
    }
    if baseline in means:
        gains = (f"{name} {means[name] - means[baseline]:+.2f} dB" for name in own)
        lines.append(f"over {baseline} on the other photos: {', '.join(gains)}")
    return lines


def save_images(
    folder: Path,
    stem: str,
    photo: Pair,
    sr: dict[str, Tensor],
    scorer: NIMA | None,
    source: str,
) -> str:
    """Write LR, the networks' images and a comparison picture; return the path of the latter."""
    images = folder / "images"
    write_image(images / f"{stem}_lr.png", photo.lr, overwrite=True)
    for k, image in enumerate(sr.values(), 1):
        which = f"sr{k}" if len(sr) > 1 else "sr"
        write_image(images / f"{stem}_{which}.png", image, overwrite=True)
    device = "cpu" if scorer is None else scorer.mean.device
    lr, hr, *made = (to_unit(image).to(device) for image in (photo.lr, photo.hr, *sr.values()))
    panels = comparison(lr, hr, dict(zip(sr, made, strict=True)), photo.scale, scorer)
    path = images / f"{stem}.png"
    save_before_after(panels, path, source)
    return str(path.relative_to(folder))


def evaluate_scorer(
    net: nn.Module,
    path: str,
    remark: str,
    datamodule: ShardedDataModule,
    folder: Path,
    device: torch.device,
) -> Result:
    """Measure a scorer beside its baselines: EMD, correlations and accuracy, with pictures."""
    net = net.to(device)
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
    title = f"{display_path(path)} on {len(p_NK)} images: {datamodule.description}"
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
        Predictions(p_NK, q_NK, items), data.val, folder / "images", str(display_path(path))
    )
    files = [str(picture.relative_to(folder)) for picture in pictures.values()]
    text = metrics_table(title, metrics)
    text += f"{remark}\n" if remark else ""
    return Result(text, metrics, [*files, "per_image.csv"], remark)

"""Measure enhancers or a scorer on held-out photos, in tables, files and pictures."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.base import ShardedDataModule
from datamodules.batches import Pair
from images.pixels import to_unit
from images.writing import write_image
from lightning_modules.image_metrics import MAX_PSNR, ImageMetrics
from lightning_modules.losses import emd_per_sample
from lightning_modules.metric_catalogue import JUDGE, SCORES, ImageMetric, heading, protocols
from lightning_modules.metrics import Predictions, fitted_lcc
from lightning_modules.pictures import comparison, save_before_after, save_rating_pictures
from lightning_modules.table_metrics import table_baselines, table_metrics
from networks.bicubic import Bicubic
from networks.nima import mean_score, std_score
from networks.scales import at_scale
from networks.tiling import SelfEnsemble, restore
from runs.comparing import Contest, compare, write_comparison
from runs.measuring import (
    Measurement,
    describe,
    formatted,
    mean_row,
    measure,
    write_csv,
)
from runs.metrics_table import metrics_table
from runs.raters import Rater
from system.places import display_path
from system.progress import progress
from system.terminal import format_table


class Row(NamedTuple):
    """Measurements of one image that a network, the baseline or nobody (HR) made."""

    image: str
    scale: int
    net: str
    values: dict[str, float]


Means = dict[tuple[int | None, str], dict[str, float]]  # by scale (None: all scales) and network


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
    own: dict[str, nn.Module],
    raters: dict[str, Rater],
    datamodule: ShardedDataModule,
    folder: Path,
    device: torch.device,
    metrics: ImageMetrics,
    *,
    title: str = "enhancers",
    remarks: Iterable[str] = (),
    self_ensemble: bool = False,
    pictures: int | None = None,
    max_rows: int | None = None,
    contest: Contest | None = None,
) -> Measurement:
    """Measure the baseline, the networks and HR on every validation photo.

    Args:
        own: the networks by name.
        raters: scorer and judge, see `load_raters`; may be empty.
        datamodule: photos, after `setup("validate")`.
        folder: for per_image.csv and images/.
        device: where to compute.
        metrics: how images are compared with HR.
        title: what is measured, the start of the table's title.
        remarks: lines for the note.
        self_ensemble: whether to average over eight flips and rotations.
        pictures: number of photos whose images are saved; None means all.
        max_rows: if the table would have more rows of photos, it has only means.
        contest: which networks to compare with which, photo by photo; None: no comparison.
    """
    for module in (*own.values(), *(rater.net for rater in raters.values())):
        module.to(device)
    photos: Any = datamodule.val  # type: ignore[attr-defined]
    check_names(photos.hr.names.tolist())
    scales = list(photos.lr)
    baseline = "bicubic" if scales != [1] else "input"  # the same at scale 1
    rows, files = list[Row](), ["per_image.csv"]
    for k in progress(range(len(photos)), "evaluating", len(photos)):
        photo = photos[k]
        nets = {baseline: Bicubic(photo.scale), **networks_at(photo.scale, own, self_ensemble)}
        made = {name: restore(net, photo.lr, device=device) for name, net in nets.items()}
        rows += photo_rows(photo, made, raters, metrics, device)
        if pictures is None or k // len(scales) < pictures:
            stem = f"{photo.name}_x{photo.scale}" if len(scales) > 1 else photo.name
            sr = {name: made[name] for name in own}
            files.append(save_images(folder, stem, photo, sr, raters.get("score")))
    rows.sort(key=lambda row: row.scale)
    title += f"{' with self-ensemble' if self_ensemble else ''} (x{', x'.join(map(str, scales))})"
    title += f" on {datamodule.description}"
    keys = columns_of(rows, metrics)
    write_rows(folder / "per_image.csv", rows, keys)
    means = mean_rows(rows, scales, [baseline, *own, "HR"], keys)
    text, values = summary(title, rows, means, [baseline, *own], metrics, max_rows)
    lines = [*remarks, describe(raters), *exact_remarks(rows, own, baseline)]
    text += protocols(metrics.about.values()) + (note := "\n".join(filter(None, lines))) + "\n"
    if contest is not None:
        text += f"\n{comparison_of(rows, contest, folder, metrics, max_rows)}"
        files += ["comparison.csv", "comparison.md"]
    return Measurement(text, values, files, note, metrics.better)


def comparison_of(
    rows: list[Row],
    contest: Contest,
    folder: Path,
    metrics: ImageMetrics,
    max_rows: int | None,
) -> str:
    """Compare candidates with the baseline; write the files and return the text."""
    measured: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for row in rows:
        measured.setdefault((row.net, row.scale), {})[row.image] = row.values
    found = compare(contest, measured, metrics.better)
    return write_comparison(folder, contest, found, metrics.better, max_rows)


def write_rows(path: Path, rows: list[Row], keys: list[str]) -> None:
    """Write the measurements of single photos as CSV."""
    lines = [{"image": r.image, "scale": r.scale, "net": r.net, **r.values} for r in rows]
    write_csv(path, ["image", "scale", "net", *keys], lines)


def summary(
    title: str,
    rows: list[Row],
    means: Means,
    names: list[str],
    metrics: ImageMetrics,
    max_rows: int | None,
) -> tuple[str, dict[str, float]]:
    """Format a table of photos and means and the gains over the baseline; return the metrics too.

    Args:
        title: the line above the table.
        rows: measurements of single photos.
        means: see `mean_rows`.
        names: the baseline and the networks.
        metrics: by which images were compared.
        max_rows: see `evaluate_enhancers`.
    """
    several = any(scale is None for scale, _ in means)
    shown = rows if max_rows is None or len(rows) <= max_rows else []
    keys = columns_of(rows, metrics)
    text = enhancer_table(title, shown, means, keys, metrics.about, several=several) + "\n"
    if not shown:
        num = len({row.image for row in rows})
        text += f"means of {num} photos; each is in per_image.csv (rows=null: here)\n"
    baseline, *own = names
    gains, lines = psnr_gains(means, own, baseline, several=several)
    values = {
        f"{key}/{name}{scale_suffix(scale, several=several)}": value
        for (scale, name), mean in means.items()
        for key, value in mean.items()
    }
    return text + "".join(f"{line}\n" for line in lines), values | gains


def columns_of(rows: list[Row], metrics: ImageMetrics) -> list[str]:
    """Return the measurements that rows have: image metrics, then scores."""
    keys = dict.fromkeys(key for row in rows for key in row.values)
    judges = (key for key in keys if key.startswith(JUDGE))
    return [key for key in dict.fromkeys((*metrics.about, *SCORES, *judges)) if key in keys]


def networks_at(
    scale: int, networks: dict[str, nn.Module], self_ensemble: bool
) -> dict[str, nn.Module]:
    """Return the networks for one scale, as self-ensembles if wanted."""
    nets = {name: at_scale(net, scale) for name, net in networks.items()}
    return {name: SelfEnsemble(net) for name, net in nets.items()} if self_ensemble else nets


def photo_rows(
    photo: Pair,
    made: dict[str, Tensor],
    raters: dict[str, Rater],
    metrics: ImageMetrics,
    device: torch.device,
) -> list[Row]:
    """Measure the images that the networks made of one photo, and HR: a row for each.

    Args:
        photo: LR and HR, uint8.
        made: uint8 images by network.
        raters: scorer and judge.
        metrics: how images are compared with HR.
        device: where everything is computed.
    """
    hr = to_unit(photo.hr).to(device)
    results = {name: to_unit(image).to(device) for name, image in made.items()}
    measured = {
        name: measure(image, None if name == "HR" else hr, photo.scale, raters, metrics)
        for name, image in {**results, "HR": hr}.items()
    }
    return [Row(photo.name, photo.scale, name, values) for name, values in measured.items()]


def mean_rows(rows: list[Row], scales: list[int], names: list[str], keys: list[str]) -> Means:
    """Average over the photos, by scale and network; with several scales also over all of them."""
    return {
        (scale, name): mean_row(
            [r.values for r in rows if r.net == name and scale in (None, r.scale)], keys
        )
        for scale in ([*scales, None] if len(scales) > 1 else scales)
        for name in names
    }


def enhancer_table(
    title: str,
    rows: list[Row],
    means: Means,
    keys: list[str],
    about: Mapping[str, ImageMetric],
    *,
    several: bool,
) -> str:
    """Format the rows of the photos and below them the means.

    Args:
        title: the line above the table.
        rows: measurements of single photos; may be empty.
        means: see `mean_rows`.
        keys: the columns.
        about: descriptions of the image metrics among them.
        several: whether there are several scales, which then have a column.
    """
    listed = [(r.image, f"x{r.scale}", r.net, r.values) for r in rows]
    listed += [
        ("mean", "all" if scale is None else f"x{scale}", name, values)
        for (scale, name), values in means.items()
    ]
    lines = [
        [label, *[at] * several, name, *formatted(values, keys)]
        for label, at, name, values in listed
    ]
    columns = ["photo", *["scale"] * several, "net", *(heading(k, about) for k in keys)]
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
        if name in own and "psnr" in mean:
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
    restored = [row for row in rows if row.values.get("psnr") == MAX_PSNR]
    if not restored:
        return []
    exact = {(row.image, row.scale) for row in restored}
    counts = Counter(row.net for row in restored)
    lines = [
        f"{name} restores {count} of {sum(row.net == name for row in rows)} photos exactly; in "
        f"the means each counts as {MAX_PSNR:g} dB"
        for name, count in counts.items()
    ]
    others = [row for row in rows if (row.image, row.scale) not in exact]
    means = {
        name: statistics.fmean(found)
        for name in (baseline, *own)
        if (found := [row.values["psnr"] for row in others if row.net == name])
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
    rater: Rater | None,
) -> str:
    """Write LR, the networks' images and a comparison picture; return the path of the latter."""
    scorer = None if rater is None else rater.net
    source = "" if rater is None else describe({"score": rater})
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


def predict(net: nn.Module, data: ShardedDataModule, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the predicted and true distributions p_NK, q_NK of the validation photos, in order."""
    net = net.to(device)
    batches = data.val_dataloader()
    with torch.inference_mode():
        pairs = [
            (net(batch.to_unit().images_BCHW.to(device)).cpu(), batch.p_BK)
            for batch in progress(batches, "evaluating", len(batches))
        ]
    p_NK, q_NK = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return p_NK, q_NK


def evaluate_scorer(
    net: nn.Module,
    path: str,
    remark: str,
    datamodule: ShardedDataModule,
    folder: Path,
    device: torch.device,
) -> Measurement:
    """Measure a scorer beside its baselines: EMD, correlations and accuracy, with pictures."""
    data: Any = datamodule
    p_NK, q_NK = predict(net, data, device)
    predictions = Predictions(p_NK, q_NK, torch.arange(len(p_NK)))
    metrics = {"lcc_fit": fitted_lcc(mean_score(p_NK), mean_score(q_NK))}
    found = table_metrics(predictions, data.val.tables)
    metrics |= {name: value.item() for name, value in found.items()}
    metrics |= table_baselines(data.train, data.val)
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
    pictures = save_rating_pictures(
        predictions, data.val, folder / "images", str(display_path(path))
    )
    files = [str(picture.relative_to(folder)) for picture in pictures.values()]
    text = metrics_table(title, metrics)
    text += f"{remark}\n" if remark else ""
    return Measurement(text, metrics, [*files, "per_image.csv"], remark)

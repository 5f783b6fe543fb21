"""Draw before/after pictures, contact sheets and plots of predicted ratings."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont
from torch import Tensor

from datamodules.ratings_dataset import RatedPhotos
from images.pixels import to_array, to_bytes, to_tensor
from images.reading import read_image
from images.writing import write_image
from lightning_modules.image_metrics import image_metrics
from lightning_modules.losses import emd_per_sample
from lightning_modules.metrics import Predictions, rating_metrics
from lightning_modules.scorer_ensemble import Ensemble
from networks.bicubic import Bicubic
from networks.nima import NIMA, mean_score, std_score
from system.files import replacing

TILE = 150  # pixels of a picture on a contact sheet
MANY = 2000  # points of a scatter plot
TRUE, PREDICTED = "0.6", "tab:blue"
ZOOM = 4  # the enlarged detail is a quarter of the shorter side
GRID = 12  # HR pixels: divides by all scales


class Panel(NamedTuple):
    """One column: a title, the image (H x W x 3 uint8) and the lines below it."""

    title: str
    image: NDArray[np.uint8]
    caption: str


def comparison(
    lr_CHW: Tensor,
    hr_CHW: Tensor,
    results: dict[str, Tensor],
    scale: int,
    scorer: NIMA | Ensemble | None,
) -> list[Panel]:
    """Return panels of LR, bicubic, each result and HR, with PSNR and score in the captions.

    At scale 1 there is only the input: LR has the size of HR, and bicubic would be the same.

    Args:
        lr_CHW: LR image in [0, 1].
        hr_CHW: HR image in [0, 1].
        results: SR images in [0, 1] by the name of their network.
        scale: HR pixels per LR pixel.
        scorer: rates every image; no scores if None.
    """
    if scale == 1:
        images = {"input": lr_CHW}
    else:
        images = {"LR": lr_CHW, "bicubic": Bicubic(scale)(lr_CHW[None])[0]}
    images |= {**results, "HR": hr_CHW}
    panels = []
    for title, image in images.items():
        lines = []
        if title not in ("LR", "HR"):
            psnr = image_metrics(image[None], hr_CHW[None], scale)["psnr"].item()
            lines.append(f"PSNR {psnr:.2f} dB")
        else:
            lines.append(f"{image.shape[-1]} x {image.shape[-2]}")
        if scorer is not None:
            score = scorer.score(image[None].clamp(0, 1)).item()
            lines.append(f"score {score:.2f} of {scorer.num_buckets}")
        panels.append(Panel(title, to_array(to_bytes(image)), "\n".join(lines)))
    return panels


def detail(image: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Find the square with the strongest edges: top, left and side in pixels."""
    height, width = image.shape[:2]
    side = max(1, min(height, width) // ZOOM)
    gray = image.astype(np.int64).sum(axis=2)
    edges = np.zeros((height + 1, width + 1), np.int64)
    edges[1:height, 1:] += np.abs(gray[1:] - gray[:-1])
    edges[1:, 1:width] += np.abs(gray[:, 1:] - gray[:, :-1])
    # Sums of everything above and to the left: the sum over any square takes four of them.
    total = edges.cumsum(axis=0).cumsum(axis=1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, side


def crop_box(image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the detail of HR, in whole LR pixels at any scale.

    A photo that is too small for that is used whole.
    """
    height, width = image.shape[:2]
    if min(height, width) < GRID:
        return 0, 0, height, width
    top, left, side = (value // GRID * GRID for value in detail(image))
    side = max(side, GRID)
    last_top, last_left = ((length - side) // GRID * GRID for length in (height, width))
    return min(top, last_top), min(left, last_left), side, side


def save_before_after(panels: list[Panel], path: Path, note: str = "") -> None:
    """Write the picture: each panel whole, its detail enlarged, its caption below.

    Args:
        panels: the columns; the detail is chosen in the last one, the reference.
        path: a .png file; replaced if it exists.
        note: one line at the bottom.
    """
    reference = panels[-1].image
    height, width = reference.shape[:2]
    top, left, side = detail(reference)
    column = 3.0  # inches
    row = column * height / width
    total = row + column + 1.1
    figure = Figure(figsize=(column * len(panels), total), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        2,
        len(panels),
        height_ratios=[row, column],
        left=0.005,
        right=0.995,
        top=1 - 0.3 / total,
        bottom=0.8 / total,
        wspace=0.02,
        hspace=0.02,
    )
    for i, panel in enumerate(panels):
        factor = panel.image.shape[0] / height  # LR has fewer pixels for the same view
        whole, zoom = (figure.add_subplot(grid[j, i]) for j in (0, 1))
        whole.imshow(panel.image, interpolation="antialiased")
        whole.set_title(panel.title, fontsize=12)
        x, y, length = left * factor, top * factor, side * factor
        whole.add_patch(
            Rectangle((x - 0.5, y - 0.5), length, length, fill=False, edgecolor="yellow")
        )
        zoom.imshow(panel.image, interpolation="nearest")
        zoom.set_xlim(x - 0.5, x + length - 0.5)
        zoom.set_ylim(y + length - 0.5, y - 0.5)
        zoom.set_xlabel(panel.caption, fontsize=12)
        for axes in (whole, zoom):
            axes.set_xticks([])
            axes.set_yticks([])
    if note:
        figure.text(0.5, 0.1 / total, note, ha="center", fontsize=9, color="0.35")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a .png file, replacing it atomically if it exists."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def save_contact_sheet(
    ranked: Sequence[tuple[str | Path, float]], path: Path, title: str, *, limit: int = 200
) -> None:
    """Write small pictures with their scores, in the order given.

    Args:
        ranked: image files and scores, best first.
        path: an image file; replaced if it exists.
        title: written at the top.
        limit: largest number of pictures; of more, the best and the worst are shown.
    """
    shown = list(enumerate(ranked, 1))
    if len(shown) > limit:
        title += f"; the best and the worst {limit // 2} of {len(shown)}"
        shown = shown[: limit // 2] + shown[-(limit // 2) :]
    columns = min(len(shown), max(4, math.ceil(math.sqrt(len(shown) * 1.5))))
    rows = -(-len(shown) // columns)
    width, height, top = TILE + 10, TILE + 44, 40
    sheet = PIL.Image.new("RGB", (columns * width + 10, rows * height + top), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((10, 10), fitted(draw, title, sheet.width - 20, 16), "black", font(16))
    for k, (place, (file, score)) in enumerate(shown):
        left, upper = 10 + k % columns * width, top + k // columns * height
        tile = PIL.Image.fromarray(to_array(read_image(file)))
        tile.thumbnail((TILE, TILE))
        sheet.paste(tile, (left + (TILE - tile.width) // 2, upper + TILE - tile.height))
        draw.text((left, upper + TILE + 2), f"{place}.  {score:.2f}", "black", font(14))
        name = fitted(draw, Path(file).name, TILE, 11)
        draw.text((left, upper + TILE + 20), name, (110, 110, 110), font(11))
    write_image(path, to_tensor(np.array(sheet)), overwrite=True)


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with Matplotlib: Pillow's own font has no umlauts."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def fitted(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """Return the text in one line, without its middle if it is wider than `width` pixels."""
    text = " ".join(text.encode(errors="replace").decode().split())
    keep = len(text)
    short = text
    while keep > 2 and draw.textlength(short, font(size)) > width:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}...{text[len(text) - keep // 2 :]}"
    return short


def save_rating_pictures(
    predictions: Predictions, data: RatedPhotos, folder: Path, note: str, *, num_photos: int = 6
) -> dict[str, Path]:
    """Plot how well ratings are predicted.

    - `ratings_means`: predicted against true mean and standard deviation.
    - `ratings_distribution`: mean share of each bucket, predicted and true.
    - `ratings_extremes`: the best and the worst predictions by EMD, with their photos.

    Args:
        predictions: of photos of the data set.
        data: where the photos are.
        folder: where the .png files go; they replace earlier ones.
        note: added to the line at the top.
        num_photos: number of best and of worst predictions.

    Returns:
        The files by name.
    """
    figures = {
        "ratings_means": means_figure(predictions),
        "ratings_distribution": distribution_figure(predictions),
        "ratings_extremes": extremes_figure(predictions, data, num_photos),
    }
    files = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        figure.suptitle(f"{len(predictions.p_NK)} photos, {note}", fontsize=10, color="0.35")
        save_figure(figure, files[name])
    return files


def means_figure(predictions: Predictions) -> Figure:
    """Plot predicted against true means and standard deviations, with their correlations."""
    p_NK, q_NK, _ = predictions
    metrics = rating_metrics(p_NK, q_NK)
    figure = Figure(figsize=(10, 5.8), dpi=120, layout="constrained")
    for axes, name, function, suffix in zip(
        figure.subplots(1, 2),
        ("mean", "standard deviation"),
        (mean_score, std_score),
        ("", "_std"),
        strict=True,
    ):
        true, predicted = function(q_NK).numpy(), function(p_NK).numpy()
        if len(true) > MANY:  # so many points would overlap
            axes.hexbin(true, predicted, gridsize=60, bins="log", cmap="Blues")
        else:
            axes.scatter(true, predicted, s=14, alpha=0.5, color=PREDICTED, edgecolors="none")
        ends = (min(true.min(), predicted.min()), max(true.max(), predicted.max()))
        axes.plot(ends, ends, color="0.4", linewidth=1, linestyle="--")
        axes.set_box_aspect(1)
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        srcc, lcc = metrics[f"srcc{suffix}"], metrics[f"lcc{suffix}"]
        axes.set_title(f"SRCC {srcc:.3f}, LCC {lcc:.3f}", fontsize=11)
    return figure


def distribution_figure(predictions: Predictions) -> Figure:
    """Plot the mean share of each bucket, with lines for the spread over the photos."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    buckets = np.arange(1, predictions.p_NK.shape[1] + 1)
    for values, label, color, shift in (
        (predictions.q_NK, "true", TRUE, -0.2),
        (predictions.p_NK, "predicted", PREDICTED, 0.2),
    ):
        spread = values.std(dim=0, correction=0).numpy()
        axes.bar(
            buckets + shift,
            values.mean(dim=0).numpy(),
            0.38,
            yerr=spread,
            label=f"{label} (lines: spread over photos)",
            color=color,
            ecolor="0.35",
        )
    axes.set_xticks(buckets)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rating")
    axes.set_ylabel("share of the votes")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def extremes_figure(predictions: Predictions, data: RatedPhotos, num_photos: int) -> Figure:
    """Plot the photos whose distributions are predicted best, above those predicted worst."""
    p_NK, q_NK, item_N = predictions
    emd_N = emd_per_sample(p_NK, q_NK)
    order = emd_N.argsort().tolist()
    num = min(num_photos, len(order))
    figure = Figure(figsize=(2.1 * num + 0.3, 7.6), dpi=110, layout="constrained")
    grid = figure.subplots(4, num, squeeze=False, height_ratios=[2, 1, 2, 1])
    buckets = np.arange(1, p_NK.shape[1] + 1)
    highest = max(float(p_NK[order[:num] + order[-num:]].max()), float(q_NK.max())) * 1.05
    for row, (label, chosen) in enumerate((("best", order[:num]), ("worst", order[::-1][:num]))):
        for column, k in enumerate(chosen):
            picture, bars = grid[2 * row, column], grid[2 * row + 1, column]
            picture.imshow(to_array(data.picture(int(item_N[k]))))
            picture.set_title(f"EMD {emd_N[k]:.3f}", fontsize=9)
            picture.axis("off")
            bars.bar(buckets - 0.2, q_NK[k].numpy(), 0.4, color=TRUE, label="true")
            bars.bar(buckets + 0.2, p_NK[k].numpy(), 0.4, color=PREDICTED, label="predicted")
            true, predicted = (mean_score(values[k][None]).item() for values in (q_NK, p_NK))
            bars.set_xlabel(f"mean {true:.2f}, predicted {predicted:.2f}", fontsize=8)
            bars.set_ylim(0, highest)
            bars.tick_params(labelsize=7)
            if column:
                bars.set_yticklabels([])
        grid[2 * row, 0].text(
            -0.06,
            0.5,
            f"{label} predictions",
            transform=grid[2 * row, 0].transAxes,
            rotation=90,
            va="center",
            ha="right",
        )
    grid[1, 0].legend(fontsize=6, frameon=False)
    return figure

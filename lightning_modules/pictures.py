"""Before/after pictures: LR, bicubic, SR and HR side by side, whole and enlarged."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import to_array, to_bytes
from lightning_modules.metrics import image_metrics
from networks.bicubic import Bicubic
from networks.nima import NIMA

ZOOM = 4  # the enlarged detail is a quarter of the shorter side


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
    scorer: NIMA | None,
) -> list[Panel]:
    """Panels LR, bicubic, each result and HR, with PSNR and score in the captions.

    Args:
        lr_CHW: LR image in [0, 1].
        hr_CHW: HR image in [0, 1].
        results: SR images in [0, 1] by the name of their network.
        scale: HR pixels per LR pixel.
        scorer: rates every image; no scores if None.
    """
    bicubic = {"bicubic": Bicubic(scale)(lr_CHW[None])[0]}
    images = {"LR": lr_CHW, **bicubic, **results, "HR": hr_CHW}
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
    """Where most happens: top, left and side of the square with the strongest edges, in pixels."""
    height, width = image.shape[:2]
    side = max(1, min(height, width) // ZOOM)
    gray = torch.from_numpy(image.astype(np.float32).mean(axis=2))
    edges = torch.zeros_like(gray)
    edges[:-1] += (gray[1:] - gray[:-1]).abs()
    edges[:, :-1] += (gray[:, 1:] - gray[:, :-1]).abs()
    sums = torch.nn.functional.avg_pool2d(edges[None, None], side, stride=1)[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, side


def save_before_after(panels: list[Panel], path: Path, note: str = "") -> None:
    """Writes the picture: each panel whole, its detail enlarged, its caption below.

    Args:
        panels: the columns; the last one is the reference that the detail is chosen on.
        path: a .png file; replaced if it exists.
        note: a line at the bottom, such as what the scores are.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(temporary)  # type: ignore[no-untyped-call]
    temporary.replace(path)

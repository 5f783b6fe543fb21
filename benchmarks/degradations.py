"""Measures realistic degradations: time per batch, and JPEG beside that of Pillow and kornia.

    python benchmarks/degradations.py [--short] [--output FILE.md]

A batch is 16 patches of 48 LR pixels at x2 from the built-in photos, made in one thread: drawn and
cut as by the loader, then finished as on the training device, which is a CPU here. The reference is
the same with bicubic LR photos. Times are CPU time of a batch, the median of all and the range.
"""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from report import Row, command_line, hand_over, heading, publish, spread
from torch import Tensor

from cli.composing import composed, loaded
from datamodules import degradations, realistic_stages
from datamodules.pairs import PairsDataModule
from datamodules.sample import photo
from images.pixels import to_unit
from system.device import keep_memory

PHOTO = "chelsea.png"
QUALITIES = (30, 60, 90)
BATCH = ["data.batch_size=16", "data.patch_size=48", "data.num_steps=1000"]


def batch_times(words: Sequence[str], num: int) -> tuple[list[float], list[float]]:
    """Return milliseconds per batch in the loader, and on the device."""
    from hydra.utils import instantiate

    with loaded():
        cfg = composed("train", [*BATCH, *words])
    data: PairsDataModule = instantiate(cfg.data, _convert_="all")
    data.setup("fit")
    batches = iter(data.train_dataloader())
    loading, finishing = [], []
    for _ in range(num + 1):
        times = [time.process_time()]
        batch = next(batches)
        times.append(time.process_time())
        data.on_after_batch_transfer(batch, 0)
        times.append(time.process_time())
        loading.append(1000 * (times[1] - times[0]))
        finishing.append(1000 * (times[2] - times[1]))
    return loading[1:], finishing[1:]  # the first sets things up


def psnr(one: Tensor, other: Tensor) -> float:
    """PSNR of two images in [0, 1], in dB."""
    return float(-10 * torch.log10(((one - other) ** 2).mean()))


def jpeg_losses(quality: int) -> list[float]:
    """Return PSNR in dB.

    Returns:
        Of Pillow's, ours and kornia's JPEG to the photo, then of ours and kornia's to Pillow's.
    """
    image = photo(PHOTO)
    unit = to_unit(image)
    real = to_unit(degradations.jpeg(image, quality))
    size = np.array([image.shape[1:]])
    ours = realistic_stages.jpeg(unit[None], size, np.array([quality]))[0]
    kornia = jpeg_codec_differentiable(unit[None], torch.tensor([float(quality)]))[0]
    kornia = realistic_stages.to_levels(kornia) / 255
    to_photo = [psnr(coded, unit) for coded in (real, ours, kornia)]
    return to_photo + [psnr(coded, real) for coded in (ours, kornia)]


def main() -> None:
    """Measure and report."""
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(1)
    keep_memory()
    num = 10 if options.short else 60
    plain = batch_times([], num)
    realistic = batch_times(["data/degradation=realistic"], num)
    rows = [
        Row(f"realistic patches, {what}, ms of CPU a batch", median(ours), median(reference))
        for what, ours, reference in zip(("loader", "device"), realistic, plain, strict=True)
    ]
    lines = heading("Realistic degradations", f"{num} batches of 16 patches, 48 to 96 pixels")
    lines += ["| CPU, ms | loader | device |", "|---|---|---|"]
    for name, times in (("bicubic", plain), ("realistic", realistic)):
        lines.append(f"| {name} | {' | '.join(spread(each, 1) for each in times)} |")
    lines += ["", f"JPEG of {PHOTO}, PSNR in dB:", ""]
    lines += ["| quality | Pillow to photo | ours | kornia | ours to Pillow | kornia to Pillow |"]
    lines += ["|---" * 6 + "|"]
    for quality in QUALITIES:
        found = [f"{value:.2f}" for value in jpeg_losses(quality)]
        lines.append(f"| {quality} | {' | '.join(found)} |")
    hand_over(rows, options.json)
    publish(lines, options.output)


if __name__ == "__main__":
    main()

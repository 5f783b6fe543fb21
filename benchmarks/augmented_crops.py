"""Strongly augmented crops of photos, for a scorer that learns from another one.

    python benchmarks/augmented_crops.py PHOTOS [PHOTOS ...] --output crops --num 24000

Writes `crops/images/*.jpg` (256 x 256) and `crops/val.txt`, the crops of every twentieth photo.
Then a teacher rates them, and a student is trained on its ratings, both by ordinary commands:

    python run.py score input=crops/images checkpoint=TEACHER output=crops/ratings.csv
    python run.py experiment=nima_mnasnet data=rated data.ratings=crops/ratings.csv \
      data.images=crops/images data.val_list=crops/val.txt

Crop k is a function of the seed and k alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

from datamodules.degradations import gaussian_blur, gaussian_noise, jpeg
from datamodules.images import find_images, read_image, to_array, to_tensor
from datamodules.parallel import progress

SIDE = 256  # pixels; what the paper scales photos to
WHOLE = 0.3  # share of crops that are whole photos, which is what scorers are asked about


def draw_box(
    rng: np.random.Generator, width: int, height: int
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop: a quarter to all of the area, sides up to 3 : 4."""
    if rng.random() < WHOLE:
        return 0, 0, width, height
    area, aspect = rng.uniform(0.25, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide = min(1.0, np.sqrt(area * aspect)) * width
    high = min(1.0, np.sqrt(area / aspect)) * height
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    return left, top, left + wide, top + high


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop, perhaps mirrored, of other colours, blurred, noisy or compressed."""
    box = draw_box(rng, *image.size)
    crop = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change, low, high in (
        (ImageEnhance.Brightness, 0.5, 1.5),
        (ImageEnhance.Contrast, 0.5, 1.5),
        (ImageEnhance.Color, 0.0, 2.0),
    ):
        if rng.random() < 0.4:
            crop = change(crop).enhance(float(rng.uniform(low, high)))
    pixels = to_tensor(np.array(crop))
    if rng.random() < 0.3:
        pixels = gaussian_blur(pixels, float(rng.uniform(0.5, 3)))
    if rng.random() < 0.2:
        pixels = gaussian_noise(pixels, float(rng.uniform(2, 25)), rng)
    if rng.random() < 0.3:
        pixels = jpeg(pixels, int(rng.integers(10, 80)))
    return Image.fromarray(to_array(pixels))


def main(arguments: Sequence[str]) -> None:
    """Writes the crops that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", nargs="+", help="folders of photos")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--num", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    photos = [path for folder in given.photos for path in find_images(folder)]
    folder = given.output / "images"
    folder.mkdir(parents=True, exist_ok=True)
    held_out = []
    for k in progress(range(given.num), "crops", given.num):
        number = k % len(photos)
        target = folder / f"{k:06d}.jpg"
        if number % 20 == 0:
            held_out.append(target.name)
        if target.exists():
            continue
        rng = np.random.Generator(np.random.Philox(key=[given.seed, k]))
        image = Image.fromarray(to_array(read_image(photos[number])))
        augmented(image, rng).save(target, quality=95, subsampling=0)
    (given.output / "val.txt").write_text("\n".join(held_out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

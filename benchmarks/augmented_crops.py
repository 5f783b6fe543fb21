"""Strongly augmented crops of photos, for a scorer that learns from another one.

    python benchmarks/augmented_crops.py PHOTOS [PHOTOS ...] --output crops [--num 24000] [--short]

Writes `crops/images/*.jpg`, at the photos' own resolution, and `crops/val.txt`, the crops of every
twentieth photo. Then a teacher rates them, and a student is trained on its ratings, by ordinary
commands:

    python run.py score input=crops/images checkpoint=TEACHER output=crops/ratings.csv
    python run.py experiment=nima_mnasnet data=rated data.ratings=crops/ratings.csv \
      data.images=crops/images data.val_list=crops/val.txt scorer.pretrained=null

The student should make its small picture of a crop as the teacher does:
scorer.resize_filter=nearest for one that takes single pixels.

Crop k is a function of the seed and k alone. `--short` makes 20 crops, and without PHOTOS they are
of the built-in ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageEnhance

from datamodules.degradations import gaussian_blur, gaussian_noise, jpeg
from images.finding import search
from images.pixels import to_array, to_tensor
from images.reading import read_image
from system.progress import progress

BUILT_IN = [Path(skimage.data.__file__).with_name(name) for name in ("chelsea.png", "coffee.png")]
SIDE = 224  # pixels that a crop has on each side at least, where the photo has them
WHOLE = 0.3  # share of crops that are whole photos, which is what scorers are asked about


def draw_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop: all, or 10 % of the area up, sides up to 3 : 4."""
    if rng.random() < WHOLE:
        return 0, 0, width, height
    area, aspect = rng.uniform(0.1, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide, high = (
        min(side, max(SIDE, round(float(np.sqrt(share)) * side)))
        for side, share in ((width, area * aspect), (height, area / aspect))
    )
    left, top = (int(rng.integers(0, room + 1)) for room in (width - wide, height - high))
    return left, top, left + wide, top + high


def augmented(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop at full resolution, perhaps mirrored, of other colours, and harmed in some way."""
    crop = image.crop(draw_box(rng, *image.size))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change, low, high in (
        (ImageEnhance.Brightness, 0.5, 1.5),
        (ImageEnhance.Contrast, 0.5, 1.5),
        (ImageEnhance.Color, 0.0, 2.0),
    ):
        if rng.random() < 0.3:
            crop = change(crop).enhance(float(rng.uniform(low, high)))
    if rng.random() < 0.2:  # enlarged, as enhancers' photos are
        factor = rng.uniform(1.5, 4)
        small = [max(1, round(side / factor)) for side in crop.size]
        crop = crop.resize(small).resize(crop.size, Image.Resampling.BICUBIC)
    pixels = to_tensor(np.array(crop))
    if rng.random() < 0.25:
        pixels = gaussian_blur(pixels, float(rng.uniform(0.4, 3)))
    elif rng.random() < 0.2:
        pixels = sharpened(pixels, float(rng.uniform(0.3, 2)))
    if rng.random() < 0.2:
        pixels = gaussian_noise(pixels, float(rng.uniform(2, 25)), rng)
    if rng.random() < 0.25:
        pixels = jpeg(pixels, int(rng.integers(10, 80)))
    return Image.fromarray(to_array(pixels))


def sharpened(pixels: torch.Tensor, amount: float) -> torch.Tensor:
    """An unsharp mask of one pixel, 3 x H x W, uint8."""
    fine = pixels.float() - gaussian_blur(pixels, 1).float()
    return (pixels + amount * fine).round().clamp(0, 255).to(torch.uint8)


def main(arguments: Sequence[str]) -> None:
    """Writes the crops that are not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", nargs="*", help="folders of photos")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--num", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="20 crops, in seconds")
    given = parser.parse_args(arguments)
    if given.short:
        given.num = min(given.num, 20)
    elif not given.photos:
        parser.error("PHOTOS: folders of photos; only --short takes the built-in ones instead")
    torch.set_num_threads(1)
    photos = [path for folder in given.photos for path in search(folder).paths] or BUILT_IN
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

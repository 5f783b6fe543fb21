"""Measures packing photos at the first use of a data set, beside a plain loop.

    python benchmarks/prepare.py [--short] [--output FILE.md]

Photos are synthetic. Ours is what `data=photos`, `data=rated` and `python run.py prepare` do: find
the photos, decode them, make LR photos at x2, x3 and x4 (or resize them for a scorer), and write
the binary store, hashes included. The reference decodes each photo, makes the same images and
writes them as .npy files, in a loop in one thread. Both take turns. CPU time includes children.
"""

import csv
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from report import Row, command_line, hand_over, heading, publish, spread

from datamodules.degradations import shrink
from datamodules.folders import PhotoFolders
from datamodules.rated import RatedFolder
from images.finding import search
from images.pixels import to_array, to_bytes, to_unit
from images.reading import read_image
from networks.nima import resize_images

SCALES = [2, 3, 4]
MOST_CPU = 1.5  # times the reference
MOST_WALL = 2.0  # seconds for 20 photos of 512 pixels


class Case(NamedTuple):
    """Photos to pack."""

    what: str
    num: int
    width: int
    height: int
    suffix: str
    before: float  # ratio of version 0.1 with --short, on two cores
    rated: bool = False


CASES = [
    Case("PNG, HR and three scales", 20, 512, 512, ".png", 7.6),
    Case("JPEG, HR and three scales", 400, 160, 120, ".jpg", 14.6),
    Case("JPEG, rated, resized to 256x256", 200, 640, 480, ".jpg", 1.5, rated=True),
]


class Cost(NamedTuple):
    """Seconds that something took."""

    cpu: float
    wall: float


def photo(k: int, width: int, height: int) -> NDArray[np.uint8]:
    """Noise whose spectrum falls with frequency, as that of photos does."""
    rng = np.random.default_rng(k)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    noise = rng.normal(size=(height, width, 1)) + 0.3 * rng.normal(size=(height, width, 3))
    spectrum = np.fft.rfft2(noise, axes=(0, 1)) / frequency[..., None]
    smooth = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    scaled = 128 + 50 * (smooth - smooth.mean()) / smooth.std()
    pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return pixels


def make_photos(folder: Path, case: Case) -> None:
    """Write the photos, and a table of ratings beside their folder."""
    folder.mkdir()
    names = [f"{k:04}{case.suffix}" for k in range(case.num)]
    for k, name in enumerate(names):
        Image.fromarray(photo(k, case.width, case.height)).save(folder / name)
    with open(f"{folder}.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "mean"], *([name, 5] for name in names)])


def ours(photos: Path, store: Path, case: Case) -> None:
    """Open the data set, which packs it."""
    if case.rated:
        RatedFolder(f"{photos}.csv", str(photos), store=str(store)).prepare_data()
    else:
        PhotoFolders(None, str(photos), scale=SCALES, store=str(store)).prepare_data()


def reference(photos: Path, store: Path, case: Case) -> None:
    """Do the same in a plain loop."""
    store.mkdir()
    for path in search(str(photos)).paths:
        image = read_image(path)
        if case.rated:
            resized = resize_images(to_unit(image)[None], "squash", "bilinear", 256, 256)
            np.save(store / f"{path.stem}.npy", to_array(to_bytes(resized[0])))
            continue
        np.save(store / f"{path.stem}.npy", to_array(image))
        for scale in SCALES:
            np.save(store / f"{path.stem}x{scale}.npy", to_array(shrink(image, scale)))


def cost(work: Callable[[], None], num_threads: int) -> Cost:
    """Measure some work with this number of threads for PyTorch."""
    torch.set_num_threads(num_threads)
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return Cost(cpu_seconds() - cpu, time.perf_counter() - wall)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(case: Case, rounds: int, num_threads: int) -> tuple[list[Cost], list[Cost]]:
    """Measure ours and the reference in turns; a first round is not counted."""
    us, them = [], []
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        make_photos(photos, case)
        for k in range(rounds + 1):
            us.append(cost(partial(ours, photos, Path(name) / f"ours{k}", case), num_threads))
            them.append(cost(partial(reference, photos, Path(name) / f"plain{k}", case), 1))
    return us[1:], them[1:]


def row(case: Case, rounds: int, num_threads: int) -> tuple[str, Row]:
    """Measure photos and return a row of the table, and of that of `make bench`."""
    us, them = measure(case, rounds, num_threads)
    ratios = [a.cpu / b.cpu for a, b in zip(us, them, strict=True)]
    verdict = "holds" if statistics.median(ratios) <= MOST_CPU else "missed"
    if case.width == 512 and case.num == 20:
        wall = statistics.median(one.wall for one in us)
        verdict += f"; {MOST_WALL:g} s: {'holds' if wall <= MOST_WALL else 'missed'}"
    cells = [
        f"{case.num} of {case.width}x{case.height}, {case.what}",
        spread([one.wall for one in us]),
        spread([one.cpu for one in us]),
        spread([one.cpu for one in them]),
        spread(ratios),
        f"{case.before:g}",
        verdict,
    ]
    us_cpu, them_cpu = (statistics.median(one.cpu for one in costs) for costs in (us, them))
    what = f"packing {case.num} photos of {case.width}x{case.height}, {case.what}, s of CPU"
    asked, before = f"at most {MOST_CPU}", f"{case.before:g} times the reference"
    return f"| {' | '.join(cells)} |", Row(what, us_cpu, them_cpu, asked, before)


def main() -> None:
    """Measures and prints the report."""
    options = command_line(__doc__).parse_args()
    rounds = 3 if options.short else 7
    cases = [case._replace(num=min(case.num, 60)) for case in CASES] if options.short else CASES
    num_threads = torch.get_num_threads()
    rows = [row(case, rounds, num_threads) for case in cases]
    lines = [
        *heading(
            "Packing photos",
            f"seconds; medians of {rounds} rounds in turns (lowest-highest)",
            "the reference: one thread decodes, makes and writes the same images in a plain loop",
        ),
        f"| photos | wall, ours | CPU, ours | CPU, reference | ratio | 0.1 | at most {MOST_CPU} |",
        "|---|---|---|---|---|---|---|",
        *(line for line, _ in rows),
    ]
    publish(lines, options.output)
    hand_over([short for _, short in rows], options.json)


if __name__ == "__main__":
    main()

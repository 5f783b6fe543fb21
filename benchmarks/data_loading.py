"""Measures how fast training data come, beside other ways of reading them; writes a report.

python benchmarks/data_loading.py [--photos FOLDER] [--seconds N] [--short] [--output FILE.md]

Every number is the median of several repeats, with the lowest and the highest. What is compared
takes turns, so that a busy moment of the machine meets all of it. One thread per process, but for
training steps. The other ways are loops in the manner of the code bases that are named. Takes ten
minutes and 1.5 GB in a temporary folder; `--short` compares ways of reading a pair of patches.
"""

import csv
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from other_ways import (
    HAS_LMDB,
    HEIGHT,
    NUM_PHOTOS,
    SCALE,
    SUB,
    WIDTH,
    EachPair,
    EachPhoto,
    Read,
    ReadSubImages,
    make_photos,
    read_pickle,
    read_png,
)
from PIL import Image
from report import Row, command_line, hand_over, heading, publish
from torch.utils.data import DataLoader

from datamodules.ava import AVA
from datamodules.base import ShardedDataModule
from datamodules.batches import PatchBatch
from datamodules.folders import PhotoFolders
from datamodules.packing import Order, Photo, pack
from datamodules.pairs import PairsDataModule
from datamodules.rated import RatedFolder
from datamodules.ratings_dataset import RatedCrops, RatedDataset
from datamodules.store import PackedImages, Source
from images.finding import search
from lightning_modules.loss_terms import l2_loss
from networks.edsr import EDSR
from system.workers import num_cores

BATCH = 16
ROUNDS = 5


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def pull(batches: Iterator[Any], finish: Callable[[Any], Any] | None = None) -> Callable[[], int]:
    """Work that takes one batch, finishes it, and says how many samples it has."""

    def work() -> int:
        batch = next(batches)
        return len((batch if finish is None else finish(batch))[0])

    return work


def measure(
    ways: dict[str, Callable[[], int]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per sample of each way in each round; the first round is not counted.

    On a busy machine, `time.process_time` is a fair clock for ways without other processes.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, work in ways.items():
            count, elapsed, start = 0, 0.0, clock()
            while elapsed < seconds / ROUNDS:
                count += work()
                elapsed = clock() - start
            times[name].append(elapsed / count)
    return {name: values[1:] for name, values in times.items()}


def short(value: float) -> str:
    """Three significant digits."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def spread(values: Iterable[float], factor: float = 1.0) -> str:
    """Median, lowest and highest."""
    scaled = sorted(value * factor for value in values)
    return f"{short(float(np.median(scaled)))} ({short(scaled[0])}-{short(scaled[-1])})"


def rates(times: Sequence[float]) -> str:
    """Samples per second."""
    return spread(1 / value for value in times)


def ratio(times: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times longer the other way takes, round by round."""
    return [b / a for a, b in zip(times, other, strict=True)]


def section(title: str, rows: list[list[str]], note: str) -> str:
    """A heading, a table whose first row is its head, and what it means."""
    lines = [f"## {title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines.insert(3, "|---" * len(rows[0]) + "|")
    return "\n".join([*lines, note])


def pairs(folder: Path, hr_size: int, **more: Any) -> PairsDataModule:  # noqa: ANN401
    """The project's data module for the photos, ready to train."""
    hr, lr = str(folder / "HR"), str(folder / "LR")
    module = PhotoFolders(
        hr, hr, train_lr=lr, val_lr=lr, batch_size=BATCH, patch_size=hr_size // SCALE, **more
    )
    module.setup("fit")
    return module


def finisher(module: PairsDataModule, device: torch.device) -> Callable[[Any], Any]:
    """What the Trainer does with a batch before the network sees it; waits for the GPU."""

    def finish(batch: Any) -> Any:  # noqa: ANN401
        moved = module.transfer_batch_to_device(batch, device, 0)
        ready = module.on_after_batch_transfer(moved, 0)
        wait(device)
        return ready

    return finish


def wait(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


# What is measured, one function per table.


def compare_ways(
    folder: Path, seconds: float, sizes: Sequence[int] = (96, 192), num_photos: int = NUM_PHOTOS
) -> tuple[str, list[Row]]:
    """One pair of patches, by this project and by others; the first HR size is 96."""
    readers: dict[str, Read] = {
        "whole PNG files (EDSR `--ext img`, BasicSR on whole images, super-image)": partial(
            read_png, num_photos=num_photos
        ),
        "pickled arrays (EDSR `--ext sep`)": partial(read_pickle, num_photos=num_photos),
    }
    png, sep = readers
    if HAS_LMDB:
        readers[f"sub-images of {SUB} pixels in LMDB (BasicSR)"] = ReadSubImages(folder)
    results = []
    for size in sizes:
        ways = {}
        for name, read in readers.items():
            data = EachPair(read, folder, size // SCALE)
            ways[name] = pull(endless(DataLoader(data, BATCH, shuffle=True)))
        ours = endless(pairs(folder, size).train_dataloader())
        ways |= {"loader": pull(ours), "ready": pull(ours, PatchBatch.to_unit)}
        results.append(measure(ways, seconds, time.process_time))
    rows = [["ms of CPU per pair"]]
    rows[0] += [f"{size}/{size // SCALE}: {what}" for size in sizes for what in ("loader", "ready")]
    for name in readers:
        rows.append([name, *(spread(times[name], 1e3) for times in results for _ in "ab")])
    ours_too = [spread(times[what], 1e3) for times in results for what in ("loader", "ready")]
    rows.append(["this project", *ours_too])
    targets = [["target", *(f"{size}/{size // SCALE}" for size in sizes)]]
    first, *more = [spread(times["loader"], 1e3) for times in results]
    first += ": holds" if np.median(results[0]["loader"]) <= 1e-4 else ": missed"
    targets.append(["loader: 0.1 ms a pair at most at 96/48", first, *more])
    for name, aim in ((sep, 10), (png, 600)):
        targets.append([f"ready: {aim} times faster than {name.partition(' (')[0]}"])
        for times in results:
            factors = ratio(times["ready"], times[name])
            holds = "holds" if np.median(factors) >= aim else "missed"
            targets[-1].append(f"{spread(factors)}: {holds}")
    ms = {name: float(np.median(values)) * 1e3 for name, values in results[0].items()}
    what = "a pair of 96/48 patches"
    handed = [
        Row(f"{what} from the loader, ms of CPU", ms["loader"], None, "at most 0.1", "0.029"),
        Row(f"{what}, float32, beside pickled photos", ms["ready"], ms[sep], "", "0.044"),
    ]
    parts = section(
        "A pair of patches",
        rows,
        "`loader` is a batch of 16 as the loader leaves it, `ready` the same up to flipped and "
        "rotated float32 patches; the other ways' loaders do all of that themselves, so it is one "
        "number. PNG is decoded by Pillow everywhere."
        + ("\n\n" if HAS_LMDB else " BasicSR's way was left out: lmdb is not installed.\n\n"),
    ) + section("Targets", targets, "Ratios are taken round by round.")
    return parts, handed


def count_workers(folder: Path, seconds: float) -> str:
    """Patches per second with loader processes."""
    rows = [["HR patch", "workers", "loader, patches/s", "ready, patches/s"]]
    for size in (192, 96):
        for num in (0, 1, 2):
            ours = endless(pairs(folder, size, num_workers=num).train_dataloader())
            ways = {"loader": pull(ours), "ready": pull(ours, PatchBatch.to_unit)}
            times = measure(ways, seconds)
            rows.append([str(size), str(num), rates(times["loader"]), rates(times["ready"])])
    return section(
        "Patches per second",
        rows,
        f"Batches of {BATCH} pairs; `ready` is done in the main process, as on a training device.",
    )


def training_share(folder: Path) -> str:
    """What part of a training step is spent waiting for data."""
    rows = [["device", "HR patch", "workers", "step, ms", "of that data, ms", "share, %"]]
    torch.set_num_threads(num_cores())
    for device in devices():
        for size in (48, 96):
            for num in (0, 2):
                module = pairs(folder, size, num_workers=num)
                batches, finish = endless(module.train_dataloader()), finisher(module, device)
                net = EDSR(scale=SCALE).to(device)
                optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
                waited, total = [], []
                num_warm, num_steps = (2, 5) if device.type == "cpu" else (20, 100)
                for _ in range(num_warm + num_steps):
                    start = time.perf_counter()
                    batch = finish(next(batches))
                    waited.append(time.perf_counter() - start)
                    optimizer.zero_grad()
                    torch.autograd.backward(l2_loss(net(batch.lr_BCHW), batch.hr_BCHW))
                    optimizer.step()
                    wait(device)
                    total.append(time.perf_counter() - start)
                waited, total = waited[num_warm:], total[num_warm:]
                rows.append([device.type, str(size), str(num), spread(total, 1e3)])
                rows[-1] += [spread(waited, 1e3), spread(ratio(total, waited), 100)]
    torch.set_num_threads(1)
    return section(
        "Share of a training step",
        rows,
        f"EDSR baseline x{SCALE}, L2 loss, Adam, batch {BATCH}, float32, on all cores; data are "
        "fetching a batch, moving it and making it ready." + no_gpu(),
    )


def on_device(folder: Path, seconds: float) -> str:
    """Patches that are cut out on the training device."""
    rows = [["device", "HR patch", "loader, ms per pair", "on_device=true, ms per pair"]]
    for device in devices():
        for size in (96, 192):
            ways = {}
            for resident in (False, True):
                module = pairs(folder, size, on_device=resident)
                batches = endless(module.train_dataloader())
                ways[str(resident)] = pull(batches, finisher(module, device))
            times = measure(ways, seconds)
            rows.append([device.type, str(size)])
            rows[-1] += [spread(times[name], 1e3) for name in ways]
    return section(
        "On the training device",
        rows,
        "Both up to patches that are ready, on the device, without workers; `on_device=true` is "
        "meant for a GPU, where the loader's way has to copy every batch." + no_gpu(),
    )


def devices() -> list[torch.device]:
    """The CPU, and a GPU where there is one."""
    return [torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]]


def no_gpu() -> str:
    """Said under tables that lack one."""
    return "" if torch.cuda.is_available() else " There was no GPU."


def rated_photos(folder: Path, seconds: float) -> str:
    """Rated photos from the store and from JPEG files."""
    paths = search(str(folder / "rated")).paths
    with open(folder / "ratings.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "mean"], *([path.name, 5] for path in paths)])
    module = RatedFolder(str(folder / "ratings.csv"), str(folder / "rated"), batch_size=128)
    module.setup("fit")
    store = endless(module.train_loader(module.train, num_steps=1000))
    ways = {"this project: the store": pull(store, RatedCrops.to_unit)}
    for name, exact in (("JPEG, resized by the scorer's rule", True), ("JPEG, by Pillow", False)):
        data = EachPhoto(paths, exact=exact)
        ways[name] = pull(endless(DataLoader(data, 128, shuffle=True)))
    times = measure(ways, seconds, time.process_time)
    ours = next(iter(times.values()))
    rows = [["way", "photos per second and core", "the store is faster by"]]
    for name, values in times.items():
        rows.append([name, rates(values), "" if values is ours else spread(ratio(ours, values))])
    kilobytes = np.mean([path.stat().st_size for path in paths]) / 1e3
    return section(
        "Rated photos",
        rows,
        f"Batches of 128 crops of 192 pixels, flipped and float32, from {len(paths)} photos of "
        f"640x480 ({kilobytes:.0f} kB a file), resized to 256x256.",
    )


@dataclass(frozen=True)
class Plain:
    """Stands in for a photo, so that large stores are made in seconds."""

    side: int

    def __call__(self, photo: Photo) -> NDArray[np.uint8]:
        """A black square."""
        return np.zeros((self.side, self.side, 3), np.uint8)


def many(folder: Path, num: int, side: int) -> PackedImages:
    """A store of many images, all made from one file."""
    file = folder / "tiny"
    if not file.exists():
        file.write_bytes(b"tiny")
    sources = [Source(f"{k:06}.jpg", str(file)) for k in range(num)]
    return pack(folder, [Order(f"many{num}", sources, Plain(side), "images")], per_shard=1024)[0]


def opening(folder: Path) -> str:
    """How long a store as large as AVA takes to open, and AVA itself."""
    many(folder, 250_000, 2)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        many(folder, 250_000, 2)
        times.append(time.perf_counter() - start)
    root = folder / "AVA"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "images" / "1.jpg")
    content = (root / "images" / "1.jpg").read_bytes()
    for k in range(2, 255_511):
        (root / "images" / f"{k}.jpg").write_bytes(content)
    votes = "0 1 5 17 38 36 15 6 5 1 1 22 1396"
    lines = (f"{k} {k} {votes}\n" for k in range(1, 255_531))
    (root / "AVA.txt").write_text("".join(lines))
    options: dict[str, Any] = {"split": "random", "resize": 32, "crop": 32}
    AVA(str(root), **options).setup()
    ava = []
    for _ in range(3):
        start = time.perf_counter()
        AVA(str(root), **options).setup()
        ava.append(time.perf_counter() - start)
    rows = [
        ["", "seconds"],
        ["a store of 250,000 images, all of one source", spread(times)],
        ["AVA: reading AVA.txt, listing 255,510 files, splitting, opening the store", spread(ava)],
    ]
    return section(
        "Opening a store",
        rows,
        "Both ask the file system for size and time of every source: a network file system takes "
        "longer. AVA's photos are stood in for by files of 8 x 8 pixels.",
    )


def memory(process: int) -> tuple[float, float]:
    """Private and total resident memory of a process, MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
    private = sum(value for name, value in values.items() if name.startswith("Private_"))
    return private, values["Rss:"]


def worker_memory(folder: Path) -> str:
    """Memory of loader processes over an epoch."""
    rows = [["images", "private at first, MB", "highest", "resident at first, MB", "highest"]]
    for num, side in ((500, 32), (50_000, 32), (4, 1200), (120, 1200)):
        store = many(folder, num, side)
        dataset = RatedDataset(store, torch.full((num, 10), 0.1), np.arange(num), crop=32, seed=0)
        base = ShardedDataModule(batch_size=128, num_workers=2, seed=0, limit=None)
        gc.collect()
        seen = []
        for k, _ in enumerate(loader := base.train_loader(dataset, num_steps=50_000 // 128)):
            if k % 30 == 2:  # both workers have begun
                children = multiprocessing.active_children()
                seen.append(np.mean([memory(child.pid or 0) for child in children], axis=0))
        rows.append([f"{num:,} of {side} pixels, {num * side * side * 3 / 1e6:.0f} MB"])
        for values in np.array(seen).T:
            rows[-1] += [short(value) for value in (values[0], values.max())]
        del loader
        gc.collect()
    return section(
        "Memory of a loader process",
        rows,
        "Mean of two workers while 50,000 crops of 32 pixels are read; private memory includes "
        "pages of the store that only this worker has mapped, which it gives back every 128 "
        "reads; resident memory also what it shares with the main process.",
    )


def main() -> None:
    """Measures what was asked for, and writes the report after the last table."""
    parser = command_line(__doc__)
    parser.add_argument("--photos", help=f"folder of photos of at least {WIDTH}x{HEIGHT}")
    parser.add_argument("--seconds", type=float, help="for each number (3; with --short 0.2)")
    options = parser.parse_args()
    seconds = options.seconds or (0.2 if options.short else 3)
    num_photos = 3 if options.short else NUM_PHOTOS
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            photos = make_photos(folder, options.photos, num_photos)
        except ValueError as error:
            parser.error(str(error))
        sizes = (96,) if options.short else (96, 192)
        compared, rows = compare_ways(folder, seconds, sizes, num_photos)
        parts = [compared]
        if not options.short:
            parts += [
                count_workers(folder, seconds),
                training_share(folder),
                on_device(folder, seconds),
                rated_photos(folder, seconds),
                opening(folder),
                worker_memory(folder),
            ]
    lines = heading(
        "Data loading",
        f"{photos}; everything in the system's file cache",
        f"medians of {ROUNDS} rounds, in which every way of a table has its turn (lowest-highest)",
        "one thread per process, but for training steps",
    )
    publish([*lines, "\n\n".join(parts)], options.output)
    hand_over(rows, options.json)


if __name__ == "__main__":
    main()

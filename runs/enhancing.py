"""Enhance image files, one after the other: read, apply the network, write."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn

from images.file_names import printable_name
from images.reading import Photo, read_photo
from images.writing import check_side, write_photo
from lightning_modules.enhancing import enhanced
from networks.scales import scales_of
from networks.tiling import num_tiles
from system.progress import Bar
from system.terminal import told

log = logging.getLogger(__name__)


class Enhanced(NamedTuple):
    """What became of a photo: the file with its result, or the reason why there is none."""

    path: Path
    target: Path
    problem: str | None = None
    kept: bool = False  # the result existed before


class Task(NamedTuple):
    """A photo and the file for its result."""

    path: Path
    target: Path


class Pipeline:
    """Reads the next photo and writes the last results while the network works.

    At most one photo waits for the network and two results wait to be written, which bounds memory.
    Messages come in the order of the photos.

    Args:
        net: the enhancer, on the device.
        cfg: the configuration.
        device: where the network is.
        bar: moved after each tile.
    """

    def __init__(self, net: nn.Module, cfg: DictConfig, device: torch.device, bar: Bar) -> None:
        self.net = net
        self.cfg = cfg
        self.device = device
        self.bar = bar
        self.num_pixels = 0  # of all results
        self.done: dict[Path, Enhanced] = {}  # by target, without problems
        self.reader = ThreadPoolExecutor(1)
        self.writers = ThreadPoolExecutor(2)  # with a GPU, encoding takes longer than the network
        self.reporter = ThreadPoolExecutor(1)  # one, so that reports keep their order

    def run(self, tasks: Sequence[Task]) -> list[Enhanced]:
        """Enhance all photos; on Ctrl-C, finish writing what the network has made."""
        reports: list[Future[Enhanced]] = []
        reading: Future[Photo | None] | None = None
        seen: set[Path] = set()
        with self.reader, self.writers, self.reporter:
            for number, task in enumerate(tasks, 1):
                if reading is None:  # the first one, or what becomes of it depends on earlier ones
                    wait(reports)
                    reading = self.reader.submit(self.read, task)
                current, reading = reading, None
                wait(reports[-2:-1])
                seen.add(task.target)
                if number < len(tasks) and tasks[number].target not in seen:
                    reading = self.reader.submit(self.read, tasks[number])
                count = f"[{number}/{len(tasks)}]"
                writing: Future[list[str]] | None = None
                try:
                    photo = current.result()
                    if photo is not None:
                        writing = self.enhance(photo, task, count, number)
                except Exception as error:  # one bad photo does not stop the others
                    writing = Future()
                    writing.set_exception(error)
                reports.append(self.reporter.submit(self.report, task, writing))
        return [report.result() for report in reports]

    def read(self, task: Task) -> Photo | None:
        """Read a photo; return None if its result is kept.

        Raises:
            ValueError: if it cannot be read, or its result cannot be written.
        """
        if is_kept(*task, self.done.get(task.target), self.cfg):
            return None
        photo = read_photo(task.path)
        height, width = photo.pixels.shape[1:]
        scale = scales_of(self.net)[0]
        check_side(task.target, height * scale, width * scale)
        return photo

    def enhance(self, photo: Photo, task: Task, count: str, number: int) -> Future[list[str]]:
        """Apply the network, and start writing the result; log the size and target first."""
        scale, tile = scales_of(self.net)[0], self.cfg.tile
        height, width = photo.pixels.shape[1:]
        tiles = num_tiles(self.net, height, width, tile)
        size = f"{width} x {height}, {tiles} tile{'' if tiles == 1 else 's'}"
        names = count, printable_name(task.path), size, printable_name(task.target)
        line = "%s %s  %s -> %s  %d x %d"
        self.reporter.submit(log.info, line, *names, width * scale, height * scale)
        result = enhanced(
            self.net,
            photo,
            device=self.device,
            tile=tile,
            precision=getattr(torch, self.cfg.precision),
            on_tile=partial(move, self.bar, number),
        )
        self.num_pixels += result.pixels[0].numel()
        return self.writers.submit(self.write, task, result)

    def write(self, task: Task, result: Photo) -> list[str]:
        """Write a result; return notes about what was left out."""
        lost = write_photo(task.target, result, overwrite=self.cfg.overwrite)
        return [*result.notes, *lost]

    def report(self, task: Task, writing: Future[list[str]] | None) -> Enhanced:
        """Wait until a result is written, and log notes about it; None if it is kept."""
        problem = None
        try:
            for note in writing.result() if writing else []:
                log.warning("%s: %s", printable_name(task.path), note)
        except Exception as error:
            problem = reason(error, *task)
        result = Enhanced(*task, problem, kept=writing is None)
        if problem is None:
            self.done[task.target] = result
        return result


def is_kept(path: Path, target: Path, earlier: Enhanced | None, cfg: DictConfig) -> bool:
    """Return whether a photo is skipped because its result exists.

    Args:
        path: the photo.
        target: the file of its result.
        earlier: another photo with the same target, or None.
        cfg: the configuration.

    Raises:
        ValueError: if its result cannot be written.
    """
    name, result = printable_name(path), printable_name(target)
    if earlier is not None and earlier.kept:
        raise ValueError(f"{name}: {result} may be the result of {printable_name(earlier.path)}")
    if earlier is not None:
        raise ValueError(f"{name}: {printable_name(earlier.path)} already became {result}")
    if target.exists() and cfg.existing == "refuse" and not cfg.overwrite:
        raise ValueError(
            f"{name}: {result} exists: overwrite=true replaces it, existing=skip keeps it"
        )
    return target.exists() and not cfg.overwrite


def reason(error: Exception, path: Path, target: Path) -> str:
    """Describe in one line why a photo was not enhanced."""
    name = printable_name(path)
    log.debug("%s", name, exc_info=error)
    text = told(error).partition("\n")[0] or type(error).__name__
    return text if name in text or printable_name(target) in text else f"{name}: {text}"


def move(bar: Bar, number: int, done: int, total: int) -> None:
    """Move the progress bar to the finished share of a photo's tiles."""
    bar.update(number - 1 + done / total)

"""Rate image files: each thread reads, resizes and rates a batch, on one core."""

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from images.pixels import to_bytes, to_unit
from images.reading import read_image_with_notes
from networks.nima import NIMA, inference_copy, mean_score, std_score
from networks.views import Precision

BATCH_SIZE = 4  # large enough for a CPU: more make it no faster


class Rating(NamedTuple):
    """Rating of an image file: its distribution, or the reason why there is none."""

    path: Path
    p_K: Tensor | None
    problem: str | None
    notes: tuple[str, ...] = ()  # about parts of the file that were ignored

    @property
    def mean(self) -> float:
        """Return the mean score, from 1 to the number of buckets; NaN without a distribution."""
        return math.nan if self.p_K is None else mean_score(self.p_K[None]).item()

    @property
    def std(self) -> float:
        """Return the standard deviation of the scores; NaN without a distribution."""
        return math.nan if self.p_K is None else std_score(self.p_K[None]).item()


def rate_files(
    scorer: NIMA,
    paths: Sequence[Path],
    *,
    device: torch.device,
    precision: Precision = "float32",
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
) -> Iterator[Rating]:
    """Rate image files in order, each by the scorer's own rule.

    The numbers of an image depend neither on the other images nor on the number of workers:
    incomplete batches are filled up, and each batch is computed on one core.

    Args:
        scorer: not changed.
        paths: image files.
        device: where it computes.
        precision: see `inference_copy`.
        batch_size: images at a time.
        num_workers: threads, each on one core. This is faster than using all cores for one batch,
            because decoding and rating never wait for each other.
    """
    fast = inference_copy(scorer, precision).to(device)
    share = min(batch_size, max(1, -(-len(paths) // num_workers)))  # few files: some for each
    batches = (paths[k : k + share] for k in range(0, len(paths), share))
    # A GPU computes one batch at a time anyway; several would only use up its memory.
    turn = nullcontext() if device.type == "cpu" else threading.Lock()
    num_threads = torch.get_num_threads()
    ahead: deque[Future[list[Rating]]] = deque()
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for batch in batches:
                ahead.append(pool.submit(rate_batch, fast, batch, batch_size, turn))
                if len(ahead) > 2 * num_workers:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(num_threads)  # the setting is global


@torch.inference_mode()
def rate_batch(
    scorer: NIMA, paths: Sequence[Path], batch_size: int, turn: AbstractContextManager[object]
) -> list[Rating]:
    """Rate up to `batch_size` files, holding `turn` while computing.

    The batch is filled up with copies, because sums may be in another order at another size.
    """
    ratings, crops = zip(*(read_crop(scorer, path) for path in paths), strict=True)
    readable = [crop for crop in crops if crop is not None]
    if not readable:
        return list(ratings)
    filled = torch.stack([*readable, *[readable[-1]] * (batch_size - len(readable))])
    with turn:
        images_BCHW = filled.to(scorer.mean.device)
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        rated = iter(scorer(to_unit(images_BCHW)).cpu())
    return [
        rating if crop is None else rating._replace(p_K=next(rated))
        for rating, crop in zip(ratings, crops, strict=True)
    ]


def read_crop(scorer: NIMA, path: Path) -> tuple[Rating, Tensor | None]:
    """Read a file and prepare it for the scorer, in uint8 on the CPU; None if that fails."""
    try:
        image, notes = read_image_with_notes(path)
    except ValueError as error:
        return Rating(path, None, str(error)), None
    try:
        # Channel by channel, which changes no value but saves memory: 160 megapixels as floats
        # take two gigabytes.
        parts = [scorer.prepare(to_unit(channel)[None, None])[0] for channel in image]
        return Rating(path, None, None, notes), to_bytes(torch.cat(parts))
    except ValueError as error:
        return Rating(path, None, f"{path}: {error}"), None

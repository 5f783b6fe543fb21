"""Rates image files: decoded and resized in threads, rated in batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.images import read_image, to_bytes, to_unit
from networks.nima import NIMA, Precision, inference_copy

BATCH_SIZE = 8  # whose activations still fit into the caches of a CPU; larger ones are slower there


class Rating(NamedTuple):
    """What became of an image file: its distribution, or what is wrong with it."""

    path: Path
    p_K: Tensor | None
    problem: str | None


def rate_files(
    scorer: NIMA,
    paths: Sequence[Path],
    *,
    device: torch.device,
    precision: Precision = "float32",
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
) -> Iterator[Rating]:
    """Rates image files in order, each by the scorer's own rule.

    An image has the same numbers alone and among others, at any place, for any number of workers:
    batches that are not full are filled up.

    Args:
        scorer: left as it is.
        paths: image files.
        device: where it computes.
        precision: see `inference_copy`.
        batch_size: images at a time.
        num_workers: threads that read and resize; Pillow and PyTorch work in parallel in them.
    """
    fast = inference_copy(scorer, precision).to(device)

    def prepared(path: Path) -> Tensor | str:
        try:
            image = read_image(path)
        except ValueError as error:
            return str(error)
        return to_bytes(scorer.prepare(to_unit(image)[None])[0])

    rest = iter(paths)
    waiting: deque[tuple[Path, Future[Tensor | str]]] = deque()
    # One thread of PyTorch in each: more would stand in the way of the network.
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while True:
                room = 2 * (batch_size + num_workers) - len(waiting)
                waiting.extend((path, pool.submit(prepared, path)) for path in islice(rest, room))
                if not waiting:
                    return
                taken = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                found = [(path, future.result()) for path, future in taken]
                crops = [crop for _, crop in found if isinstance(crop, Tensor)]
                p_BK = iter(rate_crops(fast, crops, batch_size, device))
                for path, crop in found:
                    if isinstance(crop, Tensor):
                        yield Rating(path, next(p_BK), None)
                    else:
                        yield Rating(path, None, crop)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@torch.inference_mode()
def rate_crops(
    scorer: NIMA, crops: Sequence[Tensor], batch_size: int, device: torch.device
) -> Tensor:
    """Distributions of up to `batch_size` crops, uint8, on the CPU.

    The batch is filled up with copies, because another size may be computed in another order.
    """
    if not crops:
        return torch.empty(0, scorer.num_buckets)
    filled = [*crops, *[crops[-1]] * (batch_size - len(crops))]
    images_BCHW = torch.stack(filled).to(device).contiguous(memory_format=torch.channels_last)
    p_BK: Tensor = scorer(to_unit(images_BCHW))
    return p_BK[: len(crops)].cpu()

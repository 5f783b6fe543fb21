"""Rates image files: decoded and resized in threads, rated in batches."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.images import read_image, to_bytes, to_unit
from networks.nima import NIMA, Precision, inference_copy

BATCH_SIZE = 8  # whose activations still fit into the caches of a CPU; larger ones are slower there
WINDOW = 4  # batches that are read before they are rated


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
        try:
            return to_bytes(scorer.prepare(to_unit(image)[None])[0])
        except ValueError as error:
            return f"{path}: {error}"

    num_threads = torch.get_num_threads()
    # One thread of PyTorch in each: more would stand in the way of the network.
    with ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        size = WINDOW * batch_size
        windows = [paths[k : k + size] for k in range(0, len(paths), size)]
        ahead: list[Future[Tensor | str]] = []
        try:
            for k, window in enumerate(windows):
                futures = ahead or [pool.submit(prepared, path) for path in window]
                wait(futures)  # on a CPU reading and rating would only get in each other's way
                if device.type != "cpu" and k + 1 < len(windows):
                    ahead = [pool.submit(prepared, path) for path in windows[k + 1]]
                found = [future.result() for future in futures]
                crops = [crop for crop in found if isinstance(crop, Tensor)]
                batches = (crops[i : i + batch_size] for i in range(0, len(crops), batch_size))
                rated = (p_K for batch in batches for p_K in rate_crops(fast, batch, batch_size))
                for path, crop in zip(window, found, strict=True):
                    if isinstance(crop, Tensor):
                        yield Rating(path, next(rated), None)
                    else:
                        yield Rating(path, None, crop)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(num_threads)  # what the threads set holds for later ones too


@torch.inference_mode()
def rate_crops(scorer: NIMA, crops: Sequence[Tensor], batch_size: int) -> Tensor:
    """Distributions of up to `batch_size` crops, uint8, on the CPU.

    The batch is filled up with copies, because another size may be computed in another order.
    """
    filled = [*crops, *[crops[-1]] * (batch_size - len(crops))]
    images_BCHW = (
        torch.stack(filled).to(scorer.mean.device).contiguous(memory_format=torch.channels_last)
    )
    p_BK: Tensor = scorer(to_unit(images_BCHW))
    return p_BK[: len(crops)].cpu()

"""Which device a command computes on, and how memory is kept for it."""

import contextlib
import ctypes
import re
from collections.abc import Iterator

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h


def keep_memory() -> None:
    """Has the C library keep the memory that tensors leave, for the next ones.

    By default glibc gives large blocks back at once, and the kernel clears them again for every
    activation of a network: a third of the time of a scorer on a CPU. Threads share one heap, since
    their own ones would give back large blocks all the same. Other systems' libraries do not have
    the call.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that versions before 2.35 take
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_ARENA_MAX, 1)


def release_memory() -> None:
    """Has the C library give back what `keep_memory` has kept: for a server that waits."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def device_problems(name: str, *, here: bool = True) -> Iterator[str]:
    """One problem if there is no such device; allocates nothing.

    Args:
        name: see `pick_device`.
        here: whether this machine has to have it.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        yield f"device={name}: auto, cpu, cuda, cuda:N or mps"
    elif here and name.startswith("cuda"):
        num = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= num:
            yield f"device={name}: not available on this machine, which has {num or 'no'} GPUs"
    elif here and name == "mps" and not torch.backends.mps.is_available():
        yield f"device={name}: not available on this machine"


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; other names are torch's.

    Raises:
        ValueError: if torch does not know the name or the machine does not have the device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for problem in device_problems(name):
        raise ValueError(problem)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"device={name}: not available on this machine ({reason})") from error
    return device

"""Pick the compute device and tune the C library's memory allocator for tensors."""

import contextlib
import ctypes
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h


def keep_memory() -> None:
    """Make the C library keep freed memory and reuse it for the next tensors.

    By default, glibc returns large blocks to the kernel at once, and the kernel zeroes them again
    for every activation. All threads share one heap because per-thread heaps would return large
    blocks anyway. Does nothing with C libraries other than glibc.

    User and system time of whole commands with one thread, without and with this: 17.4 and 14.9 s
    to enhance a photo of 640 x 480 pixels (two runs each), 17.7 and 16.3 s for 15 training steps
    with a scorer in the loss (one run). Scoring 64 photos takes 6.8 and 6.7 s, so `score` does
    without.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the maximum before glibc 2.35
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_ARENA_MAX, 1)


def release_memory() -> None:
    """Return the memory kept by `keep_memory` to the system, for a server that is idle."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def full_float32() -> None:
    """Compute in float32 what is asked for in float32, on GPUs too; bf16-mixed is the fast way."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


def device_problems(name: str, *, must_exist: bool = True) -> Iterator[str]:
    """Yield a message if there is no such device; allocates nothing.

    Args:
        name: see `pick_device`.
        must_exist: whether this machine has to have the device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        yield f"device={name}: auto, cpu, cuda, cuda:N or mps"
    elif must_exist and name.startswith("cuda"):
        import torch  # here, because a wrong name is refused without

        num = torch.cuda.device_count()
        if int(name.partition(":")[2] or 0) >= num:
            yield f"device={name}: not available on this machine, which has {num or 'no'} GPUs"
    elif must_exist and name == "mps":
        import torch

        if not torch.backends.mps.is_available():
            yield f"device={name}: not available on this machine"


def pick_device(name: str) -> "torch.device":
    """Return a device by its PyTorch name; `auto` is the first GPU, or the CPU if there is none.

    Raises:
        ValueError: if the name is unknown or this machine does not have the device.
    """
    import torch

    full_float32()
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

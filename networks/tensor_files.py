"""Read tensors from untrusted files without running their code or trusting the sizes they declare.

A file of a few kilobytes can declare terabytes: by a view with stride 0, a sparse tensor, a
compressed archive or a forged header. All of these are refused before anything large is allocated.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from system.terminal import printable

MAX_HEADER = 16 << 20  # bytes of a safetensors header, enough for 100,000 tensors
MAX_SHARING = 2  # declared bytes per byte of the file: tied weights are stored once, counted twice


def load_plain(path: str | Path) -> dict[str, Any]:
    """Load a PyTorch file of plain data onto the CPU.

    Raises:
        ValueError: if it is damaged, declares more data than it contains, or contains objects that
            could run code.
    """
    path = Path(path)
    try:
        zipped = check_sizes(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises many kinds, with misleading messages
        reason = "it is damaged, not a PyTorch file, or contains more than plain data"
        raise ValueError(f"{path}: cannot be read as a checkpoint: {reason}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, not a checkpoint")
    return loaded


def check_sizes(path: Path) -> bool:
    """Raise a ValueError if a PyTorch file declares more data than it contains.

    Returns:
        Whether it is a zip archive, the format since PyTorch 1.6.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > size:
            raise ValueError("compressed, or entries that overlap")
        return True
    # Fake tensors have a size but no memory, so nothing is allocated.
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        found = tensors_in(torch.load(path, map_location="cpu", weights_only=True))
    if sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in found}.values()) > size:
        raise ValueError("tensors larger than the file")
    return False


def tensors_in(loaded: object) -> list[Tensor]:
    """Collect all tensors in nested dicts, lists, tuples and sets."""
    found: list[Tensor] = []
    waiting, seen = [loaded], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
    return found


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, by name, and the metadata of a safetensors file.

    Raises:
        ValueError: if the file is damaged, or its header is larger than `MAX_HEADER`.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"its header claims {length:,} bytes, at most {MAX_HEADER:,} are read")
        with safe_open(path, framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    # Data types that this PyTorch lacks raise AttributeError or TypeError.
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        reason = printable(str(error))
        raise ValueError(f"{path}: not a safetensors file ({reason})") from error
    check_state(state, path)
    return state, metadata


def check_state(state: object, path: str | Path) -> None:
    """Raise a ValueError unless this is a dict of plain, named tensors that fit into the file."""
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path}: neither a checkpoint of this project nor bare weights")
    for name, value in state.items():
        plain = value.layout == torch.strided and not (value.is_quantized or value.is_nested)
        if not plain or value.is_meta or value.is_complex():
            kind = "complex" if value.is_complex() else re.sub(r"\W", " ", str(value.layout))
            raise ValueError(f"{path}: {printable(name)} is not a plain tensor ({kind})")
        if value.numel() == 0 and max(value.shape) > 0:  # which could declare any size
            raise ValueError(f"{path}: {printable(name)} is {tuple(value.shape)}: it has no values")
    size = Path(path).stat().st_size
    declared = sum(value.numel() * value.element_size() for value in state.values())
    if declared > MAX_SHARING * size:
        raise ValueError(f"{path}: declares {declared:,} bytes of weights, but has only {size:,}")

"""Write the checkpoints of trainings atomically, protected by a checksum."""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from lightning_modules.checkpoint import checked, network_state
from networks.tensor_files import check_state, load_plain
from system.files import replacing

CHECKSUM = "sha256"  # of everything else in the file, by this key


class WholeFiles(TorchCheckpointIO):
    """Write a checkpoint beside its target, then rename it over the earlier one.

    Lightning writes to the folder for temporary files and, if that is another file system, copies
    the file: a kill or a full disk then leaves a truncated checkpoint. Here the earlier one stays
    until the new one is on the disk.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Save a checkpoint with its checksum.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        path = Path(path)
        buffer = io.BytesIO()
        torch.save({**checkpoint, CHECKSUM: content_sha256(checkpoint)}, buffer)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def content_sha256(content: object) -> str:
    """Hash nested dicts and lists of plain values and tensors, on any device."""
    total = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, Tensor):
            total.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            bytes_N = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(bytes_N.numpy().data)
        elif isinstance(value, dict):
            total.update(f"dict {len(value)}\n".encode())
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            total.update(f"{type(value).__name__} {len(value)}\n".encode())
            for item in value:
                add(item)
        else:
            total.update(f"{type(value).__name__} {value!r}\n".encode())

    add(content)
    return total.hexdigest()


def read_whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint to resume from, and compare it with its checksum.

    A file of version 0.1 has only the checksum of its weights and record.

    Raises:
        ValueError: if the file is damaged, was changed, or is no checkpoint of a training.
    """
    loaded = load_plain(path)
    if CHECKSUM in loaded:
        rest = {key: value for key, value in loaded.items() if key != CHECKSUM}
        if loaded[CHECKSUM] != content_sha256(rest):
            raise ValueError(f"{path}: its checksum is wrong: the file was damaged or changed")
    needed = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "record"}
    if not needed <= loaded.keys():
        raise ValueError(f"{path}: not a checkpoint of a training run")
    check_state(loaded["state_dict"], path)
    checked(loaded["record"], network_state(loaded["state_dict"]), path)
    return loaded


def ends_an_epoch(checkpoint: dict[str, Any]) -> bool:
    """Return whether a checkpoint was saved at the end of an epoch, where runs can resume."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    return bool(progress["started"] == progress["processed"])

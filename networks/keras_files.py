"""Read weights from untrusted Keras HDF5 files.

HDF5 files can refer to data in other files (external storage, virtual data sets, links), and a
small file can declare gigabytes by fill values or compressed chunks. No tensor is read before all
of them have passed the checks in `list_datasets`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from networks.weights import State
from system.terminal import printable

if TYPE_CHECKING:
    import h5py

MAX_BYTES = 2**30  # total size of the tensors; a NIMA on MobileNet has 13 MB
MAX_NAMES = 10_000  # layers of a file, or weights of a layer; MobileNet has 90 layers
MAX_RATIO = 100  # declared bytes per byte of the file; weights hardly compress


def read_keras(path: Path) -> State:
    """Read the tensors of a Keras HDF5 file in the order of its layers, in PyTorch's layout.

    Keras stores convolutions as H x W x in x out, depthwise convolutions as H x W x channels x 1,
    and dense layers as in x out. Batch norms are gamma, beta, mean and variance, as in PyTorch.

    Raises:
        ValueError: if h5py is not installed, or the file is not a Keras file that contains all its
            weights.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path}: reading Keras files needs h5py: pip install h5py") from error
    if not path.is_file():
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    state: State = {}
    try:
        with h5py.File(path, "r") as file:
            for name, dataset in list_datasets(file, path.stat().st_size).items():
                with np.errstate(over="ignore"):  # `load_weights` rejects infinite values
                    value = torch.from_numpy(np.asarray(dataset[()], np.float32))
                if value.ndim == 4 and value.shape[3] == 1:
                    value = value.permute(2, 3, 0, 1)
                elif value.ndim == 4:
                    value = value.permute(3, 2, 0, 1)
                elif value.ndim == 2:
                    value = value.T
                state[name] = value.contiguous()
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        # str() of a KeyError adds quotes; names may contain any characters.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        reason = printable(str(text), 200)
        raise ValueError(f"{path}: not a Keras file of weights ({reason})") from error
    return state


def list_datasets(file: "h5py.File", num_bytes: int) -> dict[str, "h5py.Dataset"]:
    """List the data sets of all weights of a file of this size by name, in order, without reading.

    Raises:
        ValueError: if a data set is stored outside the file, or the file cannot contain as much
            data as they declare.
        KeyError: if a data set is missing.
    """
    import h5py

    root = open_hard_link(file, "model_weights") if "model_weights" in file else file
    datasets: dict[str, h5py.Dataset] = {}
    total = 0
    for layer in read_names(root, "layer_names"):
        group = open_hard_link(root, layer)
        for name in read_names(group, "weight_names"):
            dataset = open_hard_link(group, name)
            if name in datasets:
                raise ValueError(f"{name} is listed twice")
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
                raise ValueError(f"{name} is not an array of floating-point numbers")
            if dataset.is_virtual or dataset.external:
                raise ValueError(f"the values of {name} are stored in another file")
            stored = dataset.id.get_storage_size()
            filtered = dataset.id.get_create_plist().get_nfilters() > 0
            if dataset.nbytes > stored * (MAX_RATIO if filtered else 1):
                raise ValueError(
                    f"{name} declares {dataset.nbytes} bytes, but only {stored} are stored"
                )
            # Reading any part of a chunk decompresses all of it.
            chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
            if chunk > MAX_RATIO * num_bytes:
                raise ValueError(f"{name} is stored in chunks of {chunk} bytes")
            total += dataset.nbytes
            if total > min(MAX_BYTES, MAX_RATIO * num_bytes):
                raise ValueError(
                    f"it declares more than {total - 1} bytes of weights in a file of {num_bytes}"
                )
            datasets[name] = dataset
    return datasets


def open_hard_link(group: "h5py.Group | h5py.Dataset", name: str) -> "h5py.Group | h5py.Dataset":
    """Open the object at a path, following hard links only.

    Raises:
        ValueError: if the path contains a soft or external link.
        KeyError: if there is no such object.
    """
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group):
            raise KeyError(f"{name} is missing")
        link = group.get(part, getlink=True)
        if link is None:
            raise KeyError(f"{name} is missing")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link to another place or file")
        group = group[part]
    return group


def read_names(group: "h5py.Group | h5py.Dataset", attribute: str) -> list[str]:
    """Read an attribute that is a list of names.

    Raises:
        ValueError: if it is not a list of names, or longer than `MAX_NAMES`.
        KeyError: if there is no such attribute.
    """
    import h5py

    found = group.attrs.get_id(attribute)
    is_empty = 0 in found.shape  # Keras stores an empty list as an array of floats
    if len(found.shape) != 1 or not (is_empty or h5py.check_string_dtype(found.dtype)):
        raise ValueError(f"{attribute} is not a list of names")
    if found.shape[0] > MAX_NAMES:
        raise ValueError(f"{attribute} lists {found.shape[0]} names; {MAX_NAMES} are allowed")
    names = [] if is_empty else group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]

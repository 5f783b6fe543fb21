"""Weights in Keras HDF5 files, which may come from anywhere.

HDF5 lets a small file stand for much else: data sets in other files (external storage, virtual
data sets, links), and fill values or compressed chunks that stand for gigabytes. Nothing is read
before the whole list of tensors has passed `declared`.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from networks.backbones import State
from networks.tensor_files import printable

if TYPE_CHECKING:
    import h5py

KERAS_SUFFIXES = (".h5", ".hdf5")
MAX_BYTES = 2**30  # of all tensors; a NIMA on MobileNet has 13 MB
MAX_NAMES = 10_000  # of layers or of a layer's weights; MobileNet has 90 layers
MAX_RATIO = 100  # declared bytes per byte of the file; weights hardly compress


def read_keras(path: Path) -> State:
    """Read the tensors of a Keras HDF5 file in the order of its layers, in PyTorch's axis order.

    Convolutions are stored as H x W x in x out, depthwise ones as H x W x channels x 1, dense
    layers as in x out; batch norms as gamma, beta, mean and variance, PyTorch's order.

    Raises:
        ValueError: if h5py is not installed, or the file is not a Keras file of weights that are
            all stored inside it.
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
            for name, dataset in declared(file, path.stat().st_size).items():
                with np.errstate(over="ignore"):  # infinite weights are refused where they load
                    value = torch.from_numpy(np.asarray(dataset[()], np.float32))
                if value.ndim == 4 and value.shape[3] == 1:
                    value = value.permute(2, 3, 0, 1)
                elif value.ndim == 4:
                    value = value.permute(3, 2, 0, 1)
                elif value.ndim == 2:
                    value = value.T
                state[name] = value.contiguous()
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        # The text of a KeyError would be in quotes; names may hold anything.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        reason = printable(str(text), 200)
        raise ValueError(f"{path}: not a Keras file of weights ({reason})") from error
    return state


def declared(file: "h5py.File", num_bytes: int) -> dict[str, "h5py.Dataset"]:
    """List the data sets of all weights by name, in order, without reading them.

    Args:
        file: the open file.
        num_bytes: its size.

    Raises:
        ValueError: if one lies outside the file, or all together are larger than it could hold.
        KeyError: if one is missing.
    """
    import h5py

    root = follow(file, "model_weights") if "model_weights" in file else file
    datasets: dict[str, h5py.Dataset] = {}
    total = 0
    for layer in names_in(root, "layer_names"):
        group = follow(root, layer)
        for name in names_in(group, "weight_names"):
            dataset = follow(group, name)
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
            # A chunk is decompressed whole, whatever part of it the data set has.
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


def follow(group: Any, name: str) -> Any:  # noqa: ANN401
    """Open the object that a path names, by hard links only.

    Raises:
        ValueError: if the path leads through a soft or external link.
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


def names_in(group: Any, attribute: str) -> list[str]:  # noqa: ANN401
    """Read an attribute that lists names.

    Raises:
        ValueError: if it holds something else, or more names than a network could have.
        KeyError: if there is no such attribute.
    """
    import h5py

    found = group.attrs.get_id(attribute)
    is_empty = 0 in found.shape  # Keras stores no names as an array of floats
    if len(found.shape) != 1 or not (is_empty or h5py.check_string_dtype(found.dtype)):
        raise ValueError(f"{attribute} is not a list of names")
    if found.shape[0] > MAX_NAMES:
        raise ValueError(f"{attribute} lists {found.shape[0]} names; {MAX_NAMES} are allowed")
    names = [] if is_empty else group.attrs[attribute]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]

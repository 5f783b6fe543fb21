"""Split photos by their names, or by lists of them."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from datamodules.ratings_table import FileNames, read_text, to_nfc
from datamodules.store import NAME_ENCODING
from system.places import expanded


def draw_share(names: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    """Choose a share of the images, at least one, by a hash of seed and name, and return indices.

    Adding or removing an image thus moves at most one other image between the splits.
    """
    keys = (f"{seed}/{name}".encode(*NAME_ENCODING) for name in names.tolist())
    hashes = b"".join(hashlib.sha256(key).digest()[:8] for key in keys)
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    return np.sort(order[: max(1, round(share * len(names)))])


def match_list(file: str, names: NDArray[np.str_]) -> tuple[NDArray[np.int64], list[str]]:
    """Look up the images on a list, which has one name per line.

    Returns:
        The indices of the images, and the names that match none.

    Raises:
        ValueError: if the list cannot be read, or a name without suffix is ambiguous.
    """
    lines = read_text(expanded(file), "a list of images").splitlines()
    by_name = {name: k for k, name in enumerate(names.tolist())}
    by_stem: dict[str, list[int]] = {}
    for name, k in by_name.items():
        by_stem.setdefault(to_nfc(name.rpartition(".")[0]), []).append(k)
    files, stems = FileNames(by_name), FileNames(by_stem)
    found, unknown = set(), []
    for line in filter(None, map(str.strip, lines)):
        try:
            name = files.resolve(line)
            meant = [by_name[name]] if name in by_name else by_stem.get(stems.resolve(line), [])
        except ValueError as error:
            raise ValueError(f"{file}: {line}: {error}") from error
        if len(meant) > 1:
            raise ValueError(f"{file}: {line} could be {' or '.join(names[meant].tolist())}")
        if meant:
            found.add(meant[0])
        else:
            unknown.append(line)
    return np.array(sorted(found), np.int64), unknown

"""Keras files that stand for more than they hold, or for something that is no network."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks.nima import load_keras_nima
from tests.conftest import Cli
from tests.networks.test_keras_files import NAME, write

h5py = pytest.importorskip("h5py")

NO_NIMA = "not a NIMA on MobileNet (1 tensors where 137 are needed)"


def scalar(group: Any) -> None:  # noqa: ANN401
    group[NAME] = np.float32(3)


def many_buckets(group: Any) -> None:  # noqa: ANN401
    """40 MB for the ratings, so that the layer before them would have 40 GB."""
    group[NAME] = np.ones(10_000_000, "f4")


def huge_chunk(group: Any) -> None:  # noqa: ANN401
    """Ten numbers in a compressed chunk of 1 GB."""
    data = group.create_dataset(
        NAME, (10,), "f4", maxshape=(None,), chunks=(2**28,), compression="gzip"
    )
    data.id.write_direct_chunk((0,), b"x" * 1000)


def empty(group: Any) -> None:  # noqa: ANN401
    group[NAME] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (scalar, NO_NIMA),
        (many_buckets, NO_NIMA),
        (huge_chunk, "dense/kernel:0 is stored in chunks of 1073741824 bytes"),
        (empty, "not a Keras file of weights"),
    ],
)
def test_import_weights_refuses_it_in_one_line_and_little_memory(
    cli: Cli, folder: Path, fill: Callable[[Any], None], reason: str
) -> None:
    write(folder / "weights.h5", fill)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = cli("import_weights", "input=weights.h5", "output=out.safetensors")
    assert result.code == 2
    assert reason in result.err
    assert result.err.strip().count("\n") == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert not (folder / "out.safetensors").exists()


def test_names_from_a_file_are_printed_harmlessly(tmp_path: Path) -> None:
    names = ("\x1b[31mred\nline", "a" * 5000)
    for name in names:
        path = write(tmp_path / "weights.h5", lambda group: None, (name,))
        with pytest.raises(ValueError, match="not a Keras file of weights") as caught:
            load_keras_nima(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    path = write(tmp_path / "weights.h5", lambda group: None)
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array([b"\xff\xfe"], "S")
    with pytest.raises(ValueError, match="'utf-8' codec can't decode byte 0xff"):
        load_keras_nima(path)

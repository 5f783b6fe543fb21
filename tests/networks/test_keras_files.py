"""Keras files from anywhere: nothing outside them is read, and nothing larger than they are."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks.keras_files import read_keras
from tests.conftest import Cli

h5py = pytest.importorskip("h5py")

NAME = "dense/kernel:0"
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path: Path, fill: Callable[[Any], None], names: tuple[str, ...] = (NAME,)) -> Path:
    """A file of one layer, whose weights `fill` puts into its group."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["dense"], "S")
        group = file.create_group("dense")
        group.attrs["weight_names"] = np.array(names, "S")
        fill(group)
    return path


def in_another_file(group: Any) -> None:  # noqa: ANN401
    """Raw bytes of a secret file as the values (the attack that was seen)."""
    secret = str(Path(group.file.filename).with_name("secret.bin"))
    group.create_dataset(NAME, (3, 4), "f4", external=[(secret, 0, 48)])


def virtual(group: Any) -> None:  # noqa: ANN401
    other = str(Path(group.file.filename).with_name("other.h5"))
    layout = h5py.VirtualLayout(shape=(3, 4), dtype="f4")
    layout[:] = h5py.VirtualSource(other, "values", shape=(3, 4))
    group.create_virtual_dataset(NAME, layout)


def external_link(group: Any) -> None:  # noqa: ANN401
    group[NAME] = h5py.ExternalLink("other.h5", "/values")


def external_folder(group: Any) -> None:  # noqa: ANN401
    group["dense"] = h5py.ExternalLink("other.h5", "/")


def soft_link(group: Any) -> None:  # noqa: ANN401
    group["real"] = VALUES
    group[NAME] = h5py.SoftLink("/dense/real")


def soft_loop(group: Any) -> None:  # noqa: ANN401
    group["dense"] = h5py.SoftLink("/dense/dense")


def group_loop(group: Any) -> None:  # noqa: ANN401
    group["dense"] = group  # a hard link to itself


def fill_value(group: Any) -> None:  # noqa: ANN401
    group.create_dataset(NAME, (2**31,), "f4", fillvalue=1)  # 8 GB, of which nothing is stored


def chunked_fill_value(group: Any) -> None:  # noqa: ANN401
    data = group.create_dataset(NAME, (2**31,), "f4", chunks=(1024,), fillvalue=1)
    data[:1024] = 0


def compressed_bomb(group: Any) -> None:  # noqa: ANN401
    group.create_dataset(NAME, data=np.zeros(2**22, "f4"), compression="gzip", compression_opts=9)


def text(group: Any) -> None:  # noqa: ANN401
    group[NAME] = "weights"


def a_group(group: Any) -> None:  # noqa: ANN401
    group.create_group(NAME)


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (in_another_file, "the values of dense/kernel:0 are stored in another file"),
        (virtual, "the values of dense/kernel:0 are stored in another file"),
        (external_link, "dense/kernel:0 is a link to another place or file"),
        (external_folder, "dense/kernel:0 is a link to another place or file"),
        (soft_link, "dense/kernel:0 is a link to another place or file"),
        (soft_loop, "dense/kernel:0 is a link to another place or file"),
        (group_loop, "dense/kernel:0 is missing"),
        (fill_value, "dense/kernel:0 declares 8589934592 bytes, but only 0 are stored"),
        (chunked_fill_value, "declares 8589934592 bytes, but only 4096 are stored"),
        (compressed_bomb, "dense/kernel:0 declares 16777216 bytes, but only "),
        (text, "dense/kernel:0 is not an array of floating-point numbers"),
        (a_group, "dense/kernel:0 is not an array of floating-point numbers"),
        (lambda group: None, "dense/kernel:0 is missing"),
    ],
)
def test_what_is_not_stored_in_the_file_is_refused_before_it_is_read(
    tmp_path: Path, fill: Callable[[Any], None], reason: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = VALUES
        file["kernel:0"] = VALUES
    path = write(tmp_path / "weights.h5", fill)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"^{path}: not a Keras file of weights") as caught:
        read_keras(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 2**20


def test_many_names_of_one_data_set_do_not_add_up_to_more_than_the_file(tmp_path: Path) -> None:
    names = tuple(f"w{k}" for k in range(400))

    def fill(group: Any) -> None:  # noqa: ANN401
        group["w0"] = np.ones((100, 100), "f4")
        for name in names[1:]:
            group[name] = group["w0"]  # hard links

    path = write(tmp_path / "weights.h5", fill, names)
    with pytest.raises(ValueError, match=r"declares more than \d+ bytes of weights in a file of"):
        read_keras(path)


def test_endless_lists_of_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.h5", lambda group: group.create_dataset(NAME, data=VALUES))
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array(["dense", "dense"], "S")
    with pytest.raises(ValueError, match="dense/kernel:0 is listed twice"):
        read_keras(path)
    with h5py.File(path, "a", libver="latest") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.zeros(20_000, "S3")
    with pytest.raises(ValueError, match=r"layer_names lists 20000 names; 10000 are allowed"):
        read_keras(path)
    for value in (np.zeros(3), "dense", np.zeros((2, 2), "S3"), h5py.Empty("f4")):
        with h5py.File(path, "a") as file:
            del file.attrs["layer_names"]
            file.attrs["layer_names"] = value
        with pytest.raises(ValueError, match="not a Keras file of weights"):
            read_keras(path)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("options", [{}, {"chunks": (2, 2), "compression": "gzip"}])
def test_all_floating_point_types_are_read_as_numpy_does(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    stored = VALUES.astype(kind)

    def fill(group: Any) -> None:  # noqa: ANN401
        group.create_dataset(NAME, data=stored, **options)

    state = read_keras(write(tmp_path / "weights.h5", fill))
    assert list(state) == [NAME]
    assert state[NAME].numpy().tolist() == VALUES.T.tolist()  # in x out becomes out x in


def test_import_weights_says_it_in_one_line(cli: Cli, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(VALUES.tobytes())
    write(folder / "weights.h5", in_another_file)
    began = time.monotonic()
    result = cli("import_weights", "input=weights.h5", "output=out.safetensors")
    assert result.code == 2
    assert "the values of dense/kernel:0 are stored in another file" in result.err + result.out
    assert "Traceback" not in result.err + result.out
    assert not (folder / "out.safetensors").exists()
    assert time.monotonic() - began < 10

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from datamodules.div2k import Decode
from datamodules.images import read_image, to_array
from datamodules.packed import PackedImages, Shard, Source, damaged, pack
from tests.conftest import ROOT

PER_SHARD = 4


def photos(folder: Path, num: int = 10) -> list[Source]:
    """PNG files of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sources = []
    for k in range(num):
        path = folder / f"photo {k:02}.png"
        image = rng.integers(0, 256, (20 + k, 30 - k, 3), dtype=np.uint8)
        Image.fromarray(image).save(path)
        sources.append(Source(path.stem, path))
    return sources


def packed(
    where: Path,
    sources: list[Source] | None,
    limit: int | None = None,
    num_workers: int | None = None,
) -> PackedImages:
    return pack(
        where,
        sources,
        Decode(),
        per_shard=PER_SHARD,
        what="photos",
        limit=limit,
        num_workers=num_workers,
    )


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.safetensors")}


def test_every_image_comes_back(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    store = packed(tmp_path / "store", sources)
    assert store.names.tolist() == [source.name for source in sources]
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 3
    for k, source in enumerate(sources):
        expected = to_array(read_image(source.path))
        assert np.array_equal(store[k], expected)
        assert np.array_equal(store.whole(k), expected)
        assert store.sizes[k].tolist() == list(expected.shape[:2])
    pixels, starts = store.flat()
    first = pixels[starts[7] : starts[7] + store.sizes[7].prod() * 3].numpy()
    assert np.array_equal(first, to_array(read_image(sources[7].path)).reshape(-1))


def test_any_safetensors_reader_opens_it(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    packed(tmp_path / "store", sources)
    with safe_open(tmp_path / "store" / "00001.safetensors", framework="numpy") as file:
        offsets, sizes = file.get_tensor("offsets"), file.get_tensor("sizes")
        pixels, names = file.get_tensor("pixels"), file.get_tensor("names")
        recipe = json.loads(file.metadata()["recipe"])
    height, width = sizes[2]
    image = pixels[offsets[2] :][: height * width * 3].reshape(height, width, 3)
    assert np.array_equal(image, np.array(Image.open(sources[6].path)))
    assert bytes(names[2]).rstrip(b"\0").decode() == "photo 06"
    assert recipe["make"] == "Decode"


def test_second_time_nothing_is_written(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    packed(tmp_path / "store", sources)
    before = times(tmp_path / "store")
    packed(tmp_path / "store", sources)
    assert times(tmp_path / "store") == before


def test_changed_source_makes_its_file_again_and_no_other(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    first = packed(tmp_path / "store", sources)
    before = times(tmp_path / "store")
    Image.new("RGB", (9, 8), "red").save(sources[5].path)
    second = packed(tmp_path / "store", sources)
    after = times(tmp_path / "store")
    assert [name for name in before if before[name] != after[name]] == ["00001.safetensors"]
    assert second[5].shape == (8, 9, 3)
    assert second.fingerprint != first.fingerprint


def test_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "copy")
    copies = [Source(s.name, tmp_path / "copy" / s.path.name) for s in sources]
    one, two = packed(tmp_path / "one", sources), packed(tmp_path / "two", copies)
    assert one.fingerprint == two.fingerprint
    assert packed(tmp_path / "one", sources[:9]).fingerprint != one.fingerprint


def test_another_recipe_makes_everything_again(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    packed(tmp_path / "store", sources)
    black = pack(tmp_path / "store", sources, Black(3), per_shard=PER_SHARD, what="photos")
    assert black[9].shape == (3, 3, 3)
    before = times(tmp_path / "store")
    black = pack(tmp_path / "store", sources, Black(5), per_shard=PER_SHARD, what="photos")
    assert black[9].shape == (5, 5, 3)
    assert all(times(tmp_path / "store")[name] != before[name] for name in before)


@dataclass(frozen=True)
class Black:
    """Makes black squares."""

    side: int

    def __call__(self, source: Source) -> NDArray[np.uint8]:
        return np.zeros((self.side, self.side, 3), np.uint8)


def test_limit_packs_and_opens_the_first_few(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    few = packed(tmp_path / "store", sources, limit=5)
    assert few.names.tolist() == [s.name for s in sources[:5]]
    packed(tmp_path / "store", sources)
    before = times(tmp_path / "store")
    few = packed(tmp_path / "store", sources, limit=6)  # of what is there
    assert times(tmp_path / "store") == before
    assert len(few) == 6
    assert np.array_equal(few[5], to_array(read_image(sources[5].path)))


def test_files_of_images_that_are_gone_are_removed(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    packed(tmp_path / "store", sources)
    assert len(packed(tmp_path / "store", sources[:3])) == 3
    assert list(times(tmp_path / "store")) == ["00000.safetensors"]


def test_store_is_enough_without_the_photos(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    whole = packed(tmp_path / "store", sources)
    shutil.rmtree(tmp_path / "photos")
    alone = packed(tmp_path / "store", None)
    assert alone.fingerprint == whole.fingerprint
    assert np.array_equal(alone[9], whole[9])
    with pytest.raises(ValueError, match="there is no binary store"):
        packed(tmp_path / "absent", None)


def test_cut_off_file_is_made_again(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    packed(tmp_path / "store", sources)
    path = tmp_path / "store" / "00001.safetensors"
    for content in (path.read_bytes()[:-1], b"", b"no header", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no file of a binary store"):
            Shard(path)
        store = packed(tmp_path / "store", sources)
        assert np.array_equal(store[5], to_array(read_image(sources[5].path)))


def test_checksum_finds_a_flipped_bit(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    store = packed(tmp_path / "store", sources)
    assert damaged(store.shards) == []
    with open(store.shards[2], "r+b") as file:
        file.seek(4096 + 100)
        byte = file.read(1)[0]
        file.seek(4096 + 100)
        file.write(bytes([byte ^ 1]))
    assert damaged(store.shards) == [store.shards[2]]


def test_all_bad_images_are_named_and_the_good_files_stay(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    for k in (4, 6):
        sources[k].path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="2 of the photos cannot be used") as info:
        packed(tmp_path / "store", sources)
    assert "photo 04.png: not an image" in str(info.value)
    assert "photo 06.png: not an image" in str(info.value)
    assert sorted(times(tmp_path / "store")) == ["00000.safetensors", "00002.safetensors"]


@pytest.mark.slow
def test_killed_packing_goes_on_where_it_was(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos", 20)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.datamodules.test_packed import Slow\n"
        "from datamodules.packed import Source, pack\n"
        "folder = Path(sys.argv[1])\n"
        "sources = [Source(p.stem, p) for p in sorted((folder / 'photos').iterdir())]\n"
        "pack(folder / 'store', sources, Slow(), per_shard=4, what='photos', num_workers=0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    store = tmp_path / "store"
    deadline = time.monotonic() + 60
    while len(times(store)) < 2 or not list(store.glob(".*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = times(store)
    assert 2 <= len(before) < 5
    for name in before:
        Shard(store / name)  # whole
    finished = pack(store, sources, Slow(), per_shard=4, what="photos", num_workers=0)
    assert len(finished) == 20
    after = times(store)
    assert all(after[name] == before[name] for name in before)
    assert not list(store.glob(".*.safetensors"))
    assert damaged(finished.shards) == []


@dataclass(frozen=True)
class Slow:
    """Takes its time."""

    def __call__(self, source: Source) -> NDArray[np.uint8]:
        time.sleep(0.03)
        return to_array(read_image(source.path))


@pytest.mark.slow
def test_two_processes_pack_once(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos", 12)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        jobs = [pool.apply_async(slow_pack, (tmp_path / "store", sources)) for _ in range(2)]
        written = sorted(job.get(120) for job in jobs)
    assert written == [0, 3]
    assert damaged(packed_slowly(tmp_path / "store", sources).shards) == []


def packed_slowly(where: Path, sources: list[Source]) -> PackedImages:
    return pack(where, sources, Slow(), per_shard=PER_SHARD, what="photos", num_workers=0)


def slow_pack(where: Path, sources: list[Source]) -> int:
    """Packs; how many files this process has written."""
    mine = os.getpid()
    replaced = []
    replace = os.replace
    os.replace = lambda a, b: (replaced.append(mine), replace(a, b))  # type: ignore[assignment]
    packed_slowly(where, sources)
    return len(replaced)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_full_disk_is_said_and_leaves_nothing_half_written(
    tmp_path: Path, small_disk: Path
) -> None:
    sources = photos(tmp_path / "photos", 8)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left.*data.store=FOLDER"):
        pack(small_disk / "store", sources, Black(300), per_shard=4, what="photos", num_workers=0)
    assert list((small_disk / "store").glob("*.safetensors")) == []
    assert list((small_disk / "store").glob(".*.safetensors")) == []


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos", 2)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written.*data.store=FOLDER"):
        packed(tmp_path / "file" / "store", sources)


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    store = packed(tmp_path / "store", sources)
    assert store[3].shape == (23, 27, 3)
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy[3], store[3])


def test_workers_pack_the_same(tmp_path: Path) -> None:
    sources = photos(tmp_path / "photos")
    one = packed(tmp_path / "one", sources, num_workers=0)
    two = packed(tmp_path / "two", sources, num_workers=2)
    assert [p.read_bytes() for p in one.shards] == [p.read_bytes() for p in two.shards]


def many(folder: Path, num: int, side: int) -> PackedImages:
    """A store of as many entries; all made of one file."""
    path = folder / "one.png"
    path.write_bytes(b"x")
    sources = [Source(str(k), path) for k in range(num)]
    where = folder / str(num)
    pack(where, sources, Black(side), per_shard=512, what="images", num_workers=0)
    began = time.perf_counter()
    store = pack(where, sources, Black(side), per_shard=512, what="images")
    store.seconds = time.perf_counter() - began  # type: ignore[attr-defined]
    return store


@pytest.mark.slow
def test_opening_a_quarter_of_a_million_entries_takes_under_two_seconds(tmp_path: Path) -> None:
    store = many(tmp_path, 250_000, 1)
    assert len(store) == 250_000
    assert store.names[-1] == "249999"
    assert store.seconds < 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_memory_of_a_worker_does_not_grow_with_the_data(tmp_path: Path) -> None:
    resident = {}
    for num in (500, 50_000):
        store = many(tmp_path, num, 24)
        loader = torch.utils.data.DataLoader(
            Reader(store),  # type: ignore[arg-type]
            batch_sampler=[list(range(k, k + 100)) for k in range(0, num, 100)],
            collate_fn=as_it_is,
            num_workers=1,
        )
        resident[num] = list(loader)[-1]
    # 50,000 images of 24 x 24 pixels are 86 MB.
    assert resident[50_000] - resident[500] < 8e6


class Reader:
    """Reads whole images and says how much memory this process has: resident, with mapped files."""

    def __init__(self, store: PackedImages) -> None:
        self.store = store

    def __getitems__(self, batch: list[int]) -> int:
        total = sum(int(self.store[k].sum()) for k in batch)
        assert total == 0
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def as_it_is(batch: int) -> int:
    return batch

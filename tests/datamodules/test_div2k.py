import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import TrainSampler
from datamodules.batches import PairBatch, PatchBatch, PatchLocations
from datamodules.benchmark import Benchmark
from datamodules.degradations import Degradation, shrink
from datamodules.div2k import DIV2K
from datamodules.folders import PhotoFolders
from datamodules.sampling import Draws
from images.pixels import to_tensor
from images.reading import read_image
from tests.conftest import PHOTOS


def save(path: Path, width: int, height: int, seed: int) -> None:
    """A smooth photo-like image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIV2K's layout with all its 900 names, the photos tiny; LR of x2 alone."""
    root = tmp_path_factory.mktemp("data") / "DIV2K"
    for split, numbers in (("train", range(1, 801)), ("valid", range(801, 901))):
        for number in numbers:
            width = 48 if number % 2 else 36
            path = root / f"DIV2K_{split}_HR" / f"{number:04}.png"
            save(path, width, 24, number)
            lr = root / f"DIV2K_{split}_LR_bicubic" / "X2" / f"{number:04}x2.png"
            save(lr, width // 2, 12, number + 1000)  # not what bicubic would give
    return root


@pytest.fixture
def div2k(official: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(official, tmp_path / "DIV2K"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of photos of odd sizes, without LR."""
    root = tmp_path_factory.mktemp("photos")
    for k in range(7):
        save(root / "train" / f"t{k}.png", 61 + 7 * k, 50 + k, k)
    save(root / "train" / "small.png", 20, 90, 50)
    for k in range(3):
        save(root / "val" / f"v{k}.png", 49 + k, 38, 100 + k)
    return root


def photo_folders(folders: Path, **more: Any) -> PhotoFolders:  # noqa: ANN401
    options: dict[str, Any] = {"patch_size": 12, "batch_size": 8, "num_steps": 4} | more
    return PhotoFolders(str(folders / "train"), str(folders / "val"), **options)


def batches(data: PhotoFolders, epoch: int = 0) -> list[PairBatch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def assert_equal(one: list[PairBatch], two: list[PairBatch]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.lr_BCHW, b.lr_BCHW)
        assert torch.equal(a.hr_BCHW, b.hr_BCHW)


def test_official_layout(official: Path, tmp_path: Path) -> None:
    data = DIV2K(str(official), scale=2, store=str(tmp_path), patch_size=12)
    data.setup()
    assert (len(data.train), len(data.val)) == (800, 100)
    assert data.train.hr.names[[0, -1]].tolist() == ["0001", "0800"]
    pair = data.val[3]
    assert pair.name == "0804"
    assert torch.equal(pair.hr, read_image(official / "DIV2K_valid_HR/0804.png"))
    assert torch.equal(pair.lr, read_image(official / "DIV2K_valid_LR_bicubic/X2/0804x2.png"))


def test_absent_lr_folder_is_made_by_bicubic(
    official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.clear()
    data = DIV2K(str(official), scale=3, store=str(tmp_path), limit=4, patch_size=8)
    data.setup()
    assert "LR photos are made by bicubic shrinking" in caplog.text
    for k in range(4):
        assert torch.equal(data.val[k].lr, shrink(data.val[k].hr, 3))


def test_wrong_files_are_named_with_what_was_expected(div2k: Path) -> None:
    hr = div2k / "DIV2K_train_HR"
    (hr / "0007.png").rename(hr / "7.png")
    (hr / "0100.png").unlink()
    (hr / "notes.txt").touch()
    (hr / "._0001.png").touch()  # macOS leaves these; nobody means them
    with pytest.raises(
        ValueError, match=r"4 problems in .*DIV2K_train_HR.*0001.png to 0800.png"
    ) as e:
        DIV2K(str(div2k), scale=2).setup()
    lines = [line.strip() for line in str(e.value).splitlines()[1:]]
    assert lines == [
        "0007.png is missing",
        "0100.png is missing",
        "7.png does not belong here",
        "notes.txt does not belong here",
    ]


def test_missing_lr_and_wrong_size_are_named(div2k: Path) -> None:
    lr = div2k / "DIV2K_valid_LR_bicubic" / "X2"
    (lr / "0850x2.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)0801x2.png to 0900x2.png.*0850x2.png is missing"):
        DIV2K(str(div2k), scale=2).setup("validate")
    save(lr / "0850x2.png", 18, 13, 0)
    with pytest.raises(ValueError, match=r"X2/0850x2.png is 18x13, expected 18x12, as HR is 36x24"):
        DIV2K(str(div2k), scale=2).setup("validate")


def test_limit_needs_only_the_first_photos(div2k: Path) -> None:
    (div2k / "DIV2K_train_HR" / "0009.png").unlink()
    data = DIV2K(str(div2k), scale=2, limit=8, patch_size=4)
    data.setup()
    assert (len(data.train), len(data.val)) == (8, 8)
    with pytest.raises(ValueError, match=r"0009.png is missing"):
        DIV2K(str(div2k), scale=2, limit=9).setup()


def test_small_photos_are_counted_and_named(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.clear()
    data = photo_folders(folders, scale=2, store=str(tmp_path))
    data.setup()
    assert "1 of 8 photos are smaller than a patch and are not used: small" in caplog.text
    names = {str(data.train.hr.names[k]) for k in data.train.items}
    assert names == {f"t{k}" for k in range(7)}


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_lr_is_made_by_bicubic_and_patches_are_aligned(
    folders: Path, tmp_path: Path, scale: int
) -> None:
    blur = Degradation(blur=1.0)
    data = photo_folders(folders, scale=scale, store=str(tmp_path), degradation=blur)
    data.setup()
    for k in range(3):
        pair = data.val[k]
        original = read_image(folders / "val" / f"v{k}.png")
        height, width = (side - side % scale for side in original.shape[1:])
        assert torch.equal(pair.hr, original[:, :height, :width])
        assert torch.equal(pair.lr, blur.apply_fixed(shrink(original, scale), f"v{k}"))
    draws = Draws(0, 0, 0, np.arange(7))
    batch = data.train.__getitems__(draws)
    assert isinstance(batch, PatchBatch)
    for k in range(7):  # each patch is found in its photos, at corresponding places
        lr, hr = data.train.lr[scale][data.train.items[k]], data.train.hr[data.train.items[k]]
        where = [
            (top, left)
            for top in range(lr.shape[0] - 11)
            for left in range(lr.shape[1] - 11)
            if np.array_equal(lr[top : top + 12, left : left + 12], batch.lr_BHWC[k])
        ]
        assert any(
            np.array_equal(
                hr[top * scale : (top + 12) * scale, left * scale : (left + 12) * scale],
                batch.hr_BHWC[k],
            )
            for top, left in where
        )


def test_every_place_of_a_photo_is_drawn(folders: Path, tmp_path: Path) -> None:
    data = photo_folders(folders, scale=1, store=str(tmp_path), patch_size=30, on_device=True)
    data.setup()
    places = data.train.__getitems__(Draws(0, 0, 0, np.zeros(20_000, np.int64)))
    assert isinstance(places, PatchLocations)
    height, width = data.train.hr.sizes[data.train.items[0]]
    assert sorted(set(places.top_B.tolist())) == list(range(height - 30 + 1))
    assert sorted(set(places.left_B.tolist())) == list(range(width - 30 + 1))
    assert sorted(set(places.code_B.tolist())) == list(range(8))


def test_lr_folders_in_both_layouts(folders: Path, tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "a" / "X2" / f"v{k}x2.png", (49 + k) // 2, 19, k)
        save(tmp_path / "b" / f"v{k}.bmp", (49 + k) // 2, 19, k)
    for lr in ("a", "b"):
        data = PhotoFolders(
            None, str(folders / "val"), val_lr=str(tmp_path / lr), store=str(tmp_path / "s" / lr)
        )
        data.setup("validate")
        found = list((tmp_path / lr).rglob("v1*"))
        assert torch.equal(data.val[1].lr, read_image(found[0]))
    save(tmp_path / "b" / "v1x2.png", 25, 19, 3)
    with pytest.raises(ValueError, match=r"LR of v1.png could be v1 or v1x2"):
        PhotoFolders(None, str(folders / "val"), val_lr=str(tmp_path / "b")).setup("validate")
    (tmp_path / "b" / "v1x2.png").unlink()
    (tmp_path / "b" / "v2.bmp").unlink()
    with pytest.raises(ValueError, match=r"1 LR photos are missing:\s+.*v2x2.png \(of v2.png\)"):
        PhotoFolders(None, str(folders / "val"), val_lr=str(tmp_path / "b")).setup("validate")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "val" / "a.png", 30, 30, 0)
    save(tmp_path / "val" / "a.bmp", 30, 30, 0)
    with pytest.raises(ValueError, match=r"a.bmp and a.png share the name"):
        PhotoFolders(None, str(tmp_path / "val")).setup("validate")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data.val_hr=.*empty: no photos found"):
        PhotoFolders(None, str(tmp_path / "empty")).setup("validate")


def test_benchmark_layout(tmp_path: Path) -> None:
    save(tmp_path / "Set1" / "HR" / "bird.png", 49, 37, 0)
    save(tmp_path / "Set1" / "LR_bicubic" / "X3" / "birdx3.png", 16, 12, 5)
    published, made = (Benchmark(str(tmp_path / "Set1"), scale=s) for s in (3, 2))
    for data in (published, made):
        data.setup("validate")
    assert published.val[0].lr.shape == (3, 12, 16)
    assert published.val[0].hr.shape == (3, 36, 48)
    lr = read_image(tmp_path / "Set1/LR_bicubic/X3/birdx3.png")
    assert torch.equal(published.val[0].lr, lr)
    assert torch.equal(made.val[0].lr, shrink(made.val[0].hr, 2))
    assert not Benchmark.trains


@pytest.mark.skipif(not (PHOTOS / "benchmark").is_dir(), reason="the Set5 photos are not at hand")
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_lr_of_set5_is_made_bit_for_bit(tmp_path: Path, scale: int) -> None:
    root = PHOTOS / "benchmark" / "Set5"
    published = Benchmark(str(root), scale=scale, store=str(tmp_path / "published"))
    made = PhotoFolders(None, str(root / "HR"), scale=scale, store=str(tmp_path / "made"))
    for data in (published, made):
        data.setup("validate")
    for k in range(5):
        assert torch.equal(published.val[k].lr, made.val[k].lr)
        assert torch.equal(published.val[k].hr, made.val[k].hr)


def test_an_epoch_has_the_given_number_of_steps(folders: Path, tmp_path: Path) -> None:
    data = photo_folders(folders, store=str(tmp_path), num_steps=9)
    data.setup()
    assert len(batches(data)) == 9
    seen = np.concatenate([draws.items for draws in data.train_dataloader().batch_sampler])  # type: ignore[union-attr]
    assert np.bincount(seen).min() == 72 // 7


def test_batches_are_the_same_with_workers_and_anew_in_each_epoch(
    folders: Path, tmp_path: Path
) -> None:
    none, two = (photo_folders(folders, store=str(tmp_path), num_workers=n) for n in (0, 2))
    for data in (none, two):
        data.setup()
    assert_equal(batches(none), batches(two))
    assert not torch.equal(batches(none)[0].lr_BCHW, batches(none, 1)[0].lr_BCHW)


@pytest.mark.parametrize("scale", [2, [2, 3, 4]])
def test_store_on_the_device_gives_the_same_patches_bit_for_bit(
    folders: Path, tmp_path: Path, scale: int | list[int]
) -> None:
    loader = photo_folders(folders, store=str(tmp_path), scale=scale, num_steps=12)
    device = photo_folders(folders, store=str(tmp_path), scale=scale, num_steps=12, on_device=True)
    for data in (loader, device):
        data.setup()
    assert_equal(batches(loader), batches(device))


def test_one_scale_a_step_the_same_on_all_ranks_and_reproducible(
    folders: Path, tmp_path: Path
) -> None:
    data = photo_folders(folders, store=str(tmp_path), scale=[2, 3, 4], num_steps=40)
    data.setup()
    scales = [b.hr_BCHW.shape[-1] // b.lr_BCHW.shape[-1] for b in batches(data)]
    assert {b.lr_BCHW.shape[-1] for b in batches(data)} == {12}
    assert set(scales) == {2, 3, 4}
    assert scales == [b.hr_BCHW.shape[-1] // b.lr_BCHW.shape[-1] for b in batches(data)]
    options = {"batch_size": 8, "num_steps": 40, "seed": 0, "world_size": 2, "accumulate": 2}
    for rank in range(2):
        sampler = TrainSampler(len(data.train), rank=rank, **options)
        drawn = [data.train.scale_of(draws) for draws in sampler]
        assert drawn == [scale for scale in scales for _ in range(2)]
    assert len(data.val) == 9  # each photo once per scale
    assert [data.val[k].lr.shape[1] for k in range(3)] == [19, 12, 9]  # limits keep all scales


def test_degradation_drawn_in_every_epoch_is_that_of_the_whole_image(
    folders: Path, tmp_path: Path
) -> None:
    blur = Degradation(blur=[0.5, 2.0], every_epoch=True)
    data = photo_folders(folders, store=str(tmp_path), degradation=blur)
    data.setup()
    sigmas = set()
    for epoch in range(3):
        batch = data.train.__getitems__(Draws(epoch, 0, 0, np.array([4])))
        assert isinstance(batch, PatchBatch)
        found = []
        for sigma in np.linspace(0.5, 2.0, 151):
            whole = Degradation(blur=float(sigma)).apply_fixed(
                to_tensor(np.array(data.train.lr[2][data.train.items[4]])), ""
            )
            patches = whole.unfold(1, 12, 1).unfold(2, 12, 1).int()
            patch = batch.lr_BHWC[0].permute(2, 0, 1).int()[:, None, None]
            if (patches - patch).abs().amax(dim=(0, 3, 4)).min() <= 1:
                found.append(float(sigma))
        assert found  # somewhere in the image, blurred by one sigma, to one grey level
        sigmas.add(found[len(found) // 2])
    assert len(sigmas) > 1
    one, two = (batches(data)[0], batches(data)[0])
    assert torch.equal(one.lr_BCHW, two.lr_BCHW)
    fixed = photo_folders(folders, store=str(tmp_path), degradation=Degradation(blur=[0.5, 2.0]))
    fixed.setup("validate")
    assert torch.equal(data.val[0].lr, fixed.val[0].lr)  # validation is fixed in any case


def test_fingerprint_follows_the_content(folders: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folders, tmp_path / "copy")
    one = photo_folders(folders, store=str(tmp_path / "s")).fingerprint()
    assert photo_folders(Path(copy), store=str(tmp_path / "t")).fingerprint() == one
    save(Path(copy) / "train" / "t3.png", 61, 53, 999)
    assert photo_folders(Path(copy), store=str(tmp_path / "t")).fingerprint() != one


def test_lr_of_scale_one_is_read(folders: Path, tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "blurred" / f"v{k}.png", 49 + k, 38, 500 + k)
    data = PhotoFolders(
        None,
        str(folders / "val"),
        val_lr=str(tmp_path / "blurred"),
        scale=1,
        store=str(tmp_path / "store"),
    )
    data.setup("validate")
    assert torch.equal(data.val[1].lr, read_image(tmp_path / "blurred" / "v1.png"))
    assert torch.equal(data.val[1].hr, read_image(folders / "val" / "v1.png"))


def test_settings_do_not_disturb_each_others_stores(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        for k in range(3):
            save(tmp_path / name / f"v{k}.png", (49 + k) // 2, 19, k + ord(name))

    def val(**more: Any) -> PhotoFolders:  # noqa: ANN401
        data = PhotoFolders(None, str(folders / "val"), store=str(tmp_path / "store"), **more)
        data.setup("validate")
        return data

    blurs = [Degradation(), Degradation(blur=1.6), Degradation(blur=1.6, kernel_size=3)]
    settings: list[dict[str, Any]] = [{"degradation": blur} for blur in blurs]
    settings += [{"val_lr": str(tmp_path / name)} for name in ("a", "b")]
    first = [val(**more) for more in settings]
    lr = [data.val[1].lr for data in first]
    assert len({image.numpy().tobytes() for image in lr}) == 5
    caplog.set_level("INFO")
    caplog.clear()
    again = [val(**more) for more in settings]
    # One number in several forms, and what is not read, are no other recipe.
    again += [val(degradation=Degradation(blur=0, noise=0, kernel_size=7))]
    assert "packing" not in caplog.text
    for one, two, image in zip(first, again, lr, strict=False):
        assert torch.equal(one.val[1].lr, image)
        assert torch.equal(two.val[1].lr, image)


def test_store_that_was_packed_anew_is_noticed_by_new_processes(
    folders: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders, tmp_path / "copy"))
    data = photo_folders(copy)
    data.setup()
    before = data.val[0].hr
    save(copy / "val" / "v0.png", 90, 90, 77)
    photo_folders(copy).setup()
    assert torch.equal(data.val[0].hr, before)  # what is open stays as it was
    with pytest.raises(ValueError, match="was repacked while in use"):
        pickle.loads(pickle.dumps(data.val.hr))


def test_validation_photos_without_inside_are_named(folders: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders, tmp_path / "copy"))
    save(copy / "val" / "tiny.png", 90, 16, 0)
    with pytest.raises(ValueError, match=r"(?s)1 validation photos .*17 pixels.*tiny is 90x16"):
        photo_folders(copy, scale=2).setup()


def test_strong_blurs_leave_small_photos_out(folders: Path, tmp_path: Path) -> None:
    blur = Degradation(blur=[0.0, 8.2], every_epoch=True)  # reaches over 25 pixels
    data = photo_folders(folders, store=str(tmp_path), degradation=blur, num_workers=2)
    data.setup("fit")
    assert set(data.train.skipped) == {"small", "t0", "t1"}
    one, two = batches(data), batches(data)
    assert_equal(one, two)

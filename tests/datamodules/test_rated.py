import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from PIL import Image

from datamodules.distributions import max_std, maximum_entropy, min_std, moments_problem
from datamodules.rated import RatedFolder
from datamodules.ratings_dataset import RatedBatch
from datamodules.ratings_table import read_ratings
from datamodules.splitting import match_list
from images.pixels import to_unit
from images.reading import read_image
from networks.nima import NIMA
from tests.conftest import PHOTOS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty photos with votes from 1 to 5, and a table that names them."""
    root = tmp_path / "data"
    (root / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(root / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"votes_{k}" for k in range(1, 6))])
        for k in range(20):
            image = rng.integers(0, 256, (40 + k, 70 - k, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "photos" / f"p{k:02}.png")
            writer.writerow([f"p{k:02}.png", *rng.integers(0, 30, 5) + 1])
    return root


def rated(root: Path, **more: Any) -> RatedFolder:  # noqa: ANN401
    options: dict[str, Any] = {"num_buckets": 5, "resize": 48, "crop": 32, "batch_size": 4} | more
    return RatedFolder(str(root / "ratings.csv"), str(root / "photos"), **options)


def batches(data: RatedFolder, epoch: int = 0) -> list[RatedBatch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_votes_become_shares_of_the_right_photo(folder: Path) -> None:
    data = rated(folder)
    data.setup()
    assert len(data.train) == 16
    assert len(data.val) == 4
    with open(folder / "ratings.csv", newline="") as file:
        table = {row["image"]: row for row in csv.DictReader(file)}
    names = set()
    for split in (data.train, data.val):
        for name, p_K in zip(split.names.tolist(), split.p_NK, strict=True):
            votes = np.array([float(table[name][f"votes_{k}"]) for k in range(1, 6)])
            assert np.allclose(p_K.numpy(), votes / votes.sum(), atol=1e-7)
            names.add(name)
    assert names == set(table)


@pytest.mark.parametrize(
    ("rule", "size"), [("squash", (48, 48)), ("short_side", (48, 77)), ("native", (43, 67))]
)
def test_validation_sees_what_the_scorer_would(
    folder: Path, rule: str, size: tuple[int, int]
) -> None:
    scorer = NIMA("mnasnet_0_5", num_buckets=5, resize_rule=rule, resize=48, crop=32)  # type: ignore[arg-type]
    data = rated(folder, resize_rule=rule)
    data.setup()
    sizes = dict(
        zip(data.train.images.names.tolist(), data.train.images.sizes.tolist(), strict=True)
    )
    # 43 x 67 pixels: 40 + 3, 70 - 3; 48 pixels high it is 74.8 wide
    assert sizes["p03.png"] == list({"short_side": (48, 75)}.get(rule, size))
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    for name, image in zip(data.val.names.tolist(), batch.images_BCHW, strict=False):
        whole = to_unit(read_image(folder / "photos" / name))[None]
        assert torch.equal(scorer.prepare(whole)[0], image)


def test_small_photos_are_enlarged_to_the_crop_at_native_resolution(folder: Path) -> None:
    Image.new("RGB", (20, 30)).save(folder / "photos" / "p00.png")
    data = rated(folder, resize_rule="native")
    data.setup()
    assert data.train.images.sizes[0].tolist() == [48, 32]


def test_training_crops_are_random_and_flipped_and_epochs_differ(folder: Path) -> None:
    data = rated(folder, resize=40, crop=32)
    data.setup()
    assert len(data.train_dataloader()) == 4
    first = batches(data)
    again = batches(data)
    assert all(torch.equal(a.images_BCHW, b.images_BCHW) for a, b in zip(first, again, strict=True))
    other = batches(data, epoch=1)
    assert not torch.equal(first[0].images_BCHW, other[0].images_BCHW)
    flips = torch.cat([batch.flip_B for batch in data.train_dataloader()])
    assert set(flips.tolist()) == {0, 1}


def test_workers_change_nothing(folder: Path) -> None:
    one, two = rated(folder), rated(folder, num_workers=2)
    for data in (one, two):
        data.setup()
    for a, b in zip(batches(one), batches(two), strict=True):
        assert torch.equal(a.images_BCHW, b.images_BCHW)
        assert torch.equal(a.p_BK, b.p_BK)


def test_split_depends_on_its_own_seed_and_on_the_names_alone(folder: Path) -> None:
    def val(**more: Any) -> set[str]:  # noqa: ANN401
        data = rated(folder, **more)
        data.setup()
        return set(data.val.names.tolist())

    assert val() == val(seed=5)
    assert val() != val(split_seed=1)
    assert len(val(val_share=0.5)) == 10
    before = val()
    lines = (folder / "ratings.csv").read_text().splitlines()
    gone = next(k for k in range(1, 20) if lines[k].split(",")[0] not in before)
    (folder / "ratings.csv").write_text("\n".join(lines[:gone] + lines[gone + 1 :]))
    assert len(val() & before) >= 3  # one image less moves one other at most


def test_lists_choose_the_splits_and_must_not_overlap(folder: Path, tmp_path: Path) -> None:
    Image.open(folder / "photos" / "p03.png").save(folder / "photos" / "my photo.png")
    table = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_text(table.replace("p03.png", "my photo.png"))
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbfp01.png\r\n\r\np02\r\nmy photo\r\n")
    data = rated(folder, val_list=str(tmp_path / "val.txt"))
    data.setup()
    assert data.val.names.tolist() == ["p01.png", "p02.png", "my photo.png"]
    assert len(data.train) == 17
    (tmp_path / "train.txt").write_text("p05\np02.png\n")
    lists = {"val_list": str(tmp_path / "val.txt"), "train_list": str(tmp_path / "train.txt")}
    with pytest.raises(ValueError, match=r"train.txt and .*val.txt overlap in 1 images: p02.png"):
        rated(folder, **lists).setup()
    (tmp_path / "train.txt").write_text("p05\np06\n")
    data = rated(folder, **lists)
    data.setup()
    assert data.train.names.tolist() == ["p05.png", "p06.png"]
    (tmp_path / "val.txt").write_text("")
    with pytest.raises(ValueError, match="none is left to validate on"):
        rated(folder, val_list=str(tmp_path / "val.txt")).setup()
    (tmp_path / "val.txt").write_text("p01\nnobody\n")
    with pytest.raises(ValueError, match=r"1 images of the lists are not rated photos of .*nobody"):
        rated(folder, val_list=str(tmp_path / "val.txt")).setup()
    with pytest.raises(ValueError, match=r"absent.txt: cannot be read as a list"):
        rated(folder, val_list="absent.txt").setup()
    with pytest.raises(ValueError, match=r"needs data\.val_list"):
        rated(folder, train_list="train.txt")


def test_names_without_suffix_must_be_clear(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"list.txt: a could be a.jpg or a.png"):
        match_list(str(tmp_path / "list.txt"), np.array(["a.jpg", "a.png", "b.png"]))


def test_missing_photos_are_an_error_unless_allowed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.clear()
    for k in (3, 8):
        (folder / "photos" / f"p{k:02}.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 20 rated images are not in .*p03.png, p08.png"):
        rated(folder).setup()
    data = rated(folder, max_missing=2)
    data.setup()
    assert len(data.train) + len(data.val) == 18
    assert "2 without a file (p03.png, p08.png)" in caplog.text


def test_limit_takes_the_first_of_each_split(folder: Path) -> None:
    whole, few = rated(folder), rated(folder, limit=2)
    for data in (whole, few):
        data.setup()
    assert few.train.names.tolist() == whole.train.names.tolist()[:2]
    assert few.val.names.tolist() == whole.val.names.tolist()[:2]
    assert torch.equal(few.val.p_NK, whole.val.p_NK[:2])
    assert np.array_equal(few.val.images[int(few.val.items[1])],
                          whole.val.images[int(whole.val.items[1])])  # fmt: skip


def test_fingerprint_follows_photos_ratings_and_split(folder: Path) -> None:
    prints = {rated(folder).fingerprint(), rated(folder, split_seed=1).fingerprint()}
    text = (folder / "ratings.csv").read_text()
    (folder / "ratings.csv").write_text(text.replace("p07.png,", "p07.png,9"))
    prints.add(rated(folder).fingerprint())
    Image.new("RGB", (60, 60)).save(folder / "photos" / "p07.png")
    prints.add(rated(folder).fingerprint())
    assert len(prints) == 4


def test_other_choices_of_photos_leave_the_store_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rated(folder).setup()
    rated(folder, limit=2).setup()
    rated(folder, crop=40).setup()
    text = (folder / "ratings.csv").read_text().splitlines()
    (folder / "ratings.csv").write_text("\n".join(text[:9]))
    rated(folder).setup()
    (folder / "ratings.csv").write_text("\n".join(text))
    caplog.set_level("INFO")
    caplog.clear()
    rated(folder).setup()
    rated(folder, crop=40).setup()  # the crop is no part of a squashed image
    assert "packing" not in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("photo,votes_1\n", "the columns are photo,votes_1; needed are"),
        ("image,votes_1,votes_3\n", "needed are image,votes_1"),
        ("image,votes_1,votes_2\na,1,2\n", "votes for 2 ratings, the scorer is for 3"),
        ("image,votes_1,votes_2,votes_3\n", "has no row"),
        (
            "image,votes_1,votes_2,votes_3\na.png,1,2\n",
            "'a.png' in line 2: a name and 3 n",
        ),
        ("image,votes_1,votes_2,votes_3\na.png,1,x,3\n", "'a.png' in line 2: 'x' is not a number"),
        ("image,votes_1,votes_2,votes_3\na.png,1,-2,3\n", "votes 0 or more"),
        ("image,votes_1,votes_2,votes_3\na.png,0,0,0\n", "has no votes"),
        (
            "image,votes_1,votes_2,votes_3\na,1,2,3\nb,1,1,1\na,1,2,3\n",
            "'a' in line 4: appears twice",
        ),
        ("image,votes_1,votes_2,votes_3\na.png,1\n", "a name and 3 numbers"),
        ("image,votes_1,votes_2,votes_3\n ,1,2,3\n", "a name and 3 numbers"),
        ("image,mean\na,3.5\n", "'a' in line 2: a mean of 3.5 is not within 1 to 3"),
        ("image,mean\n\n\na,9\n", "'a' in line 4: a mean of 9"),
        ("image,mean\na,nan\n", "have to be finite"),
        ("image,mean,std\na,2,0.5\nb,2,1.5\n", "'b' in line 3: ratings of 1 to 3 with a mean of 2"),
    ],
)
def test_wrong_tables_are_refused_by_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"ratings\.csv") as info:
        read_ratings(path, 3)
    assert message in str(info.value)


def test_means_become_distributions(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("\ufeffimage,mean,std\na.png,5.5,1.4\n\nb.png,3.25,1\n", encoding="utf-8")
    names, p_NK, num_votes_N, _ = read_ratings(path, 10)
    assert num_votes_N is None
    k = np.arange(1, 11)
    assert names.tolist() == ["a.png", "b.png"]
    assert (p_NK @ k).tolist() == pytest.approx([5.5, 3.25], abs=1e-5)
    std = np.sqrt(p_NK @ k**2 - (p_NK @ k) ** 2)
    assert std.tolist() == pytest.approx([1.4, 1.0], abs=1e-4)


@pytest.mark.parametrize("num_buckets", [2, 5, 10])
def test_maximum_entropy_has_the_moments(num_buckets: int) -> None:
    rng = np.random.default_rng(0)
    mean = np.concatenate([rng.uniform(1, num_buckets, 300), [1, num_buckets]])
    low = np.array([min_std(m) for m in mean])
    high = np.array([max_std(m, num_buckets) for m in mean])
    std = low + rng.uniform(0, 1, len(mean)) * (high - low)
    k = np.arange(1, num_buckets + 1)
    p = maximum_entropy(mean, num_buckets=num_buckets)
    assert np.abs(p @ k - mean).max() < 1e-5
    assert p.min() >= 0
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-12
    p = maximum_entropy(mean, std, num_buckets=num_buckets)
    assert np.abs(p @ k - mean).max() < 1e-5
    assert np.abs(np.sqrt(np.maximum(p @ k**2 - (p @ k) ** 2, 0)) - std).max() < 1e-5


@pytest.mark.parametrize("std", [None, 0.9, 1.4])
def test_maximum_entropy_against_scipy(std: float | None) -> None:
    k = np.arange(1, 8)
    conditions = [
        {"type": "eq", "fun": lambda p: p.sum() - 1},
        {"type": "eq", "fun": lambda p: p @ k - 3.3},
    ]
    if std is not None:
        conditions.append({"type": "eq", "fun": lambda p: p @ (k - 3.3) ** 2 - std**2})
    found = scipy.optimize.minimize(
        lambda p: (p * np.log(p)).sum(),
        np.full(7, 1 / 7),
        bounds=[(1e-12, 1)] * 7,
        constraints=conditions,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    spread = None if std is None else np.array([std])
    p = maximum_entropy(np.array([3.3]), spread, num_buckets=7)[0]
    assert np.abs(p - found.x).max() < 1e-5


def test_impossible_moments_are_told() -> None:
    assert moments_problem(3.5, num_buckets=10) is None
    assert moments_problem(3.5, 0.5, num_buckets=10) is None  # half at 3, half at 4
    assert "0.5 to" in str(moments_problem(3.5, 0.4, num_buckets=10))
    assert moments_problem(1.0, 0.0, num_buckets=10) is None
    assert "not within" in str(moments_problem(0.9, num_buckets=10))


@pytest.mark.skipif(not (PHOTOS / "oasis").is_dir(), reason="the OASIS photos are not at hand")
def test_oasis(tmp_path: Path) -> None:
    root = PHOTOS / "oasis"
    data = RatedFolder(
        str(root / "ratings.csv"), str(root / "images"), num_buckets=7, store=str(tmp_path)
    )
    data.setup()
    assert (len(data.train), len(data.val)) == (578, 145)
    assert data.train.p_NK.shape == (578, 7)
    assert torch.allclose(data.train.p_NK.sum(dim=1), torch.ones(578), atol=1e-6)


def test_a_test_list_takes_no_part(folder: Path) -> None:
    (folder / "test.txt").write_text("p01\np07\np08\n")
    data = rated(folder, test_list=str(folder / "test.txt"), val_share=0.25)
    data.setup()
    names = set(data.train.names.tolist()) | set(data.val.names.tolist())
    assert len(names) == 17
    assert not {"p01.png", "p07.png", "p08.png"} & names
    assert len(data.val) == 4
    (folder / "val.txt").write_text("p02\np07\n")
    lists = {name: str(folder / f"{name[:-5]}.txt") for name in ("test_list", "val_list")}
    with pytest.raises(ValueError, match=r"overlap in 1 images: p07\.png"):
        rated(folder, **lists).setup()


def test_votes_are_counted_where_they_are_votes(folder: Path) -> None:
    data = rated(folder)
    data.setup()
    assert data.val.num_votes_N is not None
    with open(folder / "ratings.csv", newline="") as file:
        counts = {r.pop("image"): sum(map(int, r.values())) for r in csv.DictReader(file)}
    assert data.val.num_votes_N.tolist() == [counts[name] for name in data.val.names.tolist()]
    path = folder / "shares.csv"
    path.write_text("image,votes_1,votes_2,votes_3,votes_4,votes_5\np00.png,0.25,0.75,0,0,0\n")
    assert read_ratings(path, 5).num_votes_N is None


def test_native_patches_are_mixed_into_training(folder: Path) -> None:
    def crops(share: float) -> list[str]:
        data = rated(folder, resize=33, native_share=share, val_share=0.05, batch_size=19)
        data.setup()
        # Where a crop lies in a photo at full resolution or in the resized one.
        sources = {
            "native": [to_unit(read_image(folder / "photos" / n)) for n in data.train.names],
            "resized": [
                to_unit(torch.from_numpy(np.array(data.train.images[int(k)])).permute(2, 0, 1))
                for k in data.train.items
            ],
        }
        (batch,) = batches(data)
        found = []
        for image, item in zip(batch.images_BCHW, batch.item_B.tolist(), strict=True):
            kinds = [kind for kind, all_ in sources.items() if inside(image, all_[item])]
            assert len(kinds) == 1
            found.append(kinds[0])
        return found

    assert set(crops(0.0)) == {"resized"}
    assert set(crops(1.0)) == {"native"}
    assert 3 <= crops(0.5).count("native") <= 16
    with pytest.raises(ValueError, match=r"native_share=1\.5: 0 to 1"):
        rated(folder, native_share=1.5)


def inside(crop: torch.Tensor, photo: torch.Tensor) -> bool:
    size = crop.shape[-1]
    windows = photo.unfold(1, size, 1).unfold(2, size, 1)
    return any(
        bool((windows == turned[:, None, None]).all(dim=(0, 3, 4)).any())
        for turned in (crop, crop.flip(-1))
    )


def test_the_table_of_score_is_one_of_ratings(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    rows = "far/away/a.png,2.3,0.78,0.2,0.3,0.5\nb.png,1.5,0.67,0.6,0.3,0.1\n"
    path.write_text(f"image,mean,std,p1,p2,p3\n{rows}")
    found = read_ratings(path, 3)
    assert found.names.tolist() == ["a.png", "b.png"]
    assert np.allclose(found.p_NK, [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    assert found.num_votes_N is None
    with pytest.raises(ValueError, match="has votes for 3 ratings, the scorer is for 10"):
        read_ratings(path, 10)

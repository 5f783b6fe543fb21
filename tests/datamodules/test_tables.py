"""Several tables of ratings at once: scales, shares, splits, overlaps, mistakes."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from datamodules.distributions import rescale, spread_votes
from datamodules.rated import RatedFolder
from datamodules.ratings_dataset import RatedBatch
from datamodules.ratings_table import read_ratings
from datamodules.sampling import draw_tables
from datamodules.tables import RatedTables, build_tables
from lightning_modules.metrics import Predictions
from lightning_modules.table_metrics import table_baselines, table_metrics
from tests.conftest import TINY_NIMA, Cli

OPTIONS: dict[str, Any] = {"num_buckets": 5, "resize": 48, "crop": 32, "batch_size": 8}


def photos(folder: Path, num: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    names = [f"{folder.name}{k:02}.png" for k in range(num)]
    for name in names:
        pixels = rng.integers(0, 256, (40 + seed, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def write(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photos with votes for 1 to 7, ten with means of 0 to 100, ten with deviations."""
    root = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    votes = [[name, *rng.integers(1, 20, 7)] for name in photos(root / "votes", 20, 1)]
    write(root / "votes.csv", ["image", *(f"votes_{k}" for k in range(1, 8))], votes)
    means = [[name, f"{rng.uniform(5, 95):.2f}"] for name in photos(root / "means", 10, 2)]
    write(root / "means.csv", ["image", "mean"], means)
    both = [[name, f"{rng.uniform(2, 4):.2f}", "0.9"] for name in photos(root / "stds", 10, 3)]
    write(root / "stds.csv", ["image", "mean", "std"], both)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def entries(root: Path) -> list[dict[str, Any]]:
    scales = {"votes": [1, 7], "means": [0, 100], "stds": [1, 5]}
    return [
        {"ratings": str(root / f"{name}.csv"), "images": str(root / name), "scale": scale}
        for name, scale in scales.items()
    ]


def tables(root: Path, weights: tuple[float, ...] = (2, 1, 1), **more: Any) -> RatedTables:  # noqa: ANN401
    given = [e | {"weight": w} for e, w in zip(entries(root), weights, strict=True)]
    return RatedTables(given, **(OPTIONS | more))


def batches(data: RatedFolder | RatedTables, epoch: int = 0) -> Iterator[RatedBatch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    for batch in loader:
        yield data.on_after_batch_transfer(batch, 0)


def test_votes_on_another_scale_are_shared_between_neighbours() -> None:
    # One vote for 2 of 3 lies at 2.5 of 4; votes for 1 and 3 at the ends.
    assert spread_votes(np.array([[0.2, 0.6, 0.2]]), 4).tolist() == [[0.2, 0.3, 0.3, 0.2]]
    rng = np.random.default_rng(0)
    for num, num_buckets in ((7, 10), (9, 5), (5, 10), (10, 7), (2, 10)):
        share = rng.dirichlet(np.ones(num), 50)
        spread = spread_votes(share, num_buckets)
        place = 1 + np.arange(num) * (num_buckets - 1) / (num - 1)
        bucket = np.arange(1, num_buckets + 1)
        assert np.allclose(spread.sum(axis=1), 1)
        assert np.allclose(spread @ bucket, share @ place)  # the mean is kept
        growth = (spread @ bucket**2) - (share @ place**2)
        assert growth.min() > -1e-9
        assert growth.max() <= 0.25 + 1e-9


def test_scores_are_mapped_linearly() -> None:
    assert rescale(np.array([50.0, 20.0]), (0, 100), 10).tolist() == pytest.approx([5.5, 1.8])
    assert rescale(np.array([1.0]), (0, 1), 7).tolist() == [7.0]
    # 55 of 0..100 is 5.95 of 1..10: votes for 5 and 6 alone deviate by sqrt(.95 * .05)
    assert rescale(np.array([55.0, 0.1]), (0, 100), 10)[1] == pytest.approx((0.95 * 0.05) ** 0.5)
    # One 5 among thirty votes for 1, as KADID-10k rounds them: more than 1.13 allows
    mean, std = rescale(np.array([1.13, 0.718]), (1, 5), 5)
    assert std == pytest.approx(((mean - 1) * (5 - mean)) ** 0.5)
    with pytest.raises(ValueError, match=r"a score of 101 is outside scale=\[0,100\]"):
        rescale(np.array([101.0]), (0, 100), 10)


def test_each_table_is_mapped_to_the_buckets_of_the_scorer(made: Path) -> None:
    data = tables(made)
    data.setup()
    for name, part in data.train.tables.items():
        with open(made / f"{name}.csv", newline="") as file:
            rows = {row["image"]: row for row in csv.DictReader(file)}
        for photo, p_K in zip(part.names.tolist(), part.p_NK.double().numpy(), strict=True):
            values = [float(v) for v in list(rows[photo].values())[1:]]
            mean, (low, high) = values[0], {"means": (0, 100)}.get(name, (1, 5))
            if name == "votes":
                mean, (low, high) = np.average(np.arange(1, 8), weights=values), (1, 7)
            assert p_K @ np.arange(1, 6) == pytest.approx(
                1 + 4 * (mean - low) / (high - low), abs=1e-5
            )
    assert data.train.num_votes_N is None
    assert data.train.tables["votes"].num_votes_N is not None
    assert torch.equal(data.val.picture(5), data.val.tables["means"].picture(1))
    names = data.val.names.tolist()
    assert [name.split("/")[0] for name in names] == ["votes"] * 4 + ["means"] * 2 + ["stds"] * 2


def test_a_single_table_is_drawn_as_without_this(made: Path) -> None:
    (entry, *_) = entries(made)
    one = RatedTables([entry], **OPTIONS)
    alone = RatedFolder(**entry, **OPTIONS)
    for data in (one, alone):
        data.setup()
    for epoch in (0, 3):
        for a, b in zip(batches(one, epoch), batches(alone, epoch), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("weights", "counts"), [((2, 1, 1), (4, 2, 2)), ((6, 1, 1), (6, 1, 1))])
def test_batches_have_the_given_shares(
    made: Path, weights: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    data = tables(made, weights)
    data.setup()
    ends = np.cumsum([len(part) for part in data.train.tables.values()])
    seen = []
    for batch in batches(data):
        table = np.searchsorted(ends, batch.item_B.numpy(), side="right")
        assert tuple(np.bincount(table, minlength=3)) == counts
        seen.append(batch.item_B)
    of_votes = torch.cat(seen)[torch.cat(seen) < ends[0]]
    first = of_votes[: int(ends[0])]  # a table's photos come in rounds
    assert len(first.unique()) == len(first)


def test_shares_that_do_not_divide_a_batch_are_right_on_average() -> None:
    weights = np.array([1.0, 0.3, 0.37])
    drawn = draw_tables(weights.tolist(), 7 * 3000, batch_size=7, seed=1, epoch=2).reshape(-1, 7)
    counts = np.stack([(drawn == k).sum(axis=1) for k in range(3)], axis=1)
    wanted = 7 * weights / weights.sum()
    assert (np.abs(counts - wanted) < 1).all()
    assert np.abs(counts.mean(axis=0) - wanted).max() < 0.03
    assert len({tuple(row) for row in drawn[:50].tolist()}) > 30  # in random order


def test_neither_workers_nor_an_interruption_change_the_batches(made: Path) -> None:
    one, two = tables(made), tables(made, num_workers=2)
    for data in (one, two):
        data.setup()
    expected = [*batches(one, 0), *batches(one, 1)]
    found = [*batches(two, 0), *batches(tables(made), 1)]
    assert len(expected) == 8
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_metrics_of_a_table_are_those_of_its_photos_alone(made: Path) -> None:
    data = tables(made, val_share=0.5)
    data.setup()
    q_NK = data.val.p_NK
    p_NK = torch.softmax(torch.randn(q_NK.shape, generator=torch.Generator().manual_seed(0)), 1)
    item_N = torch.arange(len(q_NK))
    values = table_metrics(Predictions(p_NK, q_NK, item_N), data.val.tables)
    k = torch.arange(1.0, 6.0)
    start = 0
    for name, part in data.val.tables.items():
        rows = slice(start, start + len(part))
        srcc = scipy.stats.spearmanr(p_NK[rows] @ k, q_NK[rows] @ k).statistic
        assert values[f"srcc/{name}"].item() == pytest.approx(srcc, abs=1e-5)
        start += len(part)
    joint = scipy.stats.spearmanr(p_NK @ k, q_NK @ k).statistic
    assert values["srcc"].item() == pytest.approx(joint, abs=1e-5)
    few = table_metrics(Predictions(p_NK[:3], q_NK[:3], item_N[:3]), data.val.tables)
    assert {name.partition("/")[2] for name in few} == {"", "votes"}
    constant = table_baselines(data.train, data.val)
    assert {"emd_constant", "emd_constant/stds", "emd_floor/votes"} <= constant.keys()
    assert not {"emd_floor", "emd_floor/means"} & constant.keys()
    mean_K = data.train.tables["stds"].p_NK.mean(dim=0)
    gap_NK = (data.val.tables["stds"].p_NK - mean_K).cumsum(dim=1)
    assert constant["emd_constant/stds"] == pytest.approx(
        gap_NK.square().mean(dim=1).sqrt().mean().item(), abs=1e-4
    )


def test_each_table_keeps_its_own_split_and_store(root: Path) -> None:
    (root / "val.txt").write_text("means03\nmeans04.png\n")
    (root / "test.txt").write_text("means05\n")
    given = entries(root)
    lists = {"val_list": str(root / "val.txt"), "test_list": str(root / "test.txt")}
    given[1] |= lists | {"store": str(root / "elsewhere")}
    given[2] |= {"val_share": 0.5}
    data = RatedTables(given, **OPTIONS)
    data.setup()
    sizes = {
        name: (len(part), len(data.val.tables[name])) for name, part in data.train.tables.items()
    }
    assert sizes == {"votes": (16, 4), "means": (7, 2), "stds": (5, 5)}
    assert {path.name.split("-")[0] for path in (root / "elsewhere").iterdir()} == {"means"}
    assert (root / "packed" / "votes").is_dir()


def test_fingerprint_follows_weights_and_ratings_but_not_places(root: Path, tmp_path: Path) -> None:
    first = tables(root).fingerprint()
    assert tables(root, (1, 1, 1)).fingerprint() != first
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    assert tables(moved).fingerprint() == first
    lines = (root / "means.csv").read_text().splitlines()
    (root / "means.csv").write_text("\n".join([*lines[:4], "means03.png,12.5", *lines[5:]]))
    assert tables(root).fingerprint() != first


def test_photos_that_train_here_and_are_held_out_there_are_named(root: Path) -> None:
    first = build_tables(entries(root), **OPTIONS)
    (ratings, split), (other, theirs) = (first[name].plan for name in ("votes", "stds"))
    trained, held = ratings.names[split.train[0]], other.names[theirs.val[0]]
    shutil.copy(root / "votes" / str(trained), root / "stds" / str(held))
    message = f"1 photos train in one table .* {trained} of votes is {held} of stds; a test_list"
    with pytest.raises(ValueError, match=message):
        tables(root, store=str(root / "store")).setup()
    assert not (root / "store").exists()  # refused before any photo is decoded
    (root / "test.txt").write_text(f"{trained}\n")
    given = entries(root)
    given[0] |= {"test_list": str(root / "test.txt")}
    RatedTables(given, **OPTIONS).setup()  # held out in both
    other_train = other.names[theirs.train[0]]
    shutil.copy(root / "votes" / str(trained), root / "stds" / str(other_train))
    with pytest.raises(ValueError, match=f"{other_train} of stds is {trained} of votes"):
        RatedTables(given, **OPTIONS).setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wieght": 1}, r"data\.tables\.1\.wieght: no such key of a table; did you mean weight\?"),
        (
            {"depth": 1},
            r"data\.tables\.1\.depth: no such key of a table; there are ratings, scale, ",
        ),
        ({"weight": 0}, r"data\.tables\.1\.weight=0: should be greater than 0"),
        ({"weight": -1.5}, r"data\.tables\.1\.weight=-1.5: should be greater than 0"),
        ({"weight": "x"}, r"data\.tables\.1\.weight=x: should be a valid number"),
        ({"weight": True}, r"data\.tables\.1\.weight=True: should be a valid number"),
        ({"images": None}, r"data\.tables\.1\.images: is required"),
        ({"ratings": None}, r"data\.tables\.1\.ratings: is required"),
        ({"ratings": 3}, r"data\.tables\.1\.ratings=3: should be a valid string"),
        (
            {"name": "votes"},
            r"data\.tables\.1: another table is called votes; give it a name=\.\.\.",
        ),
        ({"name": "a/b"}, r"data\.tables\.1: name=a/b: letters"),
        ({"scale": [5, 1]}, r"data\.tables: means: scale=\[5,1\]: the lowest and the highest"),
        ({"scale": [0]}, r"data\.tables: means: scale=\[0\]: the lowest and the highest"),
        ({"scale": [0, 10]}, r"means\.csv, 'means00\.png' in line 2: a score of .* outside scale"),
        (
            {"scale": None},
            r"means\.csv, 'means00\.png' in line 2: a mean of .* is not within 1 to 5",
        ),
        ({"images": 2023}, r"data\.tables\.1\.images=2023: should be a valid string"),
        ({"max_missing": "x"}, r"data\.tables\.1\.max_missing=x: should be a valid integer"),
        ({"weight": float("nan")}, r"data\.tables\.1\.weight=nan: should be"),
        ({"val_share": 2}, r"data\.tables: means: val_share=2: more than 0"),
        ({"val_list": "absent.txt"}, r"data\.tables: means: absent\.txt: cannot be read as a list"),
        ({"images": "absent"}, r"data\.tables: means: .*absent"),
    ],
)
def test_mistakes_in_an_entry_are_named(made: Path, change: dict[str, Any], message: str) -> None:
    given = entries(made)
    given[1] |= change
    with pytest.raises(ValueError, match=message) as info:
        RatedTables(given, **OPTIONS).setup()
    assert "\n" not in str(info.value)


def test_votes_for_other_buckets_need_a_scale(made: Path) -> None:
    with pytest.raises(ValueError, match=r"votes for 7 .* is for 5; .* by a scale: \[1,7\]"):
        read_ratings(made / "votes.csv", 5)
    assert read_ratings(made / "votes.csv", 5, scale=(1, 7)).p_NK.shape == (20, 5)
    with pytest.raises(ValueError, match=r"data\.tables=\[\]: one or more"):
        RatedTables([], **OPTIONS)


@pytest.mark.slow
def test_training_on_several_tables_logs_metrics_of_each(cli: Cli, made: Path) -> None:
    listed = ", ".join(
        f"{{ratings: {e['ratings']}, images: {e['images']}, scale: {e['scale']}}}"
        for e in entries(made)[:2]
    )
    words = ["data=tables", f"data.tables=[{listed}]", "data.batch_size=4", "data.limit=4"]
    words += [word for word in TINY_NIMA if not word.startswith(("data.", "epochs"))]
    words += ["paths.store=store", "name=tables", "callbacks.pictures=null", "epochs=1"]
    wrong = cli(*words, "callbacks.checkpoint.monitor=val/emd/other")
    assert wrong.code == 2
    assert "monitor=val/emd/other: no such metric; there are val/accuracy, " in wrong.err
    done = cli(*words, "callbacks.checkpoint.monitor=val/emd/means")
    assert done.code == 0, done.err
    with open("outputs/sample_nima/tables/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/emd"]]
    assert len(rows) == 1
    assert {"val/emd/votes", "val/srcc/means", "val/emd_floor/votes"} <= rows[0].keys()
    votes, means = (float(rows[-1][f"val/emd/{name}"]) for name in ("votes", "means"))
    joint = (4 * votes + 2 * means) / 6  # four photos of the one, two of the other
    assert float(rows[-1]["val/emd"]) == pytest.approx(joint, abs=1e-5)

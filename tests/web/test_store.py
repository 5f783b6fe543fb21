"""The folder of uploads and results."""

import datetime
import os
import time
from pathlib import Path

import pytest

from web.schema import JobResult, ScorerFacts, State
from web.store import TOKEN, FullError, Store, size_of


def filled(store: Store, num_bytes: int, *, age: float = 0.0, state: State = "done") -> Path:
    """A job's folder of some size and age."""
    job = store.create()
    created = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    result = JobResult(
        token=job.name,
        state=state,
        created=created,
        expires=created,
        task=None,
        scale=1,
        label="Score",
        device="CPU",
        scorer=ScorerFacts(name="mnasnet_1_0", trained_on="photos", buckets=10),
    )
    (job / "result.json").write_text(result.model_dump_json())
    (job / "1-original.png").write_bytes(b"\0" * num_bytes)
    return job


def test_tokens_are_random_and_folders_private(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    jobs = [filled(store, 10) for _ in range(50)]
    assert len({job.name for job in jobs}) == 50
    assert all(TOKEN.fullmatch(job.name) for job in jobs)
    assert {path.stat().st_mode & 0o777 for path in (store.folder, *jobs)} == {0o700}
    assert not TOKEN.fullmatch(store.uploads.name)


def test_what_is_no_token_finds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    job = filled(store, 10)
    assert store.find(job.name) == job
    for token in (
        "",
        ".",
        "..",
        "uploads",
        "../store/" + job.name,
        job.name + "/",
        job.name + "\n",
    ):
        assert store.find(token) is None, token
    (store.folder / ("F" * 22)).write_text("a file")
    assert store.find("F" * 22) is None


def test_old_results_and_uploads_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    young, old, busy = filled(store, 10), filled(store, 10, age=61), filled(store, 10, age=61)
    assert store.find(old.name) is None
    uploads = [store.new_upload() for _ in range(2)]
    for path in uploads:
        path.write_bytes(b"x")
    os.utime(uploads[1], (0, time.time() - 3601))
    store.clean({busy.name})
    assert [path.exists() for path in (young, old, busy, *uploads)] == [
        *(True, False, True),
        *(True, False),
    ]


def test_the_oldest_results_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=13_400, keep_seconds=1000)  # results: 10,050
    jobs = [filled(store, 3000, age=age) for age in (10, 40, 20, 30)]
    store.clean(set())
    assert [job.exists() for job in jobs] == [True, False, True, True]
    assert size_of(store.folder) <= 10_050
    store.clean({jobs[3].name})
    assert jobs[3].exists()
    alone = filled(store, 12_000)
    with pytest.raises(FullError, match="would exceed"):
        store.clean({alone.name})
    assert alone.exists()


def test_removing_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept.txt").write_text("kept")
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    (store.uploads / "link").symlink_to(tmp_path / "mine")
    job = filled(store, 10, age=100)
    (job / "link").symlink_to(tmp_path / "mine")
    os.utime(store.uploads / "link", (0, 0), follow_symlinks=False)
    store.clean(set())
    assert not job.exists()
    assert not (store.uploads / "link").is_symlink()
    (store.uploads / "link").symlink_to(tmp_path / "mine")
    Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    assert (tmp_path / "mine" / "kept.txt").read_text() == "kept"


def test_a_start_removes_left_overs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    (store.uploads / "x.part").write_bytes(b"x")
    (store.create() / "1-original.png").write_bytes(b"x")
    begun, done = filled(store, 10, state="working"), filled(store, 10)
    again = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    assert list(again.uploads.iterdir()) == []
    assert sorted(again.jobs()) == sorted([begun, done])
    assert again.result(begun).state == "interrupted"  # type: ignore[union-attr]
    assert again.result(done).state == "done"  # type: ignore[union-attr]


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    for name in ("uploads", "api", "my_holiday_photos-2024"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
    with pytest.raises(ValueError, match="contains other files"):
        Store(tmp_path, max_bytes=1e6, keep_seconds=60)
    assert len(list(tmp_path.rglob("file"))) == 3


@pytest.mark.parametrize("content", ["{}", '{"state": "done", "photos": []}', "[]", "x"])
def test_a_damaged_result_is_none(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    job = filled(store, 10)
    (job / "result.json").write_text(content)
    assert store.result(job) is None
    store.clean(set())
    Store(tmp_path / "store", max_bytes=1e6, keep_seconds=60)
    assert not job.exists()

"""Runs that are killed, resumed and extended end like uninterrupted ones, file by file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_modules.callbacks import Checkpoints
from networks.tensor_files import load_plain
from tests.commands.test_aesthetic import VIEWS
from tests.commands.test_train import rows, run_at
from tests.conftest import NIMA_WITH_PICTURES, TINY, Cli

# L2 falls here, so that by `max` the first epoch stays the best one.
FALLING = ["callbacks.checkpoint.monitor=val/l2", "callbacks.checkpoint.mode=max"]
EVERY_OTHER = ["+trainer.check_val_every_n_epoch=2"]
# What differs between runs that are equal.
UNEQUAL = ("wall_time_s", "finished", "sha256", "dirpath", "paths", "resume")


class Killed(BaseException):
    """Ends a run at once, like SIGKILL: nothing of ours or of Lightning's expects it."""


def plain(value: Any, folder: Path) -> Any:  # noqa: ANN401
    """A checkpoint or a JSON file without times, its tensors as bytes, its paths relative."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {
            plain(key, folder): plain(item, folder)
            for key, item in value.items()
            if key not in UNEQUAL
        }
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    if isinstance(value, float):
        return repr(value)  # of not-a-numbers, too
    return value.replace(str(folder.absolute()), "RUN") if isinstance(value, str) else value


def assert_same_run(one: Path, two: Path) -> None:
    """Both hold the same metrics, checkpoints and result, but for times."""
    assert rows(one) == rows(two)
    for name in ("best", "last"):
        first, second = (
            plain(load_plain(run / "checkpoints" / f"{name}.ckpt"), run) for run in (one, two)
        )
        assert first.keys() == second.keys()
        for key in first:
            assert first[key] == second[key], (name, key)
    first, second = (
        plain(json.loads((run / "result.json").read_text()), run) for run in (one, two)
    )
    assert first == second
    assert not list(one.rglob("*.part"))


def epoch_of(run: Path, name: str) -> int:
    epoch: int = load_plain(run / "checkpoints" / f"{name}.ckpt")["record"]["epoch"] + 1
    return epoch


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int, str], None]]:
    """Kills the run at a checkpoint: `kill("last", 3, "before")` that of the third epoch."""
    original = Checkpoints._save_checkpoint

    def arm(name: str, epoch: int, when: str) -> None:
        def save(self: Checkpoints, trainer: L.Trainer, path: str) -> None:
            here = Path(path).stem == name and trainer.current_epoch + 1 == epoch
            if here and when == "before":
                raise Killed
            original(self, trainer, path)
            if here:
                raise Killed

        monkeypatch.setattr(Checkpoints, "_save_checkpoint", save)

    yield arm
    monkeypatch.setattr(Checkpoints, "_save_checkpoint", original)


Kill = Callable[[str, int, str], None]


def killed(cli: Cli, kill: Kill, at: tuple[str, int, str], *words: str) -> None:
    kill(*at)
    with pytest.raises(Killed):
        cli(*words)
    kill("nothing", 0, "before")


SERIES = [("last", 1, "after"), ("last", 3, "before"), ("last", 3, "after")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "words"),
    [
        (TINY, [*FALLING, "model.grad_ratio_every=3"]),
        (TINY, ["gamma=0", "callbacks=enhancement_ema", "optim=adam_cosine", *EVERY_OTHER]),
        (TINY, ["data.num_steps=3", "+trainer.val_check_interval=2", "model.grad_ratio_every=2"]),
        (TINY, [*VIEWS, "loss.aesthetic.rho=0.5", "gamma=40", "model.grad_ratio_every=3"]),
        (NIMA_WITH_PICTURES, ["callbacks.pictures.every=2", *EVERY_OTHER]),
    ],
    ids=["falling", "ema", "within_epochs", "views", "scorer"],
)
def test_a_run_that_is_killed_three_times_ends_like_an_uninterrupted_one(
    cli: Cli, kill: Kill, base: list[str], words: list[str]
) -> None:
    experiment = "sample_nima" if base is NIMA_WITH_PICTURES else "sample_edsr"
    words = [*base, "epochs=5", *words]
    done = cli(*words, "paths.output_dir=straight")
    assert done.code == 0, done.err
    for at in SERIES:
        killed(cli, kill, at, *words, "paths.output_dir=killed")
    done = cli(*words, "paths.output_dir=killed")
    assert done.code == 0, done.err
    assert "epoch 3/5" not in done.out  # it was complete
    assert "epoch 4/5" in done.out
    straight, run = run_at("straight", experiment), run_at("killed", experiment)
    assert_same_run(straight, run)
    assert epoch_of(run, "last") == 5
    assert FALLING[0] not in words or epoch_of(run, "best") == 1
    pictures = [
        {path.name: path.read_bytes() for path in (one / "images").glob("*.png")}
        for one in (straight, run)
    ]
    assert pictures[0] == pictures[1]
    assert pictures[0] or base is TINY


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_the_two_checkpoints_of_an_epoch(cli: Cli, kill: Kill, when: str) -> None:
    words = [*TINY, "gamma=0", "epochs=3"]
    assert cli(*words, "paths.output_dir=straight").code == 0
    for at in (("best", 1, when), ("best", 2, when), ("last", 2, "before"), ("best", 3, when)):
        killed(cli, kill, at, *words, "paths.output_dir=killed")
    done = cli(*words, "paths.output_dir=killed")
    assert done.code == 0, done.err
    assert_same_run(run_at("straight"), run_at("killed"))


@pytest.mark.slow
def test_extending_is_the_same_after_an_interruption_and_without_one(cli: Cli, kill: Kill) -> None:
    words = [*TINY, *FALLING, "model.grad_ratio_every=3", "optim=adam"]
    longer = ["epochs=5", "resume=true"]
    assert cli(*words, "paths.output_dir=a", "epochs=3").code == 0
    assert cli(*words, "paths.output_dir=b", "epochs=5").code == 0
    killed(cli, kill, ("last", 2, "after"), *words, "paths.output_dir=c", "epochs=3")
    assert cli(*words, "paths.output_dir=c", "epochs=3").code == 0
    assert_same_run(run_at("a"), run_at("c"))
    done = cli(*words, "paths.output_dir=a", *longer)
    assert done.code == 0, done.err
    assert "epoch 3/5" not in done.out
    killed(cli, kill, ("last", 4, "after"), *words, "paths.output_dir=c", *longer)
    done = cli(*words, "paths.output_dir=c", *longer)
    assert done.code == 0, done.err
    assert "epoch 4/5" not in done.out
    assert_same_run(run_at("a"), run_at("c"))
    assert rows(run_at("b")) == rows(run_at("a"))
    result = json.loads((run_at("a") / "result.json").read_text())
    assert (result["best_epoch"], result["epochs"]) == (1, 5)


@pytest.mark.slow
def test_records_hold_the_metrics_of_their_own_epoch(cli: Cli) -> None:
    """Steps 0, 3 and 6 are measured, so epochs 1, 2 and 4 of two steps each have a ratio."""
    words = [*FALLING, "model.grad_ratio_every=3", "paths.output_dir=a", "epochs=3"]
    assert cli(*TINY, *words).code == 0
    run = run_at("a")
    first, last = (
        load_plain(run / "checkpoints" / f"{name}.ckpt")["record"]["metrics"]
        for name in ("best", "last")
    )
    assert "val/grad_ratio" in first
    assert "val/grad_ratio" not in last
    assert "val/psnr" in last


def test_an_epoch_without_validation_has_no_validation_metrics(cli: Cli) -> None:
    words = ["gamma=0", "+trainer.check_val_every_n_epoch=2", "paths.output_dir=a", "epochs=3"]
    done = cli(*TINY, *words)
    assert done.code == 0, done.err
    lines = {line[:9]: line for line in done.out.splitlines() if line.startswith("epoch ")}
    assert "val/psnr" not in lines["epoch 1/3"]
    assert "val/psnr" in lines["epoch 2/3"]
    assert "val/psnr" not in lines["epoch 3/3"]
    run = run_at("a")
    metrics = load_plain(run / "checkpoints" / "last.ckpt")["record"]["metrics"]
    assert set(metrics) == {"train/loss", "train/l2"}
    assert [row["step"] for row in rows(run) if row.get("val/psnr")] == ["3"]
    result = json.loads((run / "result.json").read_text())
    assert (result["best_epoch"], result["epochs"]) == (2, 3)
    assert result["metrics"]["val/psnr"] > 0
    progress = json.loads((run / "progress.json").read_text())
    assert progress["value"] == result["metrics"]["val/psnr"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+trainer.check_val_every_n_epoch=3", "from 1 to epochs=2, else nothing is validated"),
        ("+trainer.check_val_every_n_epoch=0", "from 1 to epochs=2, else nothing is validated"),
        ("+trainer.val_check_interval=0", "trainer.val_check_interval=0: above 0"),
        ("+trainer.val_check_interval=0.0", "trainer.val_check_interval=0.0: above 0"),
        ("+trainer.val_check_interval=1.5", "val_check_interval"),
        ("+trainer.val_check_interval=7", "val_check_interval"),
        ("callbacks.checkpoint.save_last=false", "save_last"),
        ("+callbacks.checkpoint.save_top_k=3", "save_top_k"),
    ],
)
def test_settings_without_a_best_epoch_are_refused(cli: Cli, word: str, message: str) -> None:
    done = cli(*TINY, "gamma=0", word)
    assert done.code == 2
    assert message in done.err
    assert not list(Path().rglob("*.ckpt"))


SHORT = [*TINY, "gamma=0", "optim=adam", "paths.output_dir=a"]
LONGER = [*SHORT, "resume=true", "epochs=3"]


def put(content: dict[str, Any], path: Path) -> None:
    """Replace a checkpoint, which may be mapped into memory, as a whole."""
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def flip(path: Path, position: float) -> None:
    """Changes one bit at a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "edited"])
def test_a_damaged_last_checkpoint_is_replaced_by_the_best(cli: Cli, damage: str) -> None:
    assert cli(*SHORT).code == 0
    assert cli(*SHORT, "paths.output_dir=straight", "epochs=3").code == 0
    last = run_at("a") / "checkpoints" / "last.ckpt"
    if damage == "empty":
        last.write_bytes(b"")
    elif damage == "cut":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "flipped":
        loaded = load_plain(last)
        moment = loaded["optimizer_states"][0]["state"][1]["exp_avg"].numpy().tobytes()
        content = last.read_bytes()
        flip(last, (content.index(moment) + 1) / len(content))
    else:
        loaded = load_plain(last)
        loaded["lr_schedulers"][0]["last_epoch"] += 1
        put(loaded, last)
    done = cli(*LONGER)
    assert done.code == 0, done.err
    said = [line for line in done.out.splitlines() if "last.ckpt" in line]
    assert len(said) == 1
    assert "resuming after epoch 2" in said[0]
    assert rows(run_at("a")) == rows(run_at("straight"))
    assert_same_run(run_at("a"), run_at("straight"))


@pytest.mark.slow
def test_a_damaged_best_checkpoint_does_not_help(cli: Cli) -> None:
    assert cli(*SHORT).code == 0
    for path in (run_at("a") / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    done = cli(*LONGER)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "last.ckpt: cannot be read" in done.err
    assert "overwrite=true trains again" in done.err


@pytest.mark.slow
def test_the_checkpoint_of_another_run_is_refused(cli: Cli) -> None:
    assert cli(*SHORT).code == 0
    assert cli(*SHORT, "paths.output_dir=b", "seed=3", "net.num_features=4").code == 0
    last = run_at("a") / "checkpoints" / "last.ckpt"
    last.write_bytes((run_at("b") / "checkpoints" / "last.ckpt").read_bytes())
    done = cli(*LONGER)
    assert done.code == 2
    assert "last.ckpt: is of another run: net.num_features=4 (now 8), seed=3 (now 0);" in done.err
    assert done.err.count("\n") == 1
    assert (run_at("a") / "result.json").exists()  # nothing was touched


@pytest.mark.slow
def test_a_checkpoint_of_version_0_1_is_resumed(cli: Cli) -> None:
    """It has no checksum of the whole file, only that of its record and weights."""
    assert cli(*SHORT).code == 0
    assert cli(*SHORT, "paths.output_dir=straight", "epochs=3").code == 0
    for path in (run_at("a") / "checkpoints").iterdir():
        loaded = load_plain(path)
        del loaded["sha256"]
        put(loaded, path)
    assert cli(*LONGER).code == 0
    assert_same_run(run_at("a"), run_at("straight"))
    loaded = load_plain(run_at("a") / "checkpoints" / "last.ckpt")
    del loaded["sha256"]
    loaded["state_dict"]["net.head.0.weight"][0, 0, 0, 0] += 1
    put(loaded, run_at("a") / "checkpoints" / "last.ckpt")
    done = cli(*SHORT, "resume=true", "epochs=4")
    assert "last.ckpt: its checksum is wrong" in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("\n0,", "\nx,", 1),
        lambda text: text.replace("step", "stop", 1),
        lambda text: text.replace("\n0,0,", "\n0,0", 1),
        lambda text: text.replace("0", "\0", 1),
        lambda text: "",
    ],
)
def test_damaged_metrics_are_named(cli: Cli, damage: Callable[[str], str]) -> None:
    assert cli(*SHORT).code == 0
    path = run_at("a") / "metrics.csv"
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    done = cli(*LONGER)
    assert done.code == 2
    assert f"{path}: is damaged in line " in done.err
    assert done.err.count("\n") == 1
    assert path.read_bytes() == before
    assert (run_at("a") / "result.json").exists()


@pytest.mark.slow
def test_a_row_that_was_being_written_is_dropped(cli: Cli, kill: Kill) -> None:
    """`1,12` cut to `1,1` would else be a row of step 1."""
    assert cli(*SHORT, "epochs=3", "paths.output_dir=b").code == 0
    killed(cli, kill, ("last", 2, "after"), *SHORT, "epochs=3")
    with open(run_at("a") / "metrics.csv", "a") as file:
        file.write("1,1")
    assert cli(*SHORT, "epochs=3").code == 0
    assert_same_run(run_at("a"), run_at("b"))


@pytest.mark.slow
def test_files_that_a_killed_run_was_writing_go(cli: Cli, kill: Kill) -> None:
    killed(cli, kill, ("last", 1, "after"), *SHORT)
    run = run_at("a")
    parts = ["checkpoints/.last.ckpt.part", ".progress.json.77", ".metrics.csv", "images/.part-h-7"]
    (run / "images").mkdir(exist_ok=True)
    for name in parts:
        (run / name).touch()
    assert cli(*SHORT).code == 0
    assert [name for name in parts if (run / name).exists()] == []


@pytest.mark.slow
def test_changed_settings_are_listed_once(cli: Cli) -> None:
    assert cli(*SHORT, "name=mine").code == 0
    done = cli(*SHORT, "name=mine", "scale=3", "net.num_features=4", "seed=1")
    assert done.code == 2
    listed = "with net.num_features=8 (now 4), scale=2 (now 3), seed=0 (now 1); overwrite=true"
    assert listed in done.err
    assert "name=... or paths.output_dir=... keeps both" in done.err

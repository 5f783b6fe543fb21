"""Training through the real command line, on the built-in data."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.sample import SamplePairs
from images.pixels import to_unit
from lightning_modules.checkpoint import load_network, load_scorer
from lightning_modules.image_metrics import image_metrics
from networks.tensor_files import load_plain
from runs.identity import Identity
from sweeps.pool import free_port
from system.json_files import write_json
from system.locks import locked
from tests.conftest import (
    ROOT,
    SAMPLE_SCORER,
    TINY,
    TINY_NIMA,
    Finished,
    Forked,
    kill_when,
    launch,
    run_two_ranks,
    two_ranks,
)

Cli = Callable[..., Finished]


def only_run(folder: Path, experiment: str = "sample_edsr") -> Path:
    (found,) = (folder / "outputs" / experiment).iterdir()
    return found


def run_at(output: str, experiment: str = "sample_edsr") -> Path:
    (found,) = (Path(output) / experiment).iterdir()
    return found


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_plain(run / "checkpoints" / f"{which}.ckpt")["state_dict"]
    return state


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def train(cli: Cli, output: str, *words: str) -> Path:
    done = cli(*TINY, f"paths.output_dir={output}", *words)
    assert done.code == 0, done.err
    return run_at(output)


def on_two_ranks(folder: Path, *words: str, output: str = "two") -> Path:
    run_two_ranks(folder, *TINY, *words, f"paths.output_dir={output}")
    return run_at(output)


def test_run_folder_holds_everything(cli: Cli) -> None:
    run = train(cli, "a")
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"]["val/psnr"] > 0
    assert result["config"]["gamma"] == 0.4
    assert result["world_size"] == 1
    assert {"config_hash", "code_hash", "git", "versions", "seed", "wall_time_s"} <= result.keys()
    assert "val/score" in result["metrics"]
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        assert (run / ".hydra" / name).is_file()
    steps = [int(row["step"]) for row in rows(run) if row["train/loss"]]
    assert steps == [0, 1, 2, 3]
    assert "epoch 2/2" in (run / "train.log").read_text()


def test_checkpoint_is_plain_data_without_the_scorer(cli: Cli) -> None:
    run = train(cli, "a", "callbacks.progress=null")
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert names
    assert all(name.startswith("net.") for name in names)
    num_net = len([n for n in names if "mean" not in n])
    assert len(checkpoint["optimizer_states"][0]["state"]) == num_net
    assert checkpoint["record"]["net"]["_target_"] == "networks.edsr.EDSR"
    # An EDSR of one block with 8 features has few weights; a MnasNet would be megabytes.
    assert (run / "checkpoints" / "best.ckpt").stat().st_size < 500_000


@pytest.mark.slow
def test_gamma_zero_is_the_plain_run_bit_for_bit_and_builds_no_scorer(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_scorer = train(cli, "a", "gamma=0")
    without = train(cli, "b", "gamma=0", "scorer.checkpoint=null")
    hybrid = train(cli, "d")

    def never(*args: object) -> None:
        raise AssertionError("a scorer was built")

    monkeypatch.setattr("lightning_modules.loss_terms.AestheticLoss.__init__", never)
    plain = train(cli, "c", "gamma=0", "~loss.aesthetic")
    assert_same_weights(with_scorer, without)
    assert_same_weights(with_scorer, plain)
    losses = [row["train/loss"] for row in rows(with_scorer)]
    assert losses == [row["train/loss"] for row in rows(plain)]
    one, two = (json.loads((r / "result.json").read_text()) for r in (with_scorer, without))
    assert one["config_hash"] == two["config_hash"]  # gamma 0 does not read the scorer
    name = "net.head.0.weight"
    assert not torch.equal(weights(hybrid)[name], weights(plain)[name])


@pytest.mark.slow
@pytest.mark.parametrize("base", [TINY, TINY_NIMA], ids=["edsr", "nima"])
def test_curve_is_the_same_for_any_number_of_workers(cli: Cli, base: list[str]) -> None:
    experiment = "sample_nima" if base is TINY_NIMA else "sample_edsr"
    for output, workers in (("a", 0), ("b", 2)):
        done = cli(*base, f"paths.output_dir={output}", f"data.num_workers={workers}")
        assert done.code == 0, done.err
    one, two = run_at("a", experiment), run_at("b", experiment)
    assert rows(one) == rows(two)
    assert_same_weights(one, two)


def test_patches_differ_between_epochs(cli: Cli) -> None:
    # With a learning rate of zero, only the patches can change the loss.
    run = train(cli, "a", "optim.optimizer.lr=0.0", "gamma=0")
    losses = [row["train/l2"] for row in rows(run) if row["train/l2"]]
    assert len(set(losses)) == 4


@pytest.mark.slow
def test_same_command_after_a_finish_prints_the_result(cli: Cli) -> None:
    run = train(cli, "a")
    before = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    done = cli(*TINY, "paths.output_dir=a")
    assert done.code == 0
    assert "already finished" in done.out
    assert "psnr" in done.out
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    again = cli(*TINY, "paths.output_dir=a", "overwrite=true")
    assert again.code == 0
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns > before


@pytest.mark.slow
def test_changed_config_has_another_folder_or_is_refused(cli: Cli) -> None:
    train(cli, "a", "name=mine")
    done = cli(*TINY, "paths.output_dir=a", "name=mine", "gamma=0.2")
    assert done.code == 2
    assert "gamma=0.4 (now 0.2)" in done.err
    assert cli(*TINY, "paths.output_dir=a", "gamma=0.2").code == 0
    assert len(list(Path("a/sample_edsr").iterdir())) == 2


@pytest.mark.slow
def test_changed_code_is_refused_with_the_choice(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    train(cli, "a")
    original = Identity.__post_init__

    def changed(self: Identity) -> None:
        self.code = {**self.code, "networks/edsr.py": "changed"}
        original(self)

    monkeypatch.setattr(Identity, "__post_init__", changed)
    done = cli(*TINY, "paths.output_dir=a")
    assert done.code == 2
    assert "the code (networks/edsr.py) changed since; stale=rerun runs it again" in done.err
    assert "already finished" in cli(*TINY, "paths.output_dir=a", "stale=accept").out
    assert "training in" in cli(*TINY, "paths.output_dir=a", "stale=rerun").out


@pytest.mark.slow
def test_a_finished_run_can_be_extended(cli: Cli) -> None:
    run = train(cli, "a", "optim=adam")
    done = cli(*TINY, "paths.output_dir=a", "optim=adam", "epochs=3")
    assert done.code == 2
    assert "resume=true trains on" in done.err
    done = cli(*TINY, "paths.output_dir=a", "optim=adam", "epochs=3", "resume=true")
    assert done.code == 0, done.err
    assert run_at("a") == run
    assert json.loads((run / "result.json").read_text())["epochs"] == 3
    straight = train(cli, "b", "optim=adam", "epochs=3")  # a constant rate: the same schedule
    assert_same_weights(run, straight)
    assert rows(run) == rows(straight)


@pytest.mark.slow
def test_killed_and_continued_run_ends_like_an_uninterrupted_one(cli: Cli, folder: Path) -> None:
    """By SIGKILL, wherever it strikes; tests/runs/test_interruptions.py chooses the moments."""
    words = [*TINY, "epochs=12"]
    killed = launch(folder, *words, "paths.output_dir=killed")

    def two_epochs_done() -> bool:
        found = list((folder / "killed" / "sample_edsr").glob("*/metrics.csv"))
        return bool(found) and any(row["epoch"] == "2" for row in rows(found[0].parent))

    kill_when(killed, two_epochs_done)
    run = run_at("killed")
    assert not (run / "result.json").exists()
    assert int(rows(run)[-1]["epoch"]) < 11
    done = cli(*words, "paths.output_dir=killed")
    assert done.code == 0, done.err
    assert "continuing in" in done.out
    assert cli(*words, "paths.output_dir=straight").code == 0
    straight = run_at("straight")
    assert_same_weights(run, straight)
    assert rows(run) == rows(straight)


@pytest.mark.slow
def test_two_processes_do_not_share_a_folder(cli: Cli) -> None:
    run = train(cli, "a")
    (run / "result.json").unlink()
    with locked(run):
        done = cli(*TINY, "paths.output_dir=a")
    assert done.code == 2
    assert "another process" in done.err


@pytest.mark.slow
def test_init_from_takes_weights_only(cli: Cli) -> None:
    first = train(cli, "a")
    best = first / "checkpoints" / "best.ckpt"
    second = train(cli, "b", f"init_from={best}", "optim.optimizer.lr=0.0")
    assert torch.equal(
        weights(first, "best")["net.tail.1.weight"], weights(second)["net.tail.1.weight"]
    )
    done = cli(*TINY, "paths.output_dir=c", f"init_from={best}", "net.num_features=16")
    assert done.code == 2
    assert "not the weights of this EDSR" in done.err


@pytest.mark.slow
def test_several_ranks_under_a_launcher_of_one_process_are_refused(cli: Cli) -> None:
    done = cli("-m", *TINY, "hydra/launcher=basic", "trainer=ddp_cpu", "gamma=0,0.1")
    assert done.code == 2
    assert "every rank would run the whole sweep; hydra/launcher=pool" in done.err


@pytest.mark.slow
def test_a_run_without_its_last_checkpoint_is_not_begun_anew(cli: Cli) -> None:
    run = train(cli, "a")
    (run / "checkpoints" / "last.ckpt").unlink()
    before = (run / "checkpoints" / "best.ckpt").read_bytes()
    done = cli(*TINY, "paths.output_dir=a", "resume=true", "epochs=3")
    assert done.code == 2
    assert "last.ckpt: is missing, so the run cannot be resumed; overwrite=true" in done.err
    (run / "progress.json").unlink()
    assert cli(*TINY, "paths.output_dir=a", "resume=true", "epochs=3").code == 2
    assert (run / "checkpoints" / "best.ckpt").read_bytes() == before
    # As it is when a run is killed between the two checkpoints of its first epoch.
    write_json(run / "progress.json", {"epoch": 1})
    (run / "result.json").unlink()
    done = cli(*TINY, "paths.output_dir=a")
    assert done.code == 0, done.err
    assert "training in " in done.out
    assert (run / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_smoke_runs_with_everything_on(cli: Cli) -> None:
    done = cli("debug=smoke", "data.limit=8", "logger=[csv,tensorboard]", "callbacks.progress=null")
    assert done.code == 0, done.err
    run = only_run(Path.cwd())
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "images" / "chelsea.png").is_file()
    assert list((run / "tensorboard").glob("events*"))
    assert [row["step"] for row in rows(run) if row["train/loss"]] == ["0", "1"]


@pytest.mark.ddp
def test_two_ranks_train_like_one(cli: Cli, folder: Path) -> None:
    single = train(cli, "one", *FIFTY)
    run = on_two_ranks(folder, *FIFTY)
    assert json.loads((run / "result.json").read_text())["world_size"] == 2
    assert len(rows(run)) == len(rows(single))
    assert_same_curve(single, run)


def assert_same_curve(one: Path, two: Path) -> None:
    assert len(rows(one)) == len(rows(two))
    for first, second in zip(rows(one), rows(two), strict=True):
        for key, value in first.items():
            if value:
                # The score is of images rounded to 8 bits: a last digit may flip a whole level; the
                # gradient of a scorer jumps where the input of a ReLU changes sign.
                scored = key in ("val/score", "val/aesthetic")
                rel = 1e-2 if "grad_ratio" in key else 1e-3 if scored else 1e-5
                least = 1e-4 if "alignment" in key else None  # a cosine near 0
                assert float(value) == pytest.approx(float(second[key]), rel=rel, abs=least), key


FIFTY = ["epochs=1", "data.num_steps=50", "optim=adam"]


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0, 0.4])
def test_accumulation_does_not_change_the_curve(cli: Cli, gamma: float) -> None:
    one = train(cli, "a", *FIFTY, f"gamma={gamma}")
    two = train(cli, "b", *FIFTY, f"gamma={gamma}", "trainer.accumulate_grad_batches=2")
    assert_same_curve(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adam", "adam_cosine"])
def test_an_extended_run_follows_the_schedule_of_its_new_length(cli: Cli, optim: str) -> None:
    run = train(cli, "a", f"optim={optim}", "gamma=0")
    before = weights(run)
    done = cli(*TINY, "paths.output_dir=a", f"optim={optim}", "gamma=0", "epochs=3", "resume=true")
    assert done.code == 0, done.err
    groups = load_plain(run / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    base = {"adam": 1e-4, "adam_cosine": 0.0}[optim]  # cosine ends at zero
    assert groups[0]["lr"] == pytest.approx(base)
    # Two steps at positive rates: at half the cosine's way and more, not at its end.
    name = "net.head.0.weight"
    moved = (weights(run)[name] - before[name]).abs().max().item()
    assert moved > (1e-4 if optim == "adam_cosine" else 1e-5)


def test_files_of_others_are_not_removed(cli: Cli) -> None:
    notes = Path("a/sample_edsr/mine/checkpoints/notes.txt")
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    done = cli(*TINY, "paths.output_dir=a", "name=mine")
    assert done.code == 2
    assert "is not a run, but has checkpoints" in done.err
    assert notes.exists()


@pytest.mark.slow
def test_nothing_is_replaced_before_everything_could_be_built(cli: Cli, folder: Path) -> None:
    run = train(cli, "a", "name=mine")
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    torch.save({"weight": torch.zeros(1)}, folder / "wrong.pt")
    words = ["paths.output_dir=a", "name=mine", "overwrite=true", "init_from=wrong.pt"]
    done = cli(*TINY, *words)
    assert done.code == 2
    assert "not the weights of this EDSR" in done.err
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    done = cli(*TINY, "paths.output_dir=b", "init_from=wrong.pt")
    assert done.code == 2
    assert not Path("b").exists()  # no empty folder stays


def test_a_training_that_diverges_says_so(cli: Cli) -> None:
    done = cli(*TINY, "optim.optimizer.lr=1e30", "optim=adam", "gamma=0", "epochs=3")
    assert done.code == 2
    assert "is not a number: a lower optim.optimizer.lr" in done.err
    assert not list(Path("outputs").rglob("result.json"))


@pytest.mark.slow
def test_interrupt_says_how_to_go_on(cli: Cli, folder: Path) -> None:
    running = launch(folder, *TINY, "epochs=500")
    while not list(folder.rglob("last.ckpt")):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 130, output
    assert "the same command resumes" in output


def measured(checkpoint: Path, scorers: dict[str, Path]) -> dict[str, float]:
    """Means over the two validation photos, computed apart from the training code."""
    net, _ = load_network(checkpoint)
    data = SamplePairs(2)
    data.setup("validate")
    sums: dict[str, float] = {}
    for k in range(2):
        photo = data.val.pair(k, 2)
        hr = to_unit(photo.hr)[None]
        with torch.no_grad():
            sr = net(to_unit(photo.lr)[None])
        values = {name: value.item() for name, value in image_metrics(sr, hr, 2).items()}
        values["l1"] = 255 * float(np.abs(sr.numpy() - hr.numpy()).mean())
        for name, path in scorers.items():
            values[name] = load_scorer(path).score(sr.clamp(0, 1)).item()
        sums = {name: sums.get(name, 0) + value / 2 for name, value in values.items()}
    return sums


@pytest.mark.slow
def test_gradients_are_clipped(cli: Cli) -> None:
    still = train(cli, "still", "gamma=0", "optim.optimizer.lr=1e-30")
    clipped = train(cli, "clipped", "gamma=0", "trainer.gradient_clip_val=1e-30")
    free = train(cli, "free", "gamma=0")
    start, held, moved = (weights(run)["net.head.0.weight"] for run in (still, clipped, free))
    assert torch.allclose(start, held, rtol=0, atol=1e-9)
    assert not torch.allclose(start, moved, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["sample_edsr", "sample_nima"])
def test_bf16_trains_without_nan(cli: Cli, experiment: str) -> None:
    base = TINY_NIMA if experiment == "sample_nima" else TINY
    done = cli(*base, "trainer.precision=bf16-mixed")
    assert done.code == 0, done.err
    run = only_run(Path.cwd(), experiment)
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert cli(*base, "paths.output_dir=exact").code == 0
    if experiment == "sample_edsr":  # validation is float32
        metrics = json.loads((run / "result.json").read_text())["metrics"]
        expected = measured(run / "checkpoints/best.ckpt", {})
        assert metrics["val/psnr"] == pytest.approx(expected["psnr"], abs=1e-4)
        assert metrics["val/psnr_y"] == pytest.approx(expected["psnr_y"], abs=1e-4)
    both = (run, run_at("exact", experiment))
    first = [next(float(r["train/loss"]) for r in rows(one) if r["train/loss"]) for one in both]
    assert first[0] == pytest.approx(first[1], rel=0.05)  # README: up to 5 %


MULTI = [
    *("net=mdsr", "net.scales=[2,4]", "gamma=0", "data.num_steps=6", "data.batch_size=2"),
    "epochs=1",
]


@pytest.mark.slow
def test_mdsr_trains_every_branch_and_reports_every_scale(cli: Cli) -> None:
    run = train(cli, "a", *MULTI)
    before = train(cli, "b", *MULTI, "data.num_steps=1", "optim.optimizer.lr=0")
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    for name in ("psnr", "psnr_y", "ssim"):
        each = [metrics[f"val/{name}/x{scale}"] for scale in (2, 4)]
        assert metrics[f"val/{name}"] == pytest.approx(sum(each) / 2, rel=1e-5)
    assert "val/psnr/x3" not in metrics
    assert "val/loss/x2" not in metrics
    start, end = weights(before), weights(run)
    for name, value in end.items():
        if "mean" not in name:
            assert not torch.equal(value, start[name]), name


@pytest.mark.slow
def test_mdsr_does_not_read_scale(cli: Cli) -> None:
    train(cli, "a", *MULTI, "name=x")
    done = cli(*TINY, *MULTI, "name=x", "scale=3", "paths.output_dir=a")
    assert "already finished" in done.out + done.err
    done = cli(*TINY, *MULTI, "data.scale=3", "gamma=0")
    assert done.code == 2
    assert "data.scale=3" in done.err


@pytest.mark.ddp
def test_mdsr_trains_on_two_ranks_like_on_one(cli: Cli, folder: Path) -> None:
    process = launch(folder, *TINY, *MULTI, "trainer=ddp_cpu", "paths.output_dir=two")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert_same_curve(train(cli, "one", *MULTI), run_at("two"))


@pytest.mark.slow
def test_the_judge_validates_and_leaves_no_trace_in_the_weights(
    cli: Cli, scorer_file: Path
) -> None:
    plain = train(cli, "a")
    loss = ["loss=[l1,aesthetic]", "loss.aesthetic.warmup=0.5"]
    options = [*loss, "model.grad_ratio_every=3"]
    done = cli(*TINY, "paths.output_dir=b", f"judge.checkpoint={scorer_file}", *options)
    assert done.code == 0, done.err
    assert "the judge is not independent: it shares backbone" in done.out + done.err
    run = run_at("b")
    result = json.loads((run / "result.json").read_text())
    metrics = result["metrics"]
    expected = measured(
        run / "checkpoints/best.ckpt", {"score": SAMPLE_SCORER, "score_judge": scorer_file}
    )
    l1 = expected.pop("l1")
    for name, value in expected.items():
        assert metrics[f"val/{name}"] == pytest.approx(value, abs=2e-3), name
    loss = metrics["val/loss"] - 0.4 * (10 - metrics["val/score"])
    assert loss == pytest.approx(l1, rel=1e-4)
    assert {"val/contrast_drift", "val/saturation_drift", "val/grad_ratio"} <= metrics.keys()
    assert result["warnings"] == []
    assert "judge.checkpoint" in json.loads((run / "run.json").read_text())["inputs"]
    assert weights(run).keys() == weights(plain).keys()
    ratios = {r["step"]: float(r["train/grad_ratio"]) for r in rows(run) if r["train/grad_ratio"]}
    assert list(ratios) == ["0", "3"]  # every third step, over the epochs
    assert ratios["0"] == 0  # gamma begins at 0
    assert ratios["3"] > 0
    assert all(row["train/l1"] for row in rows(run) if row["train/loss"])
    assert train(cli, "c", "loss.aesthetic.mode=hinge", "epochs=1")
    assert train(cli, "d", "loss.aesthetic.mode=feature", "gamma=50", "epochs=1")


@pytest.mark.slow
def test_gamma_0_is_scored_where_it_is_asked_for(cli: Cli, scorer_file: Path) -> None:
    always = "loss.aesthetic.score_always=true"
    plain, scored = train(cli, "a", "gamma=0"), train(cli, "b", "gamma=0", always)
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(scored)[name]), name
    records = [json.loads((run / "run.json").read_text()) for run in (plain, scored)]
    assert ["scorer.checkpoint" in record["inputs"] for record in records] == [False, True]
    metrics = json.loads((scored / "result.json").read_text())["metrics"]
    expected = measured(scored / "checkpoints/best.ckpt", {"score": SAMPLE_SCORER})
    assert metrics["val/score"] == pytest.approx(expected["score"], abs=2e-3)
    assert "val/grad_ratio" not in metrics
    assert "val/score" not in json.loads((plain / "result.json").read_text())["metrics"]
    # Above 0 it changes nothing, so it is the same run.
    hashes = [
        json.loads((train(cli, place, *words) / "run.json").read_text())["config_hash"]
        for place, words in (("c", ["epochs=1"]), ("d", ["epochs=1", always]))
    ]
    assert hashes[0] == hashes[1]
    done = cli(*TINY, "gamma=0", always, "scorer.checkpoint=null")
    assert done.code == 2
    assert "loss.aesthetic.score_always needs a scorer: give scorer.checkpoint=FILE" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("scale", [3, 4])
def test_edsr_of_another_scale_starts_from_x2(cli: Cli, scale: int) -> None:
    run = train(cli, "a", "gamma=0", "epochs=1")
    first = f"init_from={run}/checkpoints/best.ckpt"
    options = ["gamma=0", "epochs=1", "data.num_steps=1", "optim.optimizer.lr=0"]
    done = cli(*TINY, first, f"scale={scale}", "paths.output_dir=b", *options)
    assert done.code == 0, done.err
    assert "another scale: the upsampler is trained from scratch" in done.out + done.err
    two, new = weights(run, "best"), weights(run_at("b"), "best")
    for name, value in new.items():
        if not name.startswith("net.tail.0."):
            assert torch.equal(value, two[name]), name
    other = cli(*TINY, first, "net.num_features=4", "paths.output_dir=c", *options)
    assert other.code == 2
    assert "not the weights of this EDSR" in other.err


@pytest.mark.ddp
def test_two_nodes_by_torchrun_train_like_one(cli: Cli, folder: Path) -> None:
    """Two machines of one rank each, as torchrun starts them; the folder is looked at by one."""
    ten = ["epochs=1", "data.num_steps=10", "optim=adam"]
    single = train(cli, "one", *ten)
    words = [*TINY, *ten, "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2"]

    def on_two_nodes(*more: str) -> list[subprocess.CompletedProcess[str]]:
        port = free_port()
        nodes = []
        for rank in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
            command += ["--nproc-per-node=1", f"--node-rank={rank}", "--master-addr=127.0.0.1"]
            command += [f"--master-port={port}", str(ROOT / "run.py"), *words, *more]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            node_process = Forked(
                command,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            nodes.append(node_process)
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
        return [
            subprocess.CompletedProcess([], node.returncode, output)
            for node, output in zip(nodes, outputs, strict=True)
        ]

    first = on_two_nodes()
    assert [node.returncode for node in first] == [0, 0], first[0].stdout + first[1].stdout
    run = only_run(folder)
    assert json.loads((run / "result.json").read_text())["world_size"] == 2
    assert_same_curve(single, run)
    assert "training in " in first[0].stdout
    assert "training in " not in first[1].stdout
    again = two_ranks(folder, *words, num_nodes=2)
    assert [node.code for node in again] == [0, 0]
    assert "already finished" in again[0].out
    refused = on_two_nodes("optim.optimizer.lr=2e-3", f"name={run.name}")
    assert "holds a run with" in refused[0].stdout
    assert "optim.optimizer.lr=0.0001 (now 0.002)" in refused[0].stdout
    assert all(node.returncode for node in refused)  # neither waits for the other
    assert all("exitcode  : 2 " in node.stdout for node in refused)  # nor is it aborted

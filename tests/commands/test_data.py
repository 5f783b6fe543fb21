"""Training and evaluating on photos and ratings in folders, through the real command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from networks.tensor_files import load_plain
from tests.commands.test_train import assert_same_curve, assert_same_weights, rows, run_at
from tests.conftest import SAMPLE_SCORER, TINY, TINY_NIMA, Cli, kill_when, launch, run_two_ranks

WORDS = [*(word for word in TINY if not word.startswith("data.limit")), "gamma=0", "data=photos"]
PHOTOS = [*WORDS, "data.train_hr=train", "data.val_hr=val"]
RATED = [
    *(word for word in TINY_NIMA if not word.startswith("data.num_")),
    *("data=rated", "data.ratings=ratings.csv", "data.images=train", "scorer.num_buckets=3"),
]


@pytest.fixture(autouse=True)
def _data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    votes = [["image", "votes_1", "votes_2", "votes_3"]]
    for split, num in (("train", 9), ("val", 3)):
        (folder / split).mkdir()
        for k in range(num):
            small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            photo = small.resize((70 + k, 66), Image.Resampling.BICUBIC)
            photo.save(folder / split / f"{k}.png")
            if split == "train":
                votes.append([f"{k}.png", *map(str, rng.integers(1, 20, 3))])
    with open(folder / "ratings.csv", "w", newline="") as file:
        csv.writer(file).writerows(votes)


def train(cli: Cli, output: str, *words: str) -> Path:
    done = cli(*words, f"paths.output_dir={output}")
    assert done.code == 0, done.err
    experiment = "sample_nima" if "experiment=sample_nima" in words else "sample_edsr"
    experiment = "photos" if "data=photos" in words else experiment
    return run_at(output, experiment)


@pytest.mark.slow
@pytest.mark.parametrize("base", [PHOTOS, RATED], ids=["photos", "rated"])
def test_curve_is_the_same_for_any_number_of_workers(cli: Cli, base: list[str]) -> None:
    none, two = (train(cli, f"w{n}", *base, f"data.num_workers={n}") for n in (0, 2))
    assert rows(none) == rows(two)
    assert_same_weights(none, two)


@pytest.mark.slow
def test_curve_is_the_same_with_the_store_on_the_device(cli: Cli) -> None:
    loader, device = (
        train(cli, f"d{d}", *PHOTOS, f"data.on_device={d}") for d in ("false", "true")
    )
    assert rows(loader) == rows(device)
    assert_same_weights(loader, device)


@pytest.mark.ddp
def test_two_ranks_train_like_one(cli: Cli, folder: Path) -> None:
    fifty = [*PHOTOS, "epochs=1", "data.num_steps=50", "optim=adam"]
    single = train(cli, "one", *fifty)
    # The second store is packed by two ranks at once.
    run_two_ranks(folder, *fifty, "paths.output_dir=two", "data.store=store2")
    assert_same_curve(single, run_at("two", "photos"))


@pytest.mark.slow
def test_same_command_finds_its_run_and_changed_photos_are_told(cli: Cli, folder: Path) -> None:
    words = [*PHOTOS, "epochs=1"]
    run = train(cli, "a", *words)
    assert len(json.loads((run / "result.json").read_text())["inputs"]["data"]) == 64
    assert "already finished" in cli(*words, "paths.output_dir=a").out
    Image.new("RGB", (80, 80), "red").save(folder / "train" / "4.png")
    done = cli(*words, "paths.output_dir=a")
    assert done.code == 2
    assert "the data changed since; stale=rerun" in done.err
    assert "training in" in cli(*words, "paths.output_dir=a", "stale=rerun").out


def test_moved_photos_are_the_same_run(cli: Cli, folder: Path) -> None:
    words = [*WORDS, "epochs=1", "name=mine", "paths.output_dir=a", "data.val_hr=val"]
    assert cli(*words, "data.train_hr=train").code == 0
    shutil.move(folder / "train", folder / "elsewhere")
    done = cli(*words, "data.train_hr=elsewhere")
    assert "already finished" in done.out


@pytest.mark.slow
def test_deblurring_and_scale_one(cli: Cli) -> None:
    run = train(cli, "blur", *PHOTOS, "data.degradation.blur=1.6")
    assert "LR with blur1.6" in json.loads((run / "result.json").read_text())["data"]
    one = train(cli, "one", *PHOTOS, "scale=1", "data.degradation.blur=1.6")
    assert json.loads((one / "result.json").read_text())["config"]["scale"] == 1
    best = one / "checkpoints" / "best.ckpt"
    done = cli(
        *("evaluate", f"checkpoint={best}", "data=photos", "data.val_hr=val"),
        *("data.degradation.blur=1.6", "scorer.checkpoint=null"),
    )
    assert done.code == 0, done.err
    assert "over input" in done.out


@pytest.mark.slow
def test_evaluating_on_a_benchmark_and_on_rated_photos(cli: Cli, folder: Path) -> None:
    enhancer = train(cli, "a", *PHOTOS, "epochs=1") / "checkpoints" / "best.ckpt"
    (folder / "Set3").mkdir()
    shutil.copytree(folder / "val", folder / "Set3" / "HR")
    words = ["evaluate", f"checkpoint={enhancer}", "scorer.checkpoint=null"]
    done = cli(*words, "data=benchmark", "data.root=Set3")
    assert done.code == 0, done.err
    assert "on benchmark Set3" in done.out
    assert "already" not in done.out
    scorer = train(cli, "b", *RATED, "epochs=1") / "checkpoints" / "best.ckpt"
    table = ["data=rated", "data.ratings=ratings.csv", "data.images=train"]
    done = cli("evaluate", f"checkpoint={scorer}", *table)
    assert done.code == 0, done.err
    assert "on 2 images" in done.out
    assert "was trained with" not in done.out
    # Another split holds photos that have trained the scorer.
    done = cli("evaluate", f"checkpoint={scorer}", *table, "data.val_share=0.5")
    assert done.code == 0, done.err
    assert "was trained with data.val_share=0.2, which is another split" in done.out
    Path("test.txt").write_text("0.png\n")
    done = cli("evaluate", f"checkpoint={scorer}", *table, "data.val_list=test.txt")
    assert done.code == 0, done.err
    assert "was trained with" not in done.out


def test_a_bad_photo_ends_it_by_name(cli: Cli, folder: Path) -> None:
    (folder / "train" / "3.png").write_bytes(b"no image")
    (folder / "train" / "5.png").write_bytes(b"")
    done = cli(*PHOTOS)
    assert done.code == 2
    assert "2 of the HR photos (train) cannot be used" in done.err
    assert "train/3.png: not an image file" in done.err
    assert "train/5.png: not an image file" in done.err
    assert not (folder / "outputs").exists()


FINETUNE = [
    *(word for word in RATED if not word.startswith(("experiment=", "callbacks.pictures="))),
    *("experiment=nima_finetune", "scorer=mnasnet_0_5", "callbacks.progress=null"),
]


@pytest.mark.slow
def test_fine_tuning_starts_from_another_scorer_and_its_pictures_reach_every_logger(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shutil.copy(SAMPLE_SCORER, "start.safetensors")
    words = [*FINETUNE, "scorer.pretrained=start.safetensors", "name=here"]
    loggers = ["logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true"]
    done = cli(*words, *loggers)
    assert done.code == 0, done.err
    assert "averaged weights move" not in done.err + done.out
    run = folder / "outputs/nima_finetune/here"
    names = {"ratings_means", "ratings_distribution", "ratings_extremes"}
    assert {path.stem for path in (run / "images").iterdir()} == names
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) == names
    shown = {path.name.split("_")[1] for path in run.rglob("media/images/*.png")}
    assert shown == {"means", "distribution", "extremes"}
    table = done.out.partition("noise of the votes")[2]
    assert table.count("│") >= 8 * 3
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    for name in ("emd", "emd_batch", "emd_r1", "accuracy"):
        assert {f"val/{name}", f"val/{name}_constant", f"val/{name}_floor"} <= metrics.keys()

    shutil.move("start.safetensors", "moved.safetensors")  # what is finished needs it no more
    assert cli(*words, *loggers).code == 2  # but the file is what the run began with
    shutil.copy("moved.safetensors", "start.safetensors")
    assert cli(*words, *loggers).code == 0
    export = ["export", f"checkpoint={run}/checkpoints/best.ckpt", "output=start.safetensors"]
    assert cli(*export, "overwrite=true").code == 0
    done = cli(*words, *loggers)
    assert done.code == 2
    assert "scorer.pretrained" in done.err


@pytest.mark.slow
def test_changed_votes_are_another_run(cli: Cli, folder: Path) -> None:
    words = [*RATED, "name=here"]
    assert cli(*words).code == 0
    with open("ratings.csv", newline="") as file:
        header, *votes = csv.reader(file)
    with open("ratings.csv", "w", newline="") as file:  # the same shares
        doubled = [[name, *(str(2 * int(v)) for v in row)] for name, *row in votes]
        csv.writer(file).writerows([header, *doubled])
    done = cli(*words)
    assert done.code == 2
    assert "the data changed since" in done.err


@pytest.mark.slow
def test_a_continued_run_needs_no_pretrained_weights(cli: Cli, folder: Path) -> None:
    words = [*FINETUNE, "scorer.pretrained=null", "model.constant_start=true"]
    assert cli(*words, "epochs=3", "name=whole").code == 0
    whole, part = (folder / "outputs/nima_finetune" / name for name in ("whole", "part"))
    process = launch(folder, *words, "epochs=3", "name=part")
    kill_when(process, lambda: (part / "checkpoints/last.ckpt").exists())
    assert cli(*words, "epochs=3", "name=part").code == 0
    assert_same_weights(whole, part)
    other = cli(*words, f"init_from={whole}/checkpoints/last.ckpt", "scorer=mobilenet_v2")
    assert other.code == 2
    assert "the file holds a scorer, mnasnet_0_5" in other.err
    # A head that has learned is not set back to the constant.
    start = f"init_from={whole}/checkpoints/last.ckpt"
    done = cli(*words, start, "optim.optimizer.lr=1e-12", "epochs=1", "name=again")
    assert done.code == 0, done.err
    assert not np.allclose(head(folder / "outputs/nima_finetune/again"), 0)
    assert np.allclose(head(folder / "outputs/nima_finetune/again"), head(whole), atol=1e-6)


def head(run: Path) -> np.ndarray:
    state = load_plain(run / "checkpoints" / "last.ckpt")["state_dict"]
    weight: np.ndarray = state["net.head.weight"].numpy()
    return weight


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_half_precision_on_a_gpu(cli: Cli, folder: Path, precision: str) -> None:
    words = [*FINETUNE, "trainer=gpu", f"trainer.precision={precision}", "scorer.pretrained=null"]
    done = cli(*words, "model.gradient_penalty=0.01", "name=half")
    assert done.code == 0, done.err
    assert np.isfinite(head(folder / "outputs/nima_finetune/half")).all()

"""Several ranks, on the CPU: the same numbers as one rank, whatever is trained and how."""

import json
from pathlib import Path

import pytest

from datamodules.sample import SamplePairs
from images.writing import write_image
from tests.commands.test_train import (
    FIFTY,
    MULTI,
    Cli,
    assert_same_curve,
    on_two_ranks,
    rows,
    train,
    weights,
)

pytestmark = pytest.mark.ddp


def photos(folder: Path) -> list[str]:
    """One photo to train on, and three, an odd number, to validate on; sizes differ."""
    data = SamplePairs(scale=2, batch_size=2, patch_size=16, num_steps=1)
    data.setup("fit")
    for k in range(3):
        image = data.val.pair(k % 2, 2).hr[:, k * 20 : 120 + k * 30, : 150 - k * 12]
        write_image(folder / "val" / f"{k}.png", image)
    write_image(folder / "train" / "0.png", data.val.pair(0, 2).hr)
    return ["experiment=sample_edsr", "data=photos", "data.train_hr=train", "data.val_hr=val"]


def test_an_odd_number_of_photos_is_validated_as_by_one_rank(
    cli: Cli, folder: Path, scorer_file: Path
) -> None:
    """No photo twice, as a padded sampler would have it; with scorer and judge on each rank."""
    words = [*photos(folder), f"judge.checkpoint={scorer_file}", "data.limit=null", "gamma=0.4"]
    words += ["callbacks.epoch_line=null"]
    single, double = train(cli, "one", *words), on_two_ranks(folder, *words)
    assert_same_curve(single, double)
    one, two = (json.loads((run / "result.json").read_text()) for run in (single, double))
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert {"val/psnr", "val/score", "val/score_judge", "val/contrast_drift"} <= two[
        "metrics"
    ].keys()
    assert one["metrics"].keys() == two["metrics"].keys()


@pytest.mark.slow
def test_mdsr_against_a_scorer_with_accumulation(cli: Cli, folder: Path) -> None:
    """Both micro-batches of a step, and both ranks, are of one scale."""
    words = [*MULTI, "gamma=0.4", "data.batch_size=4"]
    single = train(cli, "one", *words)
    double = on_two_ranks(folder, *words, "trainer.accumulate_grad_batches=2")
    assert_same_curve(single, double)


@pytest.mark.slow
def test_mixed_precision_on_two_ranks(cli: Cli, folder: Path) -> None:
    words = [*FIFTY, "trainer.precision=bf16-mixed", "gamma=0.4"]
    single, double = train(cli, "one", *words), on_two_ranks(folder, *words)
    for first, second in zip(rows(single), rows(double), strict=True):
        for key in ("train/loss", "val/psnr"):
            if first[key]:
                assert float(second[key]) == pytest.approx(float(first[key]), rel=0.02), key
    assert {str(value.dtype) for value in weights(double).values()} == {"torch.float32"}


@pytest.mark.slow
def test_the_seed_says_it_all_on_two_ranks_too(cli: Cli, folder: Path) -> None:
    double = on_two_ranks(folder, "gamma=0", "seed=3")
    assert_same_curve(train(cli, "one", "gamma=0", "seed=3"), double)
    other = train(cli, "other", "gamma=0", "seed=4")
    assert rows(other)[0]["train/loss"] != rows(double)[0]["train/loss"]


@pytest.mark.slow
def test_gamma_auto_and_adapters_on_two_ranks(cli: Cli, folder: Path) -> None:
    """Both ranks come to the same gamma; each step leaves the adapters of other scales alone."""
    base = train(cli, "base", *MULTI, "gamma=0", "epochs=1") / "checkpoints" / "best.ckpt"
    words = [*MULTI, "gamma=auto", "share=0.5", "model.train=lora", f"init_from={base}"]
    single, double = train(cli, "one", *words), on_two_ranks(folder, *words)
    for key in ("train/weight/aesthetic", "train/loss", "val/psnr"):
        one, two = ([float(r[key]) for r in rows(run) if r[key]] for run in (single, double))
        assert one == pytest.approx(two, rel=1e-3), key
    assert all(name.startswith(("net.", "lora.")) for name in weights(double))

"""Training on tone degradations through the real command line, and what reads such runs."""

import json
from pathlib import Path

import pytest

from lightning_modules.checkpoint import load_network
from lightning_modules.record import degradation_choice, degradation_summary
from tests.commands.test_train import assert_same_weights, rows, train
from tests.conftest import Cli

TONE = ["data.degradation=tone", "scale=1", "gamma=0", "metrics=[psnr,delta_e]", "optim=adam"]


def test_a_tone_run_is_trained_resumed_measured_and_exported(cli: Cli, folder: Path) -> None:
    words = [*TONE, "data.limit=1", "data.shrink_to=64", "name=mine"]
    run = train(cli, "one", *words, "epochs=2")
    half = train(cli, "two", *words, "epochs=1")
    assert_same_weights(run, train(cli, "two", *words, "epochs=2", "resume=true"))
    result = json.loads((run / "result.json").read_text())
    assert result["better"]["delta_e"] == "lower"

    best = half / "checkpoints" / "best.ckpt"
    own = [*("scorer.checkpoint=null", "judge.checkpoint=null", "pictures=0", "data.limit=1")]
    done = cli("evaluate", f"checkpoint={best}", *own, "metrics=[psnr,delta_e]", "name=own")
    assert done.code == 0, done.err
    assert f"│ {float(rows(half)[-1]['val/psnr']):12.2f} │" in done.out  # the same LR photos
    assert "Delta E: mean CIEDE2000" in done.out
    assert "│ input " in done.out
    assert cli("export", f"checkpoint={best}", "output=a.safetensors").code == 0
    record = load_network("a.safetensors")[1]
    assert record.degradation == record.trained_degradation == {"tone": 1}
    blurred = ["data=sample_pairs", "data.degradation.blur=1", "name=blurred"]
    done = cli("evaluate", "checkpoint=a.safetensors", *own, *blurred)
    assert "EDSR gamma=0 was trained with data.degradation=tone, not used here" in done.out


@pytest.mark.parametrize(
    ("node", "choice"),
    [
        ({"_target_": "datamodules.tone.ToneDegradation", "then": None}, "tone"),
        ({"_target_": "datamodules.tone.ToneDegradation", "then": {"margin": 8}}, "tone_realistic"),
        ({"_target_": "datamodules.realistic.RealisticDegradation"}, "realistic"),
        ({"blur": 1.6, "noise": 0, "jpeg": None}, None),
    ],
)
def test_summaries_name_the_choice(node: dict[str, object], choice: str | None) -> None:
    summary = degradation_summary(node)
    assert degradation_choice(summary) == choice
    assert degradation_summary(summary) == summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.degradation=tones"], "no such degradation; did you mean tone?"),
        (
            ["data.degradation=tone", "scale=2"],
            "scale=2: data.degradation=tone keeps the size and needs scale=1",
        ),
        ([*TONE, "data.degradation.gamma=[2,1]"], "data.degradation.gamma=[2, 1]: [low,high]"),
        ([*TONE, "data.degradation.probability.haze=2"], "a probability is from 0 to 1"),
        ([*TONE, "data.degradation.contrst=1"], "did you mean data.degradation.contrast"),
        ([*TONE, "data.shrink_to=10"], "data.shrink_to=10: not below data.patch_size=96"),
    ],
)
def test_mistakes_are_refused_in_one_line(cli: Cli, words: list[str], message: str) -> None:
    done = cli(*words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1

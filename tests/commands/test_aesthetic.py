"""The options of the aesthetic term through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.run_reading import read_run
from tests.commands.test_train import (
    assert_same_curve,
    assert_same_weights,
    on_two_ranks,
    rows,
    train,
    weights,
)
from tests.conftest import SAMPLE_SCORER, TINY, Cli

VIEWS = ["loss.aesthetic.views=[shift,flip,noise,resize,jpeg]", "loss.aesthetic.num_views=2"]
RHO = ["loss.aesthetic.rho=0.5"]
HINGE = ["loss.aesthetic.mode=hinge", "loss.aesthetic.target=9.5"]
BOTH = [f"scorer.checkpoint=[{SAMPLE_SCORER},other.safetensors]", "loss.aesthetic.reduce=min"]
ONE_EPOCH = ["epochs=1", "gamma=4", "data.limit=1", "callbacks.epoch_line=null"]


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


@pytest.mark.slow
def test_each_option_and_all_together_train(cli: Cli, scorer_file: Path) -> None:
    Path("other.safetensors").write_bytes(scorer_file.read_bytes())
    choices = {
        "plain": [],
        "views": VIEWS,
        "rho": RHO,
        "hinge": HINGE,
        "mean": BOTH[:1],
        "all": [*VIEWS, *RHO, *HINGE, *BOTH],
    }
    runs = {name: train(cli, name, *ONE_EPOCH, *words) for name, words in choices.items()}
    losses = {
        name: [row["train/aesthetic"] for row in rows(run) if row["train/loss"]]
        for name, run in runs.items()
    }
    assert all(len(values) == 2 for values in losses.values())
    assert len({values[0] for values in losses.values()}) == len(choices)  # each has an effect
    hashes = {record(run)["config_hash"] for run in runs.values()}
    assert len(hashes) == len(choices)
    scores = {name: float(rows(run)[-1]["val/score"]) for name, run in runs.items()}
    assert scores["views"] == pytest.approx(scores["plain"], abs=0.01)  # rated as they are
    assert scores["mean"] > scores["plain"] + 0.1  # the other scorer is untrained


@pytest.mark.slow
def test_views_do_not_depend_on_workers_micro_batches_or_measurements(cli: Cli) -> None:
    words = [*VIEWS, *RHO, "epochs=1", "gamma=40"]
    one = train(cli, "one", *words)
    two = train(cli, "workers", *words, "data.num_workers=2")
    assert rows(one) == rows(two)
    assert_same_weights(one, two)
    assert_same_weights(one, train(cli, "often", *words, "model.grad_ratio_every=1"))
    assert_same_curve(one, train(cli, "micro", *words, "trainer.accumulate_grad_batches=2"))
    other = train(cli, "seed", *words, "loss.aesthetic.seed=1")
    assert any((weights(one)[name] != value).any() for name, value in weights(other).items())


@pytest.mark.ddp
def test_views_on_two_ranks_are_those_of_one(cli: Cli, folder: Path) -> None:
    words = [*VIEWS, *RHO, "epochs=1", "gamma=40"]
    assert_same_curve(train(cli, "one", *words), on_two_ranks(folder, *words))


@pytest.mark.slow
def test_the_identity_has_the_options_that_are_read_and_every_scorer(
    cli: Cli, scorer_file: Path
) -> None:
    plain = record(train(cli, "plain", "epochs=1"))
    read = {key for key in plain["settings"] if key.startswith("loss.aesthetic.")}
    names = ("_target_", "weight", "mode", "warmup", "from_step")
    assert read == {f"loss.aesthetic.{name}" for name in names}  # as before there were options
    other = Path("other.safetensors")
    other.write_bytes(scorer_file.read_bytes())
    words = [*TINY, *BOTH, "epochs=1", "paths.output_dir=both"]
    assert cli(*words).code == 0
    (run,) = Path("both/sample_edsr").iterdir()
    both = record(run)
    assert both["settings"]["scorer.checkpoint"] == "(file)"
    assert both["settings"]["loss.aesthetic.reduce"] == "min"
    assert both["inputs"]["scorer.checkpoint"] != plain["inputs"]["scorer.checkpoint"]
    sha256 = both["inputs"]["scorer.checkpoint"][:8]
    scorers = f"tests/{SAMPLE_SCORER.name}, other.safetensors ({sha256})"
    assert read_run(run).rater("val/score") == scorers
    assert "already finished" in cli(*words).out
    other.write_bytes(SAMPLE_SCORER.read_bytes())
    done = cli(*words)
    assert done.code == 2
    assert "scorer.checkpoint" in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss.aesthetic.views=[shfit]"], "views: shfit: no such view; did you mean shift?"),
        (["loss.aesthetic.views=shift"], "views=shift: should be a valid list"),
        (["loss.aesthetic.views=[flip]", "loss.aesthetic.num_views=0"], "num_views=0: 1 or more"),
        (["loss.aesthetic.rho=-1"], "rho=-1: 0 to 255 grey levels"),
        ([*RHO, "loss.aesthetic.mode=feature"], "rho=0.5: mode=feature has no scores"),
        ([*HINGE, "loss.aesthetic.target=lr"], "target=lr: should be 'hr', or should be a valid"),
        ([*HINGE, "loss.aesthetic.target=11"], "target=11: hr, or a score from 1 to 10"),
        (["loss.aesthetic.reduce=max"], "reduce=max: should be 'mean' or 'min'"),
        (
            [f"scorer.checkpoint=[{SAMPLE_SCORER},b.ckpt]"],
            "scorer.checkpoint=b.ckpt: no such file",
        ),
        (["scorer.checkpoint=[]"], "scorer.checkpoint=[]: one scorer or more"),
        (["evaluate", "scorer.checkpoint=[a,b]"], "must be the name of one file or folder"),
        (["scorer.checkpoint=a.ckpt,b.ckpt"], "brackets"),
        (
            ["loss.aesthetic.scorer=[a.ckpt,b.ckpt]"],
            "set scorer.checkpoint, which it follows",
        ),
    ],
)
def test_wrong_options_are_told_before_training(cli: Cli, words: list[str], expected: str) -> None:
    done = cli(*(TINY if words[0] != "evaluate" else ()), *words)
    assert done.code == 2
    assert expected in done.err
    assert "Traceback" not in done.err

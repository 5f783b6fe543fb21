"""Training on realistic degradations through the real command line, and what reads such runs."""

import importlib.util
from pathlib import Path

import pytest
from torch import nn

from lightning_modules.checkpoint import load_network
from reports.run_reading import read_run
from reports.run_table import differing
from runs.identity import Identity
from tests.commands.test_train import rows, train
from tests.conftest import Cli
from web.enhancers import Enhancer, Task

REALISTIC = "data.degradation=realistic"
WORDS = ["gamma=0", "data.limit=1", "epochs=1"]


@pytest.fixture
def quick(cli: Cli) -> Cli:
    pytest.importorskip("kornia")
    return cli


def test_a_realistic_run_is_trained_measured_exported_and_reported(
    quick: Cli, folder: Path
) -> None:
    run = train(quick, "one", *WORDS, REALISTIC)
    best = run / "checkpoints" / "best.ckpt"
    none = ["scorer.checkpoint=null", "judge.checkpoint=null", "pictures=0", "data.limit=1"]
    done = quick("evaluate", f"checkpoint={best}", *none, "name=own")
    assert done.code == 0, done.err
    own = rows(run)[-1]
    assert f"│ {float(own['val/psnr']):12.2f} │" in done.out  # LR photos are the same again
    assert quick("export", f"checkpoint={best}", "output=a.safetensors").code == 0
    record = load_network("a.safetensors")[1]
    assert record.degradation == record.trained_degradation == {"realistic": 1}
    done = quick("evaluate", "checkpoint=a.safetensors", *none, "name=other")
    assert "EDSR gamma=0 was trained with data.degradation=realistic, not used here" in done.out
    done = quick("evaluate", "checkpoint=a.safetensors", *none, REALISTIC, "name=same")
    assert f"│ {float(own['val/psnr']):12.2f} │" in done.out
    assert "was trained" not in done.out

    plain = train(quick, "two", *WORDS)
    keys = differing([read_run(run), read_run(plain)])
    assert [key for key in keys if "degradation" in key] == ["data.degradation._target_"]
    done = quick("evaluate", f"checkpoint={plain}", *none, REALISTIC, "name=plain")
    assert "EDSR gamma=0 was trained without data.degradation=realistic" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.degradation=realistik"], "no such degradation; did you mean realistic?"),
        (["data.degradation=[simple,realistic]"], "only one data.degradation is allowed"),
        (["data.degradation=simple,realistic"], "several values need -m"),
        ([REALISTIC, "experiment=sample_nima"], "data.degradation: data has no degradation"),
        ([REALISTIC, "data.degradation.first.jpeg=[30,101]"], "first.jpeg=[30, 101]: [low,high]"),
        ([REALISTIC, "data.degradation.first.jpg=[30,40]"], "did you mean data.degradation.first."),
        ([REALISTIC, "data.degradation.second.sigma=2"], "second.sigma=2: should be a valid list"),
        ([REALISTIC, "data.degradation.blur=1.6"], "data.degradation.blur: no such key"),
    ],
)
def test_mistakes_are_refused_in_one_line(quick: Cli, words: list[str], message: str) -> None:
    done = quick(*words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_help_names_the_choice_and_what_differs_from_it(cli: Cli) -> None:
    strengths = "data.degradation.first.jpeg=[10,20]"
    lines = [line.strip() for line in cli(REALISTIC, strengths, "--help").out.splitlines()]
    found = [line for line in lines if line.startswith("data.degradation")]
    assert found == [REALISTIC, "data.degradation.first.jpeg=[10, 20]"]


def test_a_preset_of_ones_own_builds_on_it(cli: Cli, folder: Path) -> None:
    place = folder / "mine" / "data" / "degradation"
    place.mkdir(parents=True)
    text = "defaults: [realistic, _self_]\nfirst:\n  gaussian: [5, 300]\n"
    (place / "phone.yaml").write_text(text)
    done = cli("data.degradation=phone", "--config-dir=mine")
    assert "data.degradation.first.gaussian=[5, 300]: [low,high] from 0 to 255" in done.err
    assert "did you mean phone?" in cli("data.degradation=phon", "--config-dir=mine").err


def test_a_missing_package_is_named_with_its_extra(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = cli(REALISTIC)
    assert done.code == 2
    assert done.err == "error: data.degradation=realistic needs kornia: pip install '.[kornia]'\n"


@pytest.mark.parametrize("scale", [1, 4])
def test_the_page_calls_it_restoration(scale: int) -> None:
    net = nn.Identity()
    net.scale = scale  # type: ignore[assignment]
    assert Enhancer("A gamma=0", "", net, {"realistic": 1}).tasks == [Task("restoration", scale)]


def test_a_class_in_place_of_another_is_named_without_its_settings() -> None:
    before = Identity({"data": {"degradation": {"_target_": "a.A", "blur": 1, "jpeg": 2}}}, {}, {})
    now = Identity({"data": {"degradation": {"_target_": "a.B", "jpeg": 3, "noise": 4}}}, {}, {})
    assert sorted(now.changes(before.settings)) == [
        "data.degradation._target_",
        "data.degradation.jpeg",
    ]

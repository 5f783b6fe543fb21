"""Several judges: columns, comparisons with a baseline, and who counts as independent."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.checkpoint import save_safetensors, sealed
from lightning_modules.independence import shared
from lightning_modules.record import Record
from networks.edsr import EDSR
from networks.nima import NIMA
from runs.comparing import groups_of
from runs.paired import Gain
from runs.verdicts import Criteria, verdict
from tests.conftest import Cli

WORDS = ["scorer.checkpoint=null", "pictures=0", "metrics=[psnr,features]", "name=a"]


def save_scorer(path: Path, backbone: str, data: str) -> None:
    """An untrained scorer of 64-pixel crops."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"backbone": backbone, "resize": 64, "crop": 64}
    spec = {"_target_": "networks.nima.NIMA", **arguments}
    record = Record(kind="scorer", net=spec, data=data, gamma=None)
    save_safetensors(path, NIMA(**arguments), record)


def config_of(gamma: float, seed: int, root: Path) -> dict[str, Any]:
    """A configuration as far as it is read."""
    config: dict[str, Any] = {"seed": seed, "gamma": gamma, "data": {"seed": seed}}
    config |= {"loss": {"l2": {"weight": 1.0}}}
    scorer = {"scorer": {"checkpoint": str(root / "loss.safetensors")}}
    return config | (scorer if gamma else {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two gammas and two seeds, three scorers, and an unfinished run."""
    root = tmp_path_factory.mktemp("judged")
    for name, backbone, data in (
        ("loss", "mnasnet_0_5", "half A of BIQ2021"),
        ("one", "mobilenet_v2", "half B of BIQ2021"),
        ("two", "mnasnet_0_5", "OASIS"),
    ):
        save_scorer(root / f"{name}.safetensors", backbone, data)
    arguments = {"scale": 2, "num_blocks": 1, "num_features": 4}
    for gamma, seed in ((0.0, 0), (0.0, 1), (0.5, 0), (0.5, 1)):
        torch.manual_seed(seed)
        net = EDSR(2, num_blocks=1, num_features=4)
        with torch.no_grad():
            next(net.parameters()).mul_(1 + gamma)
        state = net.state_dict()
        spec = {"_target_": "networks.edsr.EDSR", **arguments}
        about = {"kind": "enhancer", "net": spec, "data": "", "gamma": gamma}
        about |= {"config": config_of(gamma, seed, root), "config_hash": f"{gamma}-{seed}"}
        record = Record.parse(about, "a test")
        folder = root / "runs" / f"gamma-{gamma:g}_seed-{seed}"
        (folder / "checkpoints").mkdir(parents=True)
        record = sealed(record, net, state)
        weights = {f"net.{name}": value for name, value in state.items()}
        content = {"state_dict": weights, "record": record.plain()}
        torch.save(content, folder / "checkpoints" / "best.ckpt")
        (folder / "result.json").write_text("{}")
    (root / "runs" / "unfinished" / "checkpoints").mkdir(parents=True)
    (root / "runs" / "unfinished" / "checkpoints" / "best.ckpt").touch()
    return root


def judges_in(root: Path) -> str:
    """The judges by name."""
    return f"judges={{one: {root / 'one.safetensors'}, two: {root / 'two.safetensors'}}}"


def test_runs_are_compared_with_their_baseline_by_several_judges(
    cli: Cli, folder: Path, runs: Path
) -> None:
    words = [f"checkpoint={runs / 'runs'}", f"baseline={runs / 'runs' / 'gamma-0_seed-1'}"]
    done = cli("evaluate", *words, judges_in(runs), *WORDS)
    assert done.code == 0, done.err
    place = folder / "outputs" / "evaluate" / "a"
    with open(place / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[3:] == ["psnr", "features", "judge_one", "judge_two"]
    nets = list(dict.fromkeys(row["net"] for row in rows))  # bicubic, gamma 0.5, gamma 0, HR
    assert len(nets) == 6
    with open(place / "comparison.csv", newline="") as file:
        compared = {row["measure"]: row for row in csv.DictReader(file)}
    assert list(compared) == ["psnr", "features", "judge_one", "judge_two"]
    for measure, row in compared.items():
        values = {(r["net"], r["image"]): float(r[measure]) for r in rows if r["net"] in nets[1:5]}
        pairs = [
            values[ours, image] - values[theirs, image]
            for ours, theirs in ((nets[1], nets[3]), (nets[2], nets[4]))
            for image in ("chelsea", "coffee")
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(pairs), abs=1e-9)
        assert min(pairs) - 1e-9 <= float(row["low"]) <= float(row["mean"])
        assert float(row["mean"]) <= float(row["high"]) <= max(pairs) + 1e-9
        assert (row["num_seeds"], row["num_photos"]) == ("2", "2")
    assert compared["features"]["better"] == "lower"
    # The loss's scorer and judge two have the same backbone.
    dependent = {"judge_two": "shares backbone with the loss"}
    assert {m: row["dependent"] for m, row in compared.items() if row["dependent"]} == dependent
    assert "no judge of EDSR gamma=0.5: shares backbone with the loss" in done.out
    assert "EDSR gamma=0.5: better than EDSR gamma=0: " in done.out
    assert " of 2 judges" in done.out  # features and judge one
    assert "2 photos are too few" in done.out
    table = (place / "comparison.md").read_text().splitlines()
    assert table[0].startswith("| candidate | scale | seeds | photos | PSNR | Features")
    assert table[2].startswith("| EDSR gamma=0.5 | x2 | 2 | 2 | ")
    result = json.loads((place / "result.json").read_text())
    assert [net["config_hash"] for net in result["nets"].values()] == [
        *("0.5-0", "0.5-1", "0.0-0", "0.0-1")
    ]
    assert [net["dependent"] for net in result["nets"].values()] == [dependent, dependent, {}, {}]
    assert {"judges.one", "judges.two"} <= result["inputs"].keys()

    # Chosen judges count, independent or not; bicubic is a baseline as well.
    chosen = ["criteria.count=[judge_two]", "criteria.psnr_loss=null", "metrics=[ssim]", "name=b"]
    words = [f"checkpoint={runs / 'runs' / 'gamma-0_seed-0'}", "baseline=bicubic"]
    done = cli("evaluate", *words, judges_in(runs), *WORDS, *chosen)
    assert done.code == 0, done.err
    assert "EDSR gamma=0: better than bicubic: " in done.out
    assert " of 1 judges" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judges={one: absent.ckpt}"], "judges.one=absent.ckpt: no such file"),
        (["judges=[a/x.ckpt,b/x.ckpt]"], "judges: two have the same name; judges={one: FILE,"),
        (["judges={a-b: x.ckpt}"], "judges.a-b: a name has letters, digits and _ only"),
        (["judges=x.ckpt"], "judges=x.ckpt: should be a valid dictionary, or should be a valid"),
        (["judge.crop=64", "judges"], "judge.crop: has no effect: judges= takes the place of the"),
        (["baseline=other.ckpt"], "baseline=other.ckpt: must be one of checkpoint, or bicubic"),
        (["baseline=RUN"], "checkpoint has nothing to compare with it"),
        (
            ["baseline=RUN", "criteria.count=[judge_on]", "judges"],
            "criteria.count: judge_on is not measured; did you mean judge_one?",
        ),
        (["criteria.judges=75"], "criteria.judges=75: should be less than or equal to 1"),
        (["epoch=first"], "epoch=first: should be 'best' or 'last'"),
        (["epoch=last"], "checkpoints/last.ckpt: no such file"),
        (["criteria.psnr=1"], "criteria.psnr: no such key"),
        (
            ["baseline=RUN", "metrics=[ssim]"],
            "criteria.psnr_loss=0.3: metrics does not list psnr; criteria.psnr_loss=null leaves",
        ),
    ],
)
def test_mistakes_are_refused(
    words: list[str], message: str, cli: Cli, folder: Path, runs: Path
) -> None:
    run = str(runs / "runs" / "gamma-0_seed-0")
    given = [judges_in(runs) if w == "judges" else w.replace("RUN", run) for w in words]
    done = cli("evaluate", f"checkpoint={run}", "pictures=0", *given)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "outputs").exists()


def test_scorers_have_neither_judges_nor_a_baseline(cli: Cli, runs: Path) -> None:
    words = ["evaluate", f"checkpoint={runs / 'one.safetensors'}", "data=sample_rated"]
    assert "judges: applies only to enhancers" in cli(*words, judges_in(runs)).err
    assert "baseline: applies only to enhancers" in cli(*words, "baseline=bicubic").err


def test_what_a_judge_shares_with_a_scorer() -> None:
    def record(backbone: str, data: str) -> Record:
        net = {"_target_": "networks.nima.NIMA", "backbone": backbone}
        return Record(kind="scorer", net=net, data=data, gamma=None)

    teacher = record("mobilenet_v1", "AVA")
    student = record("mnasnet_1_0", "crops rated by a NIMA that idealo trained on AVA")
    half_a, half_b = (record(f"net{h}", f"half {h} of BIQ2021, training split") for h in "AB")
    whole = record("net", "BIQ2021 and OASIS")
    assert shared(student, teacher) == ["ratings (AVA)"]
    assert shared(half_a, half_b) == []
    assert shared(half_a, whole) == ["ratings (BIQ2021)"]
    assert shared(whole, record("net", "OASIS")) == ["backbone", "ratings (OASIS)"]
    assert shared(student, half_a) == []
    assert shared(record("a", "my photos"), record("b", "my photos")) == ["ratings"]


def test_trainings_that_differ_only_in_the_seed_are_pooled() -> None:
    net = {"_target_": "networks.edsr.EDSR"}

    def record(**config: object) -> Record:
        return Record(kind="enhancer", net=net, data="", gamma=0.0, config=config)  # type: ignore[arg-type]

    records = {
        "a0": record(gamma=0, seed=0, data={"seed": 0}),
        "a1": record(gamma=0, seed=1, data={"seed": 1}),
        "b0": record(gamma=1, seed=0, data={"seed": 0}),
        "last of a0": record(gamma=0, seed=0, data={"seed": 0}),
        "exported": Record(kind="enhancer", net=net, data="", gamma=0.0),
    }
    assert groups_of(records) == [
        {0: "a0", 1: "a1"},
        {0: "b0"},
        {0: "last of a0"},
        {None: "exported"},
    ]


def test_most_judges_have_to_gain_and_psnr_may_lose_little() -> None:
    up, down, near = Gain(2, 1, 3, 1, 9), Gain(-2, -3, -1, 1, 9), Gain(1, -1, 3, 1, 9)
    gains = {"psnr": Gain(-0.2, -0.5, 0, 1, 9), "score": down, "judge_a": up, "judge_b": up}
    gains |= {"judge_c": near, "lpips": down}
    criteria = Criteria(judges=0.75, against=0, psnr_loss=0.3, count=None)
    better = {"psnr": "higher", "lpips": "lower"}

    def text(criteria: Criteria, *dependent: str, **more: Gain) -> str:
        found = verdict(gains | more, better, criteria, dependent)  # type: ignore[arg-type]
        return "none" if found is None else found.text

    assert text(criteria) == "yes (3 of 4 judges)"
    assert text(criteria, judge_a=near) == "no (2 of 4 judges)"
    assert text(criteria, judge_c=down) == "no (3 of 4 judges, 1 against)"
    tolerant = criteria.model_copy(update={"against": 1})
    assert text(tolerant, judge_c=down) == "yes (3 of 4 judges, 1 against)"
    assert text(criteria, "lpips") == "no (2 of 3 judges)"
    assert text(criteria, "judge_c") == "yes (3 of 3 judges)"
    lost = Gain(-0.52, -0.6, -0.4, 1, 9)
    assert text(criteria, psnr=lost) == "no (3 of 4 judges; PSNR -0.52 dB)"
    assert text(criteria.model_copy(update={"psnr_loss": None}), psnr=lost) == "yes (3 of 4 judges)"
    assert text(criteria.model_copy(update={"judges": 0.5}), judge_a=near) == "yes (2 of 4 judges)"
    assert text(criteria.model_copy(update={"count": ["judge_c"]})) == "no (0 of 1 judges)"
    assert text(criteria, "lpips", "judge_a", "judge_b", "judge_c") == "none"

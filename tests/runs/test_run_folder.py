import json
from pathlib import Path
from typing import Any

import pytest

from runs.identity import Identity
from runs.naming import run_name
from runs.results import trained_scorer
from runs.run_folder import State, decide
from system.json_files import write_json
from system.places import ROOT, display_path


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ([], "default"),
        (["net=edsr", "gamma=0.1"], "gamma-0.1_net-edsr"),
        (["gamma=.1"], "gamma-0.1"),
        (["gamma=1e-1"], "gamma-0.1"),
        (["experiment=sample_edsr", "epochs=3", "logger=[wandb]", "trainer=gpu"], "default"),
        (["trainer.devices=2", "data.num_workers=4", "paths.output_dir=/x"], "default"),
        (["trainer.precision=bf16-mixed"], "trainer.precision-bf16-mixed"),
        (["overwrite=true", "stale=rerun", "resume=true"], "default"),
        (["name=mine", "gamma=1"], "mine"),
        (["name=007"], "007"),
        (["name=null", "gamma=1"], "gamma-1"),
        (["seed=1234567890123"], "seed-1234567890123"),
        (["data.betas=[1,2]"], "data.betas-1+2"),
        (["data/degradation=realistic"], "data.degradation-realistic"),
    ],
)
def test_names(task: list[str], name: str) -> None:
    assert run_name(task) == name


def test_epochs_count_in_a_sweep() -> None:
    assert run_name(["epochs=3"], sweep=True) == "epochs-3"


def test_paths_are_reduced_to_stem_and_hash() -> None:
    one = run_name(["scorer.checkpoint=outputs/a/checkpoints/best.ckpt"])
    two = run_name(["scorer.checkpoint=outputs/b/checkpoints/best.ckpt"])
    assert one.startswith("scorer.checkpoint-best-")
    assert len(one) == len("scorer.checkpoint-best-") + 6
    assert one != two
    assert "/" not in one
    several = run_name(["scorer.checkpoint=[a.safetensors,b.safetensors]"])
    assert several.startswith("scorer.checkpoint-a.safetensors-b-")
    assert "," not in several


def test_long_names_are_cut() -> None:
    task = [f"net.key{i}={'x' * 10}" for i in range(20)]
    assert len(run_name(task)) == 120
    assert run_name(task) != run_name([*task[:-1], "net.key19=y"])
    assert run_name(["gamma=.1", "net=edsr", *task]).startswith("gamma-0.1_net-edsr_")


def test_the_experiment_counts_where_the_sweep_is_not_named_after_it() -> None:
    task = ["experiment=sample_nima", "scorer=vgg16", "sweep=backbone"]
    assert run_name(task, sweep=True, counted=["experiment"]) == (
        "experiment-sample_nima_scorer-vgg16"
    )


def test_the_scorer_that_a_sweep_has_trained(tmp_path: Path) -> None:
    def finished(name: str, module: str, backbone: str, emd: float) -> None:
        config = {
            "model": {"_target_": f"m.{module}"},
            "net": None if module == "NIMAModule" else {"_target_": "networks.edsr.EDSR"},
            "scorer": {"backbone": backbone},
        }
        content = {"config": config, "metrics": {"val/emd": emd}}
        write_json(tmp_path / name / "result.json", content)

    with pytest.raises(ValueError, match=r"no scorer with vgg16 in .*; python run.py sweep=back"):
        trained_scorer(tmp_path, "vgg16")
    finished("a", "NIMAModule", "vgg16", 0.2)
    finished("b", "NIMAModule", "mobilenet_v1", 0.1)
    finished("c", "EnhancementModule", "vgg16", 0.1)
    assert trained_scorer(tmp_path, "vgg16") == f"{tmp_path}/a/checkpoints/best.ckpt"
    finished("d", "NIMAModule", "vgg16", 0.1)
    finished("e", "NIMAModule", "vgg16", float("nan"))
    assert trained_scorer(tmp_path, "vgg16") == f"{tmp_path}/d/checkpoints/best.ckpt"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scorer.ckpt"
    path.write_text("one")
    return path


def identity(source: Path, code: str = "c", **config: object) -> Identity:
    values = {"gamma": 0.1, "epochs": 2, "trainer": {"devices": 1, "max_epochs": 2}, **config}
    return Identity(
        {**values, "scorer": {"checkpoint": str(source)}},
        {"scorer": str(source)},
        {"a.py": code, "b.py": "same"},
    )


def test_hash_covers_what_changes_results(source: Path) -> None:
    base = identity(source).config_hash
    assert identity(source, trainer={"devices": 4, "max_epochs": 2}).config_hash == base
    assert identity(source, gamma=0.2).config_hash != base
    moved = source.rename(source.with_name("moved.ckpt"))
    assert identity(moved).config_hash == base  # content counts, not the place
    moved.write_text("two")
    assert identity(moved).config_hash != base


def test_what_is_done_with_a_folder(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "run"
    old = identity(source)
    options: dict[str, Any] = {"resume": False, "overwrite": False, "stale": "refuse"}
    assert decide(folder, old, **options) is State.NEW
    with pytest.raises(ValueError, match="there is no run"):
        decide(folder, old, **options | {"resume": True})

    write_json(folder / "run.json", {"run_id": "r", **old.record()})
    assert decide(folder, old, **options) is State.CONTINUE
    write_json(folder / "result.json", {"metrics": {}})
    assert decide(folder, old, **options) is State.FINISHED
    assert decide(folder, old, **options | {"overwrite": True}) is State.NEW

    with pytest.raises(ValueError, match=r"gamma=0.1 \(now 0.2\).*overwrite=true"):
        decide(folder, identity(source, gamma=0.2), **options)

    longer = identity(source, epochs=4)
    with pytest.raises(ValueError, match="resume=true trains on"):
        decide(folder, longer, **options)
    assert decide(folder, longer, **options | {"resume": True}) is State.CONTINUE
    with pytest.raises(ValueError, match="epochs=2"):
        decide(folder, identity(source, epochs=1), **options | {"resume": True})

    changed = identity(source, code="d")
    with pytest.raises(ValueError, match=r"the code \(a\.py\) changed since"):
        decide(folder, changed, **options)
    assert decide(folder, changed, **options | {"stale": "rerun"}) is State.NEW
    assert decide(folder, changed, **options | {"stale": "accept"}) is State.FINISHED

    of_0_1 = {name: value for name, value in old.record().items() if name != "code"}
    write_json(folder / "run.json", {"run_id": "r", **of_0_1, "code_hash": "of all files"})
    with pytest.raises(ValueError, match="but the code changed since"):
        decide(folder, old, **options)
    write_json(folder / "run.json", {"run_id": "r", **old.record()})

    source.write_text("other")
    with pytest.raises(ValueError, match="the file scorer changed since"):
        decide(folder, identity(source), **options)

    for content in (b"{", b"{}", b"[]", b"\xff\xfe"):
        (folder / "run.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged.*overwrite=true"):
            decide(folder, old, **options)
        assert decide(folder, old, **options | {"overwrite": True}) is State.NEW


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.5]}


def test_paths_are_shown_short(folder: Path) -> None:
    assert display_path(folder / "outputs" / "a") == Path("outputs/a")
    assert display_path("/elsewhere/a") == Path("/elsewhere/a")
    assert display_path(ROOT / "weights" / "a.safetensors") == Path("weights/a.safetensors")

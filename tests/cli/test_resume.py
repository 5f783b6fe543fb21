"""Resuming a run by its name, without typing its options again."""

import json
from pathlib import Path

import pytest

from cli.resume import with_stored_options
from system.json_files import write_json
from tests.conftest import TINY, Cli


def stored(folder: str, *words: str) -> None:
    write_json(Path(folder) / "run.json", {})
    path = Path(folder) / ".hydra" / "overrides.yaml"
    path.parent.mkdir()
    path.write_text("".join(f"- {word}\n" for word in words) or "[]\n")


@pytest.mark.slow
def test_a_run_is_extended_by_its_name_alone(cli: Cli) -> None:
    options = ["gamma=0", "+trainer.check_val_every_n_epoch=2", "experiment=sample_deblur"]
    first = cli(*TINY, *options, "name=mine")
    assert first.code == 0, first.err
    done = cli("resume=true", "name=mine")
    assert done.code == 0, done.err
    assert "already finished" in done.out
    done = cli("resume=true", "name=mine", "epochs=4")
    assert done.code == 0, done.err
    assert "continuing in outputs/sample_deblur/mine" in done.out
    result = json.loads(Path("outputs/sample_deblur/mine/result.json").read_text())
    assert result["epochs"] == 4
    assert cli("resume=true", "name=mine", "epochs=6").code == 0  # what is stored now is enough
    done = cli("resume=true", "name=mine", "seed=1")
    assert done.code == 2
    assert "epochs=6 (now 2)" not in done.err
    assert "seed=0 (now 1); overwrite=true" in done.err
    done = cli("resume=true", "name=mine", "net.num_block=3")
    assert done.code == 2
    assert "num_blocks" in done.err  # the nearest key
    done = cli("resume=true", "name=other")
    assert done.code == 2
    assert "there is no run in outputs/sample_edsr/other" in done.err


@pytest.mark.usefixtures("folder")
def test_stored_options_give_way_to_those_typed_again() -> None:
    stored("outputs/a/mine", "+x.y=1", "net=mdsr", "overwrite=true", "stale=accept", "'z=[1,2]'")
    words = ["resume=true", "name=mine"]
    assert with_stored_options(words) == ["+x.y=1", "net=mdsr", "z=[1,2]", *words]
    words = ["net=edsr", "resume=true", "name=mine", "++x.y=2"]
    assert with_stored_options(words) == ["z=[1,2]", *words]
    for words in (["name=mine"], ["resume=true"], ["resume=false", "name=mine"], ["name=[", "a"]):
        assert with_stored_options(words) == words


@pytest.mark.usefixtures("folder")
def test_the_folder_is_found_in_any_experiment() -> None:
    words = ["resume=true", "name=mine"]
    stored("outputs/a/mine", "seed=1")
    stored("elsewhere/b/mine", "seed=2", "paths.output_dir=before")
    stored("outputs/a/minecraft", "seed=3")
    assert with_stored_options(words)[0] == "seed=1"
    assert with_stored_options([*words, "paths.output_dir=elsewhere"])[:2] == ["seed=2", words[0]]
    stored("outputs/b/mine", "seed=4")
    with pytest.raises(ValueError, match=r"name=mine: outputs/a/mine, outputs/b/mine; experiment"):
        with_stored_options(words)
    assert with_stored_options([*words, "experiment=b"])[0] == "seed=4"
    assert with_stored_options([*words, "experiment=c"]) == [*words, "experiment=c"]


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_resumed_by_its_name() -> None:
    words = ["resume=true", "name=mine"]
    stored("outputs/sweeps/one/mine", "seed=1")
    with pytest.raises(ValueError, match="outputs/sweeps/one/mine belongs to a sweep"):
        with_stored_options(words)
    stored("outputs/a/mine", "seed=1")
    assert with_stored_options(words) == ["seed=1", *words]
    for content in ("{a: 1}", "[1]", "- 'a=['", "- [", ""):
        Path("outputs/a/mine/.hydra/overrides.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"outputs/a/mine/.hydra/overrides.yaml: is damaged"):
            with_stored_options(words)
    Path("outputs/a/mine/.hydra/overrides.yaml").unlink()
    assert with_stored_options(words) == words


@pytest.mark.slow
def test_the_folder_of_ones_own_configuration_is_kept(cli: Cli, folder: Path) -> None:
    (folder / "mine" / "net").mkdir(parents=True)
    spec = "_target_: networks.edsr.EDSR\nscale: ${scale}\nnum_blocks: 1\nnum_features: 4\n"
    (folder / "mine" / "net" / "foo.yaml").write_text(spec)
    words = [word for word in TINY if not word.startswith("net.")]
    assert cli("--config-dir=mine", *words, "net=foo", "gamma=0", "name=own").code == 0
    done = cli("resume=true", "name=own", "epochs=3")
    assert done.code == 0, done.err
    assert "epoch 3/3" in done.out


def test_a_monitor_that_does_not_exist_is_named(cli: Cli) -> None:
    done = cli(*TINY, "gamma=0", "callbacks.checkpoint.monitor=val/psnrr")
    assert done.code == 2
    assert "callbacks.checkpoint.monitor=val/psnrr: no such metric; there are val/l2" in done.err


def test_short_epochs_log_the_terms_of_the_loss(cli: Cli, folder: Path) -> None:
    words = [word for word in TINY if "log_every" not in word]
    assert cli(*words, "gamma=0", "name=short").code == 0
    columns = (folder / "outputs/sample_edsr/short/metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/l2", "val/l2"} <= set(columns.split(","))

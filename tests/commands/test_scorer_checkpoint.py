"""`scorer.checkpoint=FILE` alone: the file says which scorer it is."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_modules.checkpoint import load_network, save_safetensors
from lightning_modules.record import Record
from networks.nima import NIMA
from tests.conftest import TINY, Cli

WORDS = [word for word in TINY if not word.startswith(("scorer", "epochs"))] + ["epochs=1"]


def write_scorer(path: Path) -> NIMA:
    scorer = NIMA("mobilenet_v2", num_buckets=5, resize=64, crop=64)
    net = {"_target_": "networks.nima.NIMA"}
    save_safetensors(path, scorer, Record(kind="scorer", net=net, data="nothing", gamma=None))
    return scorer


@pytest.mark.slow
def test_the_file_alone_says_which_scorer_it_is(cli: Cli, folder: Path) -> None:
    write_scorer(folder / "s.safetensors")
    file = "scorer.checkpoint=s.safetensors"
    done = cli(*WORDS, "gamma=0.1", file, "judge.checkpoint=s.safetensors", "name=a")
    assert done.code == 0, done.err
    run = Path("outputs/sample_edsr/a")
    about = json.loads((run / "run.json").read_text())
    assert about["choices"]["scorer"] == "mobilenet_v2"  # the experiment's is mnasnet_1_0
    used = OmegaConf.load(run / ".hydra" / "config.yaml").scorer
    assert (used.backbone, used.num_buckets, used.crop) == ("mobilenet_v2", 5, 64)
    assert json.loads((run / "result.json").read_text())["metrics"]["val/score"] <= 5

    # The content counts, not the place; and scorer= may be said where it is the file's.
    Path("elsewhere").mkdir()
    shutil.move("s.safetensors", "elsewhere/other.safetensors")
    moved = "elsewhere/other.safetensors"
    again = [f"scorer.checkpoint={moved}", f"judge.checkpoint={moved}", "name=a"]
    assert "already finished" in cli(*WORDS, "gamma=0.1", *again).out
    assert "already finished" in cli(*WORDS, "gamma=0.1", *again, "scorer=mobilenet_v2").out
    loaded, _ = load_network(moved)
    assert isinstance(loaded, NIMA)
    loaded.head.bias.data += 0.1
    record = Record(kind="scorer", net={"_target_": "networks.nima.NIMA"}, data="", gamma=None)
    save_safetensors(Path(moved), loaded, record)
    assert "the file judge.checkpoint" in cli(*WORDS, "gamma=0.1", *again).err


@pytest.mark.slow
def test_only_what_was_typed_can_contradict_the_file(cli: Cli, folder: Path) -> None:
    write_scorer(folder / "s.safetensors")
    words = [*WORDS, "gamma=0.1", "scorer.checkpoint=s.safetensors"]
    typed = {
        "scorer=vgg16": "a mobilenet_v2, but scorer=vgg16 was asked for; omit scorer=",
        "scorer.num_buckets=10": "scorer.num_buckets=10: s.safetensors has 5",
        "scorer.crop=192": "scorer.crop=192: s.safetensors has 64",
    }
    for word, reason in typed.items():
        done = cli(*words, word)
        assert done.code == 2
        assert reason in done.err
    swept = cli("-m", *words, "scorer=mobilenet_v2,vgg16")
    assert swept.code == 2
    assert typed["scorer=vgg16"].partition(";")[0] in swept.err
    assert not Path("outputs").exists()

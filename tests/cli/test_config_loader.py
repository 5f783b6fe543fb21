"""The loader that remembers composes what Hydra's composes."""

import copy
from pathlib import Path

import pytest
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cli import composing
from cli.config_loader import CachingLoader, loader_of

SINGLE: list[list[str]] = [
    [],
    ["gamma=0.3", "net=mdsr", "net.num_blocks=2", "seed=1"],
    ["net.num_blocks=2", "experiment=sample_nima", "hydra.mode=RUN", "data.batch_size=4"],
    ["~callbacks.progress", "+trainer.val_check_interval=3", "++trainer.val_check_interval=4"],
    ["logger=[csv,wandb]", "callbacks=[]", "optim.optimizer.lr=${gamma}"],
    ["hydra.job.name=other", "hydra.job.env_set={A: b}", "hydra/launcher=pool"],
    ["+data.more={a: {b: 1}}", "name='a,b=c'", "gamma=null"],
    ["gama=1"],
    ["net=nothing"],
    ["gamma=1", "net@other=edsr"],
    ["+gamma=1"],
    ["~gama"],
    ["~gamma=7"],
    ["gamma=0,1"],
    ["net=edsr,mdsr"],
    ["gamma={a: 1}", "net.num_blocks.deep=1"],
]
SWEEPS = [
    ["gamma=0,0.1", "net=edsr,mdsr", "epochs=3", "hydra/launcher=pool"],
    ["sweep=gamma", "seed=range(3)"],
    ["hydra.launcher.jobs=1,2"],
]
CASES = [(words, RunMode.RUN) for words in SINGLE]
CASES += [(words, RunMode.MULTIRUN) for words in [*SWEEPS, *SINGLE[:4]]]


@pytest.fixture(scope="module")
def loaders() -> tuple[ConfigLoaderImpl, CachingLoader]:
    setup_globals()
    version.setbase("1.3")
    ours = copy.copy(loader_of(None))
    ours.known = {}
    return ConfigLoaderImpl(ours.config_search_path), ours


def composed(loader: ConfigLoaderImpl, words: list[str], mode: RunMode) -> object:
    try:
        cfg = loader.load_configuration("train", words, mode)
    except (HydraException, ValueError) as error:
        return type(error), str(error), type(error.__cause__), str(error.__cause__)
    text = OmegaConf.to_yaml(cfg)
    return text, OmegaConf.is_struct(cfg), OmegaConf.is_readonly(cfg.hydra)


@pytest.mark.parametrize(("words", "mode"), CASES, ids=lambda value: str(value))
def test_the_same_as_hydras(
    loaders: tuple[ConfigLoaderImpl, CachingLoader],
    words: list[str],
    mode: RunMode,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    hydras, ours = loaders
    first = composed(ours, words, mode)
    monkeypatch.chdir(tmp_path)  # runtime.cwd is that of this call
    expected = composed(hydras, words, mode)
    assert composed(ours, words, mode) == expected
    if isinstance(first, tuple) and not isinstance(first[0], str):
        assert first == expected


def test_what_is_changed_in_one_result_is_not_in_the_next() -> None:
    with composing.loaded():
        first = composing.composed("train", ["net.num_blocks=2"])
        first.net.num_blocks = 7
        second: DictConfig = composing.composed("train", ["net.num_blocks=2"])
    assert second.net.num_blocks == 2


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    seen = []
    for epochs in (3, 14):
        file.write_text(f"# @package _global_\nepochs: {epochs}\n")
        with composing.loaded(str(tmp_path)):
            seen.append(composing.composed("train", ["experiment=mine"]).epochs)
    assert seen == [3, 14]

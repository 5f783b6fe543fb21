"""The commands as functions, without Hydra's globals."""

import csv
import logging
import warnings
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from cli.composing import composed, loaded
from cli.python import as_override, enhance, evaluate, score, train
from commands import train as command
from configuration.parsing import changed
from datamodules.sample import photo
from images.writing import write_image
from lightning_modules.checkpoint import load_network
from runs.results import Result
from tests.conftest import SAMPLE_SCORER, TINY, Cli


@pytest.mark.slow
def test_a_training_is_the_same_from_python(
    folder: Path, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    HydraConfig.instance().cfg = None  # as in a new process
    filters, level = list(warnings.filters), logging.getLogger("lightning.pytorch").level
    result = train(*TINY, gamma=0, name="mine")
    assert result.folder == Path("outputs/sample_edsr/mine")
    assert result.monitor == "val/psnr"
    assert (
        result.monitored
        == result.metrics["val/psnr"]
        == max(row["val/psnr"] for row in result.history() if "val/psnr" in row)
    )
    _, record = load_network(result.best)
    assert record.metrics["val/psnr"] == result.monitored
    assert not HydraConfig.initialized()
    assert not GlobalHydra.instance().is_initialized()
    assert list(warnings.filters) == filters
    assert logging.getLogger("lightning.pytorch").level == level

    again = cli(*TINY, "gamma=0", "name=mine")  # the same run for the command line
    assert "already finished" in again.out
    assert train(*TINY, gamma=0, name="mine") == result == Result.read(result.folder)
    assert train(resume=True, name="mine", epochs=3).epochs == 3
    with pytest.raises(ValueError, match=r"holds a run with .*gamma=0 \(now 0.1\)"):
        train(*TINY, gamma=0.1, name="mine")


def test_photos_are_measured_enhanced_and_scored(folder: Path) -> None:
    result = train(*TINY, gamma=0, name="mine")
    no_scores = ("scorer.checkpoint=null", "judge.checkpoint=null")
    measured = evaluate(*no_scores, checkpoint=result.folder, pictures=1)
    with open(measured.paths[0], newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["net"] == "bicubic"]
    mean = sum(float(row["psnr"]) for row in rows) / len(rows)
    assert measured.metrics["psnr/bicubic"] == pytest.approx(mean)
    assert all(path.is_file() for path in measured.paths)

    write_image(Path("one.png"), photo("coffee.png")[:, :40, :50])
    Path("two.png").write_text("no photo")
    one, two = enhance(input=["one.png", "two.png"], checkpoint=result.best, output="out")
    assert one.problem is None
    assert one.target == Path("out/one_x2.png")
    assert one.target.is_file()
    assert two.problem is not None
    assert "two.png" in two.problem

    rated, bad = score(input=["one.png", "two.png"], checkpoint=SAMPLE_SCORER)
    assert rated.p_K is not None
    p = rated.p_K.tolist()
    mean = sum(k * share for k, share in enumerate(p, 1))
    assert rated.mean == pytest.approx(mean, abs=1e-5)
    variance = sum((k - mean) ** 2 * share for k, share in enumerate(p, 1))
    assert rated.std == pytest.approx(variance**0.5, abs=1e-5)
    assert bad.problem is not None


def test_mistakes_are_all_in_one_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"gama: no such key.*\n.*epochs=-3"):
        train(gama=0.1, epochs=-3)
    with pytest.raises(ValueError, match=r"sweep=.*one run"):
        train(sweep="gamma")
    with pytest.raises(ValueError, match=r"no finished run"):
        Result.read("outputs")
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0.1, 1e-05, "edsr", "true", "1e3", 'a, [b] ${c} "d" \\', "", "~/x", "\\${"),
        *(Path("a b/c.png"), ["a", 1, None], ["1", ["b"]], {"a": [1.5], "b": "x y"}),
    ],
)
def test_values_arrive_as_they_are(value: object) -> None:
    """Hydra composes what they were."""
    with loaded():
        cfg = composed("enhance", ["+" + as_override("mine", value)])
    assert cfg.mine == (str(value) if isinstance(value, Path) else value)


def test_other_objects_are_no_settings() -> None:
    with pytest.raises(ValueError, match=r"gamma: <object .* is not a number"):
        as_override("gamma", object())


def test_a_configuration_is_changed_only_in_a_copy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(cfg: object, _: object) -> None:
        cfg.gamma = 1  # type: ignore[attr-defined]

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(ReadonlyConfigError):
        train(gamma=0)
    cfg = OmegaConf.create({"a": {"b": 1, "c": "${a.b}"}})
    OmegaConf.set_readonly(cfg, True)
    other = changed(cfg, {"a.b": {"x": 2}})
    assert cfg == {"a": {"b": 1, "c": 1}}
    assert other == {"a": {"b": {"x": 2}, "c": {"x": 2}}}
    with pytest.raises(ReadonlyConfigError):
        other.a.b.x = 3

"""The search with Optuna: what it samples from, and studies that resume."""

import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from configuration.parsing import parse_task
from tests.conftest import TINY, Cli, Finished, kill_when, launch
from tests.sweeps.conftest import results

optuna = pytest.importorskip("optuna")
from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial  # noqa: E402

from sweeps.study import distribution, search, study_name  # noqa: E402

SWEEP = Path("outputs/sweeps/sample_edsr")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,0.8)", FloatDistribution(0, 0.8)),
        ("interval(1,8)", FloatDistribution(1, 8)),
        ("int(interval(1.5,8))", IntDistribution(1, 8)),
        ("float(interval(1,8))", FloatDistribution(1, 8)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(1,9,2)", IntDistribution(1, 9, step=2)),
        ("range(0,1,0.25)", FloatDistribution(0, 1, step=0.25)),
        ("shuffle(1,2,3)", CategoricalDistribution([1, 2, 3])),
        ("choice(1,2.5,true,x)", CategoricalDistribution([1, 2.5, True, "x"])),
        ("1,null,'a b',[1,2]", CategoricalDistribution([1, "null", "'a b'", "[1,2]"])),
    ],
)
def test_what_is_sampled(text: str, expected: BaseDistribution) -> None:
    (override,) = parse_task([f"a={text}"])
    assert distribution(override) == expected


@pytest.mark.parametrize("text", ["interval(2,1)", "tag(log,interval(0,1))", "glob(*)"])
def test_what_cannot_be_sampled(text: str) -> None:
    (override,) = parse_task([f"a={text}"])
    with pytest.raises(ValueError, match=re.escape(f"a={text}: ")):
        distribution(override)


class Parabola:
    """A launcher whose jobs have the metric -(x - 3)^2; those below 1 fail."""

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == len(self.jobs)
        self.jobs += jobs
        return [self.run(dict(word.split("=") for word in job)) for job in jobs]

    def run(self, job: dict[str, str]) -> JobReturn:
        x = float(job["x"])
        if x < 1:
            return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("x < 1"))
        return JobReturn(status=JobStatus.COMPLETED, _return_value=-((x - 3) ** 2))


def suggest_y(config: DictConfig, trial: Trial) -> None:
    trial.suggest_int("y", 1, config.largest_y)


def sweep_config(folder: Path, **options: object) -> DictConfig:
    sweeper = {
        "direction": "max",
        "n_trials": 12,
        "n_jobs": 5,
        "study_name": None,
        "storage": f"sqlite:///{folder}/study.db",
        "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 1},
        "max_failure_rate": 1,
        "custom_search_space": None,
        "params": {"x": "interval(0,4)", "net": "edsr,mdsr"},
    }
    hydra = {"sweeper": sweeper | options, "sweep": {"dir": str(folder)}}
    return OmegaConf.create({"hydra": hydra, "largest_y": 2})


@pytest.mark.parametrize(
    "sampler", ["TPESampler", "RandomSampler", "CmaEsSampler", "NSGAIISampler"]
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_trials_are_run_in_batches(folder: Path, sampler: str) -> None:
    options = {"sampler": {"_target_": f"optuna.samplers.{sampler}", "seed": 1}}
    launcher = Parabola()
    # The command line has precedence over the sweep's file.
    search(["net=edsr", "seed=3"], sweep_config(folder, **options), launcher)  # type: ignore[arg-type]
    assert len(launcher.jobs) == 12
    assert all(job[:2] == ["net=edsr", "seed=3"] for job in launcher.jobs)
    found = json.loads(
        json.dumps(OmegaConf.to_container(OmegaConf.load("optimization_results.yaml")))
    )
    values = [-((float(job[2].removeprefix("x=")) - 3) ** 2) for job in launcher.jobs]
    assert found["best_value"] == pytest.approx(max(values))


def test_a_function_may_suggest_more(folder: Path) -> None:
    options = {"n_trials": 3, "custom_search_space": f"{__name__}.suggest_y"}
    launcher = Parabola()
    search([], sweep_config(folder, **options), launcher)  # type: ignore[arg-type]
    assert all({word.split("=")[0] for word in job} == {"x", "net", "y"} for job in launcher.jobs)


def test_too_many_failures_end_the_search(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"params": {"x": "0,0.5"}, "max_failure_rate": 0.5}
    launcher = Parabola()
    with pytest.raises(SystemExit):
        search([], sweep_config(folder, **options), launcher)  # type: ignore[arg-type]
    assert len(launcher.jobs) == 5
    assert "5 of 5 trials failed; hydra.sweeper.max_failure_rate=0.5" in caplog.text


def test_a_search_goes_on_with_its_study(cli: Cli, folder: Path) -> None:
    words = [*TINY, "epochs=1", "gamma=0", "optim.optimizer.lr=1e-4,1e-3,1e30"]
    # Of a killed sweep: a trial that was chosen and has not ended.
    place = folder / SWEEP
    place.mkdir(parents=True)
    name = study_name(words, {})
    assert name.endswith("optim.optimizer.lr=1e-4,1e-3,1e30")
    storage = f"sqlite:///{place}/study.db"
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    choices = optuna.distributions.CategoricalDistribution((1e-4, 1e-3, 1e30))
    study.enqueue_trial({"optim.optimizer.lr": 1e30})
    study.ask({"optim.optimizer.lr": choices})

    def search(num_trials: int) -> Finished:
        # Of the values left to it, this seed does not choose the one that diverges.
        options = ["hydra.sweeper.sampler.seed=1", f"hydra.sweeper.n_trials={num_trials}"]
        return cli("-m", *words, "hydra/sweeper=optuna", *options)

    done = search(2)
    assert done.code == 0, done.out + done.err
    assert "0 of 2 trials have ended" in done.out
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert trials[1].params == trials[0].params == {"optim.optimizer.lr": 1e30}
    found = [r["metrics"]["val/psnr"] for r in results()]
    assert [trials[2].value] == pytest.approx(found)
    assert f"best of 2 trials: optim.optimizer.lr={trials[2].params['optim.optimizer.lr']}" in (
        done.out
    )
    again = search(2)
    assert again.code == 0
    assert "2 of 2 trials have ended" in again.out
    assert "started" not in again.out
    assert search(3).code == 0
    assert len(optuna.load_study(study_name=name, storage=storage).trials) == 4


@pytest.mark.slow
def test_a_search_that_was_killed_resumes_its_trials(folder: Path) -> None:
    words = ["-m", *TINY, "gamma=0", "optim.optimizer.lr=tag(log,interval(1e-5,1e-3))", "epochs=4"]
    words += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    words += ["data.num_steps=12", "hydra.launcher.jobs=2"]
    process = launch(folder, *words)
    kill_when(process, lambda: len(list(SWEEP.glob("*/checkpoints/last.ckpt"))) == 2)
    killed = {path.parent.parent for path in SWEEP.glob("*/checkpoints/last.ckpt")}
    process = launch(folder, *words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "0 of 3 trials have ended" in output
    assert "to be continued: " in output or "finished already: " in output
    assert "best of 3 trials: optim.optimizer.lr=" in output
    runs = {path.parent for path in SWEEP.glob("*/result.json")}
    assert len(runs) == 3
    assert killed <= runs


def test_a_damaged_study_is_said(cli: Cli, folder: Path) -> None:
    (folder / SWEEP).mkdir(parents=True)
    (folder / SWEEP / "study.db").write_text("not a database")
    done = cli("-m", *TINY, "hydra/sweeper=optuna", "gamma=0,0.1")
    assert done.code == 2
    assert "hydra.sweeper.storage=sqlite:///" in done.err
    assert "Traceback" not in done.err


def test_without_optuna_the_extra_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "optuna.samplers", raising=False)
    done = cli("-m", *TINY, "hydra/sweeper=optuna", "gamma=0,0.1")
    assert done.code == 2
    assert "pip install '.[optuna]'" in done.err


def test_a_study_of_optuna_2_is_refused_with_the_remedy(cli: Cli, folder: Path) -> None:
    """Its database has the schema v2.6.0.a and its version in these two tables."""
    (folder / SWEEP).mkdir(parents=True)
    storage = f"sqlite:///{SWEEP}/study.db"
    optuna.create_study(storage=storage)
    with sqlite3.connect(folder / SWEEP / "study.db") as database:
        database.execute("UPDATE version_info SET library_version = '2.10.1'")
        database.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    database.close()
    done = cli("-m", *TINY, "hydra/sweeper=optuna", "gamma=0,0.1")
    assert done.code == 2
    assert f"optuna storage upgrade --storage {storage}" in done.err
    assert len(done.err.strip().splitlines()) == 1

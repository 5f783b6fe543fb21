"""The report: what is read, the numbers, the figures, the page, and the page in a browser."""

import html.parser
import itertools
import json
import os
import shutil
import statistics
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports import album, figures, plots
from reports.comparison import baseline
from reports.measures import added_measures
from reports.page import count_states
from reports.run_reading import find_folders, read_run, read_runs
from reports.run_table import (
    Run,
    axis_name,
    change,
    differing,
    label_of,
    mean_and_std,
    newest_of_equal,
    pareto,
    settings_of,
    variant_keys,
)
from tests.conftest import Cli
from tests.reports.conftest import EPOCHS, MakeRun, read, read_rows, vary, write

PHOTOS = ("chelsea", "coffee")


def test_a_finished_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = read_run(make_run(tmp_path / "sweeps" / "gamma" / "a", gamma=0.1, psnr=33.5, score=5.2))
    assert (run.state, run.note, run.command, run.kind) == ("finished", "", "train", "enhancer")
    assert (run.net, run.scales, run.gamma, run.seed, run.sweep) == ("edsr", [2], 0.1, 0, "gamma")
    assert run.value("val/psnr", 2) == 33.5
    assert run.rater("val/score") == "outputs/scorer (aaaaaaaa)"
    assert [photo.id for photo in run.photos] == list(PHOTOS)


def test_the_values_of_a_network_of_several_scales(trained: dict[str, Path]) -> None:
    run = read_run(trained["mdsr"])
    metrics = read(trained["mdsr"] / "result.json")["metrics"]
    values = [run.value("val/psnr", scale) for scale in (2, 3, 4)]
    assert values == [metrics[f"val/psnr/x{scale}"] for scale in (2, 3, 4)]
    assert run.value("val/psnr") == pytest.approx(np.mean(np.asarray(values)))


def test_a_run_of_before_the_command_was_written(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "sweeps" / "scale" / "a", net="mdsr")
    record = read(folder / "run.json")
    for key in ("command", "choices", "sweep"):
        del record[key]
    write(folder / "run.json", record)
    run = read_run(folder)
    assert (run.command, run.net, run.sweep) == ("train", "mdsr", "scale")


def test_curves_are_means_of_epochs(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "a")
    text = "epoch,step,train/loss,val/psnr\n0,0,8,\n0,1,4,\n0,1,,30\n1,2,nan,\n1,3,2,\n1,3,,31\n"
    (folder / "metrics.csv").write_text(text)
    run = read_run(folder)
    assert run.curve("train/loss", 2) == ([1, 2], [6.0, 2.0])
    assert run.curve("val/psnr", 2) == ([1, 2], [30.0, 31.0])


def test_a_row_that_is_being_written_is_no_number(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "metrics.csv").write_text("epoch,step,val/psnr\n0,9,30.25\n1,19,3")  # of 31.5
    assert read_run(folder).curve("val/psnr", 2) == ([1], [30.25])


@pytest.mark.parametrize(
    ("progress", "note"),
    [
        ('{"epoch": 3}', f"epoch 3 of {EPOCHS}"),
        ("{", f"epoch 2 of {EPOCHS}"),
        (None, f"epoch 2 of {EPOCHS}"),  # as far as metrics.csv goes
    ],
)
def test_an_unfinished_run(
    tmp_path: Path, progress: str | None, note: str, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a", finished=False)
    if progress is not None:
        (folder / "progress.json").write_text(progress)
    run = read_run(folder)
    assert (run.state, run.note, run.metrics) == ("unfinished", note, {})
    assert len(run.curve("val/psnr", 2)[0]) == 2


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("run.json", "{oops", "run.json is damaged"),
        ("run.json", "[1]", "run.json is damaged (not an object)"),
        ("run.json", "{}", "run.json has no configuration"),
        ("run.json", b"\xff\xfe", "run.json is damaged"),
        ("result.json", '{"metrics": {"val/ps', "result.json is damaged"),
        ("result.json", "{}", "result.json has no metrics"),
    ],
)
def test_a_broken_run(
    tmp_path: Path, name: str, content: str | bytes, note: str, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    run = read_run(folder)
    assert run.state == "broken"
    assert run.note.startswith(note)
    assert run.metrics == {}


def test_a_job_that_never_began_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "console.log").write_text("line\nerror: no GPU\n\n")
    (run,) = read_runs([str(tmp_path)])
    assert run.state == "broken"
    assert run.note == "no run.json; console.log ends with: error: no GPU"
    (tmp_path / "a" / "console.log").write_text("")  # the process is starting
    (run,) = read_runs([str(tmp_path)])
    assert (run.state, run.note) == ("unfinished", "not begun")
    (tmp_path / "a" / "console.log").write_text("packing 8 HR photos (train) into packed\n")
    (run,) = read_runs([str(tmp_path)])
    assert (run.state, run.note[:19]) == ("unfinished", "not begun: packing ")


@pytest.mark.parametrize("content", ["{", "[]", '{"photos": 3}', '{"photos": [1, {"id": "a"}]}'])
def test_damaged_photos_are_no_reason_to_drop_a_run(
    tmp_path: Path, content: str, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "images" / "photos.json").write_text(content)
    run = read_run(folder)
    assert run.state == "finished"
    assert run.photos == []


def test_folders_at_any_depth_once(tmp_path: Path, make_run: MakeRun) -> None:
    outputs = tmp_path / "outputs"
    first, second = make_run(outputs / "a"), make_run(outputs / "x" / "y" / "b")
    make_run(first / "images" / "inner")  # nothing in a run's own folders is a run
    (outputs / "link").symlink_to(make_run(tmp_path / "elsewhere"))
    assert find_folders([str(outputs)]) == [first, second]
    assert find_folders([str(outputs), str(outputs / "*"), f"{outputs}/**/b"]) == [
        first,
        outputs / "link",  # a glob names it
        second,
    ]


def test_mean_and_sample_standard_deviation() -> None:
    values = [33.1, 33.4, 32.9]
    mean, std, number = mean_and_std(values) or (0, None, 0)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert number == 3
    assert mean_and_std([1.5]) == (1.5, None, 1)
    assert mean_and_std([]) is None


def test_pareto_front_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = [tuple(map(float, pair)) for pair in rng.integers(0, 6, (rng.integers(1, 12), 2))]
        beaten = {p for p in points for q in points if p != q and q[0] >= p[0] and q[1] >= p[1]}
        front = [points[k] for k in pareto(points)]  # type: ignore[arg-type]
        assert front == sorted(set(points) - beaten)


def test_differences_of_configurations(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", lr=1e-4, seed=0)),
        read_run(make_run(tmp_path / "b", lr=1e-3, seed=1)),
        read_run(make_run(tmp_path / "c", lr=1e-4, seed=1, net="mdsr")),
    ]
    # The copy model.optimizer.lr and the seeds are left out.
    assert "optim.optimizer.lr" in differing(runs)
    assert not {"model.optimizer.lr", "seed", "data.seed", "epochs"} & set(differing(runs))
    assert "net._target_" in differing(runs)
    assert variant_keys(runs) == ["optim.optimizer.lr"]
    assert label_of(runs[1], variant_keys(runs)) == (
        "edsr, x2, gamma 0, seed 1, optim.optimizer.lr=0.001"
    )


def test_seeds_are_grouped_and_scales_are_apart(tmp_path: Path, make_run: MakeRun) -> None:
    psnrs = {0: 33.0, 1: 33.3, 2: 33.9}
    for seed, psnr in psnrs.items():
        make_run(tmp_path / f"edsr{seed}", seed=seed, psnr=psnr)
    make_run(tmp_path / "x3", scale=3, psnr=34.0)
    make_run(tmp_path / "mdsr", net="mdsr", psnr=34.0)
    runs = read_runs([str(tmp_path)])
    edsr, mdsr = settings_of(runs, 2)
    assert edsr.spread("val/psnr") == pytest.approx(
        (np.mean(list(psnrs.values())), np.std(list(psnrs.values()), ddof=1), 3)
    )
    assert mdsr.spread("val/psnr") == (34.0, None, 1)
    x3, multi = (s.spread("val/psnr") for s in settings_of(runs, 3))
    assert x3 == pytest.approx((34.0, None, 1), nan_ok=True)
    assert multi is not None
    assert multi.mean == read(tmp_path / "mdsr" / "result.json")["metrics"]["val/psnr/x3"]


def test_gamma_0_is_on_the_line_of_every_scorer(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "zero")
    make_run(tmp_path / "a", gamma=0.1, scorer="a" * 64)
    make_run(tmp_path / "b", gamma=0.1, scorer="b" * 64)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    lines = plots.lines_of(settings)
    assert [[s.gamma for s in line] for line in lines] == [[0, 0.1], [0, 0.1]]
    assert [[run.folder.name for s in line for run in s.runs] for line in lines] == [
        ["zero", "a"],
        ["zero", "b"],
    ]


def test_a_gamma_that_is_auto_is_drawn_by_its_share(
    cli: Cli, folder: Path, make_run: MakeRun
) -> None:
    for seed in (0, 1):
        make_run(folder / "runs" / f"zero{seed}", seed=seed, psnr=33.0 + seed)
        for share in (0.1, 1.0):
            run = make_run(folder / "runs" / f"{share}_{seed}", seed=seed, psnr=33.2 + 2 * seed)
            set_gamma(run, "auto", share)
    settings = settings_of(read_runs(["runs"]), 2)
    assert [(s.line, s.gamma, len(s.runs)) for s in settings] == [
        ("edsr, gamma=auto", gamma, 2) for gamma in (0, 0.1, 1)
    ]
    assert axis_name(settings) == "share"
    gained = change(settings[1], settings, "val/psnr")
    assert gained == pytest.approx((0.7, np.std([0.2, 1.2], ddof=1), 2))
    assert cli("report", "runs=runs", "output=there").code == 0
    assert "By share" in (folder / "there" / "report.html").read_text()
    text = (folder / "there" / "report.md").read_text()
    assert "| net | other settings | scale | share | runs |" in text
    assert "auto: 0.0312" in text
    make_run(folder / "runs" / "number", gamma=0.1)
    settings = settings_of(read_runs(["runs"]), 2)
    assert {s.line for s in settings} == {"edsr", "edsr, gamma=auto"}
    assert axis_name(settings) == "gamma or share"


def set_gamma(run: Path, gamma: str, share: float) -> None:
    """Rewrite a run as one whose gamma follows a share."""
    for name in ("run.json", "result.json"):
        record = read(run / name)
        for key in ("config", "settings"):
            record[key] |= {"gamma": gamma, "share": share}
        record["config_hash"] = f"{share}{record['config_hash']}"
        if "metrics" in record:
            record["metrics"]["train/weight/aesthetic"] = 0.03125
        (run / name).write_text(json.dumps(record))


def test_what_a_metric_gains_over_gamma_0_is_paired_by_seed(
    tmp_path: Path, make_run: MakeRun
) -> None:
    plain, hybrid = {0: 33.0, 1: 34.0, 2: 31.0}, {0: 33.3, 1: 34.1, 3: 39.0}
    for seed, psnr in plain.items():
        make_run(tmp_path / f"plain{seed}", seed=seed, psnr=psnr)
    for seed, psnr in hybrid.items():
        make_run(tmp_path / f"hybrid{seed}", seed=seed, psnr=psnr, gamma=0.1)
        make_run(tmp_path / f"other{seed}", seed=seed, psnr=psnr + 1, gamma=0.1, scorer="b" * 64)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    mean, std, number = change(settings[1], settings, "val/psnr") or (0, 0, 0)
    assert mean == pytest.approx(0.2)  # of 0.3 and 0.1: seed 2 and seed 3 have no partner
    assert std == pytest.approx(0.2 / 2**0.5)
    assert number == 2
    assert [setting.gamma for setting in settings] == [0, 0.1, 0, 0.1]
    assert change(settings[3], settings, "val/psnr") == pytest.approx((1.2, std, 2))
    assert change(settings[0], settings, "val/psnr") is None
    assert change(settings[1], settings, "val/score") is None


def test_a_repetition_is_counted_once(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "old", psnr=33.0)
    make_run(tmp_path / "new", psnr=33.0, result={"finished": "2099-02-02T00:00:00+00:00"})
    make_run(tmp_path / "other", seed=1)
    runs = newest_of_equal(read_runs([str(tmp_path)]))
    assert [run.folder.name for run in runs] == ["new", "other"]


def test_bicubic_is_known_where_all_photos_are(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained["edsr"], tmp_path / "a"))
    result, photos = read(folder / "result.json"), read(folder / "images" / "photos.json")
    bicubic = baseline([read_run(folder)], "val/psnr", 2)
    assert bicubic == result["metrics"].pop("val/psnr_bicubic")
    write(folder / "result.json", result)  # as of version 0.1
    assert baseline([read_run(folder)], "val/psnr", 2) == pytest.approx(bicubic)
    assert baseline([read_run(folder)], "val/aesthetic", 2) is None
    photos["photos"][0]["psnr"] += 1  # the mean of these two is not the run's
    write(folder / "images" / "photos.json", photos)
    assert baseline([read_run(folder)], "val/psnr", 2) is None


def test_the_headline_has_the_gain_over_bicubic(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    result = read(make_run(folder / "bad", psnr=19.9) / "result.json")
    gain = 19.9 - result["metrics"]["val/psnr_bicubic"]
    assert cli("report", "runs=bad").code == 0
    text = (folder / "bad" / "report" / "report.html").read_text()
    assert f"19.90 dB ({gain:.2f} over bicubic)" in text
    (row,) = [row for row in read_markdown(folder / "bad" / "report" / "report.md") if "run" in row]
    assert float(row["bicubic x2"]) == pytest.approx(19.9 - gain, abs=0.005)


def test_states_are_counted(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "sweeps" / "one" / "a")
    make_run(tmp_path / "sweeps" / "one" / "b", finished=False)
    make_run(tmp_path / "sweeps" / "two" / "a")
    make_run(tmp_path / "single")
    make_run(tmp_path / "evaluate", about={"command": "evaluate"})
    assert count_states(read_runs([str(tmp_path)])) == (
        "4 runs of 2 sweeps and 1 single run: 3 finished, 1 unfinished."
    )


def test_the_line_by_gamma_is_the_means(tmp_path: Path, make_run: MakeRun) -> None:
    rng = np.random.default_rng(1)
    expected = {}
    for gamma in (0.0, 0.1, 0.4):
        values = rng.normal(33, 0.2, 3)
        expected[gamma] = values.mean()
        for seed, psnr in enumerate(values):
            make_run(tmp_path / f"{gamma}-{seed}", gamma=gamma, seed=seed, psnr=psnr)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    styles = figures.LineStyles(settings)
    panel = plots.by_gamma(settings, "val/psnr", 2, styles, 32.5, "dB")
    (axes,) = figures.compose([panel]).axes
    line = next(line for line in axes.lines if line.get_label() == "edsr")
    assert list(line.get_xdata()) == list(expected)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), list(expected.values()))
    assert axes.get_xticks()[0] == 0
    assert axes.get_xlim()[0] < 0
    assert any(list(line.get_ydata()) == [32.5, 32.5] for line in axes.lines)  # type: ignore[arg-type]


def test_a_far_baseline_does_not_flatten_the_rest(tmp_path: Path, make_run: MakeRun) -> None:
    for gamma, psnr in ((0.0, 34.6), (0.4, 34.3)):
        make_run(tmp_path / f"{gamma}", gamma=gamma, psnr=psnr)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    panel = plots.by_gamma(settings, "val/psnr", 2, figures.LineStyles(settings), 31.0)
    (axes,) = figures.compose([panel]).axes
    assert axes.get_ylim()[0] > 34
    assert any("bicubic 31.00" in text.get_text() for text in axes.texts)


def test_gammas_of_several_magnitudes_and_zero(tmp_path: Path, make_run: MakeRun) -> None:
    gammas = (0.0, 0.001, 0.01, 1.0)
    for gamma in gammas:
        make_run(tmp_path / f"{gamma}", gamma=gamma)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    panel = plots.by_gamma(settings, "val/psnr", 2, figures.LineStyles(settings))
    (axes,) = figures.compose([panel]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.01", "1"]


def test_the_staircase_is_the_front(tmp_path: Path, make_run: MakeRun) -> None:
    points = {0.1: (34.0, 5.1), 0.2: (33.5, 5.3), 0.3: (33.4, 5.2), 0.4: (33.0, 5.4)}
    for gamma, (psnr, score) in points.items():
        make_run(tmp_path / f"{gamma}", gamma=gamma, psnr=psnr, score=score)
    settings = settings_of(read_runs([str(tmp_path)]), 2)
    (axes,) = figures.compose(
        [plots.plane(settings, "val/score", 2, figures.LineStyles(settings))]
    ).axes
    front = next(line for line in axes.lines if line.get_label() == figures.FRONT)
    corners = list(zip(front.get_xdata(), front.get_ydata(), strict=True))  # type: ignore[arg-type]
    assert corners[1:-1] == [(33.0, 5.4), (33.5, 5.3), (34.0, 5.1)]
    assert {text.get_text() for text in axes.texts} == {"0.1", "0.2", "0.3", "0.4"}


EVIL = "<img src=x onerror=alert(1)> & $x^ $"


class Page(html.parser.HTMLParser):
    """Tags, addresses and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        self.addresses += [value or "" for name, value in attrs if name in names]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def runs(folder: Path, make_run: MakeRun) -> Path:
    """A sweep, single runs in every state, another command's folder, names like markup."""
    outputs = folder / "outputs"
    nets = (("edsr", 2), ("edsr", 3), ("mdsr", 2))
    for gamma, seed, (net, scale) in itertools.product((0.0, 0.1, 0.4), (0, 1), nets):
        make_run(
            outputs / "sweeps" / "gamma" / f"{gamma:g}_{net}_{scale}_{seed}",
            **{"net": net, "scale": scale, "gamma": gamma, "seed": seed},
            psnr=34.6 - gamma - 0.1 * seed,
            score=5.0 + gamma if gamma else None,
        )
    make_run(outputs / "edsr" / "half", finished=False)
    (make_run(outputs / "edsr" / "damaged") / "run.json").write_text("{")
    warning = {"warnings": [f"games {EVIL}"]}
    make_run(outputs / "edsr" / EVIL, seed=7, psnr=9.5, about={"choices": {"net": EVIL}})
    make_run(outputs / "edsr" / "warned", seed=8, psnr=33.33, result=warning)
    make_run(outputs / "edsr" / "short", seed=9, psnr=33.4)  # digits alone would sort it lower
    make_run(outputs / "evaluate" / "e", about={"command": "evaluate"})
    return outputs


@pytest.mark.slow
def test_the_report_of_a_sweep(cli: Cli, runs: Path) -> None:
    done = cli("report", "runs=outputs", f"title='{EVIL}'")
    assert done.code == 0, done.err
    assert "23 runs of 1 sweep and 5 single runs: 21 finished, 1 unfinished, 1 broken." in done.out
    assert "broken: outputs/edsr/damaged: run.json is damaged" in done.out
    report = runs / "report"
    text = (report / "report.html").read_text()
    page = Page(text)
    assert text.count("<img src=x") == 0
    assert page.tags.count("img") == 2  # the slider's; all others are made by the script
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    assert page.texts.count(EVIL) >= 3  # title, heading, folder
    assert f": games {EVIL}" in page.texts
    assert any(f"unfinished: epoch 2 of {EPOCHS}" in text for text in page.texts)
    assert any("evaluate: outputs/evaluate/e" in text for text in page.texts)
    assert "RGB, without a border of scale + 6 pixels" in text
    assert page.tags.count("svg") == 3 * (2 + 2 + 1)  # by gamma, by epoch, plane; three scales
    for name in ("gamma", "epoch", "plane_score"):
        with Image.open(report / "figures" / f"{name}.png") as picture:
            picture.load()
            assert picture.width > 1000
        root = xml.etree.ElementTree.parse(report / "figures" / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
    assert not list(report.rglob(".*"))


def read_markdown(path: Path) -> list[dict[str, str]]:
    """The rows of all tables of a Markdown file, by their headings."""
    rows: list[dict[str, str]] = []
    heading: list[str] = []
    for line in path.read_text().split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = cells
        elif not all(cell.strip("-:") == "" for cell in cells):
            rows.append(dict(zip(heading, cells, strict=True)))
    return rows


def test_means_in_the_table_of_seeds(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    values = [33.12, 33.48, 32.97]
    for seed, psnr in enumerate(values):
        make_run(folder / "runs" / f"{seed}", seed=seed, psnr=psnr)
    assert cli("report", "runs=runs", "output=there").code == 0
    text = (folder / "there" / "report.html").read_text()
    assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in text
    rows = read_markdown(folder / "there" / "report.md")
    assert {"net": "edsr", "scale": "x2", "gamma": "0", "runs": "3"}.items() <= rows[0].items()
    assert rows[0]["val/psnr"] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert [row["PSNR x2"] for row in rows if "run" in row] == ["33.12", "33.48", "32.97"]
    assert all("wall" not in key and "commit" not in key for row in rows for key in row)
    assert "All runs have gamma 0." in text
    assert "No run has a score" in text
    assert not (folder / "there" / "figures" / "gamma.png").exists()


@pytest.mark.slow
def test_runs_are_compared_after_an_epoch_finished_or_not(
    cli: Cli, folder: Path, make_run: MakeRun
) -> None:
    folders = [
        make_run(folder / "runs" / "a", psnr=34.0, gamma=0.0, judge="j"),
        make_run(folder / "runs" / "b", psnr=34.5, gamma=0.1, judge="j", finished=False),
    ]
    second = [float(r["val/psnr"]) for f in folders for r in read_rows(f) if r["val/psnr"]][
        1::EPOCHS
    ]
    assert cli("report", "runs=runs", "output=early", "epoch=2").code == 0
    rows = read_markdown(folder / "early" / "report.md")
    assert [row["val/psnr"] for row in rows[:2]] == [f"{psnr:.2f}" for psnr in second]
    gain = second[1] - second[0]
    assert [row["val/psnr over gamma 0"] for row in rows[:2]] == ["-", f"{gain:+.3f}"]
    listed = [row for row in rows if "state" in row]
    assert [row["state"] for row in listed] == ["finished: taken after epoch 2"] * 2
    assert [row["best epoch"] for row in listed] == ["2 of 2"] * 2
    text = (folder / "early" / "report.html").read_text()
    assert "the values are of epoch 2, whether runs were finished or not" in text
    assert "built-in photos: six for training" in text
    curve = read_runs([str(folder / "runs")], 2)[0].curve("val/psnr")
    assert curve[0] == [1, 2]

    assert cli("report", "runs=runs", "output=late", "epoch=3").code == 0
    states = [
        row["state"] for row in read_markdown(folder / "late" / "report.md") if "state" in row
    ]
    assert states == ["finished: taken after epoch 3", "unfinished: no validation after epoch 3"]
    wrong = cli("report", "runs=runs", "output=wrong", "epoch=0")
    assert wrong.code == 2
    assert "epoch=0" in wrong.err


@pytest.mark.slow
def test_other_photos_are_drawn_apart(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    for k, data in enumerate(({"limit": 10}, {"limit": 10}, {"limit": 20})):
        make_run(folder / "runs" / f"{k}", seed=k, gamma=0.1 * k, data=data, score=5.0)
    assert cli("report", "runs=runs", "output=there").code == 0
    text = (folder / "there" / "report.html").read_text()
    assert "(data.limit=10)" in text
    assert "(data.limit=20)" in text
    assert (folder / "there" / "figures" / "data2_epoch.svg").exists()


@pytest.mark.slow
def test_scores_of_different_scorers_are_apart(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    for k, scorer in enumerate("ab"):
        make_run(folder / "runs" / scorer, gamma=0.1, scorer=scorer * 64, score=5.0 + k)
    make_run(folder / "runs" / "zero", judge="c" * 64)
    assert cli("report", "runs=runs", "output=there").code == 0
    names = {path.stem for path in (folder / "there" / "figures").glob("plane*.svg")}
    assert names == {"plane_score", "plane_score_1", "plane_judge"}
    text = (folder / "there" / "report.html").read_text()
    assert "outputs/scorer (aaaaaaaa)" in text
    assert "outputs/judge (cccccccc)" in text


def test_scorers_alone(cli: Cli, folder: Path, trained: dict[str, Path]) -> None:
    for backbone, emd in (("mnasnet_0_5", 0.081), ("mobilenet_v2", 0.076)):
        vary(
            trained["nima"],
            folder / "runs" / backbone,
            settings={"scorer.backbone": backbone},
            inputs={},
            values={"emd": emd},
        )
    assert cli("report", "runs=runs", "output=there").code == 0
    text = (folder / "there" / "report.html").read_text()
    assert "0.0810" in text
    assert "mobilenet_v2" in text
    assert (folder / "there" / "figures" / "scorers.png").exists()
    assert "By gamma" not in text


@pytest.mark.slow
def test_values_of_any_type_are_survived(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    """Each value of each file in turn is of a type that nobody expects."""
    make_run(folder / "runs" / "whole", gamma=0.1, score=5.0)
    sound = make_run(folder / "sound", gamma=0.1, score=5.0, judge="c" * 64)
    number = 0
    for name in ("run.json", "result.json", "images/photos.json"):
        content = json.loads((sound / name).read_text())
        places: list[tuple[Any, Any]] = [(content, key) for key in content]
        places += [(content["config"], key) for key in content.get("config", {})]
        places += [(content["metrics"], key) for key in content.get("metrics", {})]
        places += [(photo, key) for photo in content.get("photos", []) for key in photo]
        for (part, key), odd in itertools.product(places, (None, "x", [[]], {"a": {}})):
            before, part[key] = part[key], odd
            run = Path(shutil.copytree(sound, folder / "runs" / f"{number}"))
            record = json.loads((run / "run.json").read_text()) | {"config_hash": f"{number}"}
            (run / "run.json").write_text(json.dumps(record))  # or it would repeat another
            (run / name).write_text(json.dumps({**record, **content, "config_hash": f"{number}"}))
            number, part[key] = number + 1, before
    assert number > 200
    done = cli("report", "runs=runs")
    assert done.code == 0, done.err
    assert "broken: runs/" in done.out


def test_only_broken_runs_are_a_report_too(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    (make_run(folder / "runs" / "a") / "run.json").write_text("{")
    done = cli("report", "runs=runs")
    assert done.code == 0, done.err
    assert "run.json is damaged" in (folder / "runs" / "report" / "report.html").read_text()


def test_a_report_is_not_overwritten(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    make_run(folder / "runs" / "a")
    assert cli("report", "runs=runs").code == 0
    path = folder / "runs" / "report" / "report.html"
    before = path.stat().st_mtime_ns
    done = cli("report", "runs=runs")
    assert done.code == 2
    assert "contains a report.html; overwrite=true replaces it" in done.err
    assert path.stat().st_mtime_ns == before
    outdated = folder / "runs" / "report" / "figures" / "gamma.svg"
    outdated.touch()
    (own := outdated.with_name("mine.svg")).touch()
    assert cli("report", "runs=runs", "overwrite=true").code == 0
    assert own.exists()
    assert path.stat().st_mtime_ns > before
    assert not outdated.exists()
    assert (outdated.parent / "epoch.svg").exists()


@pytest.mark.slow
def test_scales_that_a_short_validation_has_not_measured(
    cli: Cli, folder: Path, make_run: MakeRun
) -> None:
    run = make_run(folder / "runs" / "a", net="mdsr", gamma=0.0)
    result = read(run / "result.json")
    result["metrics"] = {k: v for k, v in result["metrics"].items() if not k.endswith("/x4")}
    write(run / "result.json", result)
    assert cli("report", "runs=runs").code == 0
    page = (folder / "runs" / "report" / "report.html").read_text()
    assert "val/psnr by epoch at x3" in page
    assert "val/psnr by epoch at x4" not in page
    metrics = {k: v for k, v in result["metrics"].items() if not k.startswith("val/psnr")}
    write(run / "result.json", result | {"metrics": metrics})
    assert cli("report", "runs=runs", "overwrite=true").code == 0


def test_a_sweep_that_has_just_begun(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    make_run(folder / "runs" / "a", finished=False)
    assert cli("report", "runs=runs").code == 0
    text = (folder / "runs" / "report" / "report.html").read_text()
    assert "No enhancer has finished yet" in text
    assert f"unfinished: epoch 2 of {EPOCHS}" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs=absent"], "runs=absent: no such file or folder"),
        (["runs='absent/*'"], "runs=absent/*: no such file or folder"),
        (["runs=empty"], "runs=empty: there is no run"),
        (["runs=file"], "runs=file: is a file; a folder is needed"),
        (["runs=[runs,absent]"], "runs=absent: no such file or folder"),
        (["runs=runs", "output=file"], "output=file: "),
        (["runs=runs", "photos=-1"], "photos=-1: "),
        ([], "runs: is required"),
    ],
)
def test_mistakes(
    cli: Cli, folder: Path, words: list[str], message: str, make_run: MakeRun
) -> None:
    make_run(folder / "runs" / "a")
    (folder / "empty").mkdir()
    (folder / "file").touch()
    done = cli("report", *words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (folder / "outputs").exists()


def test_pictures_that_do_not_fit_are_left_out_and_counted(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun
) -> None:
    for gamma, seed in itertools.product((0.0, 0.1), (0, 1)):
        name, psnr = f"{gamma}-{seed}", 33 - gamma - seed
        make_run(folder / "runs" / name, gamma=gamma, seed=seed, psnr=psnr)
    runs = read_runs(["runs"])
    exact = album.fill_album(runs, 1)
    assert (exact.left_out, exact.shown, exact.wanted) == (0, 4, 4)
    assert len(exact.pictures) == 3 + 4  # LR, bicubic, HR and one of each run
    # With room for all but two of them, the second seeds are left out.
    monkeypatch.setattr(album, "BUDGET", sum(map(len, exact.pictures[:-2])))
    filled = album.fill_album(runs, 1)
    assert (filled.left_out, filled.shown, filled.wanted) == (2, 2, 4)
    left_out = [c.label for c in filled.photos[0].choices if c.picture is None]
    assert left_out == ["edsr, x2, gamma 0, seed 1", "edsr, x2, gamma 0.1, seed 1"]
    assert cli("report", "runs=runs", "photos=1").code == 0
    text = (folder / "runs" / "report" / "report.html").read_text()
    assert "2 of 4 pictures made by runs are included" in " ".join(text.split())


def test_pictures_are_those_of_the_run_and_whole(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "runs" / "a", psnr=20.0)
    outside = Path(
        shutil.copy(folder / "images" / "crops" / "coffee_x2_hr.png", tmp_path / "o.png")
    )
    content = json.loads((folder / "images" / "photos.json").read_text())
    content["photos"][0] |= {"sr": os.path.relpath(outside, folder / "images")}
    (folder / "images" / "photos.json").write_text(json.dumps(content))
    damaged = folder / "images" / "crops" / "coffee_x2_sr.png"
    damaged.write_bytes(damaged.read_bytes()[:500])
    filled = album.fill_album([read_run(folder)], 2)
    assert [photo.id for photo in filled.photos] == list(PHOTOS)
    for photo in filled.photos:
        pictures = {choice.label: choice.picture for choice in photo.choices}
        assert pictures.pop("edsr, x2, gamma 0, seed 0") is None
        assert None not in pictures.values()


def test_the_report_of_a_real_run(cli: Cli, trained: dict[str, Path]) -> None:
    done = cli("report", f"runs={trained['edsr']}", "output=there")
    assert done.code == 0, done.err
    assert "1 run: 1 finished." in done.out
    text = Path("there/report.html").read_text()
    result = read(trained["edsr"] / "result.json")
    assert f"{result['metrics']['val/psnr']:.2f}" in text
    assert text.count("data:image/webp") == 8  # LR, bicubic, SR and HR of two photos
    convolutions = ((3, 8), (8, 8), (8, 8), (8, 8), (8, 32), (8, 3))  # of the tiny EDSR, 3 x 3
    number = sum(9 * inner * outer + outer for inner, outer in convolutions)
    assert result["num_parameters"] == number
    assert f">{number:,}<" in text


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "touch"), [(1280, False), (375, True)])
def test_the_page_in_chromium(
    cli: Cli,
    runs: Path,
    chromium: Any,  # noqa: ANN401
    width: int,
    touch: bool,
) -> None:
    assert cli("report", "runs=outputs").code == 0
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, has_touch=touch, offline=True
    )
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    address = (runs / "report" / "report.html").as_uri()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    # The slider moves, by pointer, finger and keyboard, and both pictures have loaded.
    slider = page.locator("#slider")
    slider.scroll_into_view_if_needed()
    loaded = "[...document.querySelectorAll('#slider img')].every(i => i.naturalWidth > 0)"
    page.wait_for_function(loaded)
    page.wait_for_function("document.querySelector('#slider').clientWidth >= 96")
    box = slider.bounding_box()

    def clipped() -> float:
        """Share of the left picture that is hidden, from its right."""
        over = page.locator("#over")
        clip = over.evaluate("e => getComputedStyle(e).clipPath")  # inset(0px 80% 0px 0px)
        return float(clip.split()[1].rstrip("%").removeprefix("calc(100% - ").rstrip("%)"))

    assert clipped() == 50
    x, y = box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"]
    if touch:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.move(box["x"] + 0.5 * box["width"], y)
        page.mouse.down()
        page.mouse.move(x, y, steps=5)
        page.mouse.up()
    dragged = clipped()
    assert dragged == pytest.approx(80, abs=2)
    page.locator("#divider").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert clipped() == pytest.approx(dragged - 2)

    # Another picture is chosen.
    before = page.locator("#under").get_attribute("src")
    page.locator("#right").select_option(label="HR")
    assert page.locator("#under").get_attribute("src") != before
    page.locator("#photo").select_option(index=1)
    assert page.locator("#scores tbody tr").count() > 3

    # The table sorts, as numbers, with what is missing last.
    table = page.locator("#runs table").first
    heading = table.locator("th", has_text="PSNR x2")
    place = heading.evaluate("e => e.cellIndex")
    known = sorted(value for run in read_runs(["outputs"]) if (value := psnr_x2(run)) is not None)

    def column() -> list[str]:
        return [
            str(t) for t in table.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
        ]

    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    shown = column()
    assert [float(text) for text in shown[: len(known)]] == pytest.approx(known[::-1], abs=0.005)
    assert set(shown[len(known) :]) == {"-"}
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert float(column()[0]) == 9.5
    assert set(column()[len(known) :]) == {"-"}

    # The filter counts.
    page.locator("#runs .filter").first.fill("mdsr finished")
    assert table.locator("tbody tr:visible").count() == 6
    assert page.locator("#runs .count").first.inner_text() == "6 of 22"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]
    context.close()


def psnr_x2(run: Run) -> float | None:
    """What the table shows of a run."""
    return run.value("val/psnr", 2) if run.command == "train" and 2 in run.scales else None


def test_a_metric_of_which_less_is_better_points_up(make_run: MakeRun, tmp_path: Path) -> None:
    points = {0.0: (34.0, 0.30), 0.1: (33.5, 0.20), 0.2: (33.4, 0.25)}  # the last is on no front
    for gamma, (psnr, lpips) in points.items():
        folder = make_run(tmp_path / f"{gamma}", gamma=gamma, psnr=psnr)
        result = read(folder / "result.json")
        metrics = result["metrics"] | {"val/lpips": lpips, "val/mine": 0.5}
        better = {"psnr": "higher", "lpips": "lower", "mine": None, "not a name": "lower"}
        write(folder / "result.json", result | {"metrics": metrics, "better": better})
    runs = read_runs([str(tmp_path)])
    measures = added_measures(runs)
    assert [(m.name, m.title) for m in measures] == [
        ("val/lpips", "LPIPS \N{DOWNWARDS ARROW}"),
        ("val/mine", "mine"),
    ]
    settings = settings_of(runs, 2)
    panel = plots.plane(settings, "val/lpips", 2, figures.LineStyles(settings), lower=True)
    axes = figures.compose([panel]).axes[0]
    assert axes.yaxis_inverted()
    assert "lower is better" in axes.get_ylabel()
    (front,) = [line for line in axes.lines if line.get_label() == figures.FRONT]
    assert set(np.asarray(front.get_ydata()).tolist()) & {0.3, 0.2, 0.25} == {0.3, 0.2}

"""evaluate, enhance, score and export through the real command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from datamodules.sample import SamplePairs
from images.pixels import to_bytes, to_unit
from images.reading import read_image
from lightning_modules.checkpoint import load_network, load_scorer, save_safetensors
from lightning_modules.image_metrics import image_metrics
from lightning_modules.pictures import save_before_after
from lightning_modules.record import Record
from networks.bicubic import upscale
from networks.can import CAN
from networks.curves import Curves
from networks.edsr import EDSR
from networks.mdsr import MDSR
from networks.nima import NIMA, mean_score
from networks.scales import at_scale
from networks.srcnn import SRCNN
from networks.tiling import SelfEnsemble
from runs.measuring import named
from system.terminal import differing_part
from tests.conftest import ROOT, SAMPLE_SCORER, TINY, TINY_NIMA, Cli


@pytest.fixture
def photos(folder: Path) -> Path:
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (40, 30)), ("a.jpg", (24, 50))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / name)
    return folder / "photos"


def test_evaluate_an_enhancer(cli: Cli, enhancer: Path, scorer_file: Path) -> None:
    words = ["evaluate", f"checkpoint={enhancer}", f"scorer.checkpoint={scorer_file}"]
    done = cli(*words, "name=here")
    assert done.code == 0, done.err
    folder = Path("outputs/evaluate/here")
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["psnr/bicubic"] == pytest.approx(31.36, abs=0.01)
    assert 1 <= result["metrics"]["score/HR"] <= 10
    with open(folder / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["net"]) for r in rows[:3]] == [
        ("chelsea", "bicubic"),
        ("chelsea", "EDSR gamma=0"),
        ("chelsea", "HR"),
    ]
    # The picture and the saved output agree with the checkpoint.
    net, _ = load_network(enhancer)
    lr = read_image(folder / "images" / "chelsea_lr.png")
    with torch.no_grad():
        expected = to_bytes(net(to_unit(lr)[None])[0])
    assert torch.equal(read_image(folder / "images" / "chelsea_sr.png"), expected)
    assert Image.open(folder / "images" / "coffee.png").width > 1000
    assert "PSNR (DIV2K)" in done.out
    assert "RGB, border of scale + 6" in done.out

    before = (folder / "result.json").stat().st_mtime_ns
    again = cli(*words, "name=here")
    assert again.code == 0
    assert "PSNR (DIV2K)" in again.out
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_evaluate_without_scorer_and_with_the_wrong_data(cli: Cli, enhancer: Path) -> None:
    done = cli("evaluate", f"checkpoint={enhancer}", "scorer.checkpoint=null", "data.limit=1")
    assert done.code == 0, done.err
    assert "score" not in done.out.partition("over bicubic")[0]
    done = cli("evaluate", f"checkpoint={enhancer}", "data=sample_rated")
    assert done.code == 2
    assert "data=sample_pairs does" in done.err
    done = cli("evaluate", f"checkpoint={enhancer}", "scale=3")
    assert done.code == 2
    assert "is for x2" in done.err


@pytest.mark.slow
def test_evaluate_rates_as_the_scorer_is_told_to_look(cli: Cli, enhancer: Path) -> None:
    words = ["evaluate", f"checkpoint={enhancer}", "data.limit=1", "judge.checkpoint=null"]
    words += [f"scorer.checkpoint={SAMPLE_SCORER}"]
    native = ["scorer.resize_rule=native", "scorer.crop=64"]
    done = cli(*words, *native, "name=native")
    assert done.code == 0, done.err
    assert "resize_rule=native, crop=64" in done.out
    scorer, _ = load_network(SAMPLE_SCORER)
    assert isinstance(scorer, NIMA)
    hr = read_image("outputs/evaluate/native/images/chelsea_sr.png")
    top, left = ((side - 64) // 2 for side in hr.shape[1:])
    centre = to_unit(hr)[None, :, top : top + 64, left : left + 64]
    with torch.no_grad():
        expected = mean_score(scorer(centre)).item()
    metrics = json.loads(Path("outputs/evaluate/native/result.json").read_text())["metrics"]
    found = next(v for k, v in metrics.items() if k.startswith("score/") and "EDSR" in k)
    assert found == pytest.approx(expected, abs=1e-4)
    words[3] = f"judge.checkpoint={SAMPLE_SCORER}"
    both = cli(*words, "judge.resize_rule=native", "judge.crop=64", "name=judge")
    assert both.code == 0, both.err
    metrics = json.loads(Path("outputs/evaluate/judge/result.json").read_text())["metrics"]
    found = next(v for k, v in metrics.items() if k.startswith("score_judge/") and "EDSR" in k)
    assert found == pytest.approx(expected, abs=1e-4)
    refused = cli(*words, "scorer.resize_rule=pad")
    assert "scorer.resize_rule=pad: allowed are squash, short_side, native" in refused.err
    assert "scorer.num_buckets=7, but " in cli(*words, "scorer.num_buckets=7").err
    blind = cli(*words, "judge.checkpoint=null", "judge.crop=64")
    assert "judge.crop=64: has no effect: judge.checkpoint is null" in blind.err


@pytest.mark.slow
def test_evaluate_a_scorer(cli: Cli, scorer_file: Path) -> None:
    words = ["data=sample_rated", "data.limit=8", "probe_photos=1", "name=here"]
    judged = cli("evaluate", f"checkpoint={scorer_file}", *words, "judge.crop=64")
    assert "judge.crop=64: a scorer has no judge" in judged.err
    done = cli("evaluate", f"checkpoint={scorer_file}", *words)
    assert done.code == 0, done.err
    metrics = json.loads(Path("outputs/evaluate/here/result.json").read_text())["metrics"]
    assert {"emd", "emd_batch", "emd_r1", "accuracy", "emd_constant"} <= metrics.keys()
    assert "SYNTHETIC" in done.out


def test_enhance_gives_the_networks_pixels(cli: Cli, enhancer: Path, photos: Path) -> None:
    done = cli("enhance", "input=photos", f"checkpoint={enhancer}", "output=out")
    assert done.code == 0, done.err
    net, _ = load_network(enhancer)
    for name in ("a.jpg", "b.png"):
        with torch.no_grad():
            expected = to_bytes(net(to_unit(read_image(photos / name))[None])[0])
        assert torch.equal(read_image(f"out/{Path(name).stem}_x2.png"), expected)


@pytest.fixture(scope="module")
def mdsr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("mdsr") / "mdsr.safetensors"
    arguments: dict[str, Any] = {"scales": [2, 3], "num_blocks": 1, "num_features": 4}
    spec = {"_target_": "networks.mdsr.MDSR", **arguments}
    record = Record(kind="enhancer", net=spec, data="nothing", gamma=0.1)
    save_safetensors(path, MDSR(**arguments), record)
    return path


def test_enhance_needs_nothing_but_a_photo(cli: Cli, photos: Path) -> None:
    done = cli("enhance", "input=photos/b.png")
    assert done.code == 0, done.err
    lr, found = (read_image(path) for path in (photos / "b.png", "outputs/enhanced/b_x2.png"))
    net, _ = load_network(ROOT / "weights" / "mdsr_gamma_0.safetensors")
    with torch.no_grad():
        expected = to_bytes(at_scale(net, 2)(to_unit(lr)[None])[0])
    assert (found.int() - expected.int()).abs().max() <= 1  # the command has channels last


@pytest.mark.slow
def test_enhance_at_any_scale_with_what_ships(cli: Cli, photos: Path) -> None:
    for scale in (2, 3, 4):
        done = cli("enhance", "input=photos/b.png", f"scale={scale}")
        assert done.code == 0, done.err
        made = read_image(f"outputs/enhanced/b_x{scale}.png")
        assert made.shape == (3, 40 * scale, 30 * scale)
    assert "is for x2, x3, x4" in cli("enhance", "input=photos/b.png", "scale=1").err


def test_enhance_in_tiles_gives_the_same_file(cli: Cli, enhancer: Path, photos: Path) -> None:
    for tile in ("null", "16"):
        words = ["enhance", "input=photos/b.png", f"checkpoint={enhancer}", f"tile={tile}"]
        assert cli(*words, f"output=out{tile}").code == 0
    whole, tiled = (read_image(f"out{tile}/b_x2.png") for tile in ("null", "16"))
    assert torch.equal(whole, tiled)


def test_enhance_at_a_scale_of_several(cli: Cli, mdsr: Path, photos: Path) -> None:
    words = ["enhance", "input=photos/b.png", f"checkpoint={mdsr}", "output=out"]
    assert cli(*words).code == 0  # the smallest
    assert "is for x2, x3" in cli(*words, "scale=4").err
    assert cli(*words, "scale=3").code == 0
    net, _ = load_network(mdsr)
    lr = to_unit(read_image(photos / "b.png"))[None]
    with torch.no_grad():
        for scale in (2, 3):
            assert torch.equal(read_image(f"out/b_x{scale}.png"), to_bytes(net(lr, scale)[0]))


def test_enhance_as_an_ensemble_and_in_half_precision(
    cli: Cli, enhancer: Path, photos: Path
) -> None:
    net, _ = load_network(enhancer)
    net.to(memory_format=torch.channels_last)
    lr = to_unit(read_image(photos / "b.png"))[None].contiguous(memory_format=torch.channels_last)
    words = ["enhance", "input=photos/b.png", f"checkpoint={enhancer}"]
    with torch.no_grad():
        plain, ensemble = to_bytes(net(lr)[0]), to_bytes(SelfEnsemble(net)(lr)[0])
        with torch.autocast("cpu", torch.bfloat16):
            half = to_bytes(net(lr)[0])
    assert not torch.equal(plain, ensemble)
    assert not torch.equal(plain, half)
    assert cli(*words, "output=ensemble", "self_ensemble=true").code == 0
    assert torch.equal(read_image("ensemble/b_x2.png"), ensemble)
    assert cli(*words, "output=half", "precision=bfloat16").code == 0
    assert torch.equal(read_image("half/b_x2.png"), half)


def test_evaluate_as_an_ensemble(cli: Cli, enhancer: Path) -> None:
    words = ["evaluate", f"checkpoint={enhancer}", "scorer.checkpoint=null", "data.limit=1"]
    assert cli(*words, "self_ensemble=true", "name=plus").code == 0
    net, _ = load_network(enhancer)
    lr = to_unit(read_image("outputs/evaluate/plus/images/chelsea_lr.png"))
    with torch.no_grad():
        expected = to_bytes(SelfEnsemble(net)(lr[None])[0])
    found = read_image("outputs/evaluate/plus/images/chelsea_sr.png")
    assert (found.int() - expected.int()).abs().max() <= 1  # of another memory format
    assert (found != expected).float().mean() < 1e-3


def test_enhance_keeps_orientation_profile_and_alpha(
    cli: Cli, enhancer: Path, folder: Path
) -> None:
    rng = np.random.default_rng(0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lying = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    exif[0x010F] = "A camera"
    lying.save("lying.jpg", exif=exif, icc_profile=profile)
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    Image.merge("RGBA", [*lying.split(), Image.fromarray(alpha)]).save("alpha.png")
    words = ["enhance", f"checkpoint={enhancer}"]
    for name, suffix in (("lying.jpg", "jpg"), ("lying.jpg", "png"), ("alpha.png", "png")):
        assert cli(*words, f"input={name}", "output=out", f"format={suffix}").code == 0
    for suffix in ("jpg", "png"):
        with Image.open(f"out/lying_x2.{suffix}") as image:
            assert image.size == (40, 60)
            assert image.info["icc_profile"] == profile
            assert image.getexif()[0x010F] == "A camera"
            assert 0x0112 not in image.getexif()
    with Image.open("out/alpha_x2.png") as image:
        assert image.mode == "RGBA"
        assert image.size == (60, 40)
        mask = np.array(image)[..., 3]
    assert (mask[:, :26] == 0).all()
    assert (mask[:, 34:] == 255).all()
    smooth = upscale(torch.from_numpy(alpha)[None, None].float(), 2)[0, 0]
    assert np.array_equal(mask, smooth.round().clamp(0, 255).numpy().astype(np.uint8))
    assert cli(*words, "input=alpha.png", "output=out", "format=jpg").code == 0
    with Image.open("out/alpha_x2.jpg") as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_enhance_keeps_sixteen_bits(cli: Cli, enhancer: Path, folder: Path, channels: int) -> None:
    ramp = np.linspace(3000, 60000, 24 * 32).reshape(24, 32)
    pixels = np.stack([ramp, ramp[::-1], ramp[:, ::-1], np.full_like(ramp, 65535)], axis=2)
    pixels = pixels[..., :channels].astype(np.uint16)
    Path("deep.png").write_bytes(imagecodecs.png_encode(pixels))
    words = ["enhance", f"checkpoint={enhancer}", "input=deep.png", "output=out"]
    assert cli(*words).code == 0
    found = imagecodecs.png_decode(Path("out/deep_x2.png").read_bytes())
    assert found.dtype == np.uint16
    assert found.shape == (48, 64, max(3, channels))
    net, _ = load_network(enhancer)
    rgb = np.broadcast_to(pixels, (24, 32, 3)) if channels == 1 else pixels[..., :3]
    lr = torch.from_numpy(rgb.astype(np.float32) / 65535).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = (net(lr)[0].clamp(0, 1) * 65535).round().permute(1, 2, 0).numpy()
    assert np.abs(found[..., :3] - expected).max() <= 1
    assert cli(*words, "format=bmp").code == 0  # which has 8
    eight = np.array(Image.open("out/deep_x2.bmp")).astype(float)
    assert np.abs(eight - expected / 257).max() <= 0.51


@pytest.mark.slow
def test_evaluate_several_beside_each_other(
    cli: Cli, enhancer: Path, mdsr: Path, scorer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorers = [f"scorer.checkpoint={scorer_file}", f"judge.checkpoint={SAMPLE_SCORER}"]
    notes: list[str] = []

    def draw(panels: list[Any], path: Path, note: str = "") -> None:
        notes.append(note)
        save_before_after(panels, path, note)

    with monkeypatch.context() as patch:
        patch.setattr("runs.evaluation.save_before_after", draw)
        done = cli("evaluate", f"checkpoint=[{enhancer},{mdsr}]", "name=both", *scorers)
    assert done.code == 0, done.err
    folder = Path("outputs/evaluate/both")
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert {
        "psnr_gain/EDSR gamma=0",
        "psnr_gain/MDSR gamma=0.1",
        "score_judge/HR",
    } <= metrics.keys()
    assert "the judge is not independent: it shares backbone" in done.out
    data = SamplePairs(2)
    data.setup("validate")
    for name, path in (("score", scorer_file), ("score_judge", SAMPLE_SCORER)):
        scores = [
            load_scorer(path).score(to_unit(data.val[k][1])[None]) for k in range(len(data.val))
        ]
        assert metrics[f"{name}/HR"] == pytest.approx(float(sum(scores)) / 2, abs=1e-4)
    assert len(notes) == 2
    assert all("\n" not in note and note.startswith("scorer: ") for note in notes)  # one line fits
    single = cli("evaluate", f"checkpoint={mdsr}", "name=one", "scale=2", *scorers)
    assert single.code == 0, single.err
    alone = json.loads(Path("outputs/evaluate/one/result.json").read_text())["metrics"]
    for name in ("psnr", "ssim", "score", "score_judge"):
        key = f"{name}/MDSR gamma=0.1"
        assert alone[key] == pytest.approx(metrics[key], abs=1e-6)
    files = (folder / "images/coffee.png", Path("outputs/evaluate/one/images/coffee.png"))
    wide, narrow = (Image.open(file).width for file in files)
    assert wide == pytest.approx(narrow * 5 / 4, rel=0.01)  # LR, bicubic, two networks, HR


def test_files_of_networks_of_one_name_are_told_apart_by_what_differs() -> None:
    runs = [f"outputs/x/gamma-{gamma}/checkpoints/best.ckpt" for gamma in (0, 0.1)]
    assert [differing_part(run, runs) for run in runs] == ["gamma-0", "gamma-0.1"]
    steps = ["a/step1.ckpt", "a/step2.safetensors"]
    assert [differing_part(step, steps) for step in steps] == ["step1", "step2"]
    net = {"_target_": "networks.edsr.EDSR"}
    record = Record(kind="enhancer", net=net, data="nothing", gamma=0.0)
    twice: list[Any] = [(torch.nn.Identity(), record)] * 3
    names = named(twice, ["a/x.ckpt", "a/x.safetensors", "a/y.ckpt"])
    assert list(names) == ["EDSR gamma=0 (1)", "EDSR gamma=0 (2)", "EDSR gamma=0 (y)"]


@pytest.mark.slow
def test_evaluate_many_photos_shows_means_and_draws_the_first(cli: Cli, mdsr: Path) -> None:
    words = ["evaluate", f"checkpoint={mdsr}", "scorer.checkpoint=null"]
    done = cli(*words, "name=few", "rows=11", "pictures=1")  # 2 photos x 2 scales x 3 nets
    assert done.code == 0, done.err
    table = Path("outputs/evaluate/few/table.txt").read_text()
    assert "\nchelsea " not in table
    assert "\nmean " in table
    assert "means of 2 photos; each is in per_image.csv" in done.out
    with open("outputs/evaluate/few/per_image.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    drawn = sorted(path.name for path in Path("outputs/evaluate/few/images").iterdir())
    assert drawn == [f"chelsea_x{s}{end}.png" for s in (2, 3) for end in ("", "_lr", "_sr")]
    assert cli(*words, "name=none", "pictures=0").code == 0
    assert not Path("outputs/evaluate/none/images").exists()
    assert "\nchelsea " in Path("outputs/evaluate/none/table.txt").read_text()


@pytest.mark.slow
def test_evaluate_says_how_networks_were_trained_to_deblur(cli: Cli, folder: Path) -> None:
    words = [*TINY, "epochs=1", "gamma=0", "data.degradation.blur=1.6"]
    for scale in (1, 2):
        assert cli(*words, f"scale={scale}", f"paths.output_dir=x{scale}").code == 0
    (x1,), (x2,) = (list(Path(f"x{scale}").rglob("best.ckpt")) for scale in (1, 2))
    own = cli("evaluate", f"checkpoint={x2}", "scorer.checkpoint=null", "data.limit=1", "name=own")
    assert "not used here" not in own.out  # on its own photos, blurred as in its training
    sample = ["scorer.checkpoint=null", "data=sample_pairs", "data.limit=1"]
    done = cli("evaluate", f"checkpoint={x2}", *sample)
    assert "EDSR gamma=0 was trained with data.degradation.blur=1.6, not used here" in done.out
    done = cli("evaluate", f"checkpoint={x1}", *sample)
    assert done.code == 2
    assert "LR would equal HR; set the data.degradation" in done.err
    same = ["data.degradation.blur=1.6", "name=same"]
    done = cli("evaluate", f"checkpoint={x1}", "scorer.checkpoint=null", "data.limit=1", *same)
    assert done.code == 0, done.err
    assert "was trained with" not in done.out
    assert "EDSR gamma=0 over input: " in done.out
    metrics = json.loads(Path("outputs/evaluate/same/result.json").read_text())["metrics"]
    assert 20 < metrics["psnr/input"] < 32


def test_evaluate_refuses_photos_whose_results_would_share_a_name(
    cli: Cli, enhancer: Path, folder: Path
) -> None:
    (folder / "val").mkdir()
    for name in ("cat.png", "cat_sr.png"):
        Image.new("RGB", (64, 64), "gray").save(folder / "val" / name)
    done = cli("evaluate", f"checkpoint={enhancer}", "data=photos", "data.val_hr=val")
    assert done.code == 2
    assert "photos cat and cat_sr: " in done.err


@pytest.mark.slow
def test_evaluate_every_scale_of_an_mdsr(cli: Cli, mdsr: Path) -> None:
    done = cli("evaluate", f"checkpoint={mdsr}", "name=all", "scorer.checkpoint=null")
    assert done.code == 0, done.err
    metrics = json.loads(Path("outputs/evaluate/all/result.json").read_text())["metrics"]
    each = [metrics[f"psnr/bicubic/x{scale}"] for scale in (2, 3)]
    assert each == pytest.approx([31.36, 29.09], abs=0.01)
    assert metrics["psnr/bicubic"] == pytest.approx(sum(each) / 2)
    with open("outputs/evaluate/all/per_image.csv", newline="") as file:
        assert [row["scale"] for row in csv.DictReader(file)] == ["2"] * 6 + ["3"] * 6


@pytest.mark.slow
def test_evaluate_needs_a_scale_in_common(
    cli: Cli, enhancer: Path, mdsr: Path, scorer_file: Path
) -> None:
    for words, message in (
        ([f"checkpoint={mdsr}", "scale=4"], "is for x2, x3"),
        ([f"checkpoint=[{enhancer},{scorer_file}]"], "measure enhancers and scorers separately"),
        (["checkpoint=[]"], "one or several files"),
    ):
        done = cli("evaluate", *words)
        assert done.code == 2
        assert message in done.err


def test_enhance_goes_on_past_bad_files_and_never_overwrites(
    cli: Cli, enhancer: Path, photos: Path
) -> None:
    (photos / "aa.png").write_bytes(b"no image")
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=out"]
    done = cli(*words)
    assert done.code == 1
    assert "1 not enhanced:" in done.out
    assert "aa.png: not an image file" in done.out
    assert sorted(p.name for p in Path("out").iterdir()) == ["a_x2.png", "b_x2.png"]
    Image.new("RGB", (8, 8)).save(photos / "a.png")  # would become a_x2.png, as a.jpg does
    twice = cli(*words, "overwrite=true")
    assert "already became out/a_x2.png" in twice.out
    (photos / "a.png").unlink()
    again = cli(*words)
    assert again.code == 1
    assert again.out.count("exists: overwrite=true") == 2
    assert "1 not enhanced" in cli(*words, "overwrite=true").out


def test_score_writes_table_and_csv(cli: Cli, scorer_file: Path, photos: Path) -> None:
    (photos / "c.png").write_bytes(b"")
    words = ["score", "input=photos", f"checkpoint={scorer_file}", "output=scores.csv"]
    done = cli(*words)
    assert done.code == 1
    assert "c.png" in done.out.partition("not scored")[2]
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "mean", "std", *(f"p{k}" for k in range(1, 11))]
    scorer, _ = load_network(scorer_file)
    assert isinstance(scorer, NIMA)
    for row in rows:
        p = np.array([float(row[f"p{k}"]) for k in range(1, 11)])
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert float(row["mean"]) == pytest.approx((p * np.arange(1, 11)).sum(), abs=1e-4)
        image = to_unit(read_image(row["image"]))[None]
        assert scorer.score(image).item() == pytest.approx(float(row["mean"]), abs=1e-5)
    means = [float(line.split("│")[2]) for line in done.out.splitlines() if "│" in line]
    assert means == sorted(means, reverse=True)
    assert cli(*words).code == 2


def test_score_says_what_the_scorer_knows(cli: Cli, photos: Path) -> None:
    done = cli("score", "input=photos/b.png", f"checkpoint={SAMPLE_SCORER}")
    assert done.code == 0, done.err
    assert "SYNTHETIC" in done.out
    assert "rated by a NIMA that idealo trained on AVA" in cli("score", "input=photos/b.png").out


@pytest.mark.slow
def test_export_a_training_checkpoint(cli: Cli) -> None:
    assert cli(*TINY_NIMA, "name=here").code == 0
    best = "outputs/sample_nima/here/checkpoints/best.ckpt"
    words = ["export", f"checkpoint={best}", "output=a.safetensors"]
    assert cli(*words).code == 0
    exported, record = load_network("a.safetensors")
    trained, _ = load_network(best)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(exported(image), trained(image), atol=5e-3)
    assert record.config is None
    done = cli(*words)
    assert done.code == 2
    assert "overwrite=true" in done.err


@pytest.mark.slow
def test_export_says_what_a_network_was_trained_on(cli: Cli) -> None:
    words = ["data.degradation.blur=1.5", "gamma=0", "name=t"]
    assert cli(*TINY, "net=edsr_tiny", *words).code == 0
    checkpoint = "checkpoint=outputs/sample_edsr/t/checkpoints/best.ckpt"
    text = "description='photos, of somebody'"
    assert cli("export", checkpoint, "output=a.safetensors", text).code == 0
    _, record = load_network("a.safetensors")
    assert record.data == "photos, of somebody"
    assert record.degradation == {"blur": 1.5, "noise": 0.0, "jpeg": None}
    assert record.config is None
    refused = cli("export", checkpoint, "output=a.onnx", "format=onnx", text)
    assert refused.code == 2
    assert "applies only to format=safetensors" in refused.err


@pytest.mark.slow
def test_interpolate_measures_between_two_trainings(
    cli: Cli, enhancer: Path, mdsr: Path, scorer_file: Path, tmp_path: Path
) -> None:
    first, record = load_network(enhancer)
    second = EDSR(2, num_blocks=1, num_features=4)
    other = tmp_path / "other.safetensors"
    save_safetensors(other, second, replace(record, gamma=0.4))
    scorers = [f"scorer.checkpoint={scorer_file}", f"judge.checkpoint={scorer_file}"]
    files = f"checkpoints=[{enhancer},{other}]"
    done = cli("interpolate", files, "steps=3", "name=c", *scorers)
    assert done.code == 0, done.err
    assert "from EDSR gamma=0 to EDSR gamma=0.4" in done.out
    with open("outputs/interpolate/c/curve.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert [row["share"] for row in rows] == [0, 0.5, 1]
    halved, _ = load_network(other)  # in half precision, as the file holds it
    state = halved.state_dict()
    first.load_state_dict({k: (v + state[k]) / 2 for k, v in first.state_dict().items()})
    for row, net in zip(rows[::2], (enhancer, other), strict=True):
        name = f"name={net.stem}"
        assert cli("evaluate", f"checkpoint={net}", name, *scorers).code == 0
        result = json.loads(Path(f"outputs/evaluate/{net.stem}/result.json").read_text())
        for key in ("psnr", "psnr_y", "ssim", "score", "score_judge"):
            (value,) = (v for k, v in result["metrics"].items() if k.startswith(f"{key}/EDSR"))
            assert row[key] == pytest.approx(value, abs=1e-5)
    data = SamplePairs(2)
    data.setup("validate")
    expected = []
    for k in range(2):
        photo = data.val.pair(k, 2)
        with torch.no_grad():
            sr = first(to_unit(photo.lr)[None])
        expected.append(image_metrics(sr, to_unit(photo.hr)[None], 2)["psnr"].item())
    assert rows[1]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert Image.open("outputs/interpolate/c/curve.png").width > 800
    again = cli("interpolate", f"checkpoints=[{enhancer},{mdsr}]")
    assert again.code == 2
    assert "_target_: networks.edsr.EDSR and networks.mdsr.MDSR" in again.err
    assert "at least 2 items" in cli("interpolate", f"checkpoints=[{enhancer}]").err
    alone = cli("interpolate", f"checkpoints={enhancer}").err
    assert alone.strip() == f"error: checkpoints={enhancer}: should be a valid list"


def tone_net() -> Curves:
    """Return a network that is not the identity."""
    net = Curves()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edsr", "mdsr", "srcnn", "can", "curves"])
def test_export_to_onnx_computes_the_same_at_any_size(
    cli: Cli, enhancer: Path, mdsr: Path, tmp_path: Path, kind: str
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    path, words = {"edsr": (enhancer, []), "mdsr": (mdsr, ["scale=3"])}.get(kind, (None, []))
    if path is None:
        made = {"srcnn": lambda: SRCNN(3), "can": lambda: CAN(2, num_layers=4), "curves": tone_net}
        net: torch.nn.Module = made[kind]()
        name = type(net).__name__
        spec: dict[str, Any] = {"_target_": f"networks.{kind}.{name}", "scale": net.scale}
        spec |= {"num_layers": 4} if kind == "can" else {}
        path = tmp_path / "net.safetensors"
        save_safetensors(path, net, Record(kind="enhancer", net=spec, data="", gamma=0.0))
    done = cli("export", f"checkpoint={path}", "format=onnx", "output=net.onnx", *words)
    assert done.code == 0, done.err
    net, _ = load_network(path)
    session = runtime.InferenceSession("net.onnx")
    for size in ((2, 3, 20, 40), (1, 3, 33, 9), (1, 3, 300, 260)):
        lr = torch.rand(size)
        with torch.no_grad():
            expected = net(lr, 3) if kind == "mdsr" else net(lr)
        (found,) = session.run(["sr"], {"lr": lr.numpy()})
        assert found.shape == tuple(expected.shape)
        assert np.abs(found - expected.numpy()).max() < 1e-4
    again = cli("export", f"checkpoint={path}", "format=onnx", "output=net.onnx", *words)
    assert "exists: overwrite=true" in again.err
    assert "must end in .onnx" in cli(
        "export", f"checkpoint={path}", "format=onnx", "output=net.pt", *words
    ).err  # fmt: skip


@pytest.mark.slow
def test_evaluate_takes_a_list_of_one(cli: Cli, scorer_file: Path) -> None:
    words = ["data=sample_rated", "data.limit=8", "probe_photos=1", "name=one"]
    assert cli("evaluate", f"checkpoint=[{scorer_file}]", *words).code == 0


def test_a_wrong_scorer_leaves_no_folder_behind(cli: Cli, enhancer: Path) -> None:
    done = cli("evaluate", f"checkpoint={enhancer}", f"scorer.checkpoint={enhancer}", "name=x")
    assert done.code == 2
    assert "one of kind scorer is needed" in done.err
    assert not Path("outputs").exists()

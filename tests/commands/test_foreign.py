"""Networks of others in every command: trained here, or read from a checkpoint of the community."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("spandrel", reason="spandrel is not installed")

from spandrel import ModelLoader
from spandrel.architectures.SPAN import SPAN

from images.pixels import to_array, to_tensor
from lightning_modules.checkpoint import load_network
from tests.conftest import TINY, Cli

WORDS = [word for word in TINY if not word.startswith("net.")]
SPAN_WORDS = ["net=spandrel", "net.arch=SPAN", "net.options={feature_channels:8}"]
SWINIR = ["net=spandrel", "net.arch=SwinIR", "net.options={embed_dim:8,depths:[2],num_heads:[2]}"]


@pytest.fixture
def community(folder: Path) -> tuple[str, SPAN]:
    """A checkpoint as training codes write it, and its network."""
    torch.manual_seed(0)
    net = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).eval()
    for parameter in net.upsampler.parameters():
        parameter.data *= 0.02  # else results are black and white
    net.upsampler[0].bias.data.fill_(0.5)
    torch.save({"params": {}, "params_ema": net.state_dict()}, "2x_span.pth")
    return "2x_span.pth", net


def photo(width: int, height: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return to_tensor(pixels)


def expected(net: torch.nn.Module, lr: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        sr = net(lr[None].float() / 255)[0]
    return np.asarray(to_array((sr * 255).round().clamp(0, 255).to(torch.uint8)))


def test_enhance_gives_what_the_model_gives(cli: Cli, community: tuple[str, SPAN]) -> None:
    path, net = community
    whole = expected(net, photo(40, 30))
    assert len(np.unique(whole)) > 50
    for tile in ("auto", "24"):
        done = cli(
            "enhance", "input=photo.png", f"checkpoint={path}", f"output={tile}", f"tile={tile}"
        )
        assert done.code == 0, done.err
        assert "SPAN x2 of 2x_span.pth" in done.out
        found = np.asarray(Image.open(f"{tile}/photo_x2.png"))
        assert np.abs(found.astype(int) - whole).max() <= (0 if tile == "auto" else 1)
    refused = cli("enhance", "input=photo.png", f"checkpoint={path}", "output=b", "scale=4")
    assert refused.code == 2
    assert "2x_span.pth: scale=4: this SPAN is for x2" in refused.err


def test_evaluate_names_scale_and_file(cli: Cli, community: tuple[str, SPAN]) -> None:
    path, _ = community
    words = ["data.limit=1", "scorer.checkpoint=null", "judge.checkpoint=null"]
    done = cli("evaluate", f"checkpoint={path}", *words)
    assert done.code == 0, done.err
    assert "SPAN x2 (2x_span.pth)" in done.out
    (result,) = Path("outputs").rglob("result.json")
    first = json.loads(result.read_text())["config_hash"]
    assert "already" not in done.out
    state = torch.load(path)
    state["params_ema"]["conv_cat.bias"][0] += 0.1  # the content of the file is its identity
    torch.save(state, path)
    refused = cli("evaluate", f"checkpoint={path}", *words)
    assert refused.code == 2
    assert "checkpoint" in refused.err
    assert json.loads(result.read_text())["config_hash"] == first


@pytest.mark.slow
def test_a_network_of_spandrel_goes_through_every_command(
    cli: Cli, community: tuple[str, SPAN]
) -> None:
    words = [*WORDS, "gamma=0", *SPAN_WORDS]
    done = cli(*words, "name=a", "callbacks=enhancement_ema")
    assert done.code == 0, done.err
    run = "outputs/sample_edsr/a"
    more = cli(*words, "name=a", "callbacks=enhancement_ema", "resume=true", "epochs=3")
    assert more.code == 0, more.err
    net, record = load_network(f"{run}/checkpoints/best.ckpt")
    assert record.label == "SPAN gamma=0"
    lr = photo(20, 15)
    for format in ("safetensors", "pth"):
        output = f"output=out.{format}"
        done = cli("export", f"checkpoint={run}", output, f"format={format}")
        assert done.code == 0, done.err
        theirs = ModelLoader().load_from_file(f"out.{format}")
        assert theirs.architecture.id == "SPAN"
        ours, _ = load_network(f"out.{format}")
        assert np.array_equal(expected(theirs.model.eval(), lr), expected(ours, lr))
    assert np.array_equal(expected(net, lr), expected(theirs.model, lr))  # float32, the latter
    curve = cli("interpolate", f"checkpoints=[{run},{run}]", "steps=2", "data.limit=1",
                "scorer.checkpoint=null", "judge.checkpoint=null")  # fmt: skip
    assert curve.code == 0, curve.err
    wrong = cli(*words, "name=b", f"init_from={community[0]}", "net.options={feature_channels:16}")
    assert wrong.code == 2
    assert "the file holds net.arch=SPAN scale=2 net.options={'feature_channels': 8" in wrong.err


@pytest.mark.slow
def test_a_sweep_over_architectures(cli: Cli) -> None:
    words = [*WORDS, "gamma=0", "net=spandrel", "epochs=1", "data.num_steps=1", "data.limit=1"]
    words += ["net.options={embed_dim:8}", "hydra/launcher=basic"]
    refused = cli("-m", *words, "net.arch=SwinIR,SPANN")
    assert refused.code == 2
    assert "arch=SPANN: no such architecture; did you mean SPAN?" in refused.err
    small = [word for word in words if not word.startswith("net.options")]
    done = cli("-m", *small, "net.arch=SAFMN,SeemoRe", "data.patch_size=8")
    assert done.code == 0, done.err
    assert len(list(Path("outputs/sweeps").rglob("result.json"))) == 2


@pytest.mark.slow
def test_attention_trains(cli: Cli) -> None:
    done = cli(*WORDS, "gamma=0", *SWINIR, "name=a", "epochs=1")
    assert done.code == 0, done.err
    assert load_network("outputs/sample_edsr/a/checkpoints/best.ckpt")[1].class_name == "SwinIR"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["net.arch=SWIN"], "arch=SWIN: no such architecture; did you mean SwinIR?"),
        (["net.options={feature_chanels:8}"], "no such option; did you mean feature_channels?"),
        (["net.arch=ESRGAN", "net.options={num_blocks:1,num_filters:8}", "scale=3"], "for x2"),
        (["net.arch=SwinIR", "net.options={embed_dim:13}"], "options={'embed_dim': 13}: "),
    ],
)
def test_what_is_refused_before_training(cli: Cli, words: list[str], reason: str) -> None:
    done = cli(*WORDS, "gamma=0", "net=spandrel", *words)
    assert done.code == 2
    assert reason in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not Path("outputs").exists()

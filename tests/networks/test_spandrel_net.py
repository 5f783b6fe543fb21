"""spandrel's architectures as networks of ours, compared with spandrel's own models."""

import inspect
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("spandrel", reason="spandrel is not installed")

import importlib

from spandrel import MAIN_REGISTRY, ModelLoader
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR

from lightning_modules.building import build_network
from lightning_modules.checkpoint import load_network
from lightning_modules.init_from import start_from
from networks.can import CAN
from networks.curves import Curves
from networks.edsr import EDSR
from networks.mdsr import MDSR
from networks.reach import measure_reach, reach_of
from networks.spandrel_net import ARCHITECTURES, SpandrelNet, arguments_of, load_class, recognise
from networks.srcnn import SRCNN
from networks.tiling import restore
from networks.weights import State

CPU = torch.device("cpu")
SCALE_WORDS = {"scale", "upscale", "up_scale", "upscaling_factor", "upscale_factor"}
SPAN_OPTIONS = {"feature_channels": 8}
SWINIR_OPTIONS = {"embed_dim": 8, "depths": [2], "num_heads": [2]}
SMALL: dict[
    str, dict[str, Any]
] = {  # options of a network that is built and computed in a fraction of a second
    "SPAN": SPAN_OPTIONS,
    "SwinIR": SWINIR_OPTIONS,
    "Compact": {"num_feat": 8, "num_conv": 2},
    "RealPLKSR": {"dim": 8, "n_blocks": 1},
    "RCAN": {"n_resgroups": 1, "n_resblocks": 1, "n_feats": 16},
    "ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "DRCT": {"embed_dim": 12, "depths": [6], "num_heads": [2], "gc": 4},
    "SAFMN": {"dim": 8, "n_blocks": 1},
    "UpCunet2x": {},
}


def small(arch: str, scale: int = 2) -> SpandrelNet:
    torch.manual_seed(0)
    return SpandrelNet(arch, scale, options=SMALL[arch]).eval()


def community_span(scale: int = 4, channels: int = 3) -> SPAN:
    torch.manual_seed(0)
    net = SPAN(num_in_ch=channels, num_out_ch=channels, feature_channels=8, upscale=scale)
    return net.eval()


@pytest.mark.parametrize("arch", SMALL)
def test_results_are_those_of_spandrel(arch: str) -> None:
    net = small(arch)
    lr = torch.rand(1, 3, 19, 22)
    given = lr.clone()
    with torch.inference_mode():
        sr = net(lr)
    assert torch.equal(lr, given)
    assert sr.shape == (1, 3, 38, 44)
    # The weights by our names open in spandrel, and back.
    state = {name: value.clone() for name, value in net.state_dict().items()}
    theirs = ModelLoader().load_from_state_dict(dict(state))
    assert torch.equal(theirs(given.clone()), sr.clamp(0, 1))
    found = recognise({name.removeprefix("module."): value for name, value in state.items()})
    with torch.inference_mode():
        assert torch.equal(found.eval()(lr), sr)
    spec = {"_target_": "networks.spandrel_net.SpandrelNet", **found.arguments}
    rebuilt = build_network(spec, state=state)
    rebuilt.load_state_dict(state)
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(lr), sr)


def test_the_table_is_complete() -> None:
    """All of spandrel's classes that take a scale, but four, are in the table with their word."""
    takes = set()
    for support in MAIN_REGISTRY:
        module = importlib.import_module(f"spandrel.architectures.{support.architecture.id}")
        for name in module.__all__:
            found = getattr(module, name)
            if issubclass(found, nn.Module) and SCALE_WORDS & set(
                inspect.signature(found).parameters
            ):
                takes.add(name)
    sized = {name for name, arch in ARCHITECTURES.items() if arch.scale}
    assert takes - sized == {"IPT", "MMRealSR", "SAFMNBCIE"}
    assert not sized - takes
    for name in ARCHITECTURES:
        assert set(arguments_of(name, 2)) <= set(inspect.signature(load_class(name)).parameters)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"arch": "SWIN"}, "arch=SWIN: no such architecture; did you mean SwinIR"),
        ({"arch": "xyz"}, "no such architecture; there are ATD, CRAFT"),
        ({"arch": "GFPGAN"}, "no such architecture"),
        ({"options": {"feature_chanels": 8}}, "no such option; did you mean feature_channels"),
        ({"options": {"feature_channels": 10**6}}, "at most 1024"),
        ({"arch": "SwinIR", "options": {"embed_dim": 13}}, "SwinIR scale=2 options=.*: ."),
        ({"scale": 5}, "scale=5: .* has the scales 1, 2, 3 and 4"),
        ({"arch": "ESRGAN", "scale": 3, "options": SMALL["ESRGAN"]}, "this ESRGAN is for x2"),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        SpandrelNet(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_without_spandrel_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save(community_span().state_dict(), tmp_path / "span.pth")
    torch.save(EDSR(2, num_blocks=1, num_features=8).state_dict(), tmp_path / "edsr.pt")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    command = r"pip install 'neural-image-enhancement\[spandrel\]'"
    with pytest.raises(ValueError, match=command):
        SpandrelNet("SPAN")
    with pytest.raises(ValueError, match=f"span.pth: .*{command}"):
        load_network(tmp_path / "span.pth")
    assert load_network(tmp_path / "edsr.pt")


# Files without a record


@pytest.mark.parametrize("wrapper", [None, "params_ema", "params", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_community_checkpoints(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    theirs = community_span()
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    other = {"params": SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8).state_dict()}
    content: dict[Any, Any] = {
        **(other if wrapper == "params_ema" else {}),
        wrapper: state,
        "iter": 5,
    }
    torch.save(content if wrapper else state, tmp_path / "4x.pth")
    net, record = load_network(tmp_path / "4x.pth", "enhancer")
    lr = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        assert torch.equal(net(lr), theirs(lr))
    assert record.label == "SPAN x4 (4x.pth)"
    assert record.net["options"] == {"feature_channels": 8, "norm": True}


def test_refused_files(tmp_path: Path) -> None:
    from spandrel.architectures.DnCNN import DnCNN

    wrong = dict(community_span().state_dict())
    wrong["block_3.c1_r.sk.weight"] = torch.zeros(3, 3)
    far = {f"body.{k}.weight": torch.zeros(8, 3, 3, 3) for k in (0, 1, 10**7)}
    far["body.10000000.bias"] = torch.zeros(12)
    cases: dict[str, tuple[State, str]] = {
        "denoiser": (DnCNN(in_nc=3, out_nc=3).state_dict(), "holds a DnCNN"),
        "gray": (community_span(channels=1).state_dict(), "SPAN for x4, 1 to 1 channels"),
        "x8": (community_span(8).state_dict(), "holds a SPAN for x8"),
        "wrong": (wrong, "looks like SPAN, but does not fit it: .*block_3.c1_r.sk.weight"),
        "far": (far, "has more parts than weights"),
        "odd": ({"x.weight": torch.zeros(3)}, "neither the weights of one of our networks nor"),
    }
    for name, (state, reason) in cases.items():
        torch.save({"params": state}, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=f"{name}.pth: .*{reason}") as caught:
            load_network(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


def test_a_file_with_code_is_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"params": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="more than plain data"):
        load_network(tmp_path / "code.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "net",
    [
        EDSR(1, num_blocks=3, num_features=8),
        EDSR(3, num_blocks=1, num_features=8),
        EDSR(4, num_blocks=1, num_features=256, res_scale=0.1),
        MDSR((2, 3, 4), num_blocks=1, num_features=8),
        MDSR((4, 1), num_blocks=1, num_features=8),
        SRCNN(2, kernel_sizes=(9, 1, 5), num_features=(8, 4)),
        CAN(2, num_layers=12, num_features=4),
        CAN(2, num_layers=5, num_features=4, normalize=False),
        Curves(num_knots=5, num_bins=3, num_features=2),
    ],
    ids=lambda net: type(net).__name__,
)
def test_bare_weights_of_our_own_networks(tmp_path: Path, net: nn.Module) -> None:
    from safetensors.torch import save_file

    torch.save({"params": net.state_dict()}, tmp_path / "bare.pt")
    save_file(net.state_dict(), tmp_path / "bare.safetensors")  # which sorts them
    needs_scale = isinstance(net, SRCNN | CAN)
    for file in ("bare.pt", "bare.safetensors"):
        if needs_scale:
            with pytest.raises(ValueError, match="suit any scale: give scale="):
                load_network(tmp_path / file)
        found, _ = load_network(tmp_path / file, scale=2 if needs_scale else None)
        assert type(found) is type(net)
        lr = torch.rand(1, 3, 8, 9)
        inputs = [(lr, scale) for scale in net.scales] if isinstance(net, MDSR) else [(lr,)]
        with torch.inference_mode():
            for given in inputs:
                assert torch.equal(found(*given), net.eval()(*given))


def test_init_from_a_community_checkpoint(tmp_path: Path) -> None:
    theirs = community_span(2)
    torch.save({"params_ema": theirs.state_dict()}, tmp_path / "a.pth")
    net = SpandrelNet("SPAN", options={**SPAN_OPTIONS, "norm": True})
    start_from(net, str(tmp_path / "a.pth"))
    lr = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        assert torch.equal(net.eval()(lr), theirs(lr))
    with pytest.raises(ValueError, match=r"the file holds net.arch=SPAN scale=2 net.options=\{"):
        start_from(small("Compact"), str(tmp_path / "a.pth"))


# How far they see


class Sums(nn.Module):
    """Sums over a square, of which the reach is known; and over all, if asked."""

    def __init__(self, kernel: int, share: float = 0.0) -> None:
        super().__init__()
        self.scale = 2
        self.blur = nn.AvgPool2d(kernel, 1, kernel // 2)
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.blur(x) + self.share * x.mean((2, 3), keepdim=True)
        return near.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("kernel", [1, 3, 61])
def test_the_measured_reach(kernel: int) -> None:
    found = measure_reach(Sums(kernel))
    assert (found.margin, found.exact) == (kernel // 2, True)
    assert not measure_reach(Sums(kernel, 0.1)).exact


def test_the_measured_reach_of_networks_that_declare_one() -> None:
    net = EDSR(2, num_blocks=2, num_features=8)
    net.add_mean.bias.zero_()
    declared = net.margin
    found = measure_reach(net)
    assert found.exact
    assert declared - 2 <= found.margin <= declared


@pytest.mark.parametrize("arch", ["SPAN", "SwinIR"])
def test_tiles_of_what_sees_a_part_are_exact(arch: str) -> None:
    net = small(arch)
    assert reach_of(net).exact
    lr = torch.randint(0, 256, (3, 70, 83), dtype=torch.uint8)
    whole, tiled = (restore(net, lr, device=CPU, tile=tile) for tile in (None, 32))
    difference = (whole.int() - tiled.int()).abs()
    assert difference.max() <= 1  # sums in another order
    assert (difference > 0).float().mean() < 1e-3


def test_what_sees_all_says_how_much_tiles_differ(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    net = Sums(3, 0.5)
    lr = torch.randint(0, 256, (3, 20, 70), dtype=torch.uint8)
    lr[:, :, :30] = 0
    for _ in range(2):
        restore(net, lr, device=CPU, tile=35)
    (line,) = caplog.messages  # once
    # Margins of 32 pixels: the tiles are columns 0 to 66 and 3 to 69.
    means = (lr.double()[:, :, start:stop].mean((1, 2)) for start, stop in ((0, 67), (3, 70)))
    first, second = means
    expected = 0.5 * (first - second).abs()
    assert "tiles are not exact: Sums sees farther than their overlap of 32 pixels" in line
    assert f"{expected.mean().item():.2g} of 255" in line
    assert f"at most {expected.max().item():.2g}" in line


def test_merged_convolutions_compute_the_same() -> None:
    net = small("SPAN")
    lr = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(net.merged()(lr), net(lr), atol=1e-6)


def test_swinir_as_spandrel_builds_it() -> None:
    torch.manual_seed(0)
    net = SwinIR(
        embed_dim=8, depths=[2], num_heads=[2], window_size=8, upscale=2, upsampler="pixelshuffle"
    )
    found = recognise(dict(net.state_dict()))
    assert found.arguments == {"arch": "SwinIR", "scale": 2, "options": SWINIR_OPTIONS}
    assert found.step == 8

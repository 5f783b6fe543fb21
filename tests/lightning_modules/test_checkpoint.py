import base64
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from lightning_modules.building import build_network
from lightning_modules.checkpoint import (
    checksum,
    load_network,
    load_scorer,
    read_checkpoint,
    save_safetensors,
)
from lightning_modules.metrics import rating_metrics
from lightning_modules.record import Record
from networks.edsr import EDSR
from networks.nima import NIMA
from networks.weights import load_weights
from tests.conftest import SAMPLE_SCORER

SPEC = {"_target_": "networks.edsr.EDSR", "scale": 2, "num_blocks": 1, "num_features": 4}
RAW: dict[str, Any] = {"kind": "enhancer", "net": SPEC, "data": "test", "gamma": 0.0}
RECORD = Record(**RAW)


@pytest.fixture
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(2, num_blocks=1, num_features=4)


def test_safetensors_round_trip_in_half_precision(tmp_path: Path, net: EDSR) -> None:
    path = tmp_path / "a.safetensors"
    save_safetensors(path, net, RECORD)
    loaded, record = load_network(path, kind="enhancer")
    assert record.sha256
    assert replace(record, sha256=None) == RECORD
    assert not loaded.training
    for name, value in net.state_dict().items():
        other = loaded.state_dict()[name]
        assert other.dtype == torch.float32
        assert torch.equal(other, value.half().float())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_bare_weights_load_as_the_authors_files(tmp_path: Path, net: EDSR) -> None:
    path = tmp_path / "edsr.pt"
    torch.save(net.state_dict(), path)
    state, record = read_checkpoint(path)
    assert record is None
    load_weights(EDSR(2, num_blocks=1, num_features=4), state, path)
    found, record = load_network(path)
    assert record.label == "EDSR x2 (edsr.pt)"
    lr = torch.rand(1, 3, 8, 8)
    assert torch.equal(found(lr), net.eval()(lr))
    with pytest.raises(ValueError, match="bare weights"):
        load_network(path, "scorer")


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.nn.Linear", "networks.nima.URLError", "networks.edsr.absent", "networks"],
)
def test_only_networks_are_built(target: str) -> None:
    with pytest.raises(ValueError, match=target):
        build_network({"_target_": target})


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "record": Evil()}, path)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_damaged_files_are_named(tmp_path: Path, net: EDSR, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_safetensors(path, net, RECORD) if suffix != ".ckpt" else torch.save({"a": 1}, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="no such checkpoint"):
        read_checkpoint(tmp_path / f"b{suffix}")


@pytest.mark.parametrize(
    "content",
    [
        {"foo": 1},
        {"state_dict": 5},
        {1: torch.zeros(1)},
        {"state_dict": {}, "record": "text"},
        {"state_dict": {}, "record": {"kind": "enhancer"}},
        {"state_dict": {}, "record": {**RAW, "net": {**SPEC, "scale": 7}}},
        {"state_dict": {}, "record": {**RAW, "net": {**SPEC, "num_blocks": "x"}}},
        [1],
    ],
)
def test_files_of_other_content_are_named(tmp_path: Path, content: Any) -> None:  # noqa: ANN401
    path = tmp_path / "odd.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"odd\.ckpt"):
        load_network(path)


def test_loading_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: 1 / 0)
    spec = {"_target_": "networks.nima.NIMA", "backbone": "mnasnet_0_5", "pretrained": "imagenet"}
    assert build_network(spec)


def test_wrong_weights_are_listed(net: EDSR) -> None:
    state = net.state_dict()
    state["extra"] = state.pop("tail.1.bias")
    with pytest.raises(ValueError, match=r"tail.1.bias is missing; extra is unknown"):
        load_weights(net, state, "file")
    other = EDSR(2, num_blocks=1, num_features=8).state_dict()
    with pytest.raises(ValueError, match=r"is \(8, 3, 3, 3\), not \(4, 3, 3, 3\).* more"):
        load_weights(net, other, "file")


def test_wrong_kind_is_refused(tmp_path: Path, net: EDSR) -> None:
    save_safetensors(tmp_path / "a.safetensors", net, RECORD)
    with pytest.raises(ValueError, match="kind enhancer; one of kind scorer is needed"):
        load_scorer(tmp_path / "a.safetensors")


def test_header_without_record_is_bare(tmp_path: Path, net: EDSR) -> None:
    save_file(net.state_dict(), tmp_path / "a.safetensors", metadata={"other": json.dumps({})})
    assert read_checkpoint(tmp_path / "a.safetensors")[1] is None


@pytest.mark.slow
def test_shipped_scorer_beats_the_constant_predictor() -> None:
    from datamodules.sample import SampleRated

    assert SAMPLE_SCORER.stat().st_size < 3_000_000
    scorer, record = load_network(SAMPLE_SCORER, kind="scorer")
    assert isinstance(scorer, NIMA)
    assert not scorer.training
    assert "SYNTHETIC" in record.data
    data = SampleRated()
    data.setup()
    with torch.no_grad():
        p = torch.cat([scorer(b.to_unit().images_BCHW) for b in data.val_dataloader()])
    constant = data.train.p_NK.mean(dim=0, keepdim=True).expand_as(p)
    emd = rating_metrics(p, data.val.p_NK)["emd"].item()
    assert emd < 0.6 * rating_metrics(constant, data.val.p_NK)["emd"].item()
    assert emd == pytest.approx(record.metrics["val/emd"], abs=1e-3)


@pytest.fixture
def scorer_path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "scorer.safetensors"
    net = {"_target_": "networks.nima.NIMA"}
    record = Record(kind="scorer", net=net, data="nothing", gamma=None)
    save_safetensors(path, NIMA("mnasnet_0_5", resize=64, crop=64, num_buckets=5), record)
    return path


def test_a_scorers_file_says_what_it_sees(scorer_path: Path) -> None:
    scorer, record = load_network(scorer_path, kind="scorer")
    assert isinstance(scorer, NIMA)
    assert record.net == {
        "_target_": "networks.nima.NIMA",
        "backbone": "mnasnet_0_5",
        "num_buckets": 5,
        "dropout": 0.75,
        "resize_rule": "squash",
        "resize_filter": "bilinear",
        "resize": 64,
        "crop": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert record.self_test is not None
    assert record.self_test.score == pytest.approx(scorer.score(stored(record)), abs=1e-6)


def stored(record: Record) -> torch.Tensor:
    assert record.self_test is not None
    png = io.BytesIO(base64.b64decode(record.self_test.image))
    pixels = np.array(Image.open(png).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def test_one_changed_bit_is_noticed(scorer_path: Path) -> None:
    whole = scorer_path.read_bytes()
    scorer_path.write_bytes(whole[:-1001] + bytes([whole[-1001] ^ 1]) + whole[-1000:])
    with pytest.raises(ValueError, match=r"scorer\.safetensors: its checksum is wrong"):
        load_scorer(scorer_path)
    scorer_path.write_bytes(whole.replace(b"squash", b"native", 1))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        load_scorer(scorer_path)


def test_a_scorer_that_sees_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, interpolate = NIMA.prepare, torch.nn.functional.interpolate

    def no_antialias(*args: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        return interpolate(*args, **options | {"antialias": False})

    load_scorer(SAMPLE_SCORER)
    for target, change in (
        ("networks.nima.NIMA.prepare", lambda self, x: prepare(self, x.flip(1))),  # BGR
        ("networks.nima.F.interpolate", no_antialias),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, change)
            with pytest.raises(
                ValueError, match=r"rates its test image \d.*, but \d.* when it was"
            ):
                load_scorer(SAMPLE_SCORER)


def test_records_without_checksum_or_test_image_are_refused(tmp_path: Path) -> None:
    net = NIMA("mnasnet_0_5")
    spec = {"_target_": "networks.nima.NIMA", **net.arguments}
    record: dict[str, Any] = {"kind": "scorer", "net": spec, "data": "", "gamma": None}
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": state, "record": record}, path)
    with pytest.raises(ValueError, match="checksum"):
        load_scorer(path)
    record["sha256"] = checksum(record, net.state_dict())
    torch.save({"state_dict": state, "record": record}, path)
    with pytest.raises(ValueError, match="contains no test image"):
        load_scorer(path)


class Unannotated(nn.Module):
    """A network of the user's, whose arguments have no types."""

    def __init__(self, scale=2, width=4, **rest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN204
        super().__init__()
        self.scale, self.width = scale, width


def test_arguments_without_annotations_may_be_anything() -> None:
    spec = {"_target_": f"{__name__}.Unannotated", "scale": 3, "width": [1, "a"], "more": None}
    net = build_network(spec, trusted=[__name__])
    assert isinstance(net, Unannotated)
    assert (net.scale, net.width) == (3, [1, "a"])

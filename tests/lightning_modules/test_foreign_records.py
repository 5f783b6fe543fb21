"""Checkpoints that somebody else made: wrong records are refused in one line, whatever is wrong."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lightning_modules.checkpoint import checksum, load_network, save_safetensors
from lightning_modules.record import MAX_VALUES, Record, as_json
from networks.edsr import EDSR
from networks.nima import NIMA
from networks.tensor_files import load_plain, read_safetensors
from tests.conftest import SAMPLE_SCORER, Cli

Raw = dict[str, Any]

SPEC = {"_target_": "networks.edsr.EDSR", "scale": 2, "num_blocks": 1, "num_features": 4}
RAW: Raw = {"kind": "enhancer", "net": SPEC, "data": "test", "gamma": 0.0}
CONFIG = {"data": {"_target_": "x.Y", "degradation": {"blur": 1.5, "noise": 0.0, "jpeg": None}}}


def deep(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def net(**changes: Any) -> Raw:  # noqa: ANN401
    return {"net": {**SPEC, **changes}}


WRONG: dict[str, Any] = {
    "kind a list": {"kind": ["enhancer"]},
    "kind unknown": {"kind": "painter\nTraceback"},
    "kind a number": {"kind": 3},
    "kind missing": {"kind": None},
    "a scorer that is none": {"kind": "scorer", "gamma": None},
    "gamma text": {"gamma": "0.4"},
    "gamma a list": {"gamma": [0.4]},
    "gamma missing": {"gamma": None},
    "gamma not finite": {"gamma": float("nan")},
    "gamma below zero": {"gamma": -1},
    "gamma a truth value": {"gamma": True},
    "data a list": {"data": ["photos"]},
    "config text": {"config": "text"},
    "config a list": {"config": [1]},
    "config.data text": {"config": {"data": "text"}},
    "config.data a number": {"config": {"data": 5}},
    "config degradation text": {"config": {"data": {"degradation": "blur"}}},
    "config degradation a list": {"config": {"data": {"degradation": [1, 2]}}},
    "config blur text": {"config": {"data": {"degradation": {"blur": "much"}}}},
    "degradation text": {"degradation": "blur"},
    "degradation a list": {"degradation": [1]},
    "degradation unknown": {"degradation": {"fog": 1}},
    "degradation of lists": {"degradation": {"blur": [[1]]}},
    "metrics a list": {"metrics": [1]},
    "metrics of text": {"metrics": {"val/psnr": "high"}},
    "epoch text": {"epoch": "last"},
    "epoch a fraction": {"epoch": 1.5},
    "version text": {"version": "one"},
    "version of tomorrow": {"version": 99},
    "an unknown field": {"code": "import os"},
    "self-test a number": {"self_test": 5},
    "net text": {"net": "EDSR"},
    "net a list": {"net": ["networks.edsr.EDSR"]},
    "net without class": {"net": {"scale": 2}},
    "class a number": net(_target_=5),
    "class without module": net(_target_="EDSR"),
    "class with a line break": net(_target_="networks.edsr.EDSR\n"),
    "class of relative module": net(_target_="networks..edsr.EDSR"),
    "class of another package": net(_target_="torch.nn.Linear"),
    "class that is absent": net(_target_="networks.edsr.absent"),
    "a part of a network": {
        "net": {"_target_": "networks.edsr.ResidualBlock", "num_features": 4}
    },
    "a network around a network": {"net": {"_target_": "networks.scales.AtScale", "net": SPEC}},
    "scale text": net(scale="2"),
    "scale a truth value": net(scale=True),
    "scale a fraction": net(scale=2.0),
    "scale none": net(scale=None),
    "another scale": net(scale=10**9),
    "blocks text": net(num_blocks="one"),
    "blocks a list": net(num_blocks=[1]),
    "blocks below zero": net(num_blocks=-1),
    "100 million blocks": net(num_blocks=10**8),
    "100 million features": net(num_features=10**8),
    "features beyond 64 bits": net(num_features=10**30),
    "residuals scaled by text": net(res_scale="x"),
    "residuals scaled by a dict": net(res_scale={"a": 1}),
    "unknown argument": net(colour="red"),
    "another network": {
        "net": {"_target_": "networks.can.CAN", "num_layers": 10**8}
    },
    "kernels of a kilometre": {
        "net": {"_target_": "networks.srcnn.SRCNN", "kernel_sizes": [10**6 + 1, 5, 5]}
    },
    "a wide scorer": {"net": {"_target_": "networks.nima.NIMA", "num_buckets": 10**9}},
    "deep": {"config": {"data": {"x": deep(200)}}},
}  # fmt: skip


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return EDSR(2, num_blocks=1, num_features=4).state_dict()


def write(path: Path, raw: Any, state: dict[str, torch.Tensor]) -> Path:  # noqa: ANN401
    """Writes a checkpoint with the checksum that belongs to it, however wrong its record is."""
    sealed = {**raw, "sha256": checksum(raw, state)}
    if path.suffix == ".ckpt":
        weights = {f"net.{name}": value for name, value in state.items()}
        torch.save({"state_dict": weights, "record": sealed}, path)
    else:
        save_file(state, path, metadata={"record": json.dumps(sealed)})
    return path


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_files_written_this_way_are_read(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}", {**RAW, "config": CONFIG}, state)
    loaded, record = load_network(path)
    assert record.version == 1  # of version 0.1, which did not say it
    assert record.trained_degradation == {"blur": 1.5, "noise": 0.0, "jpeg": None}
    again = tmp_path / "b.safetensors"
    save_safetensors(again, loaded, record)
    assert load_network(again)[1].net == SPEC


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_records_are_refused_in_one_line(
    tmp_path: Path, state: dict[str, torch.Tensor], wrong: str, suffix: str
) -> None:
    path = write(tmp_path / f"odd{suffix}", {**RAW, **WRONG[wrong]}, state)
    with pytest.raises(ValueError, match=rf"^{path}: ") as refused:
        load_network(path)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    assert "checksum" not in message


COMMANDS = {
    "evaluate": ["data.limit=1"],
    "export": ["output=out.safetensors"],
    "enhance": ["input=photo.png"],
}
SHOWN = (
    *("kind a list", "gamma text", "config text", "config degradation a list", "degradation text"),
    *("scale text", "residuals scaled by text", "100 million blocks", "deep", "net text"),
    "a scorer that is none",
)


@pytest.mark.parametrize("wrong", SHOWN)
def test_commands_refuse_wrong_records(
    cli: Cli, folder: Path, state: dict[str, torch.Tensor], wrong: str
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save("photo.png")
    write(folder / "odd.ckpt", {**RAW, **WRONG[wrong]}, state)
    for command, words in COMMANDS.items():
        done = cli(command, "checkpoint=odd.ckpt", *words)
        assert done.code == 2, done.err
        lines = done.err.strip().splitlines()
        assert len(lines) == 1, done.err
        assert lines[0].startswith("error: odd.ckpt: ")
    assert not (folder / "outputs").exists()


def test_data_of_a_foreign_record_are_checked(
    cli: Cli, folder: Path, state: dict[str, torch.Tensor]
) -> None:
    for limit in ("x", [1], -5, {"a": 1}):
        data = {"_target_": "datamodules.sample.SamplePairs", "limit": limit, "colour\n": "red"}
        write(folder / "odd.ckpt", {**RAW, "config": {"data": data}}, state)
        done = cli("evaluate", "checkpoint=odd.ckpt")
        assert done.code == 2, done.err
        assert len(done.err.strip().splitlines()) == 1, done.err
        assert "Traceback" not in done.err


def test_data_of_a_foreign_record_need_no_scale(
    cli: Cli, folder: Path, state: dict[str, torch.Tensor]
) -> None:
    words = ["scorer.checkpoint=null", "judge.checkpoint=null", "pictures=0"]
    data: Raw = {"_target_": "datamodules.sample.SamplePairs", "limit": 1}
    write(folder / "~a=1.ckpt", {**RAW, "config": {"data": data}}, state)
    done = cli("evaluate", "checkpoint=[~a=1.ckpt,~a=1.ckpt]", *words)
    assert done.code == 0, done.err
    assert "no such file" in cli("evaluate", "checkpoint=~absent/b.ckpt", *words).err
    data["degradation"] = {"blur": 1.5}
    write(folder / "odd.ckpt", {**RAW, "config": {"data": data}}, state)
    done = cli("evaluate", "checkpoint=odd.ckpt", *words)
    assert "data.degradation: settings without _target_ are not a Degradation" in done.err
    data["limit"] = "${oc.env:HOME}"
    write(folder / "odd.ckpt", {**RAW, "config": {"data": data}}, state)
    done = cli("evaluate", "checkpoint=odd.ckpt", *words)
    reason = "its data set cannot be built: data.limit is not a plain value"
    assert done.err == f"error: odd.ckpt: {reason}\n"


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"resize": 10**6, "crop": 10**6}, "at most 4096"),
        ({"crop": "wide"}, "crop: Input should be a valid integer"),
        ({"mean": "grey"}, "mean: "),
        ({"dropout": 7}, "dropout"),
        ({"backbone": "torch"}, "backbone=torch"),
        ({"resize_rule": ["squash"]}, "resize_rule: "),
    ],
)
def test_scorers_with_wrong_arguments_are_refused(tmp_path: Path, view: Raw, reason: str) -> None:
    scorer = NIMA("mnasnet_0_5", resize=64, crop=64)
    net = {"_target_": "networks.nima.NIMA", **scorer.arguments, **view}
    raw = {"kind": "scorer", "net": net, "data": "", "gamma": None}
    path = write(tmp_path / "a.safetensors", raw, scorer.state_dict())
    with pytest.raises(ValueError, match=f"^{path}: .*{reason}"):
        load_network(path)


@pytest.mark.parametrize("test", [{"image": "x", "score": 5.0}, {"image": "", "score": 1.0}, None])
def test_a_scorer_needs_a_self_test(tmp_path: Path, test: Raw | None) -> None:
    scorer = NIMA("mnasnet_0_5", resize=64, crop=64)
    net = {"_target_": "networks.nima.NIMA", **scorer.arguments}
    raw = {"kind": "scorer", "net": net, "data": "", "gamma": None, "self_test": test}
    path = write(tmp_path / "a.safetensors", raw, scorer.state_dict())
    with pytest.raises(ValueError, match="contains no test image"):
        load_network(path)


def test_a_record_of_200_000_brackets_is_refused(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(state, path, metadata={"record": "[" * 200_000 + "]" * 200_000})
    with pytest.raises(ValueError, match=f"^{path}: its header is damaged"):
        load_network(path)
    nested = tmp_path / "a.ckpt"
    weights = {f"net.{name}": value for name, value in state.items()}
    torch.save({"state_dict": weights, "record": {**RAW, "config": {"x": deep(300)}}}, nested)
    with pytest.raises(ValueError, match=r"a\.ckpt: its record is damaged: nested too deeply"):
        load_network(nested)


def test_references_that_stand_for_gigabytes_of_text_are_refused() -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(30):
        laughs = [laughs] * 10
    loop: Raw = {}
    loop["loop"] = loop
    for raw in (laughs, loop, {"a": "x" * 10**7}, list(range(MAX_VALUES + 1))):
        with pytest.raises(ValueError, match=r"here: its record is damaged: (nested|more than)"):
            as_json(raw, "here")


def huge_tensors() -> dict[str, Any]:
    coo = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), [1.0], (10**6, 10**6))
    return {
        "expanded": torch.zeros(1).expand(1 << 40),
        "sparse": coo,
        "meta": torch.zeros(1 << 40, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.qint8),
        "complex": torch.zeros(4, dtype=torch.complex64),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("kind", ["expanded", "sparse", "meta", "quantized", "complex"])
def test_tensors_that_stand_for_gigabytes_are_refused(
    tmp_path: Path, kind: str, bare: bool, legacy: bool
) -> None:
    path = tmp_path / "a.ckpt"
    held = {"net.tail.1.bias": huge_tensors()[kind]}
    content = held if bare else {"state_dict": held, "record": RAW}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.ckpt: .*(plain|declares|cannot be read)"):
        load_network(path)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_archives_that_are_compressed_or_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    assert load_plain(path)["w"].shape == (1 << 20,)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def packed(changed: dict[str, bytes], method: int) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in (parts | changed).items():
                archive.writestr(name, content)

    packed({}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_plain(path)
    packed({}, zipfile.ZIP_STORED)
    load_plain(path)
    key = next(name for name in parts if name.endswith("data/0"))
    packed({key: b"\0" * 64}, zipfile.ZIP_STORED)  # tensors longer than what is stored
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_plain(path)


def test_old_files_that_lie_about_their_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(4)}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue())
    assert load_plain(path)["w"].shape == (4,)
    whole = path.read_bytes()
    at = whole.find(b"K\x04N")  # the number of values
    path.write_bytes(whole[:at] + b"\x8a\x05" + (1 << 34).to_bytes(5, "little") + whole[at + 2 :])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_plain(path)


def test_headers_that_lie_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "a.safetensors"
    for header in (
        b"{}",
        b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b"[" * 1000,
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
        with pytest.raises(ValueError, match=f"^{path}: not a safetensors file"):
            read_safetensors(path)
    for length in (10**9, 2**63):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(ValueError, match="its header claims"):
            read_safetensors(path)


def test_text_of_foreign_files_cannot_steer_the_terminal(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    raw = {**RAW, "data": "photos\x1b[2J\nerror: done"}
    _, record = load_network(write(tmp_path / "a.safetensors", raw, state))
    assert record.data == "photos\\x1b[2J\\nerror: done"
    state["\x1b[2J\n"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"\\x1b\[2J\\n is unknown"):
        load_network(write(tmp_path / "b.safetensors", RAW, state))


def test_records_of_version_0_1_are_read() -> None:
    _, record = load_network(SAMPLE_SCORER)
    assert record.version == 1
    assert record.kind == "scorer"
    assert "version" in Record(**RAW).plain()

"""Checkpoints that cannot run code: plain data in, networks out.

A Lightning checkpoint carries, beside Lightning's own entries, a plain dict under `record` that
says how to build the network again and where it comes from; a safetensors file carries the same
dict as JSON in its header. Both are read without unpickling objects, and only classes under
`networks.` are ever built from them.
"""

import base64
import copy
import hashlib
import importlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import PIL.Image
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.images import current_umask, to_tensor, to_unit
from networks.nima import NIMA
from networks.weights import check_state, load_plain, load_weights

Record = dict[str, Any]
# Of the self-test's score: other machines and versions of PyTorch stay below a tenth of it, another
# way of resizing or normalising moves scores by more.
TOLERANCE = 0.01
BOMB = PIL.Image.DecompressionBombError
PREFIX = "net."  # of the network's parameters in a Lightning state dict


class WriteRecord(Callback):
    """Puts the record, with the metrics of that moment, into every checkpoint.

    Args:
        record: plain data: `kind` (`enhancer` or `scorer`), `net` (class and arguments), `data`
            (what it was trained on), `gamma` (of enhancers), `config` (the whole resolved
            configuration) and `config_hash`.
        earlier: seconds that the run took before it was interrupted.
    """

    def __init__(self, record: Record, earlier: float = 0.0) -> None:
        self.record = record
        self.began = time.monotonic() - earlier

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends a training that cannot be saved any more."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not loss.isfinite():
            raise ValueError(
                f"train/loss is {loss.item()} in epoch {trainer.current_epoch + 1}: a lower "
                "optim.optimizer.lr or trainer.gradient_clip_val=1 may help"
            )

    def elapsed(self) -> float:
        """Seconds of the run so far, over all interruptions."""
        return time.monotonic() - self.began

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning calls this while it collects a checkpoint."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        record = {
            **self.record,
            "metrics": metrics,
            "epoch": trainer.current_epoch,
            "wall_time_s": self.elapsed(),
        }
        state = {
            name.removeprefix(PREFIX): value
            for name, value in checkpoint["state_dict"].items()  # of the average, if there is one
            if name.startswith(PREFIX)
        }
        checkpoint["record"] = sealed(record, pl_module.net, state)  # type: ignore[arg-type]


def sealed(record: Record, network: nn.Module, state: dict[str, Tensor]) -> Record:
    """The record with what proves the file whole: a checksum, and of scorers a self-test.

    Args:
        record: see `WriteRecord`.
        network: of the class that the record names; left as it is.
        state: its weights, as they are written.
    """
    record = {name: value for name, value in record.items() if name not in ("self_test", "sha256")}
    if isinstance(network, NIMA):
        written = copy.deepcopy(network).cpu().float().eval()
        written.load_state_dict({name: to_float(value.cpu()) for name, value in state.items()})
        record["net"] = {"_target_": "networks.nima.NIMA", **written.arguments}
        image = self_test_image()
        record["self_test"] = {"image": image, "score": rate_png(written, image)}
    return {**record, "sha256": checksum(record, state)}


def checksum(record: Record, state: dict[str, Tensor]) -> str:
    """SHA-256 of the record, but for the checksum itself, and of all weights."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def self_test_image() -> str:
    """A picture with slopes, edges and ever finer rings, as PNG in Base64 (some 35 kB).

    It is larger than what scorers see, and its rings alias, so that another way of resizing shows.
    """
    y, x = np.mgrid[0:320, 0:440].astype(np.float64)
    radius2 = (x - 140) ** 2 + (y - 160) ** 2
    rings = np.where(radius2 < 130**2, 127.5 + 127.5 * np.cos(np.pi * radius2 / 400), 128)
    squares = 255 * ((x // 20 + y // 20) % 2)
    picture = np.stack([rings, np.roll(rings, 150, axis=1), squares], axis=2)
    picture[:60] = np.stack([x[:60], 440 - x[:60], 7 * y[:60]], axis=2) * (255 / 440)
    levels = np.rint(picture / 85) * 85  # few grey levels compress well
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels.astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def rate_png(scorer: NIMA, image: str) -> float:
    """Mean score of a PNG in Base64, through the scorer's whole path."""
    with PIL.Image.open(io.BytesIO(base64.b64decode(image)), formats=["PNG"]) as file:
        pixels = np.array(file.convert("RGB"))
    return scorer.score(to_unit(to_tensor(pixels))[None]).item()


def build_network(spec: dict[str, Any]) -> nn.Module:
    """Builds a network from `_target_` (a class under `networks.`) and its arguments.

    Raises:
        ValueError: if the target is anything else: a checkpoint must not be able to run code.
    """
    # The weights come from the checkpoint: nothing is to be downloaded on the way.
    unused = ("_target_", "pretrained")
    arguments = {name: value for name, value in spec.items() if name not in unused}
    target = str(spec.get("_target_"))
    module_name, _, class_name = target.rpartition(".")
    if not module_name.startswith("networks."):
        raise ValueError(f"the checkpoint asks for {target}; only networks.* are built")
    try:
        network_class = getattr(importlib.import_module(module_name), class_name)
        if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
            raise AttributeError("not a network")
        return network_class(**arguments)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint's network {target} cannot be built: {error}") from error


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], Record | None]:
    """Reads the network's weights and the record of a .ckpt, .pt or .safetensors file.

    Returns:
        The network's state dict (float32) and the record; None for bare weights.

    Raises:
        ValueError: if the file is missing or is no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    if path.suffix.lower() == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                header = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
        try:
            record = json.loads(header["record"]) if "record" in header else None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: its header is damaged ({error})") from error
        checked(record, state, path)
        return {name: to_float(value) for name, value in state.items()}, record
    loaded = load_plain(path)
    if "state_dict" not in loaded:  # bare weights, such as the authors' .pt files
        check_state(loaded, path)
        return {name: to_float(value) for name, value in loaded.items()}, None
    check_state(loaded["state_dict"], path)
    state = {
        name.removeprefix(PREFIX): value
        for name, value in loaded["state_dict"].items()
        if name.startswith(PREFIX)
    }
    checked(loaded.get("record"), state, path)
    return state, loaded.get("record")


def checked(record: Any, state: dict[str, Tensor], path: Path) -> None:  # noqa: ANN401
    """Refuses a record, if there is one, that is not of these weights."""
    if record is None:
        return
    keys = {"kind", "net", "data", "gamma"}
    if not isinstance(record, dict) or not keys <= record.keys() or type(record["net"]) is not dict:
        raise ValueError(f"{path}: its record is damaged")
    try:
        whole = record.get("sha256") == checksum(record, state)
    except TypeError as error:  # what is no plain data
        raise ValueError(f"{path}: its record is damaged") from error
    if not whole:
        raise ValueError(f"{path}: its checksum is wrong: the file was damaged or changed")


def to_float(value: Tensor) -> Tensor:
    """Half precision to float32; counters stay integers."""
    return value.float() if value.is_floating_point() else value


def load_network(path: str | Path, kind: str | None = None) -> tuple[nn.Module, Record]:
    """Builds the network of a checkpoint and loads its weights, in eval mode, on the CPU.

    Args:
        path: a .ckpt of this project, or a .safetensors file.
        kind: `enhancer` or `scorer` if it must be one; else whatever it is.

    Raises:
        ValueError: if the file is damaged, carries no record or is of another kind.
    """
    state, record = read_checkpoint(path)
    if record is None:
        raise ValueError(f"{path}: bare weights; this needs a checkpoint that says its network")
    if kind is not None and record["kind"] != kind:
        raise ValueError(
            f"{path}: a checkpoint of kind {record['kind']}; needed is a checkpoint of kind {kind}"
        )
    try:
        network = build_network(record["net"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_weights(network, state, path)
    network.eval()
    if isinstance(network, NIMA):
        test_itself(network, record.get("self_test"), path)
    return network, record


def test_itself(scorer: NIMA, test: Any, path: str | Path) -> None:  # noqa: ANN401
    """Refuses a scorer that rates its own test image otherwise than when it was written."""
    try:
        score, before = rate_png(scorer, test["image"]), float(test["score"])
    except (TypeError, KeyError, ValueError, OSError, SyntaxError, RuntimeError, BOMB) as error:
        raise ValueError(f"{path}: carries no image to test itself with") from error
    if not abs(score - before) < TOLERANCE:
        raise ValueError(
            f"{path}: rates its test image {score:.4f}, but {before:.4f} when it was written: this "
            "version of the code or of PyTorch computes something else"
        )


def load_scorer(path: str | Path) -> NIMA:
    """Loads a scorer: `load_scorer("file.ckpt").score("photo.jpg")` is a mean score.

    Raises:
        ValueError: as `load_network`.
    """
    network, _ = load_network(path, kind="scorer")
    assert isinstance(network, NIMA)
    return network


def save_safetensors(
    path: Path, network: nn.Module, record: Record, *, dtype: torch.dtype = torch.float16
) -> None:
    """Writes a network with its record, in half precision; the file is whole or absent.

    Args:
        path: a .safetensors file; replaced if it exists.
        network: what is written.
        record: see `WriteRecord`.
        dtype: of the weights in the file.
    """
    state = {
        name: value.detach().to(dtype).contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    record = sealed(record, network, state)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(state, temporary, metadata={"record": json.dumps(record)})
        temporary.chmod(0o666 & ~current_umask())  # safetensors leaves files private
        os.replace(temporary, path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def trained_degradation(record: Record) -> dict[str, Any] | None:
    """What the LR photos went through beside the shrinking: `blur`, `noise`, `jpeg`.

    None where the record does not say it.
    """
    if "degradation" in record:  # of an exported file, which has no configuration
        return record["degradation"]  # type: ignore[no-any-return]
    found = record.get("config", {}).get("data", {}).get("degradation")
    return {name: found[name] for name in ("blur", "noise", "jpeg")} if found else None


def dependence(scorer: Record, judge: Record) -> list[str]:
    """One line where a judge has something in common with the scorer, whose faults it may share."""
    shared = ["backbone"] * (scorer["net"]["backbone"] == judge["net"]["backbone"])
    shared += ["ratings"] * (scorer["data"] == judge["data"])
    return [f"the judge is not independent: it shares {' and '.join(shared)}"] if shared else []

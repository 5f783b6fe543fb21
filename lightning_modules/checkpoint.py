"""Checkpoints that cannot run code: plain data in, networks out.

A Lightning checkpoint carries, beside Lightning's own entries, a plain dict under `record` that
says how to build the network again and where it comes from; a safetensors file carries the same
dict as JSON in its header. Both are read without unpickling objects, and only classes under
`networks.` are ever built from them.
"""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.images import current_umask
from networks.nima import NIMA

Record = dict[str, Any]
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
        checkpoint["record"] = {
            **self.record,
            "metrics": metrics,
            "epoch": trainer.current_epoch,
            "wall_time_s": self.elapsed(),
        }


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
        return {name: to_float(value) for name, value in state.items()}, checked(record, path)
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
    return state, checked(loaded.get("record"), path)


def check_state(state: Any, path: Path) -> None:  # noqa: ANN401
    """Raises a ValueError unless these are tensors by name."""
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: neither a checkpoint of this project nor bare weights")


def checked(record: Any, path: Path) -> Record | None:  # noqa: ANN401
    """The record if it says what every record says, or None if there is none."""
    if record is None:
        return None
    keys = {"kind", "net", "data", "gamma"}
    if not isinstance(record, dict) or not keys <= record.keys() or type(record["net"]) is not dict:
        raise ValueError(f"{path}: its record is damaged")
    return record


def load_plain(path: str | Path) -> dict[str, Any]:
    """Loads a PyTorch file that holds only plain data, on the CPU.

    Raises:
        ValueError: if it is damaged, or holds objects that could run code.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds, with texts that mislead
        reason = "it is damaged, no PyTorch file, or holds more than plain data"
        raise ValueError(f"{path}: cannot be read as a checkpoint: {reason}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, not a checkpoint")
    return loaded


def to_float(value: Tensor) -> Tensor:
    """Half precision to float32; counters stay integers."""
    return value.float() if value.is_floating_point() else value


def load_weights(network: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Loads weights strictly, key for key.

    Raises:
        ValueError: naming the first few keys that are missing, unknown or of another shape.
    """
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source}: not the weights of this {type(network).__name__}: "
            + "; ".join(problems[:3])
            + more
        )
    network.load_state_dict(state)


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
        raise ValueError(f"{path}: a checkpoint of kind {record['kind']}; this needs a {kind}")
    try:
        network = build_network(record["net"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_weights(network, state, path)
    return network.eval(), record


def load_scorer(path: str | Path) -> NIMA:
    """Loads a scorer.

    Raises:
        ValueError: as `load_network`.
    """
    network, _ = load_network(path, kind="scorer")
    assert isinstance(network, NIMA)
    return network


def save_safetensors(path: Path, network: nn.Module, record: Record) -> None:
    """Writes a network in half precision with its record; the file is whole or absent."""
    state = {
        name: value.detach().half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
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

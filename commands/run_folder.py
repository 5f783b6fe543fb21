"""Run folders: their names, what makes two runs the same, and what to do with a folder found.

A folder's name is made from the overrides, without timestamps, so that the same command finds its
own folder again. Then `run.json` in it tells whether that run is finished, half finished, or was
made by other settings, other code or other input files.
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from commands.code_identity import changed_code
from datamodules.images import file_sha256
from datamodules.regular_files import read_regular
from lightning_modules.json_files import write_json

ROOT = Path(__file__).resolve().parent.parent

# Where a run goes and what it runs on: part of neither its name nor its hash.
NOT_SETTINGS = {
    *("experiment", "sweep", "paths", "hydra", "logger", "output", "device", "name"),
    *("resume", "overwrite", "stale", "data.num_workers", "trainer.devices", "trainer.num_nodes"),
    *("trainer.accelerator", "trainer.strategy", "trainer.deterministic", "trainer.plugins"),
    *("data.store", "data.on_device", "trusted"),
}
NOT_IN_NAME = NOT_SETTINGS | {"trainer"}  # the choice of a trainer is one of devices
NOT_IN_HASH = NOT_SETTINGS | {
    "trainer.max_epochs",  # the same as `epochs`
    *("trainer.log_every_n_steps", "trainer.num_sanity_val_steps", "trainer.enable_model_summary"),
    *("callbacks.progress", "callbacks.epoch_line", "callbacks.before_after", "callbacks.pictures"),
    *("callbacks.watch", "callbacks.photo_table", "model.grad_ratio_every"),
    *("model.trusted", "model.loss.scorer.trusted"),
    # Of runs of version 0.1, which could set what is fixed now.
    *("callbacks.checkpoint.enable_version_counter", "callbacks.checkpoint.filename"),
    "callbacks.checkpoint.save_last",
    # Where the data lie; their fingerprint counts instead.
    *("data.root", "data.images", "data.ratings", "data.train_list", "data.val_list"),
    "data.test_list",
    *("data.train_hr", "data.val_hr", "data.train_lr", "data.val_lr"),
}

# What a run writes, and a new run in its place replaces; run.json goes last.
FILES = ("result.json", "metrics.csv", "progress.json", "run.json")
FOLDERS = ("checkpoints", "images", "wandb", "tensorboard")
# Files that a run was writing when it was killed.
ABANDONED = ("checkpoints/.*.part", "**/.*.json.*", "**/.part-*", ".metrics.csv")
BEST = Path("checkpoints") / "best.ckpt"  # of a run folder: its weights at the best epoch

ANEW = "without its folder, or by overwrite=true, it starts anew"

MAX_JSON = 8 * 2**20  # bytes of a JSON file in a run folder; run.json has 20 kB
MAX_NAME = 120  # characters of a folder name
FIRST = ("gamma", "net", "scale", "scorer", "seed")  # in names that are cut: what is often swept
VERSIONED = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")


def not_read(config: DictConfig) -> set[str]:
    """Keys of a training's configuration that it does not read, as its other keys are."""
    keys = set()
    if "scales" in (config.get("net") or {}):  # has its own
        keys.add("scale")
    if config.get("gamma") == 0:  # no scorer in the loss
        keys |= {"model.loss.mode", "model.loss.warmup"}
        if not scores_always(config):
            keys |= {"scorer", "model.loss.scorer"}
    else:
        keys.add("model.loss.score_always")  # it does anyway
    return keys


def scores_always(config: DictConfig) -> bool:
    """Whether the scorer rates validation photos at gamma 0, too."""
    model = config.get("model") or {}
    return bool((model.get("loss") or {}).get("score_always"))


def within(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def run_name(
    task: Iterable[str],
    *,
    sweep: bool = False,
    unread: Iterable[str] = (),
    counted: Iterable[str] = (),
) -> str:
    """Folder name of a run: `gamma-0.1_net-edsr`, or `default` without overrides.

    Sorted, and in a name that has to be cut what is often swept comes first; numbers normalised
    (`.1` and `1e-1` are `0.1`); a path becomes its stem and six digits of its hash. Where the run
    goes and what it runs on do not count. Nor do `epochs` in a single run: they say how far it has
    gone, so that `resume=true epochs=40` finds it; in a sweep they do. `name=...` is taken as it
    is.

    Args:
        task: the overrides, as typed.
        sweep: whether this is a job of a sweep.
        unread: keys that the run does not read, which do not count either: jobs that differ in
            nothing else are one.
        counted: keys that count here and otherwise do not.
    """
    given = {override.key_or_group: override for override in parse_task(task)}
    if "name" in given and given["name"].value() is not None:
        return given["name"].get_value_element_as_str().strip("'\"")
    ignored = NOT_IN_NAME if sweep else NOT_IN_NAME | {"epochs"}
    items: dict[str, str] = {}
    for key, override in given.items():
        left_out = key in ignored or key.split(".")[0] in NOT_SETTINGS or within(key, unread)
        if left_out and key not in counted:
            continue
        value = "deleted" if override.is_delete() else override.get_value_element_as_str()
        items[key] = f"{key}-{name_value(value)}"
    name = "_".join(sorted(items.values())) or "default"
    if len(name) > MAX_NAME:
        start = "_".join(items[key] for key in sorted(items, key=lambda k: (k not in FIRST, k)))
        name = f"{start[: MAX_NAME - 9]}-{digest(name)[:8]}"
    return name


def parse_task(task: Iterable[str]) -> list[Override]:
    """Overrides as Hydra parses them."""
    return OverridesParser.create().parse_overrides([str(text) for text in task])


def name_value(value: str) -> str:
    """An override's value as part of a folder name."""
    is_text = value[:1] in ("'", '"')  # 007 is another file than 7
    value = value.strip("'\"")
    if re.fullmatch(r"[+-]?\d+", value) and not is_text:
        return str(int(value))
    try:
        number = float(value)
        if math.isfinite(number) and not is_text:
            return f"{number:.12g}"
    except ValueError:
        pass
    if "/" in value or re.fullmatch(r".*\.(ckpt|safetensors|pt)", value):
        stem = re.sub(r"[^\w.+-]+", "-", Path(value).stem)
        return f"{stem}-{digest(value)[:6]}"
    return re.sub(r"[^\w.+,-]+", "-", value)


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def current() -> Path:
    """This run's folder, relative to the working directory where it lies below it."""
    return shorter(HydraConfig.get().runtime.output_dir)


def shorter(path: str | Path) -> Path:
    """A path relative to the working directory where it lies below it.

    A model that ships is `weights/...` from everywhere.
    """
    path, here = Path(path), Path.cwd()
    if path.is_relative_to(ROOT / "weights"):
        return path.relative_to(ROOT)
    return path.relative_to(here) if path.is_relative_to(here) else path


def is_setting(key: str) -> bool:
    """Whether a dotted key can change a result."""
    return not within(key, NOT_IN_HASH)


class State(Enum):
    """What is to be done with a run folder."""

    NEW = "new"
    CONTINUE = "continue"
    FINISHED = "finished"


@dataclass
class Identity:
    """What makes two runs the same: settings, the content of input files, and code.

    Args:
        config: the resolved configuration that the run reads.
        files: input files by key; their content counts, not where they lie.
        code: SHA-256 of the Python files that the run depends on, see `code_files`.
        data: fingerprint of the data; None where the settings and the code say it all.
        derived: see `derived_keys`.
    """

    config: dict[str, Any]
    files: dict[str, str]
    code: dict[str, str]
    data: str | None = None
    derived: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = {
            key: file_sha256(Path(path).expanduser()) for key, path in self.files.items()
        }
        if self.data is not None:
            self.inputs["data"] = self.data
        hashed = flatten(self.config)
        paths = list(self.files.values())
        self.settings = {
            key: "(file)" if value in paths else value
            for key, value in hashed.items()
            if is_setting(key)
        }

    @property
    def config_hash(self) -> str:
        """SHA-256 of the settings and of the content of the input files."""
        return digest(json.dumps([self.settings, self.inputs], sort_keys=True))

    @property
    def code_hash(self) -> str:
        """SHA-256 of the code."""
        return digest(json.dumps(self.code, sort_keys=True))

    def changes(self, settings: dict[str, Any]) -> dict[str, str]:
        """Return `key=old (now new)` by key for each setting that differs from earlier ones.

        A setting that follows another one that differs is left out.
        """
        changed = [
            key
            for key in sorted(settings.keys() | self.settings.keys())
            if settings.get(key) != self.settings.get(key)
        ]
        return {
            key: f"{key}={settings.get(key)} (now {self.settings.get(key)})"
            for key in changed
            if not any(source in changed for source in self.sources(key))
        }

    def sources(self, key: str) -> list[str]:
        """Return the settings that a derived one is made from."""
        for parent, text in self.derived.items():
            if within(key, [parent]):
                rest = key.removeprefix(parent)
                return [f"{source}{rest}" for source in re.findall(r"\$\{([\w.]+)", text)]
        return []

    def record(self) -> dict[str, Any]:
        """What run.json and result.json keep of it."""
        return {
            "config": self.config,
            "config_hash": self.config_hash,
            "settings": self.settings,
            "inputs": self.inputs,
            "code_hash": self.code_hash,
            "code": self.code,
        }


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Leaves of nested dicts by dotted name; lists are leaves."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def derived_keys(cfg: DictConfig) -> dict[str, str]:
    """Return the keys that are made from others, and how: `{"net.scale": "${scale}"}`."""
    config = flatten(OmegaConf.to_container(cfg, resolve=False))
    return {key: text for key, text in config.items() if isinstance(text, str) and "${" in text}


def decide(folder: Path, identity: Identity, *, resume: bool, overwrite: bool, stale: str) -> State:
    """What to do with a run folder; reads only, so every rank comes to the same answer.

    Raises:
        ValueError: if the folder holds a run that this command must not touch.
    """
    if overwrite:
        return State.NEW
    record = read_json(folder / "run.json")
    if record is None:
        if resume:
            raise ValueError(
                f"resume=true: there is no run in {folder}; resume=true name=... resumes the run "
                "of that name with the options it was started with"
            )
        held = [name for name in (*FILES, *FOLDERS) if (folder / name).exists()]
        if held:
            raise ValueError(
                f"{folder} is no run, but holds {', '.join(held)}; overwrite=true removes them"
            )
        return State.NEW
    kinds = {"settings": dict, "inputs": dict, "code_hash": str, "run_id": str}
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{folder / 'run.json'} is damaged; {ANEW}")
    settings = {key: value for key, value in record["settings"].items() if is_setting(key)}
    changes = identity.changes(settings)
    extends = list(changes) == ["epochs"] and identity.settings["epochs"] > settings["epochs"]
    if changes and not (extends and resume):
        shown = ", ".join(list(changes.values())[:8])
        if len(changes) > 8:
            shown += f" and {len(changes) - 8} more"
        choice = "resume=true trains on to the new number; " if extends else ""
        raise ValueError(
            f"{folder} holds a run with {shown}; {choice}overwrite=true starts anew; "
            "name=... or paths.output_dir=... keeps both"
        )
    outdated = [
        "the data" if key == "data" else f"the file {key}"
        for key, value in identity.inputs.items()
        if record["inputs"].get(key) != value
    ]
    if record["code_hash"] != identity.code_hash:
        outdated.append(changed_code(record.get("code"), identity.code))
    if outdated and stale == "refuse":
        raise ValueError(
            f"{folder} holds a run, but {' and '.join(outdated)} changed since; "
            "stale=rerun does it again, stale=accept takes it as it is"
        )
    if outdated and stale == "rerun":
        return State.NEW
    if "metrics" in (read_json(folder / "result.json") or {}) and not extends:
        return State.FINISHED
    return State.CONTINUE


def start(folder: Path, state: State, identity: Identity, cfg: DictConfig) -> None:
    """Marks a folder as holding this run: clears what is to be replaced, writes run.json, .hydra/.

    Only rank 0 may call it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state is State.NEW:
        for name in FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    for pattern in ABANDONED:
        for part in folder.glob(pattern):
            part.unlink()
    (folder / "result.json").unlink(missing_ok=True)
    earlier = read_json(folder / "run.json") or {"run_id": uuid.uuid4().hex[:12]}
    # W&B knows the runs of its own sweeps by the IDs that it gives to its agents.
    agents = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    about = {"run_id": agents or earlier["run_id"], **provenance(cfg)}
    write_json(folder / "run.json", {**about, **identity.record()})
    hydra = folder / ".hydra"
    hydra.mkdir(exist_ok=True)
    OmegaConf.save(cfg, hydra / "config.yaml")
    OmegaConf.save(HydraConfig.instance().cfg, hydra / "hydra.yaml")
    part = hydra / ".overrides.yaml.part"  # other ranks may read the file
    OmegaConf.save(HydraConfig.get().overrides.task, part)
    os.replace(part, hydra / "overrides.yaml")


def provenance(cfg: DictConfig) -> dict[str, Any]:
    """The command, the options that were chosen and are read, and the sweep if it is a job of one.

    Returns:
        `command`; `choices`: an option by group, such as `net: edsr`; `sweep`: its name, or None.
    """
    hydra = HydraConfig.get()
    left_out = {"hydra", "paths", "logger", "debug", *not_read(cfg)}
    choices = {
        group: option
        for group, option in sorted(hydra.runtime.choices.items())
        if option not in (None, "null") and group.split("/")[0] not in left_out
    }
    if "scorer" in choices and cfg.scorer.checkpoint is not None:
        choices["scorer"] = str(cfg.scorer.backbone)  # the file's, whichever option was chosen
    sweep = Path(hydra.sweep.dir).absolute()
    is_job = Path(hydra.runtime.output_dir).parent == sweep
    return {
        "command": hydra.job.config_name,
        "choices": choices,
        "sweep": sweep.name if is_job else None,
    }


def trained_scorer(folder: Path, backbone: str) -> str:
    """The best checkpoint of the scorer with a backbone that a sweep has trained.

    Of several, such as those of several seeds, the one of the lowest `val/emd`.

    Args:
        folder: of the sweep.
        backbone: of the scorer.

    Raises:
        ValueError: if there is none.
    """
    found = []
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path) or {}
        config = result.get("config", {})
        is_scorer = str(config.get("model", {}).get("_target_")).endswith(".NIMAModule")
        if is_scorer and config["scorer"]["backbone"] == backbone:
            emd = result["metrics"].get("val/emd")
            found.append((math.inf if emd is None else emd, path.parent))
    if not found:
        raise ValueError(
            f"no scorer with {backbone} in {folder}; "
            "python run.py sweep=backbone experiment=nima_mnasnet trains them"
        )
    return str(min(found)[1] / BEST)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder against a second process of the same run.

    Raises:
        ValueError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another process is running this") from error
        except OSError:
            pass  # a file system without locks
        yield


def finish(
    folder: Path,
    identity: Identity,
    metrics: dict[str, float],
    **more: Any,  # noqa: ANN401
) -> None:
    """Writes result.json, which is what says that a run is finished."""
    write_json(
        folder / "result.json",
        {
            "metrics": metrics,
            **more,
            **identity.record(),
            "git": git_state(),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED}
            | {"python": platform.python_version()},
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def git_state() -> dict[str, Any] | None:
    """Commit of the code and whether files differ from it; None outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "run.py")  # else it is the repository of a folder above
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's content, or None if there is no such file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        content = json.loads(read_regular(path, MAX_JSON))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {ANEW}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged; {ANEW}")
    return content

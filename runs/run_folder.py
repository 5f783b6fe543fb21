"""Decide what to do with a run folder, mark it as started, and lock it.

A folder's name is made from the overrides, without timestamps, so that the same command finds its
own folder again. Its `run.json` then shows whether that run is finished, interrupted, or was made
with other settings, code or input files.
"""

import json
import os
import shutil
import uuid
from enum import Enum
from pathlib import Path

from omegaconf import DictConfig

from configuration.model_kind import configured_kind
from runs.code_identity import changed_code
from runs.identity import Identity, not_read, settings_in
from runs.invocation import Invocation
from system.json_files import JsonObject, write_json
from system.regular_files import read_regular

# What a new run removes before it starts, run.json last; it overwrites the rest.
FILES = ("result.json", "metrics.csv", "progress.json", "run.json")
FOLDERS = ("checkpoints", "images", "wandb", "tensorboard")
# Files that a run was writing when it was killed.
WRITTEN = ("json", "png", "csv", "ckpt", "yaml")
ABANDONED = (*(f"**/.*.{suffix}.*" for suffix in WRITTEN), "**/.part-*", ".metrics.csv")
BEST = Path("checkpoints") / "best.ckpt"  # of a run folder: its weights at the best epoch

ANEW = "without its folder, or by overwrite=true, it starts anew"

MAX_JSON = 8 * 2**20  # bytes of a JSON file in a run folder; run.json has 20 kB


class State(Enum):
    """Action to take on a run folder."""

    NEW = "new"
    CONTINUE = "continue"
    FINISHED = "finished"


def decide(folder: Path, identity: Identity, *, resume: bool, overwrite: bool, stale: str) -> State:
    """Decide what to do with a run folder, without changing it: all ranks reach the same answer.

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
                f"{folder} is not a run, but has {', '.join(held)}; overwrite=true removes them"
            )
        return State.NEW
    kinds = {"settings": dict, "inputs": dict, "code_hash": str, "run_id": str}
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{folder / 'run.json'} is damaged; {ANEW}")
    settings = settings_in(record["settings"])
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
            "stale=rerun runs it again, stale=accept uses it as it is"
        )
    if outdated and stale == "rerun":
        return State.NEW
    if "metrics" in (read_json(folder / "result.json") or {}) and not extends:
        return State.FINISHED
    return State.CONTINUE


def start(invocation: Invocation, state: State, identity: Identity, cfg: DictConfig) -> None:
    """Mark a folder as holding this run: remove what it replaces, write run.json and .hydra/.

    Only rank 0 may call it.
    """
    folder = invocation.folder
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
    # In sweeps of its own, W&B assigns the run IDs.
    agents = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    about = {"run_id": agents or earlier["run_id"], **provenance(invocation, cfg)}
    write_json(folder / "run.json", {**about, **identity.record()})
    invocation.write(cfg)


def provenance(invocation: Invocation, cfg: DictConfig) -> JsonObject:
    """Describe where a run comes from: its command, the chosen options, and its sweep if any.

    Returns:
        `command`; `kind` of a training, `scorer` or `enhancer`; `choices`: an option by group, such
        as `net: edsr`; `sweep`: its name, or None.
    """
    left_out = {"hydra", "paths", "logger", "debug", *not_read(cfg)}
    choices = {
        group: option
        for group, option in invocation.choices.items()
        if group.split("/")[0] not in left_out
    }
    if "scorer" in choices and cfg.scorer.checkpoint is not None:
        choices["scorer"] = str(cfg.scorer.backbone)  # that of the file, not of the chosen option
    return {
        "command": invocation.command,
        **({"kind": configured_kind(cfg)} if "model" in cfg else {}),
        "choices": choices,
        "sweep": invocation.sweep,
    }


def read_json(path: Path) -> JsonObject | None:
    """Read a JSON file; return None if it does not exist.

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

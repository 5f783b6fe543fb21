"""Find the checkpoint that an interrupted run resumes from."""

import logging
from pathlib import Path
from typing import NamedTuple

from configuration.parsing import flatten
from lightning_modules.checkpoint_io import ends_an_epoch, read_whole
from lightning_modules.loggers import read_rows
from runs.identity import Identity, settings_in
from runs.run_folder import BEST, read_json
from system.json_files import JsonObject

log = logging.getLogger(__name__)


class ResumePoint(NamedTuple):
    """The checkpoint that an interrupted run resumes from.

    Attributes:
        path: the checkpoint.
        step: optimizer steps taken so far.
        seconds: training time so far.
    """

    path: Path
    step: int
    seconds: float


def last_checkpoint(folder: Path, identity: Identity) -> ResumePoint | None:
    """Find the checkpoint to resume from: the last one, or the best one if that is damaged.

    Returns:
        None if the run has not finished an epoch.

    Raises:
        ValueError: if there is no checkpoint to resume from, or it belongs to another run.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        # best.ckpt is written first, so a run killed in its first epoch may have that alone.
        in_first = (read_json(folder / "progress.json") or {}).get("epoch") == 1
        if any(last.parent.glob("*.ckpt")) and not in_first:
            raise ValueError(
                f"{last}: is missing, so the run cannot be resumed; overwrite=true trains again"
            )
        return None
    damage = []
    for path in (last, folder / BEST):
        try:
            loaded = read_whole(path)
            found = ResumePoint(path, loaded["global_step"], loaded["record"]["wall_time_s"])
            if not ends_an_epoch(loaded):
                raise ValueError(f"{path}: was saved within an epoch")
        except (ValueError, KeyError, TypeError) as error:
            is_ours = isinstance(error, ValueError)
            damage.append(str(error) if is_ours else f"{path}: its content is damaged")
            continue
        check_same_run(path, loaded["record"], identity)
        read_rows(folder / "metrics.csv", found.step)
        if damage:
            log.warning("%s; resuming after epoch %d", damage[0], loaded["record"]["epoch"] + 1)
        return found
    raise ValueError(f"{'; '.join(damage)}; overwrite=true trains again")


def check_same_run(path: Path, record: JsonObject, identity: Identity) -> None:
    """Raise a ValueError if a checkpoint belongs to a run with other settings."""
    theirs = settings_in(flatten(record["config"]))
    files = [key for key, value in identity.settings.items() if value == "(file)"]
    same = {key: identity.settings[key] for key in ("epochs", *files)}  # may differ
    changes = identity.changes(theirs | same)
    if changes:
        raise ValueError(
            f"{path}: is of another run: {', '.join(changes.values())}; put its own file "
            "back, or overwrite=true trains again"
        )

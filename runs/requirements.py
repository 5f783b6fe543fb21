"""Check the parts of a configuration that several commands share."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configuration.signatures import locate
from runs.run_folder import BEST
from system.places import expanded

# Keys at which a run folder stands for its best checkpoint.
CHECKPOINT_KEYS = (
    "checkpoint",
    "checkpoints",
    "scorer.checkpoint",
    "judge.checkpoint",
    "init_from",
)


def use_best(cfg: DictConfig) -> None:
    """Replace each run folder given as a checkpoint by the run's best checkpoint."""
    for key in CHECKPOINT_KEYS:
        try:
            value = OmegaConf.select(cfg, key)
        except OmegaConfBaseException:
            continue  # reported by the check of the configuration
        if isinstance(value, str) and best_of(value) != value:
            OmegaConf.update(cfg, key, best_of(value))
        elif isinstance(value, ListConfig):
            found = [best_of(item) if isinstance(item, str) else item for item in value]
            if found != list(value):
                OmegaConf.update(cfg, key, found)


def best_of(path: str) -> str:
    """Return the best checkpoint of a run folder, and any other path unchanged."""
    best = Path(path) / BEST
    return str(best) if os.path.isfile(expanded(best)) else path


def require_file(key: str, path: str | None) -> Iterator[str]:
    """Yield a problem if a path is given but is not a file."""
    found = expanded(path or ".")
    if path is None or os.path.isfile(found):  # which takes names that are too long
        return
    is_folder = os.path.isdir(found)
    try:
        (found / BEST if is_folder else found).stat()
    except PermissionError as error:
        yield f"{key}={path}: cannot be read ({error.strerror})"
        return
    except (OSError, ValueError):
        pass  # missing, in one way or another
    if not path:
        yield f"{key}=: is empty; a file is needed"
    elif not is_folder:
        yield f"{key}={path}: no such file"
    else:
        yield f"{key}={path}: is a folder without {BEST}; a file or a run folder is needed"


def require_folder(key: str, path: str) -> Iterator[str]:
    """Yield a problem unless a folder exists or can be created."""
    folder = expanded(path).absolute()
    while not os.path.exists(folder):  # Path.exists() raises below a folder of another user
        folder = folder.parent
    if not folder.is_dir():
        yield f"{key}={path}: {folder} is a file; a folder is needed"
    else:
        try:
            with tempfile.TemporaryDirectory(dir=folder):
                pass
        except OSError:
            yield f"{key}={path}: {folder} cannot be written to"


def require_kind(cfg: DictConfig, wanted: str) -> Iterator[str]:
    """Yield a problem unless the data set is of the wanted kind, `pairs` or `rated`."""
    target, _ = locate(cfg.data._target_)
    if target.kind != wanted:
        what = "LR/HR pairs" if wanted == "pairs" else "rated photos"
        yield f"data: {target.__name__} does not give {what}; data=sample_{wanted} does"


def check_name(cfg: DictConfig) -> Iterator[str]:
    """Yield a problem if `name` cannot be the name of a folder."""
    if cfg.name is not None and not re.fullmatch(r"[\w.+,-]*\w[\w.+,-]*", str(cfg.name)):
        yield f"name={cfg.name}: letters, digits and . _ + , - only; paths.output_dir= is a folder"


def check_output(cfg: DictConfig, *suffixes: str, key: str = "output") -> Iterator[str]:
    """Check the file that a command writes; null means none."""
    if cfg[key] is None:
        return
    path = expanded(cfg[key])
    if path.suffix not in suffixes:
        yield f"{key}={cfg[key]}: must end in {' or '.join(suffixes)}"
    if path.is_dir():
        yield f"{key}={cfg[key]}: is a folder"
    elif path.exists() and not cfg.overwrite:
        yield f"{key}={cfg[key]} exists: overwrite=true replaces it"
    else:
        yield from require_folder(key, str(path.parent))

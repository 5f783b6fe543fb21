"""Resume a run by name, with the options stored in its folder."""

from pathlib import Path

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from configuration.parsing import parse_task
from system.places import CONF, display_path, expanded

HYDRA = Path(".hydra") / "hydra.yaml"  # of a run folder: Hydra's own settings
STORED = Path(".hydra") / "overrides.yaml"  # of a run folder: its options as they were typed
# Options of one command, and the place where the run is found anyway.
NOT_KEPT = ("name", "resume", "overwrite", "stale", "paths.output_dir")


def with_stored_options(words: list[str]) -> list[str]:
    """Add the options of the run that `resume=true name=NAME` names, except those given again.

    Raises:
        ValueError: if several runs have this name, or its options cannot be read.
    """
    folder, given = named_run(words)
    if folder is None:
        return words
    stored = read_options(folder / STORED)
    left_out = {*given, *NOT_KEPT}
    return [
        *(
            word
            for word, override in zip(stored, parse_task(stored), strict=True)
            if override.key_or_group not in left_out
        ),
        *words,
    ]


def stored_config_dir(words: list[str]) -> str | None:
    """Return the folder of the user's own configuration that the named run was started with."""
    folder, _ = named_run(words)
    if folder is None:
        return None
    try:
        stored = yaml.safe_load((folder / HYDRA).read_text())
        sources = stored["hydra"]["runtime"]["config_sources"]
        found = [source["path"] for source in sources if source["provider"] == "command-line"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return str(found[0]) if found else None


def named_run(words: list[str]) -> tuple[Path | None, dict[str, Override]]:
    """Find the folder of the run that `resume=true name=NAME` names, and what was typed by key."""
    try:
        given = {override.key_or_group: override for override in parse_task(words)}
    except HydraException:
        return None, {}  # the check of the configuration says what is wrong
    name, resume = given.get("name"), given.get("resume")
    if name is None or resume is None or resume.value() is not True:
        return None, given
    place = given.get("paths.output_dir")
    output = OmegaConf.load(CONF / "paths" / "default.yaml").output_dir
    if place is not None:
        output = place.get_value_element_as_str().strip("'\"")
    experiment = given.get("experiment")
    folder = find_run(
        expanded(output),
        "*" if experiment is None else experiment.get_value_element_as_str(),
        name.get_value_element_as_str().strip("'\""),
    )
    return folder, given


def find_run(output: Path, experiment: str, name: str) -> Path | None:
    """Find the folder of a run; None if there is none.

    Raises:
        ValueError: if there are several, or it is a job of a sweep.
    """
    if "/" in name or name in ("", ".", ".."):
        return None  # refused with the other mistakes
    found = [path.parent for path in sorted(output.glob(f"{experiment}/*/run.json"))]
    found = [path for path in found if path.name == name]
    if len(found) > 1:
        folders = ", ".join(str(display_path(path)) for path in found)
        raise ValueError(f"name={name}: {folders}; experiment=... chooses one")
    jobs = [path.parent for path in sorted(output.glob("sweeps/*/*/run.json"))]
    jobs = [path for path in jobs if path.name == name]
    if jobs and not found:
        raise ValueError(
            f"name={name}: {display_path(jobs[0])} belongs to a sweep; resume it by the command "
            "of that sweep"
        )
    return found[0] if found else None


def read_options(path: Path) -> list[str]:
    """Read the options that a run was started with; none if they are not stored.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        stored = yaml.safe_load(path.read_text())
        if not isinstance(stored, list) or not all(isinstance(word, str) for word in stored):
            raise ValueError("not a list of options")
        parse_task(stored)
    except FileNotFoundError:
        return []
    except (ValueError, yaml.YAMLError, HydraException) as error:
        raise ValueError(f"{path}: is damaged; give all options of the run again") from error
    return stored

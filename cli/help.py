"""Format `--help`: the command's own file, with the values that would be used."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

import yaml
from omegaconf import DictConfig

from cli.composing import INNER_GROUPS, composed, option_values
from configuration.parsing import flatten, plain
from configuration.signatures import shown
from runs.identity import not_read
from runs.naming import within
from system.places import CONF, ROOT, display_path, expanded, program

PROJECT = "neural-image-enhancement"
CHOICE = re.compile(r"  - (?:override )?/?(?P<key>\w+): (?P<value>\S+)(?P<gap> *)(?P<comment>#.*)?")
ENTRY = re.compile(
    r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>[^#\s].*?))?(?P<gap> *)(?P<comment>#.*)?"
)

NOT_CHOSEN = re.compile(r"  - (paths: .*|hydra: .*|_self_)")  # lines that say nothing to users
COMMENT_COLUMN = 18  # where comments start
FOLDERS = ("weights", "data_dir", "store", "output_dir")  # those of conf/paths that users set


def effective(command: str, words: list[str], folder: str | None) -> list[str]:
    """Return the lines of a command's file, with the values of the composed configuration.

    Comments stay. For `train`, an experiment sets most values, and those that are not in the file
    follow below it.
    """
    text = (CONF / f"{command}.yaml").read_text().rstrip().replace("python run.py", program())
    cfg = composed(command, words, with_hydra=True)
    choices = dict(cfg.hydra.runtime.choices)
    values = plain(cfg, resolve=False)
    unread = not_read(cfg) if command == "train" else set()
    lines = []
    parents: list[str] = []
    for line in text.splitlines():
        if NOT_CHOSEN.fullmatch(line):
            continue
        found = CHOICE.fullmatch(line) or ENTRY.fullmatch(line)
        if found is None or found["key"] == "defaults":
            lines.append(line)
            continue
        value: object = choices.get(found["key"], found["value"])  # lists are not among these
        if "indent" in found.groupdict():
            parents = [*parents[: len(found["indent"]) // 2], found["key"]]
            value = values
            for key in parents:
                assert isinstance(value, dict)
                value = value[key]
        else:
            parents = []
        remark = "required: " if value == "???" else ""
        if ".".join(parents or [found["key"]]) in unread:
            remark = "no effect with these settings: "
        line = line.replace("# ", f"# {remark}", 1)
        found = CHOICE.fullmatch(line) or ENTRY.fullmatch(line)
        assert found is not None
        given = found["value"]
        if given is None or given == value or yaml.safe_load(given) == value:
            lines.append(line)
        else:
            lines.append(with_value(line, found, shown(value)))
    if lines[:-1] and "defaults:" in lines and not any(CHOICE.fullmatch(line) for line in lines):
        lines.remove("defaults:")
    if "experiment" in choices:
        lines += [
            "",
            f"Set by experiment={choices['experiment']} or the command line:",
            "",
        ]
        lines += [f"  {line}" for line in beside(choices, values, folder)]
    lines += ["", "Folders (paths.KEY=FOLDER):", "", *folders(cfg)]
    return lines


def folders(cfg: DictConfig) -> list[str]:
    """Return the lines of conf/paths/default.yaml that users may set."""
    text = (CONF / "paths" / "default.yaml").read_text()
    found = [ENTRY.fullmatch(line) for line in text.splitlines()]
    lines = []
    for entry in found:
        if entry is not None and entry["key"] in FOLDERS:
            value = cfg.paths[entry["key"]]
            start = f"{entry['key']}: {'null' if value is None else display_path(str(value))}"
            lines.append(f"{start:<{COMMENT_COLUMN - 2}}  {entry['comment'] or ''}".rstrip())
    return [f"  {line}" for line in lines]


def width() -> int:
    """Return the width of the terminal in characters, or 80 without a terminal."""
    return min(max(shutil.get_terminal_size().columns, 60), 120)


def fitted(lines: Sequence[str]) -> Iterator[str]:
    """Wrap lines of YAML to the width of the terminal, comments below comments."""
    for line in lines:
        start, mark, comment = line.partition("# ")
        if len(line) <= width():
            yield line
        elif not mark:
            yield from wrapped("", line, width(), "    ")
        elif len(start) <= width() // 2:
            yield from wrapped(f"{start}# ", comment, width(), f"{' ' * len(start)}# ")
        else:
            yield start.rstrip()
            column = f"{' ' * COMMENT_COLUMN}# "
            yield from wrapped(column, comment, width(), column)


def wrapped(first: str, text: str, width: int, others: str) -> list[str]:
    """Wrap a text into prefixed lines without breaking words."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def beside(
    choices: dict[str, object], values: dict[str, object], folder: str | None
) -> Iterator[str]:
    """Yield the settings of groups that differ from those in the chosen files."""
    place = CONF if folder is None else expanded(folder)
    for group, chosen in choices.items():
        if group == "hydra" or not isinstance(values.get(group), dict):
            continue
        inner = {
            key: choices[key.replace(".", "/")]
            for key in INNER_GROUPS
            if key.startswith(f"{group}.") and key.replace(".", "/") in choices
        }
        names = re.findall(r"\w+", str(chosen))  # of a list, the loggers
        own: dict[str, object] = {}
        for name in names:
            own |= flatten({group: plain(option_values(place, group, name), resolve=False)})
        for key, name in inner.items():
            option = option_values(place, key.replace(".", "/"), str(name))
            leaves = flatten({key: plain(option, resolve=False)})
            if not leaves.items() <= own.items():
                yield f"{key}={name}"
            own = {other: v for other, v in own.items() if not within(other, [key])} | leaves
        for key, value in flatten({group: values[group]}).items():
            if own.get(key, ...) != value:
                yield f"{key}={shown(value)}"


def with_value(line: str, found: re.Match[str], value: str) -> str:
    """Replace the value in a line, and keep the column of its comment if possible."""
    start, comment = line[: found.start("value")], found["comment"] or ""
    gap = found.end("gap") - found.start("value") - len(value)
    return f"{start}{value}{' ' * max(gap, 2)}{comment}".rstrip()


def versions() -> str:
    """Return the versions of this project and of the packages that affect results most."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version(PROJECT)
    except PackageNotFoundError:  # a copy that is not installed
        import tomllib

        own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "hydra-core"))
    return f"{PROJECT} {own} ({others})"

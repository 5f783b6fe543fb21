"""Parse the command line, print help, and run Hydra."""

import gc
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import hydra
from hydra.errors import HydraException

from cli import checks as config
from cli import composing, help
from cli.execution import job
from cli.help import versions
from cli.resume import stored_config_dir, with_stored_options
from configuration import hints
from system.places import CONF, program
from system.stopping import InterruptHandler
from system.terminal import report_error

COMMANDS = {
    "train": "trains a scorer or an enhancer (the default)",
    "evaluate": "measures a checkpoint on held-out photos",
    "enhance": "enhances photos",
    "score": "rates photos",
    "report": "compares runs in one HTML page and figures",
    "interpolate": "mixes two networks and plots fidelity against score",
    "prepare": "downloads, verifies and packs data sets",
    "import_weights": "imports a scorer trained by others",
    "export": "writes a network as half-precision safetensors or as ONNX",
    "dashboard": "writes the W&B workspace that compares runs",
    "serve": "serves a web page to enhance, rate and compare photos",
}
# Hydra refuses a file of the same name as a plugin's; ours is the one whose studies go on.
RENAMED = {"hydra/sweeper=optuna": "hydra/sweeper=study"}
SWEEP_FLAGS = {"-m", "--multirun"}
SHOWING = {  # Hydra's flags that print something instead, with what may follow them
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(
        ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    ),
    **dict.fromkeys(("--hydra-help", "--version", "--shell-completion", "-sc"), ()),
}
WITH_VALUE = {"--package", "-p", "--config-dir", "-cd"}
OTHER_FLAGS = {"--resolve", "--run", "-r"}
REFUSED = {
    **dict.fromkeys(
        ("--config-name", "-cn", "--config-path", "-cp"),
        "the command determines the configuration; --config-dir adds a folder of your own "
        "(docs/recipes.md)",
    ),
    "--experimental-rerun": "is not supported; the same command resumes its own run",
}
FOLDER_FLAGS = {"--config-dir", "-cd"}
# Data that have an experiment of their own, which is the default with them.
EXPERIMENTS = {"data=photos": "experiment=photos"}


@dataclass(frozen=True)
class Call:
    """A parsed command line.

    Args:
        overrides: `key=value` words, with text quoted.
        flags: Hydra's flags, with values as `--flag=value`.
    """

    command: str
    overrides: list[str]
    flags: list[str]
    help: bool

    @property
    def is_plain(self) -> bool:
        """Return whether the command runs, rather than Hydra printing something."""
        return not any(flag.partition("=")[0] in SHOWING for flag in self.flags)

    @property
    def is_multirun(self) -> bool:
        """Return whether the command is a sweep."""
        if "hydra.mode=RUN" in self.overrides:  # a job of a sweep
            return False
        files = [word for word in self.overrides if re.match("sweep=(?!null$)", word)]
        return bool(files) or bool(set(self.flags) & SWEEP_FLAGS)

    @property
    def folder(self) -> str | None:
        """Return the folder of the user's own configuration files."""
        return self.value_of(*FOLDER_FLAGS)

    def value_of(self, *names: str) -> str | None:
        """Return the value of a flag, or None."""
        found = [flag.partition("=")[2] for flag in self.flags if flag.partition("=")[0] in names]
        return found[-1] if found else None

    def check(self) -> None:
        """Check the configuration."""
        if self.is_plain:
            config.check(
                self.command, self.overrides, multirun=self.is_multirun, folder=self.folder
            )
        elif self.value_of("--cfg", "-c", "--info", "-i") is not None:
            resolve, package = "--resolve" in self.flags, self.value_of("--package", "-p")
            config.check_shown(
                self.command, self.overrides, folder=self.folder, resolve=resolve, package=package
            )


def parse(arguments: list[str]) -> Call:
    """Parse a command line.

    Raises:
        ValueError: for an unknown command or flag, settings that are not of the form key=value, or
            a multirun with one name for all runs.
    """
    words, flags, settings = split_arguments(arguments)
    if "help" in words[:2]:  # help, help enhance, enhance help
        words.remove("help")
        flags.append("--help")
    command = "train"
    if words and re.fullmatch(r"[A-Za-z_][\w-]*", words[0]):
        command = words.pop(0)
    bare = [word for word in words if "=" not in word and not word.startswith("~")]
    if command not in COMMANDS:
        raise ValueError(unknown_command(command, settings, bare))
    wants_help = "--help" in flags
    flags = [flag for flag in flags if flag != "--help"]
    call = Call(command, [RENAMED.get(w, w) for w in words if w not in bare], flags, wants_help)
    named_command = command in arguments
    problems = misspelt(call, settings, bare, named_command=named_command) + wrong_flags(flags)
    if {"--shell-completion", "-sc"} & set(flags) and not any(
        re.fullmatch(r"(un)?install=(bash|fish|zsh)|query=(bash|fish|zsh)", word) for word in words
    ):
        problems.append("--shell-completion: install=SHELL or uninstall=SHELL: bash, fish or zsh")
    if problems:
        raise ValueError("\n  ".join(problems))
    named = [word for word in words if re.match(r"\+*name=", word)]
    if named and call.is_multirun:
        raise ValueError(f"{named[0]} in a multirun: the runs would share one folder")
    return with_types(call)


def with_types(call: Call) -> Call:
    """Quote text among the overrides, and add the experiment that belongs to the chosen data."""
    words = [as_choice(word) for word in call.overrides]
    typed = config.typed(call.command, words, folder=call.folder, sweep=call.is_multirun)
    if call.command == "train" and not any(re.match(r"\+*experiment=", word) for word in typed):
        typed = [*(EXPERIMENTS[word] for word in typed if word in EXPERIMENTS), *typed]
    return replace(call, overrides=typed)


def as_choice(word: str) -> str:
    """Write `data.degradation=NAME` as Hydra writes it: `data/degradation=NAME`."""
    key, _, value = word.partition("=")
    if key not in composing.INNER_GROUPS or value in ("null", "true", "false"):
        return word
    return f"{key.replace('.', '/')}={value}" if re.match(r"\[?[A-Za-z_]", value) else word


def with_stored(call: Call) -> Call:
    """Add the options stored in the run folder that a training resumes."""
    if call.command != "train" or call.is_multirun:
        return call
    own = stored_config_dir(call.overrides) if call.folder is None else None
    flags = [*call.flags, *([] if own is None else [f"--config-dir={own}"])]
    return replace(call, overrides=with_stored_options(call.overrides), flags=flags)


def complete(command: str, words: list[str], *, folder: str | None) -> Call:
    """Return the call of a command with these overrides, as if it had been parsed."""
    flags = [] if folder is None else [f"--config-dir={folder}"]
    return with_stored(with_types(Call(command, words, flags, help=False)))


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Split a command line into words, flags, and settings written in another style.

    Returns:
        Words in their order; flags, with their values as `--flag=value`; keys and values of
        `--gamma 0.1`, `-gamma=0.1` and `gamma = 0.1`.
    """
    words: list[str] = []
    flags: list[str] = []
    settings: list[tuple[str, str]] = []
    rest = list(arguments)

    def next_value() -> str:
        return rest.pop(0) if rest and "=" not in rest[0] else ""

    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            flags.append("--help")
        elif name in WITH_VALUE or name in REFUSED or SHOWING.get(name):
            takes = name in WITH_VALUE or name in REFUSED or (rest and rest[0] in SHOWING[name])
            value = value if equals else next_value() if takes else ""
            flags.append(f"{name}={value or ('all' if name in ('--info', '-i') else '')}")
        elif name in SWEEP_FLAGS or name in OTHER_FLAGS or name in SHOWING:
            flags.append(word)
        elif word.startswith("-"):
            settings.append((name.lstrip("-"), value if equals else next_value()))
        elif rest and rest[0].startswith("=") and not equals:
            start = rest.pop(0)[1:]
            settings.append((word, start or (rest.pop(0) if rest else "")))
        elif word.endswith("=") and word.count("=") == 1 and rest and is_value(rest[0]):
            settings.append((name, rest.pop(0)))
        else:
            words.append(word)
    return words, flags, settings


def is_value(word: str) -> bool:
    """Return whether a word can only be the value of the one before: `gamma= 0.1`."""
    return "=" not in word and (not word.startswith("-") or word[1:2].isdigit())


def unknown_command(command: str, settings: list[tuple[str, str]], bare: list[str]) -> str:
    """Compose the message for a word that is not a command."""
    if config.meant("train", command, None) and bare:
        settings = [(command, bare[0]), *settings]
    meant = [as_setting("train", key, value, None) for key, value in settings]
    if meant:
        return f"{command}: write settings as KEY=VALUE: {' '.join(meant)}"
    near = hints.near(command, COMMANDS)
    hint = f" (did you mean {near}?)" if near else ""
    listing = "\n".join(f"  {name:<16}{what}" for name, what in COMMANDS.items())
    return f"unknown command {command!r}{hint}; the commands are\n{listing}"


def misspelt(
    call: Call, settings: list[tuple[str, str]], bare: list[str], *, named_command: bool
) -> list[str]:
    """Find settings that are not of the form key=value, and suggest the right form."""
    problems = []
    words = list(bare)
    files = []
    while words:
        word = words.pop(0)
        key, colon, value = word.partition(":")
        if colon and config.meant(call.command, key, call.folder):
            settings.append((key, value))
        elif words and config.meant(call.command, word, call.folder) == word:
            settings.append((word, words.pop(0)))
        elif word in COMMANDS:
            problems.append(f"{word}: a command must come first")
        else:
            files.append(word)
    rights = [as_setting(call.command, key, value, call.folder) for key, value in settings]
    for (key, _), right in zip(settings, rights, strict=True):
        if files and right:
            continue  # part of the command that is suggested
        written = "without dashes, spaces or colons"
        problems.append(
            f"{key}: write settings as KEY=VALUE, {written}: {right}"
            if right
            else f"{key}: no such flag or key in {call.command}"
        )
    if files:
        command = call.command
        if not named_command and all(word.lower().endswith(hints.PHOTOS) for word in files):
            command = "enhance"
        meant = hints.with_files(command, files)
        rest = [*call.overrides, *filter(None, rights), *call.flags]
        line = " ".join([meant, *map(shlex.quote, rest)])
        problems.append(
            f"{files[0]!r} is not of the form key=value"
            + (f"; did you mean {line}?" if meant else "")
        )
    return problems


def as_setting(command: str, key: str, value: str, folder: str | None) -> str:
    """Format a setting as key=value; empty if the key is unknown."""
    right = config.meant(command, key, folder)
    if right is None:
        return ""
    return right if "=" in right else f"{right}={value or 'VALUE'}"


def wrong_flags(flags: list[str]) -> list[str]:
    """Check Hydra's own flags."""
    problems = []
    for flag in flags:
        name, _, value = flag.partition("=")
        if name in REFUSED:
            problems.append(f"{name}: {REFUSED[name]}")
        elif name in WITH_VALUE and not value:
            problems.append(f"{name}: needs a value")
        elif SHOWING.get(name) and value not in SHOWING[name]:
            problems.append(f"{name} {value}: one of {', '.join(SHOWING[name])}")
    names = {flag.partition("=")[0] for flag in flags}
    modes = sorted(names & (SWEEP_FLAGS | SHOWING.keys() | {"--run", "-r"}))
    if len(modes) > 1:
        problems.append(f"{' and '.join(modes)}: use only one of them at a time")
    if names & {"--resolve", "--package", "-p"} and not names & {"--cfg", "-c"}:
        problems.append("--resolve and --package need --cfg")
    elif "--resolve" in names and any(re.fullmatch("(--cfg|-c)=(hydra|all)", f) for f in flags):
        problems.append("--resolve needs --cfg job: Hydra's own settings are known only in a run")
    return problems


def help_text(call: Call) -> str:
    """Compose the help of a command: its keys, with the values that would be used."""
    command = call.command
    with composing.loaded(call.folder) as loader:
        words = config.check_typed(command, call.overrides, loader)
        settings = help.effective(command, words, call.folder)
        groups = composing.group_options(command, call.folder)
    start = program()
    lines = [f"{start} [command] [key=value ...]", ""]
    lines += [f"  {name:<16}{what}" for name, what in COMMANDS.items()]
    lines += [
        "",
        f"{command}: settings, with their values in this call",
        "",
    ]
    lines += settings
    if groups:
        lines += ["", "Choices (GROUP=NAME; a group's own keys are set as GROUP.KEY=VALUE):", ""]
        for group, names in groups.items():
            text = " ".join(names)
            lines += help.wrapped(f"  {group:<12}", text, help.width(), " " * 14)
    lines += [
        "",
        f"{start} COMMAND --help         help for another command",
        f"{start} experiment=X --help    the values of another experiment",
        f"{start} COMMAND --cfg job      the complete configuration",
        f"{start} -m gamma=0,0.1,0.4     one run for each value (or sweep=gamma)",
    ]
    return "\n".join(help.fitted(lines))


def run(arguments: list[str], stop: InterruptHandler, script: Path) -> int:
    """Run one command line and return its exit code."""
    try:
        call = parse(arguments)
        if call.help:
            print(help_text(call))
            return 0
        if "--version" in call.flags:
            print(versions())
            return 0
        call = with_stored(call)
        call.check()
    except (ValueError, HydraException) as error:
        return report_error(error)
    gc.enable()  # run.py turned it off
    # Ranks that Lightning starts repeat sys.argv; `train` is what runs without a command.
    sys.argv = [str(script), *call.flags, *call.overrides]
    if call.is_plain:
        multirun = bool(set(call.flags) & SWEEP_FLAGS)
        composing.run_composed(
            call.command, call.overrides, job(call.command, stop), call.folder, multirun=multirun
        )
    else:
        main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=call.command)
        main(job(call.command, stop))()
    return 0

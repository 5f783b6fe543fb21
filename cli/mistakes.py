"""List mistakes for users: one line each, without consequences of other mistakes."""

import re
from collections.abc import Mapping, Sequence

KEY = re.compile(r"[+~]*([A-Za-z_][\w.-]*)(?==|:)")  # of `key=value: reason`, `key: reason`
REQUIRED = ": is required; "
LONGEST = 300  # characters without a space that are shown: no path of a real file is cut


def essential(problems: Sequence[str], derived: Mapping[str, str]) -> list[str]:
    """Drop what repeats or follows from another mistake in the same configuration.

    Args:
        problems: lines of the form `key=value: reason`, the most telling of a key first.
        derived: keys that are made from others, and how: `{"net.scale": "${scale}"}`.
    """
    wrong = {key_of(problem) for problem in problems} - {""}
    kept = []
    seen = set()
    for problem in problems:
        key = key_of(problem)
        if any(source in wrong for source in sources(key, derived)):
            continue
        if problem.startswith(f"{key}="):
            if key in seen:
                continue
            seen.add(key)
        kept.append(problem)
    return kept


def key_of(problem: str) -> str:
    """Return the key that a problem begins with, or an empty text."""
    found = KEY.match(problem)
    return found[1] if found else ""


def sources(key: str, derived: Mapping[str, str]) -> list[str]:
    """Return the keys that a key follows, directly or by way of others."""
    found = []
    for parent, text in derived.items():
        if key == parent or key.startswith(f"{parent}."):
            for source in re.findall(r"\$\{([\w.]+)\}", text):
                full = source + key.removeprefix(parent)
                found += [full, *(sources(full, derived) if full != key else ())]
    return found


def without_consequences(problems: Sequence[str]) -> list[str]:
    """Drop `KEY: is required` where another mistake is that this very key was misspelt."""
    others = [problem for problem in problems if REQUIRED not in problem]
    return [
        problem
        for problem in problems
        if problem in others or not any(names(other, key_of(problem)) for other in others)
    ]


def names(problem: str, key: str) -> bool:
    """Return whether a problem is about a key, or suggests it."""
    return re.search(rf"(?<![\w.]){re.escape(key)}(?![.]?\w)", problem) is not None


def shortened(text: str) -> str:
    """Cut words that are too long to be read, such as a value of 5000 characters."""
    return re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:40]}...{word[0][-15:]}", text)


def raise_all(problems: Sequence[str]) -> None:
    """Raise a ValueError that lists all problems, if there are any."""
    unique = [shortened(problem) for problem in dict.fromkeys(without_consequences(problems))]
    if len(unique) == 1:
        raise ValueError(unique[0])
    if unique:
        title = f"{len(unique)} mistakes in the configuration:"
        raise ValueError("\n  ".join([title, *unique]))

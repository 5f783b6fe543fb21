"""Parse `key=value` words: quote values that are text, and expand sweeps.

Hydra reads `input=2024` as a number and `input=a,b` as a sweep. Where a key is text by its type
(`signatures.text_type`), its value is taken as typed: the word is quoted before Hydra sees it.
"""

import glob
import math
import os
import re
from collections.abc import Iterator, Mapping

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from configuration.signatures import Text

MAX_JOBS = 10_000  # of a sweep: each is composed and has a folder
FULLY_CHECKED = 16  # values of a key that are each checked in a complete configuration
MAX_JOINED = 8  # commas in the name of one file, in a list of several

PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)  # text as it stands, but for these words:
NOT_TEXT = ("true", "false", "null", "nan", "inf")
FUNCTION = re.compile(
    r"(choice|range|interval|glob|sort|shuffle|tag|extend_list|str|int|float|bool|json_str)\(.*\)"
)
INTERPOLATION = re.compile(r"\$\{[a-z_]+[.:]")  # ${paths.weights}; ${5} is part of a name


def is_plain(word: str) -> bool:
    """Return whether Hydra reads the value of a word as the text it is."""
    value = word.partition("=")[2]
    return PLAIN.fullmatch(value) is not None and value.lower() not in NOT_TEXT


def as_text(word: str, kinds: Mapping[str, Text], *, sweep: bool) -> str:
    """Quote the value of a key whose type is text, so that Hydra finds no syntax in it.

    Quotes, Hydra's functions and interpolations keep their meaning unless a file has that exact
    name; so do commas in a sweep, and brackets if lists are allowed. In a list, a comma belongs to
    a name if such a file exists.
    """
    key, equals, value = word.partition("=")
    kind = kinds.get(key.lstrip("+"))
    if kind is None or not equals or is_plain(word) or not value:
        return word
    hydras = value[0] in "'\"" or FUNCTION.fullmatch(value) or INTERPOLATION.search(value)
    brackets = kind.depth > 0 and bracketed(value)
    if (hydras or (brackets and re.search("['\"]", value))) and parses(word) and not exists(value):
        return word
    several = "," in value and (
        sweep or (kind.depth > 0 and not brackets)
    )  # without -m refused, with a hint
    items = split_list(value) if several else [value]
    return f"{key}={','.join(item_text(item, kind, kind.depth) for item in items)}"


def item_text(text: str, kind: Text, depth: int) -> str:
    """Quote a value, or an item of a list, so that Hydra reads it as text."""
    if depth and bracketed(text) and not exists(text):
        items = split_list(text[1:-1]) if text[1:-1].strip() else []
        return f"[{','.join(item_text(item, kind, depth - 1) for item in items)}]"
    if text.lower() == "null" and kind.optional and depth == kind.depth:
        return "null"
    if text.startswith("~") and not exists_here(text):  # shells expand it only in front of a word
        text = os.path.expanduser(text)
    if text.startswith("~"):  # no user's folder; pathlib would fail on it, even behind "./"
        text = os.path.abspath(text)
    return text if is_plain(f"={text}") else quoted(text)


def bracketed(text: str) -> bool:
    """Return whether a value has the form of a list."""
    return text.startswith("[") and text.endswith("]")


def split_list(text: str) -> list[str]:
    """Split at commas outside brackets, but not within the names of existing files."""
    parts, depth = [""], 0
    balanced = text.count("[") == text.count("]")
    for char in text:
        depth += balanced * ((char == "[") - (char == "]"))
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    found = []
    while parts:
        longest = min(len(parts), MAX_JOINED)
        taken = next((n for n in range(longest, 1, -1) if exists(",".join(parts[:n]))), 1)
        item = ",".join(parts[:taken])
        found.append(item if exists(item) else item.strip())
        parts = parts[taken:]
    return found


def exists(name: str) -> bool:
    """Return whether a file of that name exists, or one that matches it as a pattern."""
    name = os.path.expanduser(name)
    if exists_here(name):
        return True
    return glob.has_magic(name) and any(True for _ in glob.iglob(name))


def exists_here(name: str) -> bool:
    """Return whether a file of exactly that name exists; impossible names do not."""
    try:
        return os.path.lexists(name)
    except ValueError:
        return False


def quoted(text: str) -> str:
    """Quote any text as the value of an override."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"{}"'.format(re.sub(r"(\\+)$", r"\1\1", text))


def parses(text: str) -> bool:
    """Return whether Hydra can parse an override."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def parse_overrides(overrides: list[str], problems: list[str]) -> list[Override]:
    """Parse each word, and add a problem for each that cannot be parsed."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            problems.append(f"{text!r} is not of the form key=value")
            continue
        try:
            parsed.append(parser.parse_override(text))
        except (HydraException, RecursionError):
            problems.append(
                f"{text!r} cannot be parsed; a value with spaces, commas, brackets or = needs "
                "quotes within quotes: 'key=\"value\"'"
            )
    return parsed


def num_values(override: Override) -> float:
    """Count the values of an override; infinite for an endless range."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if isinstance(value, RangeSweep):
        start, stop, step = (float(end or 0) for end in (value.start, value.stop, value.step))
        if not all(map(math.isfinite, (start, stop, step))) or step == 0:
            return math.inf
        return max(0, math.ceil((stop - start) / step))
    return 1


def check_sweep(parsed: list[Override], problems: list[str]) -> list[Override]:
    """Drop sweeps that have no values, or too many.

    A search, which chooses its values, may have any number of combinations.
    """
    valid = []
    search = any(override.key_or_group == "hydra/sweeper" for override in parsed)
    for override in parsed:
        num = num_values(override)
        if num == 0:
            problems.append(f"{override.input_line}: this range is empty")
        elif num > MAX_JOBS:
            count = "infinitely many" if math.isinf(num) else f"{num:,.0f}"
            problems.append(
                f"{override.input_line}: {count} values; a sweep has at most {MAX_JOBS:,} jobs"
            )
        else:
            valid.append(override)
    total = math.prod(map(num_values, valid))
    if total > MAX_JOBS and not search:
        swept = [o for o in valid if num_values(o) > 1]
        product = " x ".join(f"{num_values(override):.0f}" for override in swept)
        keys = ", ".join(str(override.key_or_group) for override in swept)
        problems.append(
            f"{product} values of {keys}: {total:,.0f} jobs; a sweep has at most {MAX_JOBS:,}"
        )
        valid = [override for override in valid if override not in swept]
    return valid


def values_of(override: Override) -> list[object]:
    """Return the values of an override: one unless it is a sweep, both ends of an interval."""
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        return [interval.start, interval.end]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    return value if isinstance(value, list) else [value]


def variants_of(override: Override) -> list[str]:
    """Format an override once for each value of its sweep."""
    if override.is_sweep_override():
        key = override.get_key_element()
        return [f"{key}={value}" for value in map(str, values_of(override))]
    assert override.input_line is not None
    return [override.input_line]


def variants(parsed: list[Override]) -> Iterator[list[str]]:
    """Yield override lists in which every value of every sweep appears (a sum, not the product).

    If a key has many values, only some of them appear, including both ends.
    """
    all_variants = [spread(variants_of(override)) for override in parsed]
    first = [words[0] for words in all_variants]
    yield first
    for i, words in enumerate(all_variants):
        for word in words[1:]:
            yield [*first[:i], word, *first[i + 1 :]]


def spread(values: list[str]) -> list[str]:
    """Return evenly spaced values, including the first and the last."""
    last = len(values) - 1
    if last < FULLY_CHECKED:
        return values
    return [values[i * last // (FULLY_CHECKED - 1)] for i in range(FULLY_CHECKED)]

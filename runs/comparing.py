"""Compare evaluated enhancers with a baseline: paired gains with intervals, and a verdict.

Runs that differ only in the seed are one candidate.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf
from torch import nn

from configuration.parsing import flatten
from lightning_modules.metric_catalogue import (
    METRICS,
    Direction,
    digits,
    direction,
    is_score,
    judges_among,
)
from lightning_modules.record import Record
from runs.identity import is_seed, settings_in
from runs.measuring import named, write_csv
from runs.measuring_options import of_epoch
from runs.paired import Gain, Measured, Seeds, paired_gains
from runs.requirements import best_of
from runs.verdicts import Criteria, Verdict, verdict
from system.files import writing
from system.places import expanded
from system.terminal import format_table

BASELINES = ("bicubic", "input")  # what is not a checkpoint, but measured beside them
FEW_PHOTOS = 10  # with fewer, a bootstrapped 95 % interval covers the truth in less than 90 %


class Compared(NamedTuple):
    """A candidate's gains over the baseline by measure, at a scale; None: over all scales."""

    candidate: str
    scale: int | None
    gains: dict[str, Gain]
    verdict: Verdict | None


@dataclass(frozen=True)
class Contest:
    """Candidates that are compared with a baseline.

    Attributes:
        candidates: their runs.
        baseline: its name.
        runs: those of the baseline.
        criteria: what counts as better.
        dependent: of each candidate, the judges that are not independent, with the reason.
    """

    candidates: Mapping[str, Seeds]
    baseline: str
    runs: Seeds
    criteria: Criteria
    dependent: Mapping[str, Mapping[str, str]]


def groups_of(records: Mapping[str, Record]) -> list[Seeds]:
    """Pool checkpoints whose trainings differ only in the seed.

    A second checkpoint of the same settings and seed, such as last.ckpt beside best.ckpt, starts
    another group. Files without a configuration, such as exported ones, are groups of one.

    Args:
        records: by name in per_image.csv, in order.
    """
    groups: dict[tuple[str, int], dict[int | None, str]] = {}
    for name, record in records.items():
        if record.config is None:
            groups[name, -1] = {None: name}
            continue
        config = flatten(dict(record.config))
        seed = config.get("seed")
        seed = seed if isinstance(seed, int) else None
        settings = {key: v for key, v in settings_in(config).items() if not is_seed(key)}
        key, k = json.dumps(settings, sort_keys=True), 0
        while seed in groups.get((key, k), {}):
            k += 1
        groups.setdefault((key, k), {})[seed] = name
    return list(groups.values())


def contest_of(
    cfg: DictConfig,
    loaded: Sequence[tuple[nn.Module, Record]],
    paths: Sequence[str],
    dependent: Mapping[str, Mapping[str, str]],
) -> Contest | None:
    """Return who is compared with `baseline`; None if there is no baseline.

    Args:
        cfg: with the keys `baseline`, `criteria` and `scale`.
        loaded: the checkpoints.
        paths: their files.
        dependent: of each checkpoint by name, the judges that are not independent.

    Raises:
        ValueError: if the baseline was not measured, or nothing else was.
    """
    if cfg.baseline is None:
        return None
    names = list(named([*loaded], [*paths]))
    groups = groups_of({name: record for name, (_, record) in zip(names, loaded, strict=True)})
    firsts = [names.index(next(iter(group.values()))) for group in groups]
    labels = named([loaded[k] for k in firsts], [paths[k] for k in firsts])
    candidates = dict(zip(labels, groups, strict=True))
    if cfg.baseline in BASELINES:
        label = "input" if cfg.scale == 1 else "bicubic"
        runs: Seeds = {None: label}
    else:
        wanted = expanded(of_epoch(best_of(cfg.baseline), cfg.epoch)).resolve()
        own = [n for n, p in zip(names, paths, strict=True) if expanded(p).resolve() == wanted]
        if not own:
            raise ValueError(f"baseline={cfg.baseline}: must be one of checkpoint, or bicubic")
        label = next(name for name, group in candidates.items() if own[0] in group.values())
        runs = candidates.pop(label)
    if not candidates:
        raise ValueError(f"baseline={cfg.baseline}: checkpoint has nothing to compare with it")
    criteria = Criteria.model_validate(OmegaConf.to_container(cfg.criteria))
    reasons = {name: dependent[next(iter(group.values()))] for name, group in candidates.items()}
    return Contest(candidates, label, runs, criteria, reasons)


def compare(
    contest: Contest, measured: Measured, better: Mapping[str, Direction | None]
) -> list[Compared]:
    """Compare every candidate with the baseline, at each scale and over all of them.

    Args:
        contest: who is compared.
        measured: values of each measure by network, scale and photo.
        better: which values of image metrics are better.
    """
    scales: list[int | None] = [*dict.fromkeys(scale for _, scale in measured)]
    scales += [None] if len(scales) > 1 else []
    found = []
    for scale in scales:
        for name, runs in contest.candidates.items():
            gains = paired_gains(runs, contest.runs, scale, measured)
            ruling = verdict(gains, better, contest.criteria, contest.dependent.get(name, {}))
            found.append(Compared(name, scale, gains, ruling))
    return found


def write_comparison(
    folder: Path,
    contest: Contest,
    found: Sequence[Compared],
    better: Mapping[str, Direction | None],
    max_rows: int | None,
) -> str:
    """Write comparison.csv and comparison.md; return the comparison as text.

    Args:
        folder: for the files.
        contest: who is compared.
        found: the results.
        better: which values of image metrics are better.
        max_rows: a longer table is left out of the text; None: no limit.
    """
    lines = [line for compared in found for line in lines_of(compared, contest, better)]
    write_csv(folder / "comparison.csv", list(lines[0]), lines)
    with writing(folder / "comparison.md"):
        (folder / "comparison.md").write_text(as_markdown(contest, found, better))
    text = ""
    if max_rows is None or len(lines) <= max_rows:
        several = len({compared.scale for compared in found}) > 1
        rows = [
            [
                compared.candidate,
                *[at_scale(compared.scale)] * several,
                measure + mark(compared.candidate, measure, contest),
                f"{value.mean:+.5f}",
                f"{value.low:+.5f} to {value.high:+.5f}",
                value.verdict(direction(measure, better)),
                f"{value.num_seeds} x {value.num_photos}",
            ]
            for compared in found
            for measure, value in compared.gains.items()
        ]
        columns = ["candidate", *["scale"] * several, "measure", "difference", "95 % interval"]
        columns += ["verdict", "seeds x photos"]
        text = format_table(f"compared with {contest.baseline}", columns, rows) + "\n"
    else:
        text = f"compared with {contest.baseline}; the differences are in comparison.csv\n"
    return text + "".join(f"{line}\n" for line in verdict_lines(contest, found))


def verdict_lines(contest: Contest, found: Sequence[Compared]) -> list[str]:
    """Return the verdict on each candidate, and the judges that do not count."""
    several = len({compared.scale for compared in found}) > 1
    lines = []
    most = max((g.num_photos for compared in found for g in compared.gains.values()), default=0)
    if most < FEW_PHOTOS:
        lines.append(f"{most} photos are too few: the intervals are too narrow")
    for compared in found:
        at = f" at {at_scale(compared.scale)}" if several else ""
        text = "no judge counts" if compared.verdict is None else compared.verdict.text
        lines.append(f"{compared.candidate}{at}: better than {contest.baseline}: {text}")
    for candidate, reasons in contest.dependent.items():
        lines += [f"* {name} is no judge of {candidate}: {why}" for name, why in reasons.items()]
    return lines


def lines_of(
    compared: Compared, contest: Contest, better: Mapping[str, Direction | None]
) -> list[dict[str, object]]:
    """Return the lines of comparison.csv for one candidate at one scale."""
    judges = judges_among(compared.gains)
    reasons = contest.dependent.get(compared.candidate, {})
    ruling = "" if compared.verdict is None else compared.verdict.text
    return [
        {
            **{"candidate": compared.candidate, "baseline": contest.baseline},
            **{"scale": at_scale(compared.scale), "measure": measure},
            **{"judge": measure in judges, "dependent": reasons.get(measure, "")},
            **{"better": direction(measure, better) or "", **value._asdict()},
            **{"verdict": value.verdict(direction(measure, better)), "candidate_better": ruling},
        }
        for measure, value in compared.gains.items()
    ]


def as_markdown(
    contest: Contest, found: Sequence[Compared], better: Mapping[str, Direction | None]
) -> str:
    """Format a row for each candidate and scale, with bold intervals that exclude zero."""
    measures = list(dict.fromkeys(name for compared in found for name in compared.gains))
    heads = ["candidate", "scale", "seeds", "photos", *(title(name, better) for name in measures)]
    rows = [[*heads, "better"], ["---"] * (len(heads) + 1)]
    for compared in found:
        gains = compared.gains
        any_gain = next(iter(gains.values()), None)
        num_seeds, num_photos = (any_gain.num_seeds, any_gain.num_photos) if any_gain else (0, 0)
        cells = [compared.candidate.replace("|", "/"), at_scale(compared.scale)]
        cells += [str(num_seeds), str(num_photos)]
        for name in measures:
            text = gains[name].text(shown_digits(name)) if name in gains else "-"
            text = f"**{text}**" if name in gains and gains[name].excludes_zero else text
            cells.append(text + mark(compared.candidate, name, contest).replace("*", "\\*"))
        cells.append("-" if compared.verdict is None else compared.verdict.text)
        rows.append(cells)
    notes = [
        f"Differences from {contest.baseline}, paired over photos and seeds, with bootstrapped "
        "95 % intervals; bold: the interval excludes zero."
    ]
    notes += [
        f"\\* {name} is no judge of {candidate}: {why}."
        for candidate, reasons in contest.dependent.items()
        for name, why in reasons.items()
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([table, *notes]) + "\n"


def mark(candidate: str, measure: str, contest: Contest) -> str:
    """Return the mark of a judge that is not independent of a candidate's loss."""
    return "*" if measure in contest.dependent.get(candidate, {}) else ""


def title(name: str, better: Mapping[str, Direction | None]) -> str:
    """Return the heading of a measure."""
    shown = METRICS[name].title if name in METRICS else name
    lower = direction(name, better) == "lower"
    return shown + (METRICS[name].arrow if name in METRICS else " (lower is better)" * lower)


def shown_digits(name: str) -> int:
    """Return the decimals of a difference: one more than those of metrics, two than of scores."""
    return digits(name) + 2 if is_score(name) else digits(name) + 1


def at_scale(scale: int | None) -> str:
    """Return the text of a scale."""
    return "all" if scale is None else f"x{scale}"

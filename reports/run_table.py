"""Runs to compare, including unfinished and broken ones.

Only trainings are compared. Runs that differ only in the seed form one setting, whose metrics have
a mean and a sample standard deviation. A network with several scales (MDSR) has one value of each
metric per scale.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import JsonValue

from configuration.model_kind import stored_kind
from configuration.parsing import flatten
from lightning_modules.kinds import Kind
from reports.run_files import UNRECORDED, About, Photo, Result, is_scale, number
from runs.identity import is_seed

# Keys of `data` that affect neither the validation photos nor their degradation.
ONLY_TRAINS = {
    *("batch_size", "patch_size", "num_steps", "num_workers", "seed", "on_device", "store"),
    *("scale", "train_hr", "train_lr", "train_list", "num_train", "native_share", "shrink_to"),
}
ONLY_MEASURES = ("metrics", "model.metrics")  # settings that change no network
DEGRADATION = "data.degradation."  # start of keys, of which the kinds of degradation share none
Variant = tuple[tuple[str, str], ...]  # dotted keys with their values
AUTO = ("gamma", "auto")  # in the variant of runs whose gamma follows their share of the gradient


class Spread(NamedTuple):
    """Mean, sample standard deviation (None for a single value) and number of values."""

    mean: float
    std: float | None
    num: int


@dataclass(eq=False)
class Run:
    """Content of a run folder, as far as it is readable."""

    folder: Path
    state: Literal["finished", "unfinished", "broken"] = "finished"
    note: str = ""  # its progress, or the problem
    about: About = field(default_factory=About)
    result: Result = field(default_factory=Result)
    rows: list[dict[str, float]] = field(default_factory=list)  # metrics.csv
    photos: list[Photo] = field(default_factory=list)  # images/photos.json
    bad_pictures: list[str] = field(default_factory=list)  # problems in images/

    @property
    def config(self) -> dict[str, JsonValue]:
        """Return the resolved configuration, empty if unreadable."""
        return self.about.config

    def key(self, dotted: str) -> JsonValue:
        """Return a value of the configuration, or None."""
        node: JsonValue = self.config
        for part in dotted.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    @property
    def command(self) -> str:
        """Return the command that made the run; guessed for old runs, which do not record it."""
        if self.about.command:
            return self.about.command
        if "checkpoints" in self.config:
            return "interpolate"
        return "evaluate" if "checkpoint" in self.config else "train"

    @property
    def kind(self) -> Kind | None:
        """Return what was trained."""
        return stored_kind({"kind": self.about.kind}, self.config) if self.config else None

    @property
    def net(self) -> str:
        """Return the chosen network, or the backbone of a scorer."""
        if self.kind == "scorer":
            return str(self.key("scorer.backbone"))
        target = str(self.key("net._target_"))
        return self.about.choices.get("net") or target.rpartition(".")[2].lower()

    @property
    def scales(self) -> list[int]:
        """Return the scales in HR pixels per LR pixel: several for MDSR, none for a scorer."""
        scales = self.key("net.scales")
        listed = scales if isinstance(scales, list) else [self.key("scale")]
        return list(dict.fromkeys(s for s in listed if isinstance(s, int) and is_scale(s)))

    @property
    def gamma(self) -> float | None:
        """Return the weight of the aesthetic term; its share of the gradient if that is `auto`."""
        return number(self.key("share" if self.auto else "gamma"))

    @property
    def auto(self) -> bool:
        """Return whether the weight of the aesthetic term follows its share of the gradient."""
        return self.key("gamma") == "auto"

    @property
    def seed(self) -> int | None:
        """Return the seed of initial weights, patches and dropout."""
        seed = self.key("seed")
        return seed if isinstance(seed, int) else None

    @property
    def sweep(self) -> str | None:
        """Return the sweep that the run belongs to, if any."""
        if self.about.sweep != UNRECORDED:
            return self.about.sweep
        parent = self.folder.absolute().parent
        return parent.name if parent.parent.name == "sweeps" else None

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of the best epoch; empty unless finished."""
        return {name: value for name, value in self.result.metrics.items() if value is not None}

    def value(self, metric: str, scale: int | None = None) -> float | None:
        """Return a metric of the best epoch at a scale, or None."""
        return self.result.metrics.get(self.column(metric, scale))

    def column(self, metric: str, scale: int | None) -> str:
        """Return the name of a metric at a scale in this run."""
        if scale is None or self.scales == [scale]:
            return metric
        return f"{metric}/x{scale}"

    def curve(self, metric: str, scale: int | None = None) -> tuple[list[int], list[float]]:
        """Return the epochs, from 1, and the mean of the values logged in each."""
        name = self.column(metric, scale if metric.startswith("val/") else None)
        epochs: dict[int, list[float]] = {}
        for row in self.rows:
            if name in row and "epoch" in row:
                epochs.setdefault(int(row["epoch"]) + 1, []).append(row[name])
        return sorted(epochs), [statistics.fmean(epochs[epoch]) for epoch in sorted(epochs)]

    @property
    def settings(self) -> dict[str, JsonValue]:
        """Return the settings that can change the result, by dotted key, with hashes of files."""
        settings = dict(self.about.settings)
        for key, sha in self.about.inputs.items():
            if key == "data":
                settings["data (SHA-256)"] = sha[:8]
            else:
                given = self.key(key)
                paths = given if isinstance(given, list) else [given]
                names = ", ".join(stem(str(path)) for path in paths)
                settings[key] = f"{names} ({sha[:8]})"
        return settings

    def rater(self, metric: str) -> str | None:
        """Return the scorer that computed `val/score` or `val/score_judge`: file and SHA-256."""
        key = "judge.checkpoint" if metric == "val/score_judge" else "scorer.checkpoint"
        value = self.settings.get(key)
        return None if value is None else str(value)

    @property
    def validation(self) -> dict[str, str]:
        """Return the settings that determine the validation photos and their degradation."""
        data = self.config.get("data")
        kept = {
            f"data.{key}": value
            for key, value in (data if isinstance(data, dict) else {}).items()
            if key not in ONLY_TRAINS
        }
        kept["trainer.limit_val_batches"] = self.key("trainer.limit_val_batches")
        return {
            # Only the name counts, so that copies of a data set are the same.
            key: Path(value).name if isinstance(value, str) and "/" in value else cell(value)
            for key, value in sorted(flatten(kept).items())
        }


def stem(path: str) -> str:
    """Shorten a path for a table; a run's best checkpoint is named by its folder."""
    parts = [part for part in Path(path).parts if part not in ("checkpoints", "best.ckpt")]
    return "/".join(parts[-2:])


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the keys in which runs differ, except seeds and what is measured.

    Of keys that distinguish the runs in the same way (`optim.optimizer.lr` and the module's copy of
    it), one is kept. The class of a degradation stands for the strengths that others do not have.
    """
    settings = [run.settings for run in runs]
    columns: dict[tuple[str, ...], str] = {}
    for key in sorted({key for values in settings for key in values}, key=copies_last):
        column = tuple(cell(values.get(key)) if key in values else "" for values in settings)
        implied = key.startswith(DEGRADATION) and len(set(filter(None, column))) < 2
        left_out = implied or is_seed(key) or key in ONLY_MEASURES
        if len(set(column)) > 1 and not left_out:
            columns.setdefault(column, key)
    return sorted(columns.values())


def variant_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys in which runs of the same network, scale and gamma differ."""
    alike: dict[object, list[Run]] = {}
    for run in runs:
        alike.setdefault((run.net, tuple(run.scales), run.auto, run.gamma), []).append(run)
    return sorted({key for group in alike.values() for key in differing(group)})


def variant_of(run: Run, keys: Iterable[str]) -> Variant:
    """Return a run's values of these keys as text, and whether its gamma follows a share."""
    settings = run.settings
    found = tuple((key, cell(settings[key])) for key in keys if key in settings)
    return (*found, AUTO) if run.auto else found


def joined(name: str, variant: Variant) -> str:
    """Return a name followed by the settings of a variant."""
    return ", ".join([name, *(f"{key}={value}" for key, value in variant)])


def label_of(run: Run, keys: Sequence[str] = ()) -> str:
    """Describe a run by network, scale, gamma, seed and the given keys."""
    scales = "-".join(f"x{scale}" for scale in run.scales)
    gamma = "" if run.gamma is None else f"{'share' if run.auto else 'gamma'} {run.gamma:g}"
    name = ", ".join(filter(None, [run.net, scales, gamma, f"seed {run.seed}"]))
    return joined(name, variant_of(run, keys))


def copies_last(key: str) -> tuple[bool, bool, int, str]:
    """Sort key that prefers, among equal keys, the one that a user would type."""
    return (
        key.startswith(("model.", "callbacks.", "loss.")),
        key.endswith("_target_"),
        key.count("."),
        key,
    )


def cell(value: object) -> str:
    """Return a setting as a user would type it."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in the seed, at one scale.

    Attributes:
        net: the network.
        variant: other keys in which runs differ, with their values.
        gamma: weight of the aesthetic term, or its share of the gradient, see `Run.gamma`.
        scale: HR pixels per LR pixel.
        runs: one per seed.
    """

    net: str
    variant: Variant
    gamma: float
    scale: int
    runs: tuple[Run, ...]

    @property
    def line(self) -> str:
        """Return the name shared by the settings that differ only in gamma."""
        return joined(self.net, self.variant)

    def values(self, metric: str) -> list[float]:
        """Return the values of a metric, of the runs that have it."""
        found = (run.value(metric, self.scale) for run in self.runs)
        return [value for value in found if value is not None]

    def spread(self, metric: str) -> Spread | None:
        """Return the spread of a metric over the runs that have it; None if none has."""
        return mean_and_std(self.values(metric))


def axis_name(settings: Iterable[Setting]) -> str:
    """Return what `gamma` of these settings is: `gamma`, `share`, or `gamma or share`."""
    kinds = {"share" if AUTO in setting.variant else "gamma" for setting in settings}
    return " or ".join(sorted(kinds)) or "gamma"


def change(setting: Setting, settings: Iterable[Setting], metric: str) -> Spread | None:
    """Return the gain of a metric over the same training at gamma 0, paired by seed.

    Runs with the same seed start from the same weights and see the same patches, so their
    differences vary less than the runs themselves.

    Args:
        setting: with gamma above 0.
        settings: of the same scale, including gamma 0.
        metric: such as `val/psnr`.

    Returns:
        The spread over common seeds; None if there are none.
    """
    plain = {
        run.seed: run.value(metric, setting.scale)
        for other in settings
        if other.gamma == 0 and other.line == setting.line
        for run in other.runs
    }
    gained = [
        value - base
        for run in setting.runs
        if setting.gamma > 0
        and (value := run.value(metric, setting.scale)) is not None
        and (base := plain.get(run.seed)) is not None
    ]
    return mean_and_std(gained)


def mean_and_std(values: Sequence[float]) -> Spread | None:
    """Return the spread of values; None if there are none."""
    if not values:
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def newest_of_equal(runs: Sequence[Run]) -> list[Run]:
    """Drop repetitions: of runs with equal settings, seed and inputs, keep the last finished.

    Repetitions give the same numbers and would make the spread over seeds too small.
    """
    chosen: dict[object, Run] = {}
    for run in sorted(runs, key=lambda run: run.result.finished):
        chosen[run.about.config_hash or run.folder] = run
    return [run for run in runs if run in chosen.values()]


def settings_of(
    runs: Sequence[Run], scale: int, keys: Sequence[str] | None = None
) -> list[Setting]:
    """Group enhancers of one scale over seeds, sorted by network, variant and gamma.

    A run with gamma 0 uses no scorer, so it belongs to the lines of all scorers.

    Args:
        runs: finished or not.
        scale: HR pixels per LR pixel.
        keys: settings that distinguish variants; None: those in which these runs differ.
    """
    runs = [run for run in runs if scale in run.scales and run.gamma is not None]
    keys = variant_keys(runs) if keys is None else keys
    groups: dict[tuple[str, Variant, float], list[Run]] = {}
    for run in runs:
        assert run.gamma is not None
        groups.setdefault((run.net, variant_of(run, keys), run.gamma), []).append(run)
    found = []
    for (net, variant, gamma), group in groups.items():
        lines = [variant]
        if gamma == 0:
            others = {v for (n, v, g) in groups if n == net and g > 0 and set(variant) <= set(v)}
            lines = sorted(others) or lines
        found += [Setting(net, line, gamma, scale, tuple(group)) for line in lines]
    return sorted(found, key=lambda setting: (setting.net, setting.variant, setting.gamma))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points on the Pareto front, sorted by x.

    Higher is better in both coordinates; of equal points, the first is kept.
    """
    order = sorted(range(len(points)), key=lambda k: (-points[k][0], -points[k][1], k))
    front: list[int] = []
    for k in order:
        if not front or points[k][1] > points[front[-1]][1]:
            front.append(k)
    return front[::-1]


def unique(settings: Iterable[Setting]) -> list[Setting]:
    """Drop the repetitions of gamma 0, which belongs to the lines of all scorers."""
    seen: dict[tuple[Run, ...], Setting] = {}
    for setting in settings:
        seen.setdefault(setting.runs, setting)
    return list(seen.values())

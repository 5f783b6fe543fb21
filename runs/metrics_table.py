"""Format metrics as a table for the terminal."""

import math
from collections.abc import Mapping

from lightning_modules.metric_names import BASELINES, baseline_name, is_baseline
from system.terminal import format_table


def metrics_table(title: str, metrics: Mapping[str, float | None]) -> str:
    """Format metrics, each with its baselines in the same row."""
    names = [name for name in metrics if not is_baseline(name)]
    used = [
        kind for kind in BASELINES if any(baseline_name(name, kind) in metrics for name in names)
    ]
    rows = [
        [
            name,
            *(digits(metrics.get(key)) for key in (name, *(baseline_name(name, k) for k in used))),
        ]
        for name in names
    ]
    own = "scorer" if "constant" in used else "network" if used else "value"
    return format_table(title, ["metric", own, *(BASELINES[kind] for kind in used)], rows)


def digits(value: float | None) -> str:
    """Format a value with four decimals, or as a dash if it is missing or NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"

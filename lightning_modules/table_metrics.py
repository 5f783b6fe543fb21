"""Metrics of scorers on several tables of ratings: of all photos, and of each table.

Those of a table end in its name: `srcc/koniq`, and `srcc_constant/koniq` for a baseline.
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from datamodules.ratings_dataset import RatedPhotos
from lightning_modules.metrics import Predictions, baselines, rating_metrics

Value = TypeVar("Value")


def table_metrics(predictions: Predictions, tables: Mapping[str, RatedPhotos]) -> dict[str, Tensor]:
    """Compute the metrics of all photos together, and those of each table.

    Args:
        predictions: of photos of a data set; tables without any are left out.
        tables: the data set's tables in order; may be empty.
    """
    p_NK, q_NK, item_N = predictions
    metrics = dict(rating_metrics(p_NK, q_NK))
    start = 0
    for table, photos in tables.items():
        end = start + len(photos)
        rows_N = (item_N >= start) & (item_N < end)
        if rows_N.any():
            metrics |= named(rating_metrics(p_NK[rows_N], q_NK[rows_N]), table)
        start = end
    return metrics


def table_baselines(train: RatedPhotos, val: RatedPhotos) -> dict[str, float]:
    """Compute the baselines of all photos together, and of each table by its own training data."""
    values = baselines(train.p_NK, val.p_NK, val.num_votes_N)
    for table, photos in val.tables.items():
        own = baselines(train.tables[table].p_NK, photos.p_NK, photos.num_votes_N)
        values |= named(own, table)
    return values


def named(values: Mapping[str, Value], table: str) -> dict[str, Value]:
    """Add the name of a table to those of its metrics."""
    return {f"{name}/{table}": value for name, value in values.items()}

"""What an enhancer is for, by the degradations that it was trained to undo."""

from collections.abc import Mapping
from typing import Literal, get_args

TaskName = Literal["super-resolution", "deblurring", "restoration", "tone"]
TASKS: tuple[str, ...] = get_args(TaskName)  # in the order in which they are offered


def task_of(degraded: Mapping[str, object], scale: int) -> TaskName:
    """Return the task of an enhancer.

    Args:
        degraded: what `lightning_modules.record.degradation_summary` says of its training photos.
        scale: 1 keeps the size.
    """
    if degraded.get("tone"):
        return "tone"
    if degraded.get("blur"):
        return "deblurring"
    return "restoration" if scale == 1 or degraded.get("realistic") else "super-resolution"

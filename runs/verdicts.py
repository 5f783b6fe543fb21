"""Decide whether a candidate is better than its baseline: most judges gain, none loses, nor PSNR.

The judges are scorers that are not in the loss, and perceptual distances to HR. Those that share
ratings, a teacher or a backbone with the loss do not count.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lightning_modules.metric_catalogue import Direction, direction, judges_among

if TYPE_CHECKING:  # it needs NumPy
    from runs.paired import Gain


class Criteria(BaseModel):
    """Keys of the node `criteria` in conf/evaluate.yaml."""

    model_config = ConfigDict(strict=True, extra="forbid")

    judges: float = Field(gt=0, le=1)
    against: int = Field(ge=0)
    psnr_loss: float | None = Field(ge=0)
    count: list[str] | None


class Verdict(NamedTuple):
    """Whether a candidate is better, and why.

    Attributes:
        better: the decision.
        gained: number of judges that gain, with an interval beyond zero.
        judges: number of judges that count.
        against: number of judges that lose, with an interval beyond zero.
        psnr: its loss if it is too large, in dB; otherwise None.
    """

    better: bool
    gained: int
    judges: int
    against: int
    psnr: float | None

    @property
    def text(self) -> str:
        """Return `yes (3 of 4 judges)`, or `no` with the reasons."""
        reasons = f"{self.gained} of {self.judges} judges"
        reasons += f", {self.against} against" if self.against else ""
        reasons += "" if self.psnr is None else f"; PSNR {self.psnr:+.2f} dB"
        return f"{'yes' if self.better else 'no'} ({reasons})"


def verdict(
    gains: "Mapping[str, Gain]",
    better: Mapping[str, Direction | None],
    criteria: Criteria,
    dependent: Collection[str] = (),
) -> Verdict | None:
    """Judge a candidate by its gains over the baseline; None if no judge counts.

    Args:
        gains: by measure.
        better: which values of image metrics are better.
        criteria: the thresholds, and the judges if they are chosen.
        dependent: judges that are not independent of the candidate's loss.
    """
    judges = [name for name in judges_among(gains) if name not in dependent]
    if criteria.count is not None:
        judges = [name for name in criteria.count if name in gains]
    if not judges:
        return None
    votes = [gains[name].verdict(direction(name, better)) for name in judges]
    gained, against = votes.count("better"), votes.count("worse")
    lost = gains["psnr"].mean if "psnr" in gains else 0.0
    too_much = criteria.psnr_loss is not None and lost < -criteria.psnr_loss
    enough = gained >= criteria.judges * len(judges) and against <= criteria.against
    psnr = lost if too_much else None
    return Verdict(enough and not too_much, gained, len(judges), against, psnr)

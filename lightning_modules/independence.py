"""What a judge has in common with a scorer in the loss: ratings, a teacher's too, or a backbone.

What one of them overrates, the other may overrate as well, so its approval proves little.
"""

import re

from lightning_modules.record import Record

# Published ratings, by which descriptions of training data also name those of a teacher.
RATINGS = re.compile(r"\b(AADB|AVA|BIQ2021|KADID|KonIQ|OASIS|PARA|SPAQ)\b")
HALF = re.compile(r"\bhalf ([A-Z])\b")  # halves of a data set have no photo in common


def shared(scorer: Record, judge: Record) -> list[str]:
    """Name what a scorer and a judge have in common: `backbone` and `ratings (AVA)`."""
    found = ["backbone"] * (scorer.backbone == judge.backbone)
    if scorer.data == judge.data:
        return [*found, "ratings"]
    halves = [match and match[1] for match in (HALF.search(r.data) for r in (scorer, judge))]
    if None not in halves and halves[0] != halves[1]:
        return found
    common = set(RATINGS.findall(scorer.data)) & set(RATINGS.findall(judge.data))
    return [*found, f"ratings ({', '.join(sorted(common))})"] if common else found


def dependence(scorer: Record, judge: Record, who: str = "the judge") -> list[str]:
    """Warn if the judge shares its backbone or ratings, and so perhaps faults, with the scorer."""
    common = shared(scorer, judge)
    return [f"{who} is not independent: it shares {' and '.join(common)}"] if common else []

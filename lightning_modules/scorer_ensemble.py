"""Several frozen scorers that rate images together.

Shape suffixes: S scorers, B batch, C channels, H and W height and width, F features.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from networks.nima import NIMA, inference_copy, mean_score

Reduce = Literal["mean", "min"]


class Ensemble(nn.Module):
    """Scorers whose scores are combined image by image.

    Scores are on the scale of the first scorer, 1..K; those of scorers with another K are mapped to
    it linearly.

    Args:
        scorers: one or more; they are copied.
        reduce: `mean` or `min` of the scores of an image.

    Raises:
        ValueError: if there is no scorer or `reduce` is unknown.
    """

    def __init__(self, scorers: Sequence[NIMA], reduce: Reduce = "mean") -> None:
        super().__init__()
        if not scorers:
            raise ValueError("scorer=[]: one scorer or more")
        if reduce not in get_args(Reduce):
            raise ValueError(f"reduce={reduce}: allowed are {', '.join(get_args(Reduce))}")
        self.members = nn.ModuleList(inference_copy(scorer) for scorer in scorers)
        self.reduce = reduce
        self.num_buckets: int = scorers[0].num_buckets

    @property
    def scorers(self) -> list[NIMA]:
        """Return the scorers."""
        return list(self.members)  # type: ignore[arg-type]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Compute the mean scores of images at their own size, S x B, in 1..K."""
        return torch.stack(
            [self.rescaled(mean_score(scorer(images_BCHW)), scorer) for scorer in self.scorers]
        )

    def rescaled(self, score_B: Tensor, scorer: NIMA) -> Tensor:
        """Map scores of a scorer to the scale of the first one."""
        if scorer.num_buckets == self.num_buckets:
            return score_B
        return 1 + (score_B - 1) * (self.num_buckets - 1) / (scorer.num_buckets - 1)

    def combined(self, score_SB: Tensor) -> Tensor:
        """Combine the scorers' scores of each image; B."""
        return score_SB.mean(dim=0) if self.reduce == "mean" else score_SB.min(dim=0).values

    def features(self, images_BCHW: Tensor, *, whole: bool = False) -> list[Tensor]:
        """Compute each scorer's pooled features, B x F; of whole images by the scorer's rule."""
        return [
            scorer.pooled_features(scorer.prepare(images_BCHW) if whole else images_BCHW)
            for scorer in self.scorers
        ]

    def score(self, images_BCHW: Tensor) -> Tensor:
        """Rate whole images of any size in [0, 1], each scorer by its own rule; B."""
        found = [
            self.rescaled(mean_score(scorer(scorer.prepare(images_BCHW))), scorer)
            for scorer in self.scorers
        ]
        return self.combined(torch.stack(found))

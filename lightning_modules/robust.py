"""Terms that make a scorer worth following as a loss: small slopes, and order among degradations.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.graded import GRADED, degrade
from lightning_modules.losses import emd_per_sample
from networks.nima import mean_score

if TYPE_CHECKING:
    from networks.nima import NIMA

EPSILON = 1e-12  # inside roots and divisors
SHORTEST = 0.01  # of the longest step; float32 still tells the scores apart


class RobustTerms:
    """Terms beside the EMD, on a share of each batch.

    - The norm of the score's gradient, by a finite difference along it: one more forward pass and
      no second derivative (Liu et al., "NT", CVPR 2024). The slope is the change of the score per
      grey level of a step, whose length is drawn anew for each image, log-uniformly.
    - The EMD where that step leads, uphill or downhill: adversarial training.
    - A ranking: a photo that is degraded more has to score lower, by a margin in proportion
      (hinge). Only photos whose own mean is `clean_from` or more are used: others may be blurred or
      noisy already. Half of the pairs compare with the photo itself.

    Args:
        slope: weight of the slope, in units of the score per grey level.
        adversarial: weight of the EMD at the displaced photos.
        ranking: weight of the ranking.
        step: longest step in grey levels, as the root mean square over pixels.
        margin: by how much the score has to fall over the whole range of strengths, as a share of
            the range of scores.
        clean_from: mean rating from which a photo counts as clean, as a share of that range.
        share: share of the batch that is used.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        *,
        slope: float = 0.0,
        adversarial: float = 0.0,
        ranking: float = 0.0,
        step: float = 2.0,
        margin: float = 0.2,
        clean_from: float = 0.5,
        share: float = 0.25,
    ) -> None:
        for name, value in (
            *(("slope", slope), ("adversarial", adversarial), ("ranking", ranking)),
            ("margin", margin),
        ):
            if not value >= 0:
                raise ValueError(f"model.robust.{name}={value}: 0 or more")
        if not step > 0:
            raise ValueError(f"model.robust.step={step}: more than 0 grey levels")
        for name, value in (("clean_from", clean_from), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"model.robust.{name}={value}: 0 to 1")
        self.slope = slope
        self.adversarial = adversarial
        self.ranking = ranking
        self.step = step
        self.margin = margin
        self.clean_from = clean_from
        self.share = share

    def __call__(self, net: "NIMA", images_BCHW: Tensor, p_BK: Tensor) -> dict[str, Tensor]:
        """Compute the terms, before they are weighted, on the first images of a batch.

        Args:
            net: the scorer; dropout is not applied here, since it would drown the differences.
            images_BCHW: crops in [0, 1].
            p_BK: their rating distributions.
        """
        num = max(1, round(self.share * len(images_BCHW)))
        images_BCHW, p_BK = images_BCHW[:num].detach(), p_BK[:num]
        found: dict[str, Tensor] = {}
        with torch.autocast(images_BCHW.device.type, enabled=False):  # differences of scores
            if self.slope or self.adversarial:
                found |= self.displaced(net, images_BCHW, p_BK)
            if self.ranking:
                found["ranking"] = self.ranked(net, images_BCHW, p_BK)
        return found

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """Add up the terms."""
        weights = {name: getattr(self, name) for name in terms}
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def displaced(self, net: "NIMA", images_BCHW: Tensor, p_BK: Tensor) -> dict[str, Tensor]:
        """Compute the terms that look at photos a step along the score's gradient away."""
        images_BCHW = images_BCHW.requires_grad_()
        score_B = mean_score(plain(net, images_BCHW))
        (gradient_BCHW,) = torch.autograd.grad(score_B.sum(), images_BCHW, retain_graph=True)
        rms_B111 = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        # Uphill or downhill. Short steps too: over 0.1 levels a score can rise as far as over 1.
        draw_B = torch.rand(2, len(images_BCHW), device=images_BCHW.device)
        step_B = self.step * SHORTEST ** draw_B[0] * (2 * (draw_B[1] < 0.5).float() - 1)
        step_B111 = step_B.view(-1, 1, 1, 1) / 255
        there_BCHW = images_BCHW.detach() + step_B111 * gradient_BCHW / (rms_B111 + EPSILON)
        there_BK = plain(net, there_BCHW)
        slope_B = (mean_score(there_BK) - score_B) / step_B
        return {
            "slope": slope_B.abs().mean(),
            "adversarial": emd_per_sample(there_BK, p_BK).mean(),
        }

    def ranked(self, net: "NIMA", images_BCHW: Tensor, p_BK: Tensor) -> Tensor:
        """Compute the hinge of the ranking; 0 if no photo is clean."""
        buckets = p_BK.shape[1]
        clean = mean_score(p_BK) >= 1 + self.clean_from * (buckets - 1)
        draw_B4 = torch.rand(len(images_BCHW), 4, device=images_BCHW.device)
        worse_B = 0.2 + 0.8 * draw_B4[:, 0]
        better_B = torch.where(draw_B4[:, 1] < 0.5, 0.0, draw_B4[:, 2] * (worse_B - 0.1))
        kind_B = (draw_B4[:, 3] * len(GRADED)).long()
        pairs_BCHW = torch.cat([images_BCHW, images_BCHW]).detach()
        strength_B, kind_B = torch.cat([better_B, worse_B]), kind_B.repeat(2)
        with torch.no_grad():
            for k, name in enumerate(GRADED):
                own = kind_B == k
                if own.any():
                    pairs_BCHW[own] = degrade(pairs_BCHW[own], name, strength_B[own])
        better, worse = mean_score(plain(net, pairs_BCHW)).chunk(2)
        margin_B = self.margin * (buckets - 1) * (worse_B - better_B)
        short_B = (margin_B - (better - worse)).relu() / (buckets - 1)
        return (short_B * clean).sum() / clean.sum().clamp_min(1)


def plain(net: "NIMA", images_BCHW: Tensor) -> Tensor:
    """Predict distributions without dropout before the head."""
    logits_BK: Tensor = net.head(net.pooled_features(images_BCHW))
    return logits_BK.float().softmax(dim=1)

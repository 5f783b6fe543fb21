"""A loss of one's own: Charbonnier's, in grey levels, instead of L2."""

from torch import Tensor

from lightning_modules.losses import HybridLoss


class Charbonnier(HybridLoss):
    """Charbonnier + gamma * (K - mean score)."""

    def fidelity_terms(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Name and value of each term; they are added up."""
        return {"charbonnier": ((255 * (sr - hr)) ** 2 + 1).sqrt().mean()}

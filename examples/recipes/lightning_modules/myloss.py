"""A custom loss: Charbonnier, in grey levels, instead of L2."""

from torch import Tensor

from lightning_modules.losses import HybridLoss


class Charbonnier(HybridLoss):
    """Charbonnier + gamma * (K - mean score)."""

    def fidelity_terms(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Return the terms by name; the fidelity is their sum."""
        return {"charbonnier": ((255 * (sr - hr)) ** 2 + 1).sqrt().mean()}

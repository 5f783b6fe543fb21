"""Hold a module beside a LightningModule: not trained, not averaged, not saved with it."""

import copy
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn


class Frozen(nn.Module):
    """Hold a frozen module, such as a scorer.

    It is not a submodule: its weights would be trained, averaged and saved with the network. It
    moves to other devices with the module around it, stays in eval mode, and lets the gradient
    through to the pixels.

    Args:
        held: the module; a function, which has nothing to freeze, is held as it is.
    """

    def __init__(self, held: Callable[..., object]) -> None:
        super().__init__()
        if isinstance(held, nn.Module):
            held.eval().requires_grad_(False)
        self._unregistered = (held,)  # nn.Module does not look into tuples

    @property
    def held(self) -> Any:  # noqa: ANN401
        """Return what it holds."""
        return self._unregistered[0]

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Copies of the module around it, such as averages of its weights, share what it holds."""
        memo[id(self.held)] = self.held
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__getstate__(), memo)  # type: ignore[no-untyped-call]
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if isinstance(self.held, nn.Module):
            self.held._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

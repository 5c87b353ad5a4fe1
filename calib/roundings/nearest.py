"""Every weight goes to its nearest code before the first step and stays there; nothing is learned about weights.

With learned activation scales this is LSQ's part of the reconstruction methods, see `calib.methods.lsq`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from isobit.calib.roundings import ROUNDINGS, ChosenRounding, RoundingParameters, Weights, rounding


def round_to_nearest(weights: Weights) -> tuple[Tensor, ...]:
    """Send every weight to its nearest code, forgetting codes that were decided before; returns the int32 codes."""
    found = []
    for quantizer, weight in weights:
        quantizer.set_params(quantizer.params)
        quantizer.harden(quantizer.quantize(weight))
        found.append(quantizer.codes)
    return tuple(found)


@rounding("nearest", RoundingParameters, learns=False)
class NearestRounding:
    """The codes of round-half-to-even, in place while the unit is trained."""

    def __init__(self, weights: Weights, parameters: RoundingParameters, steps: int) -> None:
        self._weights = weights

    def attach(self) -> None:
        """Store the nearest codes."""
        round_to_nearest(self._weights)

    def detach(self) -> None:
        """Forget the codes."""
        for quantizer, _ in self._weights:
            quantizer.set_params(quantizer.params)

    def regularised(self, step: int) -> bool:
        """Never."""
        return False

    def refresh(self) -> None:
        """Nothing: the weights do not change."""

    def arrived(self) -> tuple[Tensor, ...]:
        """None: no gradient is asked for."""
        return ()

    def collect(self, cursor: Tensor, regularised: bool, loss: Callable[[], Tensor]) -> None:
        """Nothing moves."""

    def settle(self) -> None:
        """Nothing: the codes are decided."""

    def harden(self) -> tuple[Tensor, ...]:
        """Store the nearest codes and return them."""
        return round_to_nearest(self._weights)

    def undecided(self) -> float:
        """0: every code is decided from the beginning."""
        return 0.0

    def flipped(self) -> float:
        """0 by definition."""
        return 0.0


NEAREST = ChosenRounding(ROUNDINGS.get("nearest"), RoundingParameters())

"""No images: for methods that make their own while they train (GDFQ)."""

from __future__ import annotations

from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters
from isobit.calib.sources import maker


class NoneParameters(Parameters):
    """None."""


def _cost(parameters: NoneParameters, facts: CostFacts) -> Cost:
    return Cost()


@maker("none", NoneParameters, gives=set(), cost=_cost, counts=False)
def none(calibration: Calibration, parameters: NoneParameters) -> tuple[Tensor, None]:
    """No image of the model's shape: [0, C, H, W]."""
    return calibration.only_images, None

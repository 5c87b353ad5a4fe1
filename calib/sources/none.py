"""No images: for methods that make their own while they train (GDFQ)."""

from __future__ import annotations

from torch import Tensor

from calib.context import Calibration
from calib.parameters import Parameters
from calib.sources import maker


class NoneParameters(Parameters):
    """None."""


@maker("none", NoneParameters, gives=set(), counts=False)
def none(calibration: Calibration, parameters: NoneParameters) -> tuple[Tensor, None]:
    """No image of the model's shape: [0, C, H, W]."""
    return calibration.images, None

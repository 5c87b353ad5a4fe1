"""No images: for methods that make their own while they train (GDFQ)."""

from __future__ import annotations

from torch import Tensor

from calib.context import Calibration
from calib.parameters import Parameters
from calib.sources import maker
from calib.work import Work, WorkFacts


class NoneParameters(Parameters):
    """None."""


def _work(parameters: NoneParameters, facts: WorkFacts) -> Work:
    return Work()


@maker("none", NoneParameters, gives=set(), work=_work, counts=False)
def none(calibration: Calibration, parameters: NoneParameters) -> tuple[Tensor, None]:
    """No image of the model's shape: [0, C, H, W]."""
    return calibration.images, None

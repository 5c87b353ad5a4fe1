"""Signal to noise: the power of the float network's outputs over that of each stage's difference to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isobit.pipeline.proof.metrics import Outputs, metric
from isobit.pipeline.proof.moments import Moments


@metric("signal_to_noise", "signal to noise ratio, dB", {"classes", "maps", "values"}, published=True)
class SignalToNoise:
    """Attributes:
    signal: moments of all float outputs.
    noise: sum of the squared differences, by stage.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.signal = Moments()
        self.noise = {name: 0.0 for name in stages if name != "float"}

    def add(self, outputs: Outputs) -> None:
        """Add up squares in float64."""
        reference = outputs.results["float"].astype(np.float64)
        self.signal.add(reference)
        for name in self.noise:
            self.noise[name] += float(np.square(outputs.results[name].astype(np.float64) - reference).sum())

    @property
    def values(self) -> dict[str, float | None]:
        """In decibel; None where either power is 0."""
        signal = self.signal.squares
        return {
            name: round(10 * math.log10(signal / noise), 2) if 0 < noise < math.inf and 0 < signal < math.inf else None
            for name, noise in self.noise.items()
        }

    @property
    def unexplained(self) -> float | None:
        """Mean square of artifact - float, as a share of the variance of the float outputs; None where they are equal
        for all samples.
        """
        spread = self.signal.variance * self.signal.count
        # Below the rounding of float32 there is no spread.
        constant = spread <= 1e-12 * self.signal.squares
        return None if constant else self.noise["artifact"] / spread

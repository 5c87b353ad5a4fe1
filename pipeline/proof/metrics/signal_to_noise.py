"""Signal to noise: the power of the float network's outputs over that of a stage's difference to them."""

from __future__ import annotations

import math

import numpy as np

from isobit.pipeline.proof.metrics import Outputs, metric
from isobit.pipeline.proof.metrics.moments import Moments


class Noise:
    """What one output of one stage differs by; see `SignalToNoise`.

    Attributes:
        signal: moments of the float output.
        noise: sum of the squared differences.
    """

    def __init__(self) -> None:
        self.signal, self.noise = Moments(), 0.0

    def add(self, given: np.ndarray, reference: np.ndarray) -> None:
        """Add up squares in float64."""
        wanted = reference.astype(np.float64)
        self.signal.add(wanted)
        self.noise += float(np.square(given.astype(np.float64) - wanted).sum())

    @property
    def ratio(self) -> float | None:
        """In decibel; None where either power is 0 or not finite."""
        signal, noise = self.signal.squares, self.noise
        known = 0 < noise < math.inf and 0 < signal < math.inf
        return round(10 * math.log10(signal / noise), 2) if known else None

    @property
    def unexplained(self) -> float | None:
        """Mean square of the difference as a share of the variance of the float output; None where that is constant
        and where a value is not finite.
        """
        spread = self.signal.variance * self.signal.count
        # Below the rounding of float32 there is no spread.
        known = spread > 1e-12 * self.signal.squares and math.isfinite(self.noise)
        return self.noise / spread if known else None


@metric("signal_to_noise", "signal to noise ratio", unit="dB", against="float", published=True)
class SignalToNoise:
    """Attributes:
    outputs: by name.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Noise] = {}

    def update(self, outputs: Outputs, target: Outputs) -> None:
        """Add up powers of each output and of its difference to float."""
        for name, given in outputs.items():
            self.outputs.setdefault(name, Noise()).add(given, target[name])

    def compute(self) -> float | None:
        """In decibel, of the worst output; None where no output has both powers, or one has no finite noise."""
        if not all(math.isfinite(noise.noise) for noise in self.outputs.values()):
            return None
        return min((ratio for noise in self.outputs.values() if (ratio := noise.ratio) is not None), default=None)

"""Cosine: of the angle between a stage's output and the float network's, a mean over the samples."""

from __future__ import annotations

import numpy as np

from isobit.pipeline.proof.metrics import Outputs, metric


@metric("cosine", "cosine to float", against="float", published=True)
class Cosine:
    """Attributes:
    sums, counts: of cosines and of samples, by output name.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def update(self, outputs: Outputs, target: Outputs) -> None:
        """Compare each sample's values as one vector; two vectors of zeros point the same way, one of them nowhere."""
        for name, given in outputs.items():
            ours, theirs = (values.reshape(len(values), -1).astype(np.float64) for values in (given, target[name]))
            with np.errstate(invalid="ignore"):  # infinite answers have no angle
                alike = _cosines(ours, theirs)
            self.sums[name] = self.sums.get(name, 0.0) + float(alike.sum())
            self.counts[name] = self.counts.get(name, 0) + len(alike)

    def compute(self) -> float | None:
        """-1 to 1, of the worst output; None where nothing was counted or a value is not finite."""
        found = [self.of(name) for name, count in self.counts.items() if count]
        known = [value for value in found if value is not None]
        return min(known) if known and len(known) == len(found) else None

    def of(self, output: str) -> float | None:
        """The same of one output."""
        mean = self.sums[output] / max(1, self.counts[output])
        return round(mean, 6) if self.counts[output] and np.isfinite(mean) else None


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The cosine of each sample."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    dots = np.einsum("nk,nk->n", ours, theirs)
    known = lengths != 0  # not a number stays so
    return np.where(known, dots / np.where(known, lengths, 1), (ours == theirs).all(axis=1))

"""How far each stage of a build is from the float network, output by output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isobit.pipeline.proof.metrics import Outputs
from isobit.pipeline.proof.metrics.signal_to_noise import SignalToNoise


class Distances:
    """The signal to noise ratio of every output, batch by batch."""

    def __init__(self, stages: Sequence[str], outputs: Sequence[str]) -> None:
        self._noise = {name: SignalToNoise(stages) for name in outputs}

    def add(self, results: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Count one batch.

        Args:
            results: by stage, arrays [N, ...] by output name; `float` is among the stages.
        """
        for name, noise in self._noise.items():
            noise.add(Outputs("values", {stage: given[name] for stage, given in results.items()}, {}, None))

    @property
    def decibel(self) -> dict[str, dict[str, float | None]]:
        """By output and stage: power of the float values over that of the difference; None where either is 0."""
        return {name: noise.values for name, noise in self._noise.items()}

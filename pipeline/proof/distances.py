"""How far each stage of a build is from the float network, output by output: the one place where it is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isobit.pipeline.proof.metrics import Outputs
from isobit.pipeline.proof.metrics.cosine import Cosine
from isobit.pipeline.proof.metrics.signal_to_noise import Noise, SignalToNoise


@dataclass(frozen=True)
class OutputDistance:
    """How far every stage's values of one output are from the float network's.

    Args:
        shape: of one sample.
        noise: by stage.
        cosine: by stage, a mean over the samples; None where a value is not finite.
    """

    shape: tuple[int, ...]
    noise: Mapping[str, Noise]
    cosine: Mapping[str, float | None]

    @property
    def signal_to_noise(self) -> dict[str, float | None]:
        """Decibel by stage: power of the float values over that of the difference to them; None where either is 0."""
        return {stage: noise.ratio for stage, noise in self.noise.items()}

    def to_json(self) -> dict[str, Any]:
        """Its part of `parity.json`."""
        return {"shape": list(self.shape), "signal_to_noise_db": self.signal_to_noise, "cosine": dict(self.cosine)}


class Distances:
    """All outputs, batch by batch.

    Attributes:
        noise, cosines: by stage, `float` left out; each counts every output.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.noise = {stage: SignalToNoise() for stage in stages if stage != "float"}
        self.cosines = {stage: Cosine() for stage in self.noise}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, results: Mapping[str, Outputs]) -> None:
        """Count one batch, by stage."""
        reference = results["float"]
        self._shapes = {name: tuple(array.shape[1:]) for name, array in reference.items()}
        for stage, noise in self.noise.items():
            noise.update(results[stage], reference)
            self.cosines[stage].update(results[stage], reference)

    @property
    def outputs(self) -> dict[str, OutputDistance]:
        """By name, in the network's order; nothing before the first batch."""
        return {
            name: OutputDistance(
                shape, {stage: noise.outputs[name] for stage, noise in self.noise.items()},
                {stage: cosine.of(name) for stage, cosine in self.cosines.items()},
            )
            for name, shape in self._shapes.items()
        }

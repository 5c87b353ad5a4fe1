"""Agreement: at how many positions each stage chooses the class that the artifact does."""

from __future__ import annotations

from collections.abc import Sequence

from isobit.pipeline.proof.metrics import Outputs, metric
from isobit.pipeline.proof.outputs import Share


@metric("agreement", "same choice as the artifact, %", {"classes", "maps"}, published=True)
class Agreement:
    """Attributes:
    shares: by stage; not of the artifact with itself.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.shares = {name: Share() for name in stages if name != "artifact"}

    def add(self, outputs: Outputs) -> None:
        """Compare the choices of each stage with the artifact's."""
        for name, share in self.shares.items():
            share.add(outputs.chosen[name] == outputs.chosen["artifact"])

    @property
    def values(self) -> dict[str, float | None]:
        """In percent; None where there is no choice."""
        return {name: share.percent for name, share in self.shares.items()}

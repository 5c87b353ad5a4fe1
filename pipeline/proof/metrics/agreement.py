"""Agreement: at how many positions a stage chooses the class that the artifact does."""

from __future__ import annotations

from isobit.pipeline.proof.metrics import Outputs, first_output, metric
from isobit.pipeline.proof.outputs import Share, same_choice


@metric("agreement", "same choice as the artifact", unit="%", against="artifact", chooses=True, published=True)
class Agreement:
    """Attributes:
    share: of positions of the first output.
    """

    def __init__(self) -> None:
        self.share = Share()

    def update(self, outputs: Outputs, target: Outputs) -> None:
        """Compare a stage's choices with the artifact's."""
        self.share.add(same_choice(first_output(outputs), first_output(target)))

    def compute(self) -> float | None:
        """In percent; None where there is no choice."""
        return self.share.percent

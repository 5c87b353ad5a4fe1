"""Top-1 accuracy: how many labelled samples each stage names right."""

from __future__ import annotations

from collections.abc import Sequence

from isobit.pipeline.proof.metrics import Outputs, metric
from isobit.pipeline.proof.outputs import Share


@metric("top1", "top-1 accuracy, %", {"classes"}, labels=True, published=True)
class Top1:
    """Attributes:
    shares: by stage.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.shares = {name: Share() for name in stages}

    def add(self, outputs: Outputs) -> None:
        """Compare what each stage chooses with the labels [N]."""
        for name, share in self.shares.items():
            share.add(outputs.chosen[name] == outputs.labels)

    @property
    def values(self) -> dict[str, float | None]:
        """In percent; None without labels."""
        return {name: share.percent for name, share in self.shares.items()}

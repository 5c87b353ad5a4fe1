"""What runs where: one row of the placement table for each region of a quantized graph; a backend fills it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Runs = Literal["integer", "layout", "float"]


@dataclass(frozen=True)
class PlacementRow:
    """One region.

    Args:
        name: node name of its value, also the tensor's name in the artifact.
        module: name of its layer, or the path of its module.
        op: operator with its fused activations, `conv2d+relu`.
        runs: `integer`, `layout` (codes move unchanged) or `float`.
        weight, output: bits as the recipe asks for them; None where there is none.
        grid: of the output, in one word: `unsigned`, `signed`, `asymmetric`, or a kind beyond uniform ones.
        note: the reason of a decision that is not simply the recipe's rule.
        source: `file.py:58` of the operator.
    """

    name: str
    module: str
    op: str
    runs: Runs
    weight: str | None
    output: int | None
    grid: str | None
    note: str
    source: str

    def to_json(self) -> dict[str, object]:
        """Its part of the plan as JSON."""
        return asdict(self)

"""The rows of a page's table of layers: what runs where, at how many bits, how well, and what calibration changed."""

from __future__ import annotations

from dataclasses import dataclass

from isobit.pages.artifact import Artifact
from isobit.pipeline.facts.record import NodeFacts, TensorFacts, UnitFacts
from isobit.pipeline.stages import JOINT

GRADES = ((10.0, "bad"), (20.0, "poor"), (30.0, "fair"), (40.0, "good"))  # decibel below which a ratio is of a grade
BEST = "best"


@dataclass(frozen=True)
class Row:
    """One step of the network.

    Args:
        number: in execution order, from 1.
        node: its placement.
        weight, output: what was measured of its tensors; None where it has none.
        before, after: losses of the unit that it was optimised in; None where nothing was learned.
        unit: name of that unit.
    """

    number: int
    node: NodeFacts
    weight: TensorFacts | None
    output: TensorFacts | None
    before: float | None
    after: float | None
    unit: str | None

    @property
    def name(self) -> str:
        """The name of its layer or module, else its own."""
        return self.node.module or self.node.name

    @property
    def ratio(self) -> float | None:
        """Decibel in the network, of its output."""
        return None if self.output is None else self.output.network

    @property
    def bits(self) -> str:
        """`W4 A8`, of what it has; else where it runs."""
        weight = [f"W{self.node.weight}"] if self.node.weight else []
        output = [f"A{self.node.output}"] if self.node.output is not None else []
        return self.node.runs if self.node.runs == "float" else " ".join([*weight, *output]) or self.node.runs

    @property
    def grade(self) -> str:
        """The grade of `ratio`; empty where there is none."""
        return grade(self.ratio)


def grade(ratio: float | None) -> str:
    """`bad` to `best`, of a ratio in decibel."""
    if ratio is None:
        return ""
    return next((name for most, name in GRADES if ratio < most), BEST)


def layer_rows(artifact: Artifact) -> list[Row]:
    """One row a step, in execution order."""
    tensors, units = artifact.tensors(), _losses(artifact.facts.units)
    rows = []
    for number, node in enumerate(artifact.facts.nodes, start=1):
        weight = tensors.get(node.weight_tensor or "")
        before, after = units.get(node.unit or "", (None, None)) if weight is not None else (None, None)
        rows.append(Row(number, node, weight, tensors.get(node.name), before, after, node.unit))
    return rows


def _losses(units: list[UnitFacts]) -> dict[str, tuple[float | None, float | None]]:
    """By unit: with nearest rounding before the first pass of the method, and after the last."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for unit in units:
        for name in unit.name.split(JOINT):
            first = found.get(name, (unit.nearest, None))[0]
            found[name] = first, unit.nearest if unit.kept_nearest else unit.hard
    return found

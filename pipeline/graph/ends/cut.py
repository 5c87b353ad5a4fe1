"""The cut of a network as the plan, the report and the manifest say it: where integers end, and who decodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import fx

from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.ends.decoding import CutPoint, cut_points, decodes
from isobit.pipeline.graph.grid_map import lays_out
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import TUPLE_ENTRY, source_line
from isobit.pipeline.graph.ports import output_names

SHOWN = 8  # places and operators in a sentence


@dataclass(frozen=True)
class Cut:
    """Where integers end.

    Args:
        points: values after which nothing is in integers.
        operators: what decodes them in float inside the artifact; none where it ends at the cut.
        without: names of the model's outputs that the artifact does not compute, because it ends at the cut.
    """

    points: tuple[CutPoint, ...]
    operators: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What plan and report say of it, in one sentence."""
        places = _some([point.text for point in self.points])
        reasons = _some(list(dict.fromkeys(point.why for point in self.points)))
        if self.without:
            return (
                f"the artifact ends at the cut and does not compute {', '.join(self.without)}: its outputs are "
                f"{places}; the target has no float operators for what decodes them, which is left to you (numpy, or "
                "a decoder)"
            )
        return (
            f"integers end at {places}, because {reasons}; what decodes is left in float, inside the artifact: "
            f"{_some(list(dict.fromkeys(self.operators)))} (`options.cut` chooses other places, `options.cut=none` "
            "none)"
        )

    def to_json(self) -> dict[str, object]:
        """Its part of the plan and of the manifest."""
        return asdict(self)


def find_cut(graph: fx.GraphModule, without: Sequence[str] = ()) -> Cut | None:
    """The cut of a prepared or quantized graph; None where nothing decodes.

    Args:
        without: names of the model's outputs that the graph does not have, because it ends at the cut.
    """
    if without:
        return Cut(tuple(_outputs(graph)), (), tuple(without))
    operators = [
        call.op for call in Calls(graph)
        if decodes(call.node) and not call.is_size and not lays_out(call.op) and call.op != TUPLE_ENTRY
    ]
    points = cut_points(graph)
    return Cut(points, tuple(operators)) if points else None


def _outputs(graph: fx.GraphModule) -> Iterator[CutPoint]:
    calls = Calls(graph)
    layers = Layers(calls)
    for name, call in zip(output_names(graph), calls.outputs, strict=True):
        value = call if call.quantizer is None else call.sources[0]
        yield CutPoint(name, layers.name(value), source_line(value.node), "")


def _some(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join([*texts[:SHOWN], *more])

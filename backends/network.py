"""The network as its steps and what each reads: the placement table with its connections, for pages."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from isobit.backends.placement import placement_table
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.facts.record import NodeFacts
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.stages import Unit
from isobit.pipeline.target import Target


def network_nodes(graph: fx.GraphModule, target: Target, units: Iterable[Unit]) -> list[NodeFacts]:
    """One entry a row of the placement table, in execution order.

    Args:
        graph: quantized or frozen.
        units: that calibration optimised one by one.
    """
    calls, rows = Calls(graph), {row.name: row for row in placement_table(graph, target)}
    unit_of = {name: unit.name for unit in units for name in unit.nodes}
    regions = [region for region in find_regions(graph, target) if region.value.name in rows]
    made_by = {node: region.value.name for region in regions for node in _inside(region)}
    found = []
    for region in regions:
        row, anchor = rows[region.value.name], calls[region.anchor]
        weight = anchor.args["weight"] if anchor.op in WEIGHTED else None
        reads = dict.fromkeys(made_by[source] for source in region.inputs if source in made_by)
        found.append(NodeFacts.model_validate({
            **row.to_json(), "reads": [name for name in reads if name != row.name],
            "weight_tensor": None if weight is None or weight.quantizer is None else weight.name,
            "unit": unit_of.get(region.anchor.name), "shape": list(calls[region.value].shape[1:]),
        }))
    return found


def _inside(region: Region) -> list[fx.Node]:
    """The nodes whose values another region may read as this one's."""
    quantizer = [] if region.quantizer is None else [region.quantizer]
    return [region.anchor, *region.absorbed, *quantizer]

"""A network without what decodes its answers: for a target that has no operators for that, in integers or in float."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import fx

from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.ends.decoding import NO_CUT, CutPoint, cut_points, decodes, keep_in_integers
from isobit.pipeline.graph.nodes import finish, nodes_by_name
from isobit.pipeline.graph.ports import input_names, name_ports, output_names, output_node, output_nodes
from isobit.pipeline.stages import Captured


def end_at_cut(captured: Captured, prepared: fx.GraphModule) -> Captured:
    """The network whose outputs are the values before the cut, each under the name of its layer.

    Outputs that nothing decodes stay as they are; `without` names the others, whose names no value takes.

    Args:
        prepared: its graph in canonical form, what decodes marked; changed in place.

    Raises:
        InputError: a value has no name left, because outputs have both of its.
    """
    nodes = nodes_by_name(prepared)
    named = dict(zip(output_names(prepared), output_nodes(prepared), strict=True))
    kept = {name: node for name, node in named.items() if not decodes(node)}
    for point in cut_points(prepared):
        if nodes[point.name] not in kept.values():
            kept[_free_name(point, {*named, *kept, *input_names(prepared)})] = nodes[point.name]
    without = tuple(name for name, node in named.items() if decodes(node))
    output_node(prepared).args = (next(iter(kept.values())) if len(kept) == 1 else tuple(kept.values()),)
    name_ports(prepared, outputs=tuple(kept))
    finish(prepared)
    for node in prepared.graph.nodes:
        keep_in_integers(node)
    return replace(captured, graph=prepared, cut=(NO_CUT,), without=without)


def _free_name(point: CutPoint, taken: Collection[str]) -> str:
    """What the output of a value is called: as its layer, or as its node in the plan."""
    names = list(dict.fromkeys(filter(None, (point.layer, point.name))))
    free = next((name for name in names if name not in taken), None)
    if free is None:
        raise InputError(
            f"the artifact ends at the cut, and outputs of the model have the names of {point.text} before it",
            where=f"output {' and '.join(names)}", allowed="an output that is called as no layer and no node is",
            hint="Rename that output of the model, or take a target with float operators: `target=onnx`.",
        )
    return free

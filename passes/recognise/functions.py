"""A run of elementwise operators that is one function of one tensor takes the function's name.

What a run computes is asked of the run: it is evaluated in float64, as `pipeline.operators.unary` evaluates runs, on
points from -80 to 80, and compared with the rows of the same table. So every order of the parts, every form of the
constants and every way to write a sigmoid is found by the same few lines, and what differs by more than float32
constants differ is not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import fx

from isobit.passes.recognise.rewriting import aten, call
from isobit.pipeline.graph.nodes import is_constant, op_name, tensor_shape
from isobit.pipeline.operators.joined import PAIRS, composed
from isobit.pipeline.operators.unary import UNARY, Array, operand

# (row, ATen operator, its arguments by name), what holds others first.
FUNCTIONS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("hardswish", aten.hardswish.default, {}),
    ("silu", aten.silu.default, {}),
    ("gelu", aten.gelu.default, {"approximate": "none"}),
    ("gelu", aten.gelu.default, {"approximate": "tanh"}),
    ("mish", aten.mish.default, {}),
    ("hardsigmoid", aten.hardsigmoid.default, {}),
    ("sigmoid", aten.sigmoid.default, {}),
    ("tanh", aten.tanh.default, {}),
    ("softplus", aten.softplus.default, {"beta": 1, "threshold": 20}),
)
# Operators in a run; the tanh form of GELU has nine.
LONGEST = 14
POINTS: Array = np.unique(np.concatenate([np.linspace(-80, 80, 1601), np.linspace(-8.1, 8.2, 1630)]))
# Constants are float32: a factor of 1 + 1e-7 is one that was rounded.
TOLERANCE = 1e-6


def function(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The operator that the longest run that ends in `node` is."""
    for source, run in reversed(list(_runs(node))):
        found = _known(graph, run)
        if found is not None:
            target, arguments = found
            return call(graph, node, target, source, **arguments)
    return None


def _runs(last: fx.Node) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """(the one tensor that is read, the operators in the graph's order) of each run that ends in `last`."""
    members: set[fx.Node] = set()
    frontier = {last}
    while frontier and len(members) < LONGEST:
        node = max(frontier)
        if not _elementwise(node) or (node is not last and any(user not in members for user in node.users)):
            return
        members.add(node)
        frontier.remove(node)
        frontier |= {source for source in node.all_input_nodes if not is_constant(source)} - members
        if len(frontier) == 1 and len(members) > 1:
            (source,) = frontier
            if tensor_shape(source) == tensor_shape(last):
                yield source, sorted(members)


def _elementwise(node: fx.Node) -> bool:
    """It computes number by number from what a run may hold: a pair of which one is a constant tensor is none."""
    name = op_name(node)
    return name in UNARY or (name in PAIRS and not any(map(is_constant, node.all_input_nodes)))


def _known(graph: fx.GraphModule, run: list[fx.Node]) -> tuple[Any, dict[str, Any]] | None:
    for node in run:
        name = op_name(node)
        if name in UNARY and (UNARY[name].refusal(node) or tensor_shape(node) != tensor_shape(operand(node))):
            return None
    values = composed(graph, run, POINTS)
    for index, (_, target, arguments) in enumerate(FUNCTIONS):
        wanted = _values_of(index)
        if np.all(np.abs(values - wanted) <= TOLERANCE * np.maximum(1.0, np.abs(wanted))):
            return target, arguments
    return None


@functools.cache
def _values_of(index: int) -> Array:
    row, _, arguments = FUNCTIONS[index]
    return UNARY[row].formula(POINTS, **arguments)

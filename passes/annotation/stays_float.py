"""What stays in float on a target that has both, beside what it has no integer kernels for, and why.

*Before a logarithm.* Codes have the same step everywhere, a logarithm wants the same relative error everywhere: what
lies below half a step becomes log(0). A filter bank whose energies a logarithm reads (the spectrogram that begins an
audio network) is computed in float up to there, unless that leaves no layer in integers.

*Between float operators.* A product of two values that float operators gave, read by float operators alone, would be
rounded to codes three times and gain nothing: both sides have the values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx

from isobit.passes.annotation.structure import Structure
from isobit.pipeline.graph.annotation import keep_float
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED
from isobit.pipeline.graph.grid_map import data_inputs
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.operators.moves import is_move
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.target import Target

BETWEEN = "only float operators before and after it"
BEFORE_LOGARITHM = "a logarithm is taken of what it gives"
# What computes number by number; layers, products of matrices and averages are worth their integer kernels.
ELEMENTWISE = UNARY.keys() | {"add", "mul"}
LOGARITHMS = frozenset(name for name, row in UNARY.items() if row.logarithm)
# What hands relative errors on as they are: powers, sums, averages, and an end below which values count as one.
KEEPS_RELATIVE_ERRORS = {name for name, row in UNARY.items() if row.keeps_relative_errors} | POOLS | {
    "mul", "add", "sum", "mean_over_dims", "amax", "cat",
}
HANDS_ON = KEEPS_RELATIVE_ERRORS | WEIGHTED


def before_logarithms(structure: Structure) -> list[fx.Node]:
    """The layers of whose results a logarithm is taken, and what lies between: powers, sums, an end at the bottom.

    Nothing where no other layer would be left in integers.
    """
    found: set[fx.Node] = set()
    waiting = [node for node in structure.nodes if op_name(node) in LOGARITHMS]
    while waiting:
        node = waiting.pop()
        if node in found or node.op != "call_function":
            continue
        found.add(node)
        if op_name(node) not in WEIGHTED:
            sources = data_inputs(node)
            waiting += [each for each in sources if op_name(each) in HANDS_ON or is_move(op_name(each))]
    if all(layer in found or _in_float(structure, layer) for layer in structure.weighted):
        return []
    return [node for node in structure.nodes if node in found and not is_move(op_name(node))]


def between_floats(structure: Structure, settled: Collection[fx.Node] = ()) -> list[fx.Node]:
    """The elementwise operators, alone or in groups, of which every input and every reader is computed in float.

    The network's inputs and outputs count as float.

    Args:
        structure: of the graph, with what is kept in float already marked.
        settled: operators whose place the recipe has decided.
    """
    found = {
        node for node in structure.nodes
        if node.op == "call_function" and op_name(node) in ELEMENTWISE
        and not _in_float(structure, node) and node not in settled
    }
    # Taking one away takes its neighbours away, until the groups that are left touch nothing in integers.
    while True:
        kept = {
            node for node in found
            if all(each in found or _in_float(structure, each) for each in _neighbours(structure, node))
        }
        if kept == found:
            return [node for node in structure.nodes if node in found]
        found = kept


def _neighbours(structure: Structure, node: fx.Node) -> Iterator[fx.Node]:
    """What gives `node` its values and what computes with its own, through all that only lays values out."""
    yield from structure.values.consumers(node)
    waiting = data_inputs(node)
    while waiting:
        source = waiting.pop()
        if structure.values.hands_on(source):
            waiting.extend(data_inputs(source))
        else:
            yield source


def _in_float(structure: Structure, node: fx.Node) -> bool:
    return node.op != "call_function" or structure.rule(node).inputs == "float"


def leave_float(graph: fx.GraphModule, target: Target, settled: Collection[fx.Node]) -> None:
    """Mark all of it in `graph`, except what `settled` holds: operators whose place the recipe has decided."""
    for node in before_logarithms(Structure(graph, target)):
        if node not in settled:
            keep_float(node, BEFORE_LOGARITHM)
    for node in between_floats(Structure(graph, target), settled):
        keep_float(node, BETWEEN)

"""What stays in float on a target that has both, beside what it has no integer kernels for, and why.

*Before a logarithm.* Codes have the same step everywhere, a logarithm wants the same relative error everywhere: what
lies below half a step becomes log(0). A filter bank whose energies a logarithm reads (the spectrogram that begins an
audio network) is computed in float up to there, unless that leaves no layer in integers.

*Between float operators.* A product of two values that float operators gave, read by float operators alone, would be
rounded to codes three times and gain nothing: both sides have the values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from isobit.passes.annotation.structure import Structure
from isobit.pipeline.graph.annotation import keep_float
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED
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


def before_logarithms(structure: Structure) -> list[Call]:
    """The layers of whose results a logarithm is taken, and what lies between: powers, sums, an end at the bottom.

    Nothing where no other layer would be left in integers.
    """
    found: set[Call] = set()
    waiting = [call for call in structure.operators if call.op in LOGARITHMS]
    while waiting:
        call = waiting.pop()
        if call in found or not call.op:
            continue
        found.add(call)
        if call.op not in WEIGHTED:
            waiting += [each for each in call.inputs if each.op in HANDS_ON or is_move(each.op)]
    if all(layer in found or structure.in_float(layer) for layer in structure.layers):
        return []
    return [call for call in structure.operators if call in found and not is_move(call.op)]


def between_floats(structure: Structure, settled: Collection[Call] = ()) -> list[Call]:
    """The elementwise operators, alone or in groups, of which every input and every reader is computed in float.

    The network's inputs and outputs count as float.

    Args:
        structure: of the graph, with what is kept in float already marked.
        settled: operators whose place the recipe has decided.
    """
    found = {
        call for call in structure.operators
        if call.op in ELEMENTWISE and not structure.in_float(call) and call not in settled
    }
    # Taking one away takes its neighbours away, until the groups that are left touch nothing in integers.
    while True:
        kept = {
            call for call in found
            if all(each in found or structure.in_float(each) for each in _neighbours(structure, call))
        }
        if kept == found:
            return [call for call in structure.operators if call in found]
        found = kept


def _neighbours(structure: Structure, call: Call) -> Iterator[Call]:
    """What gives `call` its values and what computes with its own, through all that only lays values out."""
    yield from structure.values.consumers(call)
    waiting = list(call.inputs)
    while waiting:
        source = waiting.pop()
        if structure.values.hands_on(source):
            waiting.extend(source.inputs)
        else:
            yield source


def leave_float(calls: Calls, target: Target, settled: Collection[Call]) -> None:
    """Mark all of it in a graph, except what `settled` holds: operators whose place the recipe has decided."""
    for call in before_logarithms(Structure(calls, target)):
        if call not in settled:
            keep_float(call.node, BEFORE_LOGARITHM)
    for call in between_floats(Structure(calls, target), settled):
        keep_float(call.node, BETWEEN)

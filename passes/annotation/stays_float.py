"""What stays in float on a target that has both, beside what it has no integer kernels for, and why.

*Before a logarithm.* Codes have the same step everywhere, a logarithm wants the same relative error everywhere: what
lies below half a step becomes log(0). A filter bank whose energies a logarithm reads (the spectrogram that begins an
audio network) is computed in float up to there, unless that leaves no layer in integers. So are the layers that a
layer of that bank reads with nothing that computes in between: together they are one filter, and what one band rounds
off the signal is noise in the quiet bands of all.

*Between float operators.* A product of two values that float operators gave, read by float operators alone, would be
rounded to codes three times and gain nothing: both sides have the values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

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
LINEAR = WEIGHTED | {"cat"}


def before_logarithms(structure: Structure) -> list[Call]:
    """The layers of whose results a logarithm is taken, and what lies between: powers, sums, an end at the bottom.

    Of three sets the widest that leaves another layer in integers, and nothing where none does: the bank (layers that
    only add energies up, and the layers that these read) with all layers that it filters; the bank alone; the last
    layers before each logarithm.
    """
    logarithms = [call for call in structure.operators if call.op in LOGARITHMS]
    last = _reached(logarithms, lambda call: call.op not in WEIGHTED, HANDS_ON)
    bank = _reached(logarithms, lambda call: call.op not in WEIGHTED or _only_adds(call), HANDS_ON)
    # A filter of a filter is a filter: through layers and what only lays out; a sum of two tensors ends it.
    filters = _reached([call for call in bank if call.op in WEIGHTED], lambda call: call.op in LINEAR, LINEAR)
    for found in (bank | filters, bank, last):
        if not all(layer in found or structure.in_float(layer) for layer in structure.layers):
            return [call for call in structure.operators if call in found and not is_move(call.op)]
    return []


def _only_adds(layer: Call) -> bool:
    """Its weights and biases are none below zero: bands summed up, or a number added so that no logarithm is of 0."""
    given = [layer.args[name] for name in ("weight", "bias") if layer.args[name] is not None]
    return all(value.constant and bool((value.tensor >= 0).all()) for value in given)


def _reached(starts: Collection[Call], goes_on: Callable[[Call], bool], handing: Collection[str]) -> set[Call]:
    """The operators from which values come to `starts` through `handing` and moves, and `starts` themselves.

    Args:
        goes_on: what comes to an operator comes from it as well.
    """
    found, waiting = set[Call](), [*starts]
    while waiting:
        call = waiting.pop()
        if call in found or not call.op:
            continue
        found.add(call)
        if goes_on(call) or is_move(call.op):
            waiting += [each for each in call.inputs if each.op in handing or is_move(each.op)]
    return found


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

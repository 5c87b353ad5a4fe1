"""Runs of operators that with the first are one function of its operand, as x * sigmoid(1.7 * x): one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from torch import fx

from isobit.pipeline.graph.calls import Call
from isobit.pipeline.graph.nodes import op_name, source_of
from isobit.pipeline.operators.unary import UNARY, Array, operand

# What joins two functions of one tensor in a third.
PAIRS: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
}


def joined_after(anchor: Call) -> tuple[Call, ...]:
    """The operators after `anchor`, one of this table, that with it are one function of its operand.

    Operators of this table and of `PAIRS`, in the graph's order, that read nothing but the operand of `anchor`,
    constants and each other; only the value of the last is read outside. So x * sigmoid(1.7 * x) is one function.
    """
    source = anchor.inputs[0]
    known, order = {source, anchor}, [anchor]
    waiting = {reader for reader in (*source.readers, *anchor.readers) if reader.place > anchor.place}
    while waiting:
        call = min(waiting, key=_place)
        waiting.discard(call)
        if _joins(call, known):
            known.add(call)
            order.append(call)
            waiting.update(call.readers)
    return next((found for last in reversed(order) if (found := _whole(anchor, last, known))), ())


def _place(call: Call) -> int:
    return call.place


def _joins(call: Call, known: Collection[Call]) -> bool:
    """`call` computes with values of `known` alone, number by number."""
    read = set(call.inputs if call.op in UNARY else call.sources)
    return call.op in UNARY.keys() | PAIRS.keys() and bool(read) and read <= set(known)


def _whole(anchor: Call, last: Call, known: Collection[Call]) -> tuple[Call, ...]:
    """What `last` is computed from after `anchor`, and itself; empty where `anchor` or another has other readers."""
    inside, waiting = {last}, [last]
    while waiting:
        sources = [call for call in waiting.pop().sources if call in known and call is not anchor.inputs[0]]
        waiting.extend(call for call in sources if call not in inside)
        inside.update(sources)
    if anchor not in inside or any(reader not in inside for call in inside - {last} for reader in call.readers):
        return ()
    return tuple(sorted(inside - {anchor}, key=_place))


def composed(graph: fx.GraphModule, nodes: Sequence[fx.Node], x: Array) -> Array:
    """float64 [n] or [channels, n]: what operators of one tensor make of `x` [n]; see `joined_after`."""
    values = {operand(nodes[0]): x}
    for node in nodes:
        pair = PAIRS.get(op_name(node))
        if pair is None:
            values[node] = UNARY[op_name(node)].values(graph, node, values[operand(node)])
        else:
            with np.errstate(all="ignore"):
                values[node] = pair(*(values[source_of(node, place)] for place in (0, 1)))
    return values[nodes[-1]]

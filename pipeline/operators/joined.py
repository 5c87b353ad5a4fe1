"""Runs of operators that with the first are one function of its operand, as x * sigmoid(1.7 * x): one table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from torch import fx

from isobit.pipeline.graph.nodes import is_constant, op_name, source_of
from isobit.pipeline.operators.unary import UNARY, Array, operand

# What joins two functions of one tensor in a third.
PAIRS: Mapping[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
}


def joined_after(anchor: fx.Node) -> tuple[fx.Node, ...]:
    """The operators after `anchor`, one of this table, that with it are one function of its operand.

    Operators of this table and of `PAIRS`, in the graph's order, that read nothing but the operand of `anchor`,
    constants and each other; only the value of the last is read outside. So x * sigmoid(1.7 * x) is one function.
    """
    source = operand(anchor)
    known, order = {source, anchor}, [anchor]
    unseen, node = {user for user in (*source.users, *anchor.users) if anchor < user}, anchor.next
    while unseen:
        unseen.discard(node)
        if _joins(node, known):
            known.add(node)
            order.append(node)
            unseen.update(node.users)
        node = node.next
    return next((found for last in reversed(order) if (found := _whole(anchor, last, known))), ())


def _joins(node: fx.Node, known: Collection[fx.Node]) -> bool:
    """`node` computes with values of `known` alone, number by number."""
    name, read = op_name(node), set(node.all_input_nodes)
    if name in UNARY:
        read = {source for source in read if not is_constant(source)}
    return name in UNARY.keys() | PAIRS.keys() and bool(read) and read <= set(known)


def _whole(anchor: fx.Node, last: fx.Node, known: Collection[fx.Node]) -> tuple[fx.Node, ...]:
    """What `last` is computed from after `anchor`, and itself; empty where `anchor` or another has other readers."""
    inside, waiting = {last}, [last]
    while waiting:
        sources = [node for node in waiting.pop().all_input_nodes if node in known and node is not operand(anchor)]
        waiting.extend(node for node in sources if node not in inside)
        inside.update(sources)
    if anchor not in inside or any(user not in inside for node in inside - {last} for user in node.users):
        return ()
    return tuple(sorted(inside - {anchor}))


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

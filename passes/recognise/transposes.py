"""Permutes that take back what another did: side by side, or with elementwise operators between.

A *region* is a connected set of elementwise operators around which values enter by permutes of one order and leave by
the inverse. Said on the values before the permutes it needs none; where more permutes go than come, it is.
"""

from __future__ import annotations

from torch import fx

from isobit.passes.recognise.rewriting import aten, call, is_call, parameter
from isobit.pipeline.graph.nodes import bound_args, finish, get_attribute, insert_call, op_name, source_of, tensor_shape
from isobit.pipeline.operators.joined import PAIRS
from isobit.pipeline.operators.unary import UNARY

# Operators that make one number of one number, or of two in the same place; `prelu` counts its channels from axis 1.
ELEMENTWISE = UNARY.keys() - {"prelu"} | PAIRS.keys() | {f"{name}_parameter" for name in (*PAIRS, "rsub")}


def merged_transpose(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A permute of a permute is one, or none."""
    if not is_call(node, aten.permute.default) or not is_call(node.args[0], aten.permute.default):
        return None
    first = source_of(node)
    order = [_order(first)[axis] for axis in _order(node)]
    if order == list(range(len(order))):
        return source_of(first)
    return call(graph, node, aten.permute.default, source_of(first), order)


def _order(node: fx.Node) -> list[int]:
    return list(bound_args(node)["dims"])


def cancel_transposes(graph: fx.GraphModule) -> bool:
    """Take out permutes around elementwise operators, in place; True where some went."""
    for node in graph.graph.nodes:
        if is_call(node, aten.permute.default) and any(_moves(user, node) for user in node.users):
            region = _Region(graph, node)
            if region.gain > 0:
                region.rewrite()
                finish(graph)
                return True
    return False


def _moves(node: fx.Node, source: fx.Node) -> bool:
    """An elementwise operator whose result has the shape of what it reads."""
    return op_name(node) in ELEMENTWISE and tensor_shape(node) == tensor_shape(source)


class _Region:
    """The elementwise operators around a permute's readers.

    Attributes:
        entering: permutes of the order that the region reads.
        gain: how many permutes fewer there are without it.
    """

    def __init__(self, graph: fx.GraphModule, seed: fx.Node) -> None:
        self.graph, self.order = graph, _order(seed)
        self.inverse = [self.order.index(axis) for axis in range(len(self.order))]
        self.nodes: set[fx.Node] = set()
        self.entering: set[fx.Node] = set()
        whole = self._grow([user for user in seed.users if _moves(user, seed)])
        leaving = {user for node in self.nodes for user in node.users} - self.nodes
        back = {user for user in leaving if is_call(user, aten.permute.default) and _order(user) == self.inverse}
        others = {node for node in self.nodes if any(user not in self.nodes | back for user in node.users)}
        unread = {node for node in self.entering if all(user in self.nodes for user in node.users)}
        self.back, self.others = back, others
        self.gain = len(back) + len(unread) - len(others) if whole and back else 0

    def _grow(self, waiting: list[fx.Node]) -> bool:
        """Every elementwise reader and source; False where a value enters that is no permute of the order."""
        while waiting:
            node = waiting.pop()
            if node in self.nodes:
                continue
            self.nodes.add(node)
            waiting += [user for user in node.users if user.op == "call_function" and _moves(user, node)]
            for source in node.all_input_nodes:
                if source.op == "get_attr" or source in self.nodes:
                    continue
                if is_call(source, aten.permute.default) and _order(source) == self.order:
                    self.entering.add(source)
                elif source.op == "call_function" and _moves(source, node):
                    waiting.append(source)
                else:
                    return False
        return True

    def rewrite(self) -> None:
        """Let the region compute on what the permutes read."""
        kept = {node: tensor_shape(node) for node in self.nodes}
        for node in sorted(self.nodes):
            for source in node.all_input_nodes:
                if source in self.entering:
                    node.replace_input_with(source, source_of(source))
                elif source.op == "get_attr" and len(tensor_shape(source)) > 0:
                    node.replace_input_with(source, self._constant(node, source))
            node.meta["shape"] = tuple(kept[node][axis] for axis in self.inverse)
        for node in self.others:
            outside = [user for user in node.users if user not in self.nodes | self.back]
            permute = insert_call(self.graph, node, aten.permute.default, (node, self.order), after=node)
            permute.meta["shape"] = kept[node]
            for user in outside:
                user.replace_input_with(node, permute)
        for permute in self.back:
            permute.replace_all_uses_with(source_of(permute))
            self.graph.graph.erase_node(permute)

    def _constant(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """A constant operand with its axes where those of the tensor now are."""
        value, rank = get_attribute(self.graph, source).detach(), len(self.order)
        wide = value.reshape((1,) * (rank - value.dim()) + tuple(value.shape))
        return parameter(self.graph, node, source.name, wide.permute(self.inverse))

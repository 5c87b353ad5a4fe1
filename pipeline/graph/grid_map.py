"""Whose grid a value is on, and who computes with it: one rule for every graph, before and after quantizers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx
from torch.fx.node import map_arg

from isobit.pipeline.graph.dialect import keeps_codes
from isobit.pipeline.graph.nodes import is_constant, op_name, quantizer_of
from isobit.pipeline.operators.moves import is_move
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import OpRule, Target


def lays_out(name: str) -> bool:
    """Whether the operator called `name` only lays values out, of several tensors too."""
    return is_move(name) or name == "cat"


class GridMap:
    """Follows values through the operators that compute nothing.

    Answers are remembered: a map belongs to one state of a graph.

    Args:
        graph: canonical, with quantizers or without.
        target: says which layout operators move codes; None for all of them.
    """

    def __init__(self, graph: fx.GraphModule, target: Target | None) -> None:
        self.graph, self.target = graph, target
        self._sources: dict[fx.Node, fx.Node] = {}
        self._readers: dict[fx.Node, frozenset[fx.Node]] = {}

    def source(self, node: fx.Node) -> fx.Node:
        """Where the grid of a value comes from, looked up through layout operators.

        A quantizer's node, or the operator after which one would stand. Through a concatenation only where all of its
        parts come from one quantizer: else it is the source itself.
        """
        if node not in self._sources:
            self._sources[node] = self._find_source(node)
        return self._sources[node]

    def _find_source(self, node: fx.Node) -> fx.Node:
        while self._moves_codes(node):
            node = data_inputs(node)[0]
        if op_name(node) != "cat":
            return node
        parts = [self.source(part) for part in data_inputs(node)]
        one = len({str(part.target) for part in parts}) == 1
        return parts[0] if one and quantizer_of(self.graph, parts[0]) is not None else node

    def quantizer_node(self, node: fx.Node) -> fx.Node | None:
        """The quantizer's node whose grid the value is on; None where it is on none."""
        found = self.source(node)
        return found if quantizer_of(self.graph, found) is not None else None

    def quantizer(self, node: fx.Node) -> Quantizer | None:
        """The quantizer whose grid the value is on; None where it is on none."""
        return quantizer_of(self.graph, self.source(node))

    def readers(self, node: fx.Node) -> frozenset[fx.Node]:
        """The operators that compute with a value, through all that only lay it out; the output among them."""
        if node not in self._readers:
            found: set[fx.Node] = set()
            for user in node.users:
                found |= self.readers(user) if lays_out(op_name(user)) else {user}
            self._readers[node] = frozenset(found)
        return self._readers[node]

    def only_leaves(self, node: fx.Node) -> bool:
        """The value is laid out for the network's output and nobody computes with it."""
        return all(reader.op == "output" for reader in self.readers(node))

    def is_read(self, node: fx.Node) -> bool:
        """An integer operator computes with the value."""
        return any(reader.op != "output" and self._rule(reader).inputs != "float" for reader in self.readers(node))

    def hands_on(self, node: fx.Node) -> bool:
        """An operator without a grid of its own: it moves codes, or joins tensors with whose codes nobody computes.

        The second leads to the network's output or to float operators only, so that each of its parts keeps the grid
        that suits it and what is laid out are the values.
        """
        if node.op != "call_function":
            return False
        output = self._rule(node).output
        return output == "as_input" or (output == "shared" and not self.is_read(node))

    def consumers(self, node: fx.Node) -> list[fx.Node]:
        """The operators that compute with a value or give it another grid, through those that hand it on."""
        return list(self._consumers(node))

    def _consumers(self, node: fx.Node) -> Iterator[fx.Node]:
        for user in node.users:
            if self.hands_on(user):
                yield from self._consumers(user)
            else:
                yield user

    def _rule(self, node: fx.Node) -> OpRule:
        return _ANYWHERE if self.target is None else self.target.rule_of(node)

    def _moves_codes(self, node: fx.Node) -> bool:
        return keeps_codes(op_name(node)) and self._rule(node).output == "as_input"


# Where no runtime is known every layout operator moves codes.
_ANYWHERE = OpRule("quantized", "as_input")


def data_inputs(node: fx.Node) -> list[fx.Node]:
    """The activation inputs of an operator, in argument order (a tensor read twice appears twice)."""
    found: list[fx.Node] = []
    map_arg((node.args, node.kwargs), lambda source: None if is_constant(source) else found.append(source))
    return found

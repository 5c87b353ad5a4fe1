"""Whose grid a value is on, and who computes with it: one rule for every graph, before and after quantizers."""

from __future__ import annotations

from collections.abc import Iterator

from isobit.pipeline.graph.calls import Call
from isobit.pipeline.graph.dialect import WEIGHTED, keeps_codes, over_features
from isobit.pipeline.operators.moves import MOVES, is_move
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import OpRule, Target


def lays_out(name: str) -> bool:
    """Whether the operator called `name` only lays values out, of several tensors too."""
    return is_move(name) or name == "cat"


def channel_axis(call: Call) -> int | None:
    """The axis of a value on which the channels lie, of which there may be several groups; None where it is lost."""
    if over_features(call.op):
        return len(call.shape) - 1
    if call.quantizer is None and (not call.op or call.op in WEIGHTED or not call.inputs):
        return 1
    return moved_axis(channel_axis(call.inputs[0]), call)


def moved_axis(axis: int | None, call: Call) -> int | None:
    """Where `axis`, the channels' in what a call reads first, is in its value."""
    move = MOVES.get(call.op)
    if move is None or move.channels is None:
        return axis
    return move.channels(axis, call.inputs[0].shape, call.shape, call.args)


class GridMap:
    """Follows values through the operators that compute nothing.

    Answers are remembered: a map belongs to one view of a graph, and to one decision of what is kept in float.

    Args:
        target: says which layout operators move codes; None for all of them.
    """

    def __init__(self, target: Target | None) -> None:
        self.target = target
        self._sources: dict[Call, Call] = {}
        self._readers: dict[Call, frozenset[Call]] = {}

    def source(self, call: Call) -> Call:
        """Where the grid of a value comes from, looked up through layout operators.

        A quantizer, or the operator after which one would stand. Through a concatenation only where all of its
        parts come from one quantizer: else it is the source itself.
        """
        if call not in self._sources:
            self._sources[call] = self._find_source(call)
        return self._sources[call]

    def _find_source(self, call: Call) -> Call:
        while self._moves_codes(call):
            call = call.inputs[0]
        if call.op != "cat":
            return call
        parts = [self.source(part) for part in call.inputs]
        one = len({str(part.node.target) for part in parts}) == 1
        return parts[0] if one and parts[0].quantizer is not None else call

    def quantizer_call(self, call: Call) -> Call | None:
        """The quantizer's call whose grid the value is on; None where it is on none."""
        found = self.source(call)
        return found if found.quantizer is not None else None

    def quantizer(self, call: Call) -> Quantizer | None:
        """The quantizer whose grid the value is on; None where it is on none."""
        return self.source(call).quantizer

    def readers(self, call: Call) -> frozenset[Call]:
        """The operators that compute with a value, through all that only lay it out; the output among them."""
        if call not in self._readers:
            found: set[Call] = set()
            for user in call.readers:
                found |= self.readers(user) if lays_out(user.op) else {user}
            self._readers[call] = frozenset(found)
        return self._readers[call]

    def only_leaves(self, call: Call) -> bool:
        """The value is laid out for the network's output and nobody computes with it."""
        return all(reader.is_output for reader in self.readers(call))

    def is_read(self, call: Call) -> bool:
        """An integer operator computes with the value."""
        return any(not reader.is_output and self._rule(reader).inputs != "float" for reader in self.readers(call))

    def hands_on(self, call: Call) -> bool:
        """An operator without a grid of its own: it moves codes, or joins tensors with whose codes nobody computes.

        The second leads to the network's output or to float operators only, so that each of its parts keeps the grid
        that suits it and what is laid out are the values.
        """
        if not call.op:
            return False
        output = self._rule(call).output
        return output == "as_input" or (output == "shared" and not self.is_read(call))

    def consumers(self, call: Call) -> list[Call]:
        """The operators that compute with a value or give it another grid, through those that hand it on."""
        return list(self._consumers(call))

    def _consumers(self, call: Call) -> Iterator[Call]:
        for user in call.readers:
            if self.hands_on(user):
                yield from self._consumers(user)
            else:
                yield user

    def _rule(self, call: Call) -> OpRule:
        return _ANYWHERE if self.target is None else self.target.rule_of(call)

    def _moves_codes(self, call: Call) -> bool:
        return keeps_codes(call.op) and self._rule(call).output == "as_input"


# Where no runtime is known every layout operator moves codes.
_ANYWHERE = OpRule("quantized", "as_input")


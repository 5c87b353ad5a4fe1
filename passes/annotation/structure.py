"""What `annotate` reads off a graph before it decides: layers, operators with what is fused after them, signs, points.

An *anchor* is an operator that the target computes; its *tail* is the last activation fused after it; a *point* is a
value that may get a grid of its own: a tail, the network input, or what a float operator hands to an integer one.
"""

from __future__ import annotations

from collections.abc import Iterable

from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED, keeps_codes
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.layers import Layers, multiplies
from isobit.pipeline.operators.arithmetic import ARITHMETIC, of_kind
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import gives_no_negatives
from isobit.pipeline.target import OpRule, Target

# Operators whose result is an average or a rearrangement of their input: never negative where the input is not.
MONOTONE = ARITHMETIC.keys() - WEIGHTED


class Structure:
    """The questions that `annotate` asks of one float graph; holds no decision.

    Args:
        calls: of a prepared graph without quantizers.
        target: says what it fuses and what it computes in integers.

    Attributes:
        calls: all that depend on the input, in execution order.
        operators: those of them that call one.
        layers: of the graph, and what they are called.
        preparing: the layers that only bring the input into the form that the first learned layer reads.
        anchors: by its tail.
        values: whose grid each value is on.

    Raises:
        TargetError: there is no layer.
    """

    def __init__(self, calls: Calls, target: Target) -> None:
        self.target = target
        self.values = GridMap(target)
        self.calls = [call for call in calls if not call.constant]
        self.operators = [call for call in self.calls if call.op]
        self.layers = Layers(calls)
        if not self.layers:
            raise TargetError(_no_layer(self.operators), where="the captured graph")
        self.preparing = self.layers.preparing()
        self.anchors = {self.chain(call)[-1]: call for call in reversed(self.operators)}
        self._signs: dict[Call, bool] = {}

    def rule(self, call: Call) -> OpRule:
        """The target's rule for an operator."""
        return self.target.rule_of(call)

    def in_float(self, call: Call) -> bool:
        """The target computes an operator in float; inputs and outputs of the network count as such."""
        return not call.op or self.rule(call).inputs == "float"

    def chain(self, call: Call) -> tuple[Call, ...]:
        """`call` and the activations that the target fuses after it; the last one is the tail."""
        return (call, *self.target.runs_with(call))

    def is_joined(self, call: Call) -> bool:
        """A concatenation that hands values on lies after `call`."""
        movers = [reader for reader in call.readers if self.values.hands_on(reader)]
        return any(self.rule(reader).output == "shared" or self.is_joined(reader) for reader in movers)

    def is_positive(self, call: Call) -> bool:
        """The value cannot be negative, by structure. Remembered: dense connections reach a value on many paths."""
        if call not in self._signs:
            monotone = call.op in MONOTONE or _adds_no_negatives(call)
            self._signs[call] = gives_no_negatives(call.node) or (monotone and all(map(self.is_positive, call.sources)))
        return self._signs[call]

    def points_into(self, layer: Call) -> set[Call]:
        """The points whose values reach the inputs of `layer` through pools and layout operators only."""
        found: set[Call] = set()
        waiting = list(layer.inputs)
        while waiting:
            point = self.values.source(waiting.pop())
            found.add(point)
            anchor = self.anchors.get(point, point)
            if anchor.op in POOLS:
                waiting.append(anchor.sources[0])
            elif self.values.hands_on(anchor):
                waiting.extend(anchor.sources)
        return found

    def points_out_of(self, operator: Call) -> set[Call]:
        """The points that hold what leaves `operator`: after its activation, and on through pools."""
        tail = self.chain(operator)[-1]
        # x * gate(x), a hard-swish in parts, is the activation of the layer before it.
        gated = [reader for reader in tail.readers if reader.op in of_kind("product") and any(
            tail in factor.sources for factor in reader.sources)]
        found: set[Call] = set()
        waiting = [tail, *gated]
        while waiting:
            point = waiting.pop()
            found.add(point)
            waiting.extend(self.chain(reader)[-1] for reader in self.values.consumers(point) if reader.op in POOLS)
        return found


def _adds_no_negatives(call: Call) -> bool:
    """Its values are such as it reads, and at most numbers beside them that are not negative."""
    row = MOVES.get(call.op)
    return keeps_codes(call.op) or (row is not None and call.args[row.fill] >= 0)


def _no_layer(operators: Iterable[Call]) -> str:
    others = ", ".join(dict.fromkeys(call.op for call in operators if multiplies(call.op)))
    told = f": {others} stays in float" if others else ""
    return f"the model has no convolution or linear layer to quantize{told}"

"""What `annotate` reads off a graph before it decides: layers, operators with what is fused after them, signs, points.

An *anchor* is an operator that the target computes; its *tail* is the last activation fused after it; a *point* is a
value that may get a grid of its own: a tail, the network input, or what a float operator hands to an integer one.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED, adds_no_negatives, gives_no_negatives, over_features
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.layers import layer_name, multiplies, prepares_input, weighted_layers
from isobit.pipeline.graph.nodes import bound_args, is_constant, op_name, source_of, tensor_shape
from isobit.pipeline.operators.arithmetic import ARITHMETIC, of_kind
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.target import OpRule, Target

# Operators whose result is an average or a rearrangement of their input: never negative where the input is not.
MONOTONE = ARITHMETIC.keys() - WEIGHTED


class Structure:
    """The questions that `annotate` asks of one float graph; holds no decision.

    Args:
        graph: prepared, without quantizers.
        target: says what it fuses and what it computes in integers.

    Attributes:
        nodes: all that depend on the input, in execution order.
        weighted: the layers among them.
        preparing: the layers that only bring the input into the form that the first learned layer reads.
        names: the layer's name or module path of each node.
        anchors: by its tail.
        values: whose grid each value is on.

    Raises:
        TargetError: there is no layer.
    """

    def __init__(self, graph: fx.GraphModule, target: Target) -> None:
        self.target = target
        self.values = GridMap(graph, target)
        self.nodes = [n for n in graph.graph.nodes if not is_constant(n)]
        self.weighted = weighted_layers(graph)
        if not self.weighted:
            raise TargetError(_no_layer(self.nodes), where="the captured graph")
        self.preparing = _preparing(graph, self.weighted)
        self.names = {node: layer_name(node) for node in self.nodes}
        self.anchors = {self.chain(n)[-1]: n for n in reversed(self.nodes) if n.op == "call_function"}
        self._signs: dict[fx.Node, bool] = {}

    def rule(self, node: fx.Node) -> OpRule:
        """The target's rule for an operator."""
        return self.target.rule_of(node)

    def chain(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """`node` and the activations that the target fuses after it; the last one is the tail."""
        return (node, *self.target.runs_with(node))

    def is_joined(self, node: fx.Node) -> bool:
        """A concatenation that hands values on lies after `node`."""
        movers = [user for user in node.users if self.values.hands_on(user)]
        return any(self.rule(user).output == "shared" or self.is_joined(user) for user in movers)

    def is_positive(self, node: fx.Node) -> bool:
        """The value cannot be negative, by structure. Remembered: dense connections reach a node on many paths."""
        if node not in self._signs:
            monotone = op_name(node) in MONOTONE or adds_no_negatives(node)
            self._signs[node] = gives_no_negatives(node) or (
                monotone and all(self.is_positive(source) for source in node.all_input_nodes))
        return self._signs[node]

    def points_into(self, layer: fx.Node) -> set[fx.Node]:
        """The points whose values reach the inputs of `layer` through pools and layout operators only."""
        found: set[fx.Node] = set()
        waiting = [source for source in layer.all_input_nodes if not is_constant(source)]
        while waiting:
            point = self.values.source(waiting.pop())
            found.add(point)
            anchor = self.anchors.get(point, point)
            if op_name(anchor) in POOLS:
                waiting.append(source_of(anchor))
            elif self.values.hands_on(anchor):
                waiting.extend(anchor.all_input_nodes)
        return found

    def points_out_of(self, operator: fx.Node) -> set[fx.Node]:
        """The points that hold what leaves `operator`: after its activation, and on through pools."""
        tail = self.chain(operator)[-1]
        # x * gate(x), a hard-swish in parts, is the activation of the layer before it.
        gated = [user for user in tail.users if op_name(user) in of_kind("product") and any(
            tail in factor.all_input_nodes for factor in user.all_input_nodes)]
        found: set[fx.Node] = set()
        waiting = [tail, *gated]
        while waiting:
            point = waiting.pop()
            found.add(point)
            waiting.extend(self.chain(user)[-1] for user in self.values.consumers(point) if op_name(user) in POOLS)
        return found


def _no_layer(nodes: Iterable[fx.Node]) -> str:
    others = ", ".join(dict.fromkeys(op_name(node) for node in nodes if multiplies(node)))
    told = f": {others} stays in float" if others else ""
    return f"the model has no convolution or linear layer to quantize{told}"


def _preparing(graph: fx.GraphModule, weighted: list[fx.Node]) -> set[fx.Node]:
    """The layers that only bring the input into the form that the first learned layer reads; none if all would be."""
    buffers = {name for name, _ in graph.named_buffers()}
    found: set[fx.Node] = set()
    for node in weighted:
        if prepares_input(node, found, buffers):
            found.add(node)
    return found if len(found) < len(weighted) else set()


def channel_axis(node: fx.Node) -> int | None:
    """The axis of a value on which the channels lie; None where a layout operator hides it."""
    name = op_name(node)
    sources = [source for source in node.all_input_nodes if not is_constant(source)]
    if over_features(node):
        return len(tensor_shape(node)) - 1
    if node.op != "call_function" or name in WEIGHTED or not sources:
        return 1
    axis, move = channel_axis(sources[0]), MOVES.get(name)
    if move is None or move.channels is None:
        return axis
    return move.channels(axis, tensor_shape(sources[0]), tensor_shape(node), bound_args(node))

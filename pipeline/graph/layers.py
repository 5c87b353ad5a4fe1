"""Which layer is which: a layer is one call of a convolution or linear operator, whatever module it is written in.

Overrides, budgets, units, the manifest and every table name layers by `Layers.name`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import op_name

# Modules that are a layer themselves, however often they are called.
_LAYERS = ("torch.nn.modules.conv.", "torch.nn.modules.linear.")
# Operators, by the beginning of their names, that multiply what they read by weights or by one another.
_WITH_PRODUCTS = ("conv", "linear", "lstm", "gru", "rnn", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum",
                  "bilinear", "scaled_dot_product", "mv", "addmv", "dot", "vdot", "outer", "addr", "addbmm")
# Parameters that a pass made, whose names say nothing about the model.
_MADE = ("constants.", "folded.")


def weighted_layers(graph: fx.GraphModule) -> list[fx.Node]:
    """Every layer of `graph`, in execution order."""
    return [node for node in graph.graph.nodes if op_name(node) in WEIGHTED]


class Layers:
    """The layers of a graph, in execution order, and what they are called."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._all = [call for call in calls if call.op in WEIGHTED]
        self._weights: dict[str, set[str]] = defaultdict(set)
        for layer in self._all:
            self._weights[layer.module].add(weight_name(layer))

    def __iter__(self) -> Iterator[Call]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def name(self, call: Call) -> str:
        """Name of the layer that `call` is, or whose weight or bias it is; for any other the path of its module.

        The path of its module, where that runs no other layer; else the name of its weight (`stem.weight` of `stem`,
        `w1`), or the path and the node's name where the weight is not the model's own. Calls that share a weight share
        the name.
        """
        layer = _layer_of(call)
        if layer is None:
            return call.module
        path, weight = layer.module, weight_name(layer)
        if path and (_is_layer_module(layer) or len(self._weights[path]) == 1):
            return path
        if weight.startswith(_MADE):
            return f"{path}.{layer.name}" if path else layer.name
        owner, _, attribute = weight.rpartition(".")
        return owner if owner and attribute == "weight" and owner != path else weight

    def last(self) -> list[Call]:
        """The layers that no other lies after: the classifier, or every head of a network with several."""
        before: set[Call] = set()
        for call in reversed(self._calls):
            if any(reader in before or reader.op in WEIGHTED for reader in call.readers):
                before.add(call)
        return [layer for layer in self._all if layer not in before]

    def preparing(self) -> set[Call]:
        """The layers that only bring the input into the form that the first learned layer reads; none if all would be.

        A weight among the model's buffers is fixed (a colour conversion); a factor and a shift for each channel (a
        batch norm that nothing could take in) has no learned taps.
        """
        buffers = {name for name, _ in self._calls.graph.named_buffers()}
        found: set[Call] = set()
        for layer in self._all:
            fixed = is_scaling(layer) or weight_name(layer) in buffers
            if fixed and all(other in found for other in _layers_before(layer)):
                found.add(layer)
        return found if len(found) < len(self._all) else set()


def is_scaling(call: Call) -> bool:
    """A convolution that is one factor and one shift for each channel: depthwise, 1x1, every pixel once."""
    if call.op != "conv2d":
        return False
    weight = call.args["weight"].shape
    steps = [*_numbers(call.args["stride"]), *(1 + pad for pad in _numbers(call.args["padding"]))]
    return weight[1:] == (1, 1, 1) and call.args["groups"] == weight[0] and set(steps) == {1}


def is_depthwise(call: Call) -> bool:
    """A convolution each of whose output channels reads the one input channel of its own number."""
    weight = call.args["weight"].shape if call.op == "conv2d" else ()
    return len(weight) == 4 and weight[1] == 1 and call.args["groups"] == weight[0]


def after_layers(calls: Calls) -> set[Call]:
    """The operators that no layer lies after and that are none themselves: a softmax, boxes decoded from offsets.

    Layers here are recurrent ones and products of two tensors as well.
    """
    found: set[Call] = set()  # quantizers, too
    for call in reversed(calls):
        ends = all(reader in found or reader.is_output for reader in call.readers)
        if ends and not call.is_output and not multiplies(call.op):
            found.add(call)
    return {call for call in found if call.op}


def multiplies(name: str) -> bool:
    """Whether operator `name` multiplies what it reads by weights or by one another: any layer, or a product."""
    return name.startswith(_WITH_PRODUCTS)


def weight_name(layer: Call) -> str:
    """Name of the layer's weight in the model."""
    weight = layer.args["weight"]
    while weight.quantizer is not None:
        weight = weight.sources[0]
    return str(weight.node.target)


def _numbers(value: object) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value] if isinstance(value, int) else [0]


def _layers_before(layer: Call) -> set[Call]:
    """Every layer whose result the input of `layer` depends on."""
    found: set[Call] = set()
    seen: set[Call] = set()
    waiting = list(layer.sources)
    while waiting:
        call = waiting.pop()
        if call in seen:
            continue
        seen.add(call)
        waiting.extend(call.sources)
        if call.op in WEIGHTED:
            found.add(call)
    return found


def _layer_of(call: Call) -> Call | None:
    """The layer itself, or the first that reads a constant."""
    while call.op not in WEIGHTED:
        if not call.constant or not call.readers:
            return None
        call = call.readers[0]
    return call


def _is_layer_module(layer: Call) -> bool:
    return bool(layer.module_stack) and layer.module_stack[-1][1].startswith(_LAYERS)

"""A layer that weighs constants by a softmax is no layer: it decodes.

    conv2d(softmax(x), w [1, C, 1, 1]), linear(softmax(x), w [1, C])    -> sum(softmax(x) * w)

Detectors give the distance to a side of a box as the expectation over bins (distribution focal loss): a softmax over
the bins and a layer of one output whose weights are the bins' values. In integers it would stand at the end of the
network as its last layer, with everything before it. Only where no other layer follows.
"""

from __future__ import annotations

from torch import fx

from isobit.passes.recognise.rewriting import aten, call, is_call, parameter, tensor_of
from isobit.pipeline.graph.layers import multiplies
from isobit.pipeline.graph.nodes import bound_args, op_name, source_of, tensor_shape
from isobit.pipeline.operators.moves import is_move


def expectation(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The weighted sum that a layer of one output after a softmax is."""
    if not is_call(node, aten.conv2d.default, aten.linear.default):
        return None
    args = bound_args(node)
    weight, bias = tensor_of(graph, args["weight"]), args["bias"]
    shift = None if bias is None else tensor_of(graph, bias)
    if weight is None or weight.shape[0] != 1 or weight[0].numel() != weight.shape[1] or (bias is not None) != (
            shift is not None):  # fmt: skip
        return None
    if not _after_softmax(source_of(node), weight.shape[1]) or not _plain(args) or _layer_follows(node):
        return None
    shape, axis = list(tensor_shape(source_of(node))), 1 if weight.dim() == 4 else -1
    factors = parameter(graph, node, "bins", weight[0].reshape(-1, *([1, 1] if axis == 1 else [])))
    products = call(graph, node, aten.mul.Tensor, source_of(node), factors, shape=shape)
    total = call(graph, node, aten.sum.dim_IntList, products, [axis], True)
    if shift is None or not bool(shift.any()):
        return total
    return call(graph, node, aten.add.Tensor, total, float(shift.flatten()[0]))


def _plain(args: dict[str, object]) -> bool:
    """A convolution that reads every place once."""
    return "stride" not in args or (
        {*args["stride"], *args["dilation"], args["groups"]} == {1} and set(args["padding"]) == {0}  # pyright: ignore
    )


def _after_softmax(value: fx.Node, bins: int) -> bool:
    """The value is a softmax over so many, as it is or moved."""
    while is_move(op_name(value)) and value.all_input_nodes:
        value = source_of(value)
    if not op_name(value).startswith("softmax"):
        return False
    shape = tensor_shape(value)
    return shape[bound_args(value)["dim"] % len(shape)] == bins


def _layer_follows(node: fx.Node) -> bool:
    seen: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if multiplies(op_name(user)):
            return True
        waiting.extend(user.users)
    return False

"""A file that ends earlier: at values that a user names as outputs, without the nodes that only others need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.pipeline.model.onnx.graph import MAX_NAME

if TYPE_CHECKING:
    import onnx

SHOWN = 12  # names that a message lists


def wants_less(proto: onnx.ModelProto, outputs: Sequence[str], known: Collection[str]) -> bool:
    """Whether the file has to end earlier: a name is no output of it, or an operator is not in `known`."""
    declared = {port.name for port in proto.graph.output}
    strange = any(node.op_type not in known for node in proto.graph.node if node.op_type != "Constant")
    return bool(outputs) and (strange or not set(outputs) <= declared)


def ended_at(proto: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """A copy of the file whose outputs are the values of these names, and its nodes those that they need.

    Args:
        outputs: names of values.

    Raises:
        InputError: the file has no such value.
    """
    import onnx

    makers = {value: node for node in proto.graph.node for value in node.output if value}
    for name in outputs:
        if name not in makers:
            shown = [port.name for port in proto.graph.output][:SHOWN]
            raise InputError(
                f"the model has no output '{name[:MAX_NAME]}'", where="the .onnx file", field="outputs",
                allowed=f"{', '.join(shown)}, or the name of a value in the file",
                hint=nearest_spelling(name, sorted(makers)),
            )
    needed: set[int] = set()
    waiting = list(outputs)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting.extend(node.input)
    ended = onnx.ModelProto()
    ended.CopyFrom(proto)
    del ended.graph.node[:], ended.graph.output[:]
    ended.graph.node.extend(node for node in proto.graph.node if id(node) in needed)
    known = {port.name: port for port in (*proto.graph.value_info, *proto.graph.output)}
    for value in dict.fromkeys(outputs):
        port = known.get(value)
        ended.graph.output.append(port if port is not None else onnx.ValueInfoProto(name=value))
    return _with_types(ended)


def _with_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The types of outputs that the file does not state, as far as they can be inferred."""
    import onnx

    if all(port.HasField("type") for port in proto.graph.output):
        return proto
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # of files beyond its size, or with operators that it does not know
        return proto
    return inferred

"""Float operators that no emitter of ours writes: `torch.onnx` writes them one by one, and their nodes are taken over.

One operator at a time, not an island of them: equal calls are written once, an operator that cannot be written is
refused by its own name, and since nothing stands between two of them a session sees the same graph. Parameters are
inputs of what is written, so that it is the same for all layers of one shape.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from isobit.backends.onnx.graph_writer import GraphWriter
from isobit.pipeline.errors import first_line
from isobit.pipeline.graph.nodes import computes_size, tensor_shape
from isobit.pipeline.quiet import quiet

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 18  # in which torch writes operators; a file of `graph_writer.OPSET` reads them unchanged
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")  # colours
KEPT = 256  # written calls that are remembered: a plan is checked, then emitted


@dataclass(frozen=True)
class _Tensor:
    """What torch has to know of an input: its shape, which axes follow the batch, its type."""

    shape: tuple[int, ...]
    free: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(node: fx.Node) -> _Tensor:
        shape = tensor_shape(node)
        free = tuple(axis for axis, size in enumerate(shape) if size is None)
        return _Tensor(tuple(node.meta.get("example", shape)), free, node.meta.get("dtype", torch.float32))

    def sample(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class _Program:
    """One call as a graph of its own; equal for calls that are written alike.

    Args:
        text: of the graph.
        inputs: of its arguments, in their order.
    """

    text: str
    inputs: tuple[_Tensor, ...]
    graph: fx.Graph = field(compare=False)


def refusal(node: fx.Node) -> str:
    """Why torch cannot write the call, or an empty string."""
    written = _written(_program(node)[0])
    return written if isinstance(written, str) else ""


def emit(writer: GraphWriter, node: fx.Node, values: Callable[[fx.Node], ir.Value], name: str | None) -> Any:
    """Write the call.

    Args:
        values: the ONNX value of a node that the call reads; asked for what its sizes follow from, too.
        name: of the result; a short one where None.

    Returns:
        The value, or a list where the call returns several tensors.

    Raises:
        ValueError: it has a `refusal`.
    """
    program, sources = _program(node)
    model = _written(program)
    if isinstance(model, str):
        raise ValueError(model)
    outputs = _spliced(writer, model, [values(source) for source in sources], name)
    return outputs if _returns_several(node) else outputs[0]


def _returns_several(node: fx.Node) -> bool:
    return "example" not in node.meta


def _program(node: fx.Node) -> tuple[_Program, list[fx.Node]]:
    """The call, with the arithmetic on sizes that it reads, and the nodes whose tensors are its arguments."""
    graph, copies, sources = fx.Graph(), dict[fx.Node, fx.Node](), list[fx.Node]()

    def find(read: fx.Node) -> None:
        for source in read.all_input_nodes:
            if computes_size(source):
                find(source)
            elif source not in sources:
                sources.append(source)

    def copy(read: fx.Node) -> fx.Node:
        if read not in copies:
            args, kwargs = map_arg((read.args, read.kwargs), copy)
            copies[read] = graph.call_function(read.target, args, kwargs)  # pyright: ignore[reportArgumentType]
        return copies[read]

    find(node)
    for place, source in enumerate(sources):
        copies[source] = graph.placeholder(f"input_{place}")
    graph.output(copy(node))
    return _Program(str(graph), tuple(map(_Tensor.of, sources)), graph), sources


@functools.lru_cache(KEPT)
def _written(program: _Program) -> ir.Model | str:
    """What torch makes of a call, or why it makes nothing."""
    shapes = tuple(dict.fromkeys(each.free, torch.export.Dim.DYNAMIC) for each in program.inputs)
    samples = tuple(each.sample() for each in program.inputs)
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(fx.GraphModule({}, program.graph), samples, dynamic_shapes=shapes)
            found = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:  # whatever stops torch: the operator has no form in ONNX that it knows
        return f"torch.onnx cannot write it ({type(error).__name__}{_detail(error)})"
    if found is None:
        return "torch.onnx writes nothing"
    model = found.model
    if model.functions or any(_is_nested(node) for node in model.graph):
        return "torch.onnx writes it with control flow"
    return model


def _detail(error: BaseException) -> str:
    """What the innermost error says, unless it is advice to those who develop torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = _TERMINAL.sub("", first_line(error))[:200]
    return f": {line}" if line else ""


def _is_nested(node: ir.Node) -> bool:
    inner = any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values())
    return inner or node.domain != ""


def _spliced(
    writer: GraphWriter, model: ir.Model, inputs: Sequence[ir.Value], name: str | None
) -> list[ir.Value]:
    """The nodes of `model` written again with `inputs` in place of its own; its outputs, the first called `name`."""
    values = dict[Any, Any](zip(model.graph.inputs, inputs, strict=True))
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            values[value] = writer.constant(value.const_value.numpy())
    first = model.graph.outputs[0]
    for node in model.graph:
        if node.op_type == "Constant":
            values[node.outputs[0]] = writer.constant(_constant(node))
            continue
        names = {} if name is None else {place: name for place, out in enumerate(node.outputs) if out is first}
        copies = writer.copy(node, [None if value is None else values[value] for value in node.inputs], names)
        values.update(zip(node.outputs, copies, strict=True))
    outputs = [values[value] for value in model.graph.outputs]
    written = {copy for node in model.graph if node.op_type != "Constant" for copy in node.outputs}
    if first not in written:  # an input or a constant itself
        outputs[0] = writer.call("Identity", [outputs[0]], name=name)
    return outputs


def _constant(node: ir.Node) -> Any:
    """The array of a Constant node, in whichever attribute it is."""
    import numpy as np

    name, attribute = next(iter(node.attributes.items()))
    if name == "value":
        return attribute.value.numpy()
    return np.asarray(attribute.value, np.int64 if name.startswith("value_int") else np.float32)

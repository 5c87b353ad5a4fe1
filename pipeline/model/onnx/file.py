"""Reads an ONNX file without trust: its protobuf, its weights inside and outside, and what cannot be taken, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.model.onnx.functions import written_out
from isobit.pipeline.model.onnx.graph import MAX_NAME, Graph, Node, Port, in_order

if TYPE_CHECKING:
    import onnx

OLDEST, STANDARD = 7, ("", "ai.onnx")
CONTROL = ("If", "Loop", "Scan", "SequenceMap")
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger",
)
_CONSTANT_LISTS = {
    "value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64, "value_ints": torch.int64,
}
_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64,
}


def open_file(path: Path) -> onnx.ModelProto:
    """The protobuf of a file, with weights from the files beside it, and local functions written out.

    Raises:
        InputError: the file is damaged; its weights lie elsewhere than in its own folder.
    """
    import onnx
    import onnx.external_data_helper as external

    try:
        proto = onnx.load_model(str(path), load_external_data=False, format="protobuf")
    except Exception as error:  # the parser raises its own types
        raise InputError(
            f"the file is not a whole ONNX file: {first_line(error)}", where=str(path), hint="Export it again."
        ) from error
    if not proto.HasField("graph"):
        raise InputError("the file holds no graph", where=str(path), hint="Export it again.")
    _check_texts(proto, path)
    for tensor in _tensors(proto.graph):
        if external.uses_external_data(tensor):
            _check_external(tensor, path)
    try:
        external.load_external_data_for_model(proto, str(path.resolve().parent))
        return written_out(proto, path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the file cannot be read: {first_line(error)}", where=str(path)) from error


def read_graph(proto: onnx.ModelProto, path: Path) -> Graph:
    """What the file says.

    Raises:
        InputError: it is quantized already, or it holds control flow, operators of others, or tensors that do not fit
            what they declare.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in STANDARD), 0)
    if opset < OLDEST:
        raise InputError(
            f"the file is of opset {opset}", where=str(path), allowed=f"opset {OLDEST} or newer",
            hint="Export it again, or lift it with onnx.version_converter.",
        )
    if proto.graph.sparse_initializer:
        raise InputError("the file has sparse weights", where=str(path), allowed="dense tensors")
    nodes, constants = [], {tensor.name: _value(tensor, path) for tensor in proto.graph.initializer}
    for entry in proto.graph.node:
        if entry.op_type == "Constant" and entry.domain in STANDARD:
            constants.update({entry.output[0]: _constant(entry, path)})
        else:
            nodes.append(_node(entry, path))
    inputs = tuple(_port(entry, path) for entry in proto.graph.input if entry.name not in constants)
    outputs = tuple(entry.name for entry in proto.graph.output)
    if not inputs or not outputs:
        raise InputError(f"the file has {len(inputs)} inputs and {len(outputs)} outputs", where=str(path),
                         allowed="at least one of each")
    known = {port.name for port in inputs} | set(constants)
    order = in_order(tuple(nodes), known)
    made = known | {name for node in order for name in node.outputs}
    lacking = next((name for name in outputs if name not in made), None)
    if lacking is not None:
        raise InputError(f"no node makes the output '{lacking[:MAX_NAME]}'", where=str(path))
    return Graph(order, constants, inputs, outputs, opset)


def _check_texts(proto: onnx.ModelProto, path: Path) -> None:
    """Every name is text: protobuf hands over as bytes what is no UTF-8."""
    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            several = (value,) if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
            if field.type == field.TYPE_MESSAGE:
                waiting.extend(several)
            elif field.type == field.TYPE_STRING and not all(isinstance(each, str) for each in several):
                raise InputError(f"the field '{field.name}' of a {message.DESCRIPTOR.name} is no text in UTF-8",
                                 where=str(path), hint="The file is damaged: export it again.")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Weights outside lie in a file below the model's own folder, and as many bytes as the tensor declares."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    where, folder = f"{path}, tensor '{tensor.name[:MAX_NAME]}'", path.resolve().parent
    place = Path(said.get("location", ""))
    try:
        resolved = (folder / place).resolve()
        is_file = resolved.is_file()
    except (OSError, ValueError):  # a name that no file system has
        resolved, is_file = folder, False
    if place.is_absolute() or ".." in place.parts or not resolved.is_relative_to(folder) or resolved == folder:
        raise InputError(
            f"its weights lie at '{str(place)[:MAX_NAME]}'", where=where, allowed="a file in the model's own folder",
        )
    if not is_file:
        raise InputError(f"the file '{place}' with its weights is not there", where=where,
                         hint="Put it beside the .onnx file.")
    numbers = [said.get("offset", "0"), said.get("length", "0")]
    if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in numbers):
        raise InputError("its weights lie at no place in a file", where=where, allowed="a whole offset and length")
    if sum(map(int, numbers)) > resolved.stat().st_size:
        raise InputError(f"its weights lie beyond the end of '{place}'", where=where, hint="Copy the file again.")


def _value(tensor: onnx.TensorProto, path: Path) -> Tensor:
    import onnx.numpy_helper

    where = f"{path}, tensor '{tensor.name[:MAX_NAME]}'"
    if any(size < 0 for size in tensor.dims) or tensor.data_type not in _DTYPES:
        raise InputError(
            f"a tensor of shape {list(tensor.dims)[:8]} and type {_type_name(tensor.data_type)}", where=where,
            allowed="sizes from 0 on; " + ", ".join(str(kind).removeprefix("torch.") for kind in _DTYPES.values()),
        )
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    except Exception as error:  # declared sizes and bytes that do not fit
        raise InputError(
            f"the tensor does not hold what its shape {list(tensor.dims)[:8]} declares: {first_line(error)}",
            where=where, hint="Export it again.",
        ) from error


def _constant(entry: onnx.NodeProto, path: Path) -> Tensor:
    import onnx.helper

    if len(entry.attribute) != 1 or len(entry.output) != 1:
        raise InputError("a Constant has one value and one output", where=_where(entry, path))
    attribute = entry.attribute[0]
    if attribute.name == "value" and attribute.HasField("t"):
        return _value(attribute.t, path)
    if attribute.name not in _CONSTANT_LISTS:
        raise InputError(f"a Constant of kind '{attribute.name}'", where=_where(entry, path), allowed="numbers")
    return torch.tensor(onnx.helper.get_attribute_value(attribute), dtype=_CONSTANT_LISTS[attribute.name])


def _node(entry: onnx.NodeProto, path: Path) -> Node:
    where = _where(entry, path)
    if entry.op_type in QUANTIZED or entry.op_type.startswith("QLinear"):
        raise InputError(
            f"the file is quantized already: it holds {entry.op_type}", where=where, allowed="a network in float",
            hint="Give the float file that it was made from.",
        )
    if entry.domain not in STANDARD:
        raise InputError(f"the operator {entry.op_type} is of the domain '{entry.domain[:MAX_NAME]}'", where=where,
                         allowed="operators of the ONNX standard")
    if entry.op_type in CONTROL or any(attribute.type in (5, 10) for attribute in entry.attribute):
        raise InputError(
            f"{entry.op_type} is control flow", where=where, allowed="one graph without branches and loops",
            hint="Export the model for one shape, or cut the file before this node (onnx.utils.extract_model).",
        )
    attributes = {attribute.name: _attribute(attribute, path, where) for attribute in entry.attribute}
    return Node(entry.op_type, entry.name, tuple(entry.input), tuple(entry.output), attributes, _scope(entry))


def _attribute(attribute: onnx.AttributeProto, path: Path, where: str) -> Any:
    import onnx.helper

    try:
        value = onnx.helper.get_attribute_value(attribute)
    except Exception as error:
        raise _without_value(attribute, where) from error
    if value is None:
        raise _without_value(attribute, where)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if hasattr(value, "dims"):
        return _value(value, path).numpy()
    if not isinstance(value, int | float | str):
        return [part.decode("utf-8", errors="replace") if isinstance(part, bytes) else part for part in value]
    return value


def _without_value(attribute: onnx.AttributeProto, where: str) -> InputError:
    return InputError(f"the attribute '{attribute.name[:MAX_NAME]}' has no value", where=where)


def _scope(entry: onnx.NodeProto) -> str:
    """The module that torch's exporter wrote down; empty where another wrote the file."""
    said = {each.key: each.value for each in getattr(entry, "metadata_props", ())}.get("pkg.torch.onnx.name_scopes", "")
    try:
        scopes = json.loads(said.replace("'", '"')) if said else []
    except ValueError:
        return ""
    modules = [scope for scope in scopes[:-1] if isinstance(scope, str) and scope] if isinstance(scopes, list) else []
    return modules[-1] if modules else ""


def _port(entry: onnx.ValueInfoProto, path: Path) -> Port:
    where, kind = f"{path}, input '{entry.name[:MAX_NAME]}'", entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in _DTYPES:
        raise InputError("the input is not a tensor of numbers", where=where)
    if not kind.HasField("shape") or not kind.shape.dim:
        raise InputError("the input has no axes", where=where, allowed="a batch of samples, [N, ...]")
    sizes = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return Port(entry.name, _DTYPES[kind.elem_type], sizes)


def _where(entry: onnx.NodeProto, path: Path) -> str:
    name = entry.name or next(iter(entry.output), "")
    return f"{path}, node '{name[:MAX_NAME]}'"


def _type_name(kind: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return str(kind)

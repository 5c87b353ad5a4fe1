"""ONNX files whose protobuf is whole and says what it should not: sizes, types, names, nodes, functions, files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

SIZES = (0, 1, 3, 7, -1, -(2**63), 2**31 - 1, 2**31, 2**40, 2**63 - 1)
NAMES = ("", "x", "y", "a", "b", "gone", "conv.weight", "a" * 70_000, "\x1b[2J\n", "../x", "__class__", "é\u2028")
OPERATORS = ("Relu", "Conv", "Gemm", "MatMul", "Add", "Reshape", "Expand", "Tile", "Resize", "ConstantOfShape", "Range",
             "Loop", "If", "Scan", "Slice", "Gather", "Pad", "Softmax", "BatchNormalization", "MaxPool", "Transpose",
             "Concat", "Split", "Cast", "QLinearConv", "LSTM", "NonZero", "Unknown", "", "Dropout", "Constant",
             "ConvTranspose", "ReduceMean", "Squeeze", "Identity", "Einsum", "CumSum", "Where", "OneHot", "TopK")
DOUBLINGS = 27  # each calls the next twice


def protobuf(chance: random.Random, path: Path) -> None:
    """One to three fields of the graph change."""
    model = onnx.load(str(path), load_external_data=False)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(_EDITS)(chance, model)
    path.write_bytes(model.SerializeToString())


def _tensor(chance: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor, kind = chance.choice(list(model.graph.initializer)), chance.randrange(8)
    if tensor.data_type == TensorProto.INT64 and tensor.raw_data and chance.random() < 0.7:
        sizes = np.frombuffer(tensor.raw_data, np.int64).copy()
        sizes[chance.randrange(sizes.size)] = chance.choice(SIZES)
        tensor.raw_data = sizes.tobytes()
        return
    numbers = np.frombuffer(tensor.raw_data[:len(tensor.raw_data) // 4 * 4], np.float32).copy()
    if kind == 0 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(SIZES)
    elif kind == 1:
        tensor.dims.extend([chance.choice(SIZES)] * chance.choice((1, 2, 70)))
    elif kind == 2:
        tensor.data_type = chance.choice((*range(-1, 30), 2**31 - 1))
    elif kind == 3:
        tensor.raw_data = tensor.raw_data[:chance.randrange(len(tensor.raw_data) + 1)]
    elif kind == 4 and numbers.size:
        numbers[chance.randrange(numbers.size)] = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-42))
        tensor.raw_data = numbers.tobytes()
    elif kind == 5:
        with np.errstate(all="ignore"):
            tensor.raw_data = (numbers * np.float32(chance.choice((0, 1e30, -1, 1e-30)))).tobytes()
    elif kind == 6:
        tensor.float_data.extend([1.0, 2.0])
    else:
        tensor.name = chance.choice(NAMES)


def _node(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    node, kind = chance.choice(list(nodes)), chance.randrange(9)
    if kind == 0:
        node.op_type = chance.choice(OPERATORS)
    elif kind == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice((*NAMES, *(each.output[0] for each in nodes)))
    elif kind == 2 and node.output:
        node.output[chance.randrange(len(node.output))] = chance.choice(NAMES)
    elif kind == 3:
        nodes.remove(node)
    elif kind == 4:
        nodes.extend([node] * chance.choice((1, 1, 500)))
    elif kind == 5:
        node.domain = chance.choice(("ai.onnx", "com.microsoft", "own", "a" * 5000))
    elif kind == 6:
        node.input.extend([chance.choice(NAMES)] * chance.choice((1, 3, 300)))
    elif kind == 7:
        del node.input[chance.randrange(len(node.input)) if node.input else 0:]
    else:
        del node.output[:]


def _attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.node:
        return
    nodes = list(model.graph.node)
    node = chance.choice([each for each in nodes if each.attribute] or nodes)
    names = ("axis", "strides", "pads", "dilations", "group", "kernel_shape", "alpha", "beta", "transA", "transB",
             "auto_pad", "perm", "to", "value", "body", "mode", "axes", "keepdims", "ceil_mode", "output_shape")
    name = chance.choice((*names, *(each.name for each in node.attribute)))
    kept = [each for each in node.attribute if each.name != name]
    value = chance.choice((
        chance.choice(SIZES), [chance.choice(SIZES) for _ in range(chance.choice((1, 2, 4, 9)))], 0.5, float("nan"),
        "x", ["a", "b"], "SAME_UPPER", helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]), model.graph, [2, 2],
        [1, 1, 1, 1],
    ))
    attribute: Any = helper.make_attribute(name, value)
    if chance.random() < 0.2:
        attribute.type = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14))
    if chance.random() < 0.1:
        attribute = AttributeProto(name=name)
    del node.attribute[:]
    node.attribute.extend([*kept, attribute, *([attribute] if chance.random() < 0.1 else [])])


def _port(chance: random.Random, model: onnx.ModelProto) -> None:
    ports = chance.choice((model.graph.input, model.graph.output))
    if not ports:
        return
    port, kind = chance.choice(list(ports)), chance.randrange(7)
    shape = port.type.tensor_type.shape
    if kind == 0 and shape.dim:
        shape.dim[chance.randrange(len(shape.dim))].dim_value = chance.choice(SIZES)
    elif kind == 1 and shape.dim:
        shape.dim[chance.randrange(len(shape.dim))].dim_param = chance.choice(NAMES)
    elif kind == 2:
        port.type.tensor_type.elem_type = chance.choice((*range(24), -1))
    elif kind == 3:
        port.type.Clear()
    elif kind == 4:
        port.name = chance.choice(NAMES)
    elif kind == 5:
        ports.extend([port] * chance.choice((1, 40)))
    else:
        ports.remove(port)


def _model(chance: random.Random, model: onnx.ModelProto) -> None:
    kind = chance.randrange(6)
    if kind == 0 and model.opset_import:
        model.opset_import[0].version = chance.choice((0, 1, 6, 7, 9, 11, 13, 25, 10**6, 2**63 - 1, -1))
    elif kind == 1:
        del model.opset_import[:]
    elif kind == 2:
        model.ir_version = chance.choice((0, 1, 3, 99, 2**62))
    elif kind == 3:
        model.graph.initializer.extend(list(model.graph.initializer) * chance.choice((1, 20)))
    elif kind == 4:
        model.opset_import.extend([helper.make_opsetid(chance.choice(("", "own", "x")), chance.choice((1, 9, 17)))])
    else:
        model.ClearField(chance.choice(("graph", "ir_version", "functions")))


_EDITS: Sequence[Callable[[random.Random, Any], None]] = (_tensor, _tensor, _node, _node, _attribute, _port, _model)


def external(chance: random.Random, path: Path) -> None:
    """What the file says of weights in another file, or that file, changes."""
    if chance.random() < 0.3:
        protobuf(chance, path)
        return
    model = onnx.load(str(path), load_external_data=False)
    tensor, kind = chance.choice(list(model.graph.initializer)), chance.randrange(5)
    places = ("../w.bin", "/etc/passwd", "", ".", "w.bin\0", "model.onnx", "w.bin/..", "sub/../w.bin", "a" * 5000)
    values = ("-1", "0", "1", "4", "99999999999", "9" * 400, "1e3", "", "0x10", " 4", "４", "nan", str(2**63))
    if kind == 0:
        _said(tensor, "location", chance.choice(places))
    elif kind == 1:
        _said(tensor, chance.choice(("offset", "length")), chance.choice(values))
    elif kind == 2:
        tensor.external_data.add(key=chance.choice(("location", "offset", "length", "checksum", "")),
                                 value=chance.choice((*places, *values)))
    elif kind == 3:
        tensor.data_location = chance.choice((TensorProto.DEFAULT, TensorProto.EXTERNAL))
        tensor.raw_data = chance.choice((b"", b"1234", bytes(4096)))
    else:
        weights = path.parent / "w.bin"
        data = weights.read_bytes()
        weights.write_bytes(chance.choice((b"", data[:len(data) // 2], data + data, b"\xff" * len(data))))
    path.write_bytes(model.SerializeToString())


def _said(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def functions(chance: random.Random, path: Path) -> None:
    """A local function calls itself or the next one twice and so on, has another name, other ends or other nodes."""
    model = onnx.load(str(path), load_external_data=False)
    kind, made = chance.randrange(8), chance.choice(list(model.functions))
    if kind == 0:
        protobuf(chance, path)
        return
    if kind == 1:
        count = chance.choice((3, DOUBLINGS, 60))
        del model.functions[:]
        model.functions.extend(doubling(count, model.opset_import))
        next(node for node in model.graph.node if node.domain == "own").op_type = "F0"
    elif kind == 2:
        made.node.extend([helper.make_node(made.name, ["u"], ["w"], domain="own")])
    elif kind == 3:
        made.name = chance.choice((*NAMES, "Inner", "Outer", "Relu"))
    elif kind == 4:
        made.domain = chance.choice(("", "ai.onnx", "other", "own"))
    elif kind == 5:
        chance.choice((made.input, made.output)).extend([chance.choice(NAMES)])
    elif kind == 6:
        made.attribute.extend([chance.choice(NAMES)])
        made.node[0].attribute.extend([AttributeProto(name="alpha", ref_attr_name=chance.choice(NAMES), type=1)])
    else:
        made.node[0].op_type = chance.choice((*OPERATORS, "Inner", "Outer"))
    path.write_bytes(model.SerializeToString())


def doubling(count: int, opsets: Any) -> list[onnx.FunctionProto]:
    """Functions F0 to F`count`, each of which calls the next one twice: 2**count nodes where they are written out."""
    made = []
    for place in range(count):
        nodes = [helper.make_node(f"F{place + 1}", [given], [result], domain="own")
                 for given, result in (("u", "w"), ("w", "v"))]
        made.append(helper.make_function("own", f"F{place}", ["u"], ["v"], nodes, list(opsets)))
    last = [helper.make_node("Relu", ["u"], ["v"])]
    return [*made, helper.make_function("own", f"F{count}", ["u"], ["v"], last, list(opsets))]

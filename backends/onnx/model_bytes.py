"""Edits of a serialized ONNX model without the onnx package: read tensors out, and cut it where integers are known.

Shipped inside `run.py`: standard library only, and the syntax of Python 3.8. A protocol buffer message is a row of
fields, and an embedded message that appears twice is merged: appending a graph that holds nothing but further inputs
and outputs adds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

OWN = "own:"  # prefix of what a cut model computes where its consumers are fed from outside
UINT8 = 2  # onnx.TensorProto.UINT8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_GRAPH, _NODE, _OUTPUT, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 1, 2, 11, 12  # field numbers in their messages
_VALUE_NAME = 1


def quantized_tensors(model: bytes) -> list[str]:
    """Names of the model's quantized activations in execution order: values not named by a short name of ours."""
    returned = set(output_names(model))
    return [name for name in _node_outputs(model) if not name[:1].isdigit() and name not in returned]


def output_names(model: bytes) -> list[str]:
    """Names of the model's outputs, in their order."""
    return [
        next(content for field, _, content in _fields(value) if field == _VALUE_NAME).decode()
        for number, _, graph in _fields(model) if number == _GRAPH
        for kind, _, value in _fields(graph) if kind == _GRAPH_OUTPUT
    ]


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The serialized model with uint8 tensors `names` as further outputs."""
    return model + _field(_GRAPH, b"".join(_field(_GRAPH_OUTPUT, _value(name)) for name in names))


def cut_at(model: bytes, shapes: Mapping[str, Sequence[int]]) -> bytes:
    """The serialized model with further inputs in place of the uint8 tensors `shapes`, each without its batch size.

    What the model itself computes there is an output, called `own:` and the tensor's name.
    """
    parts = [
        _field(_GRAPH, _renamed(content, shapes)) if number == _GRAPH else raw
        for number, raw, content in _fields(model)
    ]
    inputs = b"".join(_field(_GRAPH_INPUT, _value(name, shape)) for name, shape in shapes.items())
    return with_outputs(b"".join(parts) + _field(_GRAPH, inputs), [OWN + name for name in shapes])


def _renamed(graph: bytes, names: Iterable[str]) -> bytes:
    """The graph whose nodes write to `own:` names instead of `names`; who reads them is left as it is."""
    new = {name.encode(): (OWN + name).encode() for name in names}
    nodes = []
    for number, raw, content in _fields(graph):
        if number == _NODE:
            fields = _fields(content)
            raw = _field(_NODE, b"".join(_field(n, new[c]) if n == _OUTPUT and c in new else r for n, r, c in fields))
        nodes.append(raw)
    return b"".join(nodes)


def _node_outputs(model: bytes) -> Iterator[str]:
    for number, _, graph in _fields(model):
        for kind, _, node in _fields(graph) if number == _GRAPH else ():
            for field, _, content in _fields(node) if kind == _NODE else ():
                if field == _OUTPUT:
                    yield content.decode()


def _value(name: str, shape: Sequence[int] | None = None) -> bytes:
    """ValueInfoProto of a uint8 tensor; with a shape that of [N, *shape]."""
    tensor = b"\x08" + _varint(UINT8)  # TypeProto.Tensor.elem_type
    if shape is not None:
        sizes = [_field(2, b"N"), *(b"\x08" + _varint(size) for size in shape)]  # dim_param, dim_value
        tensor += _field(2, b"".join(_field(1, size) for size in sizes))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, the field as it is, its content) of every field; the content of what has no length is empty.

    Raises:
        ValueError: that is no protocol buffer message.
    """
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        wire, content = key & 7, b""
        if wire == _VARINT:
            _, place = _read_varint(message, place)
        elif wire == _BYTES:
            length, place = _read_varint(message, place)
            content = message[place:place + length]
            place += length
        elif wire in (_FIXED32, _FIXED64):
            place += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError("the model is no ONNX file")
        if place > len(message):
            raise ValueError("the model ends too early")
        yield key >> 3, message[start:place], content


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("the model ends too early")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content

"""A thin layer over onnx-ir: constants stored once, short names, and repeated groups of nodes written once.

Size is the reason: on ResNet-20 at 2 bits the codes take 74 kB and a plain file 102 kB. Names are the shortest that
exist, equal constants are one initializer, and groups of nodes of one structure (the convolution blocks) become one
model-local function, whose reference attributes carry what differs. Sessions inline functions before they optimise.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 19  # the newest that ONNX Runtime 1.17 knows in full; onnx.reference runs it too
IR_VERSION = 9
CONTRIB = "com.microsoft"
_LOCAL = "b"  # domain of the model-local functions
# ONNX Runtime infers its type wrongly inside a function and refuses the file (1.31).
_NEVER_LOCAL = "QLinearConcat"


@dataclass
class _Group:
    """Nodes of one region, in order; only its last value is used outside, unless it is `apart`."""

    nodes: list[ir.Node] = field(default_factory=list)
    apart: bool = False

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


class GraphWriter:
    """Builds one ONNX model with a symbolic batch dimension `N`.

    Args:
        reserved: names that no value of the model's inside may have.
    """

    def __init__(self, reserved: Collection[str] = ()) -> None:
        self._constants: dict[Hashable, ir.Value] = {}
        self._groups: list[_Group] = []
        self._open: _Group | None = None
        self._names: Iterator[str] = (name for name in _short_names() if name not in reserved)

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> ir.Value:
        """An input of the network [N, *shape], floats or integers."""
        import onnx_ir as ir

        return ir.Value(name=name, shape=ir.Shape(["N", *shape]), type=ir.TensorType(_element_type(dtype)))

    def constant(self, array: np.ndarray) -> ir.Value:
        """An initializer; equal arrays of equal type and shape are stored once."""
        import onnx_ir as ir

        array = np.asarray(array, order="C")  # ascontiguousarray would make a scalar [1], which fused kernels refuse
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = next(self._names)
            tensor = ir.Tensor(array, name=name)
            self._constants[key] = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> ir.Value:
        """An int64 initializer of sizes, axes or places, [len(values)]."""
        return self.constant(np.asarray(values, np.int64))

    def call(
        self, op: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None, *,
        domain: str = "", name: str | None = None,
    ) -> ir.Value:
        """One node with one output, called `name` or the next short name."""
        import onnx_ir as ir

        inputs = list(inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        output = ir.Value(name=name or next(self._names))
        self._add(ir.node(op, inputs, attributes=dict(attributes or {}), domain=domain, outputs=[output]))
        return output

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], names: Mapping[int, str]) -> list[ir.Value]:
        """A node of another model with inputs of this one; `names` of its outputs by their places, else short ones.

        The group that it belongs to will share no function: any of its values may be used outside.
        """
        import onnx_ir as ir

        outputs = [
            ir.Value(name="" if value.name == "" else names.get(place) or next(self._names))
            for place, value in enumerate(node.outputs)
        ]
        attributes = [ir.Attr(each.name, each.type, each.value) for each in node.attributes.values()]
        self._add(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs), apart=True)
        return outputs

    def _add(self, node: ir.Node, apart: bool = False) -> None:
        if self._open is None:
            self._groups.append(_Group([node], apart))
        else:
            self._open.nodes.append(node)
            self._open.apart |= apart

    @contextmanager
    def group(self) -> Iterator[None]:
        """Nodes written inside belong together; groups of one structure will share a function."""
        self._open = _Group()
        yield
        self._groups.append(self._open)
        self._open = None

    def model(
        self, inputs: Sequence[ir.Value], outputs: Sequence[tuple[ir.Value, Sequence[int], torch.dtype]],
        producer: tuple[str, str],
    ) -> ir.Model:
        """The finished model; each output is (value, shape of one sample, type of its elements)."""
        import onnx_ir as ir

        functions, nodes = _outline(self._groups)
        written = {value.name: value for node in nodes for value in node.outputs}
        returned = []
        for value, shape, dtype in outputs:
            returned.append(written[value.name])
            returned[-1].shape, returned[-1].type = ir.Shape(["N", *shape]), ir.TensorType(_element_type(dtype))
        opsets = {"": OPSET, **({_LOCAL: 1} if functions else {})}
        if any(node.domain == CONTRIB for group in self._groups for node in group.nodes):
            opsets[CONTRIB] = 1
        graph = ir.Graph(
            inputs, returned, nodes=nodes, initializers=list(self._constants.values()), opset_imports=opsets, name="g"
        )
        return ir.Model(
            graph, ir_version=IR_VERSION, producer_name=producer[0], producer_version=producer[1], functions=functions
        )


def _short_names() -> Iterator[str]:
    """Names of one, then two, then three characters that start with a digit: no FX node name does."""
    import itertools
    import string

    letters = string.digits + string.ascii_letters
    for length in range(4):
        for first in string.digits:
            for rest in itertools.product(letters, repeat=length):
                yield first + "".join(rest)


def _outline(groups: Sequence[_Group]) -> tuple[list[ir.Function], list[ir.Node]]:
    """Functions for structures that occur more than once, and the graph's nodes with calls in their place."""
    by_structure: dict[Hashable, list[_Group]] = {}
    for group in groups:
        if len(group.nodes) > 1 and not group.apart and all(node.op_type != _NEVER_LOCAL for node in group.nodes):
            by_structure.setdefault(_structure(group), []).append(group)
    functions: list[ir.Function] = []
    calls: dict[int, ir.Node] = {}
    for alike in by_structure.values():
        if len(alike) > 1:
            function, replaced = _as_function(alike, f"{_LOCAL}{len(functions)}")
            functions.append(function)
            calls.update((id(group), call) for group, call in zip(alike, replaced, strict=True))
    nodes: list[ir.Node] = []
    for group in groups:
        nodes += [calls[id(group)]] if id(group) in calls else group.nodes
    return functions, nodes


def _outside(group: _Group) -> list[ir.Value]:
    """Values that the group reads from outside, in order of first use."""
    inside = {id(value) for node in group.nodes for value in node.outputs}
    found: dict[int, ir.Value] = {}
    for node in group.nodes:
        for value in node.inputs:
            if value is not None and id(value) not in inside:
                found.setdefault(id(value), value)
    return list(found.values())


def _structure(group: _Group) -> Hashable:
    """Equal for groups that differ only in outside values and in values of attributes."""
    numbers = {id(value): ("in", place) for place, value in enumerate(_outside(group))}
    key = []
    for place, node in enumerate(group.nodes):
        inputs = tuple(None if value is None else numbers[id(value)] for value in node.inputs)
        attributes = tuple((name, str(attribute.type)) for name, attribute in node.attributes.items())
        key.append((node.domain, node.op_type, inputs, attributes))
        numbers[id(node.outputs[0])] = ("node", place)
    return tuple(key)


def _as_function(alike: Sequence[_Group], name: str) -> tuple[ir.Function, list[ir.Node]]:
    """One function for groups of one structure, and a call of it for each."""
    import onnx_ir as ir

    first, names = alike[0], _short_names()
    values = {id(value): ir.Value(name=next(names)) for value in _outside(first)}
    inputs = list(values.values())
    body: list[ir.Node] = []
    varying: dict[tuple[int, str], str] = {}
    for place, node in enumerate(first.nodes):
        attributes = []
        for key, attribute in node.attributes.items():
            if len({str(group.nodes[place].attributes[key].value) for group in alike}) > 1:
                varying[place, key] = next(names)
                attributes.append(ir.RefAttr(key, varying[place, key], attribute.type))
            else:
                attributes.append(attribute)
        output = ir.Value(name=next(names))
        operands = [None if value is None else values[id(value)] for value in node.inputs]
        body.append(ir.Node(node.domain, node.op_type, operands, attributes, outputs=[output]))
        values[id(node.outputs[0])] = output
    opsets = {"": OPSET, **({CONTRIB: 1} if any(node.domain == CONTRIB for node in body) else {})}
    graph = ir.Graph(inputs, [body[-1].outputs[0]], nodes=body, opset_imports=opsets)
    declared = [
        ir.Attr(parameter, first.nodes[place].attributes[key].type, None) for (place, key), parameter in varying.items()
    ]
    function = ir.Function(_LOCAL, name, graph=graph, attributes=declared)
    return function, [_call(group, name, varying) for group in alike]


def _call(group: _Group, name: str, varying: Mapping[tuple[int, str], str]) -> ir.Node:
    import onnx_ir as ir

    attributes = [
        ir.Attr(parameter, group.nodes[place].attributes[key].type, group.nodes[place].attributes[key].value)
        for (place, key), parameter in varying.items()
    ]
    result = ir.Value(name=group.output.name)
    call = ir.Node(_LOCAL, name, _outside(group), attributes, outputs=[result])
    for node, index in list(group.output.uses()):
        node.replace_input_with(index, result)
    return call


def onnx_dtype(name: str) -> int:
    """The number of an ONNX element type, `INT8`."""
    import onnx_ir as ir

    return int(ir.DataType[name])


def _element_type(dtype: torch.dtype) -> ir.DataType:
    """float32 for floats, integers as they are."""
    import onnx_ir as ir

    return ir.DataType["FLOAT" if dtype.is_floating_point else str(dtype).removeprefix("torch.").upper()]

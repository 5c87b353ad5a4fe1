"""Ways to damage an ONNX model, one field at a time, and edits that change nothing by a rule of the reader.

A mutant is an edit of the parsed file. Which places there are is read off the model; those of a kind are many, so a
mutant is told by its kind, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Edit = Callable[[Any], object]
ELEMENTS = 3  # of an array that are changed, one at a time
# What stands in the place of an operator: another that takes the same operands.
SWAPPED = {
    "Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul", "Relu": "Abs", "Sigmoid": "Tanh", "Tanh": "Sigmoid",
    "HardSwish": "Relu", "LeakyRelu": "Elu", "MaxPool": "AveragePool", "AveragePool": "LpPool", "Erf": "Tanh",
    "GlobalAveragePool": "GlobalMaxPool", "Exp": "Abs", "LogSoftmax": "Softmax", "MatMul": "Mul",
    "Conv": "ConvTranspose", "ConvTranspose": "Conv", "QLinearAdd": "QLinearMul", "QLinearMul": "QLinearAdd",
    "QLinearGlobalAveragePool": "QLinearSigmoid", "QLinearSigmoid": "QLinearLeakyRelu",
    "QLinearLeakyRelu": "QLinearSigmoid", "Clip": "Where", "Reshape": "Expand", "Transpose": "Identity",
    "Gather": "GatherElements",
}
# Attributes that an operator may have and that say something, by operator: a value that is not the default.
ADDED: Mapping[str, Mapping[str, Any]] = {
    "DequantizeLinear": {"axis": 0}, "QuantizeLinear": {"axis": 0, "saturate": 0}, "Gemm": {"alpha": 0.5, "transA": 1},
    "Conv": {"auto_pad": "SAME_UPPER", "dilations": [2, 2], "strides": [2, 2], "group": 2, "pads": [1, 0, 0, 0]},
    "QLinearConv": {"auto_pad": "VALID", "dilations": [2, 2], "strides": [2, 2], "pads": [0, 1, 0, 0]},
    "QGemm": {"alpha": 0.5, "transA": 1}, "Cast": {"saturate": 0}, "MaxPool": {"storage_order": 1},
    "QLinearGlobalAveragePool": {"channels_last": 1}, "Reshape": {"allowzero": 1}, "Relu": {"alpha": 0.5},
}


@dataclass(frozen=True)
class Mutant:
    """One edit.

    Args:
        kind: of damage, for the table.
        name: what is changed where.
        edit: changes a parsed model.
        rule: of the reader by which the edit changes nothing; empty for damage.
    """

    kind: str
    name: str
    edit: Edit
    rule: str = ""


def mutants(model: Any, seed: int = 0) -> Iterator[Mutant]:
    """Every mutant of a parsed file; which elements of an array, by `seed`."""
    chance = random.Random(seed)
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    yield from _initializers(arrays, chance)
    for place, (path, node) in enumerate(_nodes(model)):
        yield from _operands(path, node, arrays, chance)
        yield from _attributes(path, node)
        yield from _operators(path, node)
        yield from _edges(path, node, model, chance)
        if place % 7 == 0:
            yield Mutant("text", f"doc_string of {path.name}", path(lambda each: _set(each, "doc_string", "x")),
                         "texts for people say nothing")
            yield Mutant("name", f"name of node {path.name}", path(lambda each: _set(each, "name", "x")),
                         "names of nodes say nothing")
    yield from _facts(model)
    yield from _neutral(model)


@dataclass(frozen=True)
class Path:
    """Where a node stands: in the graph or in a function.

    Args:
        function: number of the function; None for the graph.
        place: of the node.
        name: for people.
    """

    function: int | None
    place: int
    name: str

    def node(self, model: Any) -> Any:
        """The node in a copy of the model."""
        return self.nodes(model)[self.place]

    def nodes(self, model: Any) -> Any:
        """The list that it stands in."""
        return (model.graph if self.function is None else model.functions[self.function]).node

    def __call__(self, edit: Callable[[Any], object]) -> Edit:
        return lambda model: edit(self.node(model))


def _nodes(model: Any) -> Iterator[tuple[Path, Any]]:
    owners = [(None, model.graph), *enumerate(model.functions)]
    for number, owner in owners:
        for place, node in enumerate(owner.node):
            inside = "" if number is None else f" in function {number}"
            yield Path(number, place, f"{node.op_type} {place}{inside}"), node


def _set(message: Any, name: str, value: Any) -> None:
    setattr(message, name, value)


# -- constants --------------------------------------------------------------------------------------------------------


def _kind_of(array: np.ndarray) -> str:
    """What an initializer is, as far as its type tells."""
    if array.dtype == np.float32:
        return "scale" if array.ndim < 2 else "float weight"
    if array.dtype == np.int32:
        return "bias" if array.any() else "zero point"
    if array.dtype == np.int64:
        return "sizes"
    if array.ndim == 0 or not array.any():
        return "zero point or end"
    return "weight"


def _changes(array: np.ndarray, chance: random.Random) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays that differ in one element, in its least bit or by 1 %, or in shape."""
    places = {0, array.size - 1, *(chance.randrange(array.size) for _ in range(ELEMENTS - 2))} if array.size else set()
    for place in sorted(places):
        for what, changed in _elements(array.reshape(-1)[place]):
            edited = array.copy()
            edited.reshape(-1)[place] = changed
            if edited.tobytes() != array.tobytes():
                yield f"[{place}] {what}", edited
    if array.ndim == 0:
        yield "of one axis", array.reshape(1)
    elif array.ndim > 1 and array.shape[0] != array.shape[1]:
        yield "of exchanged axes", np.ascontiguousarray(np.swapaxes(array, 0, 1))


def _elements(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, np.floating):
        return [("by an ulp", np.nextafter(value, np.float32(np.inf))),
                ("by 1 %", np.float32(value * np.float32(1.01)))]
    if isinstance(value, np.bool_):
        return [("negated", not value)]
    info = np.iinfo(value.dtype)
    return [(f"{step:+d}", value.dtype.type(int(value) + step)) for step in (1, -1)
            if info.min <= int(value) + step <= info.max]


def _initializers(arrays: Mapping[str, np.ndarray], chance: random.Random) -> Iterator[Mutant]:
    for place, (name, array) in enumerate(arrays.items()):
        for what, changed in _changes(array, chance):
            yield Mutant(_kind_of(array), f"initializer {name} {what}", _replace(place, changed))


def _replace(place: int, array: np.ndarray) -> Edit:
    def edit(model: Any) -> None:
        tensor = model.graph.initializer[place]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return edit


def _operands(path: Path, node: Any, arrays: Mapping[str, np.ndarray], chance: random.Random) -> Iterator[Mutant]:
    """A constant changed for one reader alone; in the graph, where constants have names."""
    if path.function is not None:
        return
    for place, name in enumerate(node.input):
        for what, changed in _changes(arrays[name], chance) if name in arrays and arrays[name].size < 4096 else ():
            yield Mutant(_kind_of(arrays[name]), f"operand {place} of {path.name} {what}", _reads(path, place, changed))


def _reads(path: Path, place: int, array: np.ndarray) -> Edit:
    def edit(model: Any) -> None:
        model.graph.initializer.append(numpy_helper.from_array(array, "mutant"))
        path.node(model).input[place] = "mutant"

    return edit


# -- attributes -------------------------------------------------------------------------------------------------------

_NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}


def _attributes(path: Path, node: Any) -> Iterator[Mutant]:
    for place, attribute in enumerate(node.attribute):
        if attribute.ref_attr_name:
            continue
        name = f"{attribute.name} of {path.name}"
        value = helper.get_attribute_value(attribute)
        for what, changed in _values(value):
            new = helper.make_attribute(attribute.name, changed)
            yield Mutant(attribute.name, f"{name} {what}", _attribute(path, place, new))
        default = _is_default(node, attribute.name, value)
        yield Mutant(attribute.name, f"{name} gone", path(lambda each, place=place: each.attribute.pop(place)),
                     "an attribute that is left out has its default" if default else "")
    present = {attribute.name for attribute in node.attribute}
    for name, value in ADDED.get(node.op_type, {}).items():
        if name not in present:
            new = helper.make_attribute(name, value)
            add = path(lambda each, new=new: each.attribute.append(new))
            yield Mutant(name, f"{name} = {value} on {path.name}", add)


def _attribute(path: Path, place: int, attribute: Any) -> Edit:
    return lambda model: path.node(model).attribute[place].CopyFrom(attribute)


def _values(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, float):
        yield "by an ulp", float(np.nextafter(np.float32(value), np.float32(np.inf)))
        yield "by 1 %", value * 1.01
    elif isinstance(value, int):
        yield "+1", value + 1
        yield "-1", value - 1
    elif isinstance(value, bytes):
        yield "another text", value + b"_"
    elif isinstance(value, list):
        for place in range(len(value)):
            yield f"[{place}] +1", [*value[:place], value[place] + 1, *value[place + 1:]]
        if value != value[::-1]:
            yield "in reverse", value[::-1]


def _is_default(node: Any, name: str, value: Any) -> bool:
    if name in _NEUTRAL and all(each == _NEUTRAL[name] for each in value):
        return True
    if not onnx.defs.has(node.op_type, node.domain):
        return False
    known = onnx.defs.get_schema(node.op_type, 19, node.domain).attributes[name].default_value
    return bool(known.type) and helper.get_attribute_value(known) == value


# -- operators and edges ----------------------------------------------------------------------------------------------


def _operators(path: Path, node: Any) -> Iterator[Mutant]:
    if node.op_type in SWAPPED:
        other = SWAPPED[node.op_type]
        yield Mutant("operator", f"{path.name} is {other}", path(lambda each: _set(each, "op_type", other)))
    if node.input and node.output and node.op_type != "Identity":
        yield Mutant("dropped", f"{path.name} dropped", path(_pass))


def _pass(node: Any) -> None:
    """What it reads goes on unchanged."""
    source, result = node.input[0], node.output[0]
    node.Clear()
    node.op_type = "Identity"
    node.input.append(source)
    node.output.append(result)


def _edges(path: Path, node: Any, model: Any, chance: random.Random) -> Iterator[Mutant]:
    for place in range(len(node.input) - 1):
        if node.input[place] != node.input[place + 1]:
            yield Mutant("edge", f"operands {place} and {place + 1} of {path.name} exchanged", path(_exchange(place)))
    if len(node.input) > 1:
        yield Mutant("edge", f"last operand of {path.name} gone", path(lambda each: each.input.pop()))
    before = [name for each in path.nodes(model)[:path.place] for name in each.output]
    for place, name in enumerate(node.input):
        others = [other for other in before if other != name]
        if name in before and others:
            other = chance.choice(others)
            yield Mutant("edge", f"operand {place} of {path.name} is {other}", path(_connect(place, other)))


def _exchange(place: int) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        node.input[place], node.input[place + 1] = node.input[place + 1], node.input[place]

    return edit


def _connect(place: int, name: str) -> Callable[[Any], None]:
    def edit(node: Any) -> None:
        node.input[place] = name

    return edit


# -- the file as a whole ----------------------------------------------------------------------------------------------


def _facts(model: Any) -> Iterator[Mutant]:
    yield Mutant("fact", "ir_version - 1", lambda each: _set(each, "ir_version", each.ir_version - 1))
    for place, opset in enumerate(model.opset_import):
        yield Mutant("fact", f"opset of '{opset.domain}' - 1", lambda each, place=place: _set(
            each.opset_import[place], "version", each.opset_import[place].version - 1))
        yield Mutant("fact", f"opset of '{opset.domain}' twice", lambda each, place=place: each.opset_import.append(
            each.opset_import[place]))
    for place, entry in enumerate(model.metadata_props):
        yield Mutant("fact", f"metadata {entry.key} twice", lambda each, place=place: each.metadata_props.append(
            each.metadata_props[place]))
    yield Mutant("fact", "metadata added", lambda each: each.metadata_props.add(key="classes", value="[]"))
    yield Mutant("fact", "producer", lambda each: _set(each, "producer_name", "other"))
    for ports in ("input", "output"):
        for place in range(len(getattr(model.graph, ports))):
            yield from _port(ports, place)
    spare = numpy_helper.from_array(np.zeros(2, np.float32), "spare")
    yield Mutant("fact", "an initializer more", lambda each: each.graph.initializer.append(spare))
    read = model.graph.input[0].name
    node = helper.make_node("Identity", [read], ["spare"])
    yield Mutant("fact", "a node more", lambda each: each.graph.node.append(node))
    blind = helper.make_node("Relu", [read], [])
    yield Mutant("fact", "a node without outputs", lambda each: each.graph.node.append(blind))
    info = helper.make_tensor_value_info(model.graph.node[0].output[0], onnx.TensorProto.FLOAT, None)
    yield Mutant("fact", "a shape that somebody inferred", lambda each: each.graph.value_info.append(info))


def _port(ports: str, place: int) -> Iterator[Mutant]:
    def edited(change: Callable[[Any], object]) -> Edit:
        return lambda model: change(getattr(model.graph, ports)[place])

    def sizes(port: Any) -> Any:
        return port.type.tensor_type.shape.dim

    yield Mutant("fact", f"{ports} {place} of another size", edited(
        lambda port: _set(sizes(port)[-1], "dim_value", sizes(port)[-1].dim_value + 1)))
    yield Mutant("fact", f"{ports} {place} of one sample", edited(lambda port: _set(sizes(port)[0], "dim_value", 1)))
    yield Mutant("fact", f"{ports} {place} with a denotation", edited(
        lambda port: _set(sizes(port)[-1], "denotation", "DATA_FEATURE")))
    yield Mutant("fact", f"{ports} {place} of another type", edited(
        lambda port: _set(port.type.tensor_type, "elem_type", onnx.TensorProto.DOUBLE)))


def _neutral(model: Any) -> Iterator[Mutant]:
    """Edits that change nothing, so that a reader that refuses everything would be seen."""
    yield Mutant("order", "initializers in reverse", _in_reverse, "the order of constants says nothing")
    for place in range(len(model.graph.node) - 1):
        first, second = model.graph.node[place:place + 2]
        if not set(first.output) & set(second.input):
            yield Mutant("order", f"nodes {place} and {place + 1} exchanged", _exchanged(place),
                         "the order of nodes that do not read one another says nothing")
    for place, tensor in enumerate(model.graph.initializer):
        yield Mutant("name", f"initializer {tensor.name} called otherwise", _called(tensor.name, "renamed"),
                     "names of tensors that the reference does not name say nothing")
        if place % 5 == 0:
            yield Mutant("name", f"a copy of {tensor.name} for its last reader", _copied(place),
                         "equal constants are one constant")


def _in_reverse(model: Any) -> None:
    kept = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _exchanged(place: int) -> Edit:
    def edit(model: Any) -> None:
        nodes = list(model.graph.node)
        nodes[place], nodes[place + 1] = nodes[place + 1], nodes[place]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    return edit


def _called(old: str, new: str) -> Edit:
    def edit(model: Any) -> None:
        for tensor in model.graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        for node in model.graph.node:
            _rename(node.input, old, new)

    return edit


def _rename(names: Any, old: str, new: str) -> None:
    for place, name in enumerate(names):
        if name == old:
            names[place] = new


def _copied(place: int) -> Edit:
    def edit(model: Any) -> None:
        tensor = model.graph.initializer[place]
        readers: Sequence[Any] = [node for node in model.graph.node if tensor.name in node.input]
        if len(readers) > 1:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), "copy"))
            _rename(readers[-1].input, tensor.name, "copy")

    return edit

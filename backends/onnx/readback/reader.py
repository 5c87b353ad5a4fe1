"""An ONNX file as a description: every field of it is looked at, and what nobody knows or reads is a difference.

Left aside, because nothing that computes depends on them: names of nodes, of functions and of tensors that bear no
name of the reference, texts for people (`doc_string`), the order of nodes, and which nodes share a function.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from isobit.backends.onnx.readback.vocabulary import (
    CONTRIB,
    KERNELS,
    STANDARD_KERNELS,
    Unknown,
    kernel_operator,
    onnx_operator,
)
from isobit.backends.readback.description import Network, Port, Term, Terms
from isobit.pipeline.proof.findings import Difference

_TEXTS = frozenset({"doc_string"})
_MODEL = frozenset({"ir_version", "opset_import", "producer_name", "producer_version", "graph", "functions",
                    "metadata_props"})
_GRAPH = frozenset({"node", "name", "initializer", "input", "output"})
_NODE = frozenset({"input", "output", "name", "op_type", "domain", "attribute"})
_FUNCTION = frozenset({"name", "domain", "input", "output", "attribute", "node", "opset_import"})
# Field of an attribute's value, by its type.
_VALUES = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "FLOATS": "floats", "INTS": "ints",
           "STRINGS": "strings"}


class Reader:
    """One file, read.

    Attributes:
        network: what it says; its tensors are those that `names` names, and the outputs.
        problems: what has no meaning.
        idle: values, functions and attributes of functions that nobody reads.
        operators, constants: how many stand in it, those inside functions once for every call.

    Args:
        names: of tensors that are to bear one.
        terms: that the description is to be compared in.
    """

    def __init__(self, path: Path, names: Collection[str], terms: Terms) -> None:
        import onnx

        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        self.terms, self.names = terms, set(names)
        self.problems: list[Difference] = []
        self.idle: list[Difference] = []
        self.operators = self.constants = 0
        self._tensors: dict[str, Term] = {}
        self._functions = {(each.domain, each.name): each for each in model.functions}
        self._called: set[tuple[str, str]] = set()
        self._check_bytes(model, content)
        self._known(model, _MODEL, "the model")
        self._known(model.graph, _GRAPH, "the graph")
        outputs = [each.name for each in model.graph.output]
        scope = self._graph(model.graph, outputs)
        for name in outputs:
            self._tensors[name] = scope.get(name) or self.terms.edge(f"{name}, which nothing computes")
        for key in sorted(set(self._functions) - self._called):
            self._idle(f"function {key[1]}")
        ports = [tuple(map(self._port, values)) for values in (model.graph.input, model.graph.output)]
        self.network = Network(ports[0], ports[1], self._tensors, self._facts(model))

    def _problem(self, what: str, found: str, expected: str = "nothing") -> None:
        self.problems.append(Difference("", what, found, expected))

    def _idle(self, what: str) -> None:
        self.idle.append(Difference("", what, "read by nobody", "read, or not there"))

    def _check_bytes(self, model: Any, content: bytes) -> None:
        """Whatever a parser skips or keeps without a name would be missing from the file that it writes."""
        known = type(model)()
        known.CopyFrom(model)
        known.DiscardUnknownFields()
        if known.SerializeToString(deterministic=True) != content:
            self._problem("the file", "other bytes than its fields take", "those bytes")

    def _known(self, message: Any, names: Collection[str], what: str) -> None:
        for field, _ in message.ListFields():
            if field.name not in names and field.name not in _TEXTS:
                self._problem(f"{field.name} of {what}", "something")

    def _facts(self, model: Any) -> dict[str, Any]:
        facts = {
            "ir_version": model.ir_version, "producer": f"{model.producer_name} {model.producer_version}",
            **{f"opset of {each.domain or 'ONNX'}": each.version for each in model.opset_import
               if each.domain not in {domain for domain, _ in self._functions}},
        }
        versions = {each.domain: each.version for each in model.opset_import}
        for function in model.functions:
            for each in function.opset_import:
                if versions.get(each.domain) != each.version:
                    self._problem(f"opset of {each.domain or 'ONNX'} in function {function.name}", str(each.version),
                                  str(versions.get(each.domain)))
        return facts | {f"metadata {each.key}": each.value for each in model.metadata_props}

    def _port(self, value: Any) -> Port:
        import onnx

        self._known(value, {"name", "type"}, f"port {value.name}")
        tensor = value.type.tensor_type
        self._known(value.type, {"tensor_type"}, f"the type of port {value.name}")
        sizes = tuple(
            each.dim_value if each.WhichOneof("value") == "dim_value" else None if each.dim_param == "N" else -1
            for each in tensor.shape.dim
        )
        return Port(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), sizes)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _graph(self, graph: Any, outputs: Sequence[str]) -> dict[str, Term]:
        import onnx

        scope: dict[str, Term] = {each.name: self.terms.edge(each.name) for each in graph.input}
        for tensor in graph.initializer:
            self._known(tensor, _tensor_fields(), f"initializer {tensor.name}")
            if tensor.name in scope:
                self._problem(f"initializer {tensor.name}", "a second value of that name")
            scope[tensor.name] = self.terms.constant(onnx.numpy_helper.to_array(tensor))
        self.constants = len(graph.initializer)
        read = self._nodes(graph.node, scope, {}, outside=True)
        for name in scope:
            if name not in read and name not in outputs and name not in self.names:
                self._idle(f"value {name}")
        return scope

    def _nodes(self, nodes: Sequence[Any], scope: dict[str, Term], given: Mapping[str, Any], outside: bool) -> set[str]:
        """Work out the nodes in their order; names of the values that they read.

        Args:
            scope: values by name, to which theirs are added.
            given: attributes of the function that they stand in.
            outside: they stand in no function: values may be the reference's tensors.
        """
        read: set[str] = set()
        for node in nodes:
            read.update(node.input)
            for name, term in zip(node.output, self._node(node, scope, given), strict=True):
                if name and name in scope:
                    self._problem(f"value {name}", "computed twice", "computed once")
                if outside and name in self.names:
                    self._tensors[name], term = term, self.terms.edge(name)
                scope[name] = term
        return read

    def _node(self, node: Any, scope: Mapping[str, Term], given: Mapping[str, Any]) -> list[Term]:
        """The values of a node's outputs."""
        what = node.op_type if not node.output else f"{node.op_type} that gives {node.output[0]}"
        self._known(node, _NODE, what)
        self.operators += (node.domain, node.op_type) not in self._functions
        for name in node.input:
            if name and name not in scope:
                self._problem(f"operand {name} of {what}", "computed by nothing before it", "computed before")
        inputs = [(scope.get(name) or self.terms.edge(name)) if name else None for name in node.input]
        try:
            attributes = self._attributes(node, given)
            if (node.domain, node.op_type) in self._functions:
                return self._call(node, inputs, attributes)
            value = self._operator(node, inputs, attributes)
        except Unknown as unknown:
            self._problem(what, str(unknown), "an operator that is known here")
            value = self.terms.edge(what)
        if len(node.output) == 1:
            return [value]
        return [self.terms.operator("output", of=value, place=place) for place in range(len(node.output))]

    def _operator(self, node: Any, inputs: Sequence[Term | None], attributes: Mapping[str, Any]) -> Term:
        if node.domain == CONTRIB or (node.domain == "" and node.op_type in STANDARD_KERNELS):
            standard = node.op_type in STANDARD_KERNELS
            if standard != (node.domain == "") and node.op_type in KERNELS:
                raise Unknown(f"operator {node.domain}.{node.op_type}")
            return kernel_operator(self.terms, node.op_type, inputs, attributes)
        if node.domain:
            raise Unknown(f"operator {node.domain}.{node.op_type}")
        return onnx_operator(self.terms, node.op_type, inputs, attributes)

    def _attributes(self, node: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        import onnx

        found: dict[str, Any] = {}
        for each in node.attribute:
            kind = onnx.AttributeProto.AttributeType.Name(each.type)
            if each.name in found:
                raise Unknown(f"attribute {each.name} twice")
            if kind not in _VALUES:
                raise Unknown(f"attribute {each.name} of type {kind}")
            value = _VALUES[kind]
            stated = "ref_attr_name" if each.ref_attr_name else value
            self._known(each, {"name", "type", stated}, f"attribute {each.name}")
            if each.ref_attr_name:
                if each.ref_attr_name not in given:
                    raise Unknown(f"attribute {each.name} refers to {each.ref_attr_name}, which is not given")
                found[each.name] = given[each.ref_attr_name]
            else:
                found[each.name] = _value(getattr(each, value), kind)
        return found

    def _call(self, node: Any, inputs: Sequence[Term | None], attributes: Mapping[str, Any]) -> list[Term]:
        """A function's nodes in the place of its call."""
        key = (node.domain, node.op_type)
        function = self._functions[key]
        self._known(function, _FUNCTION, f"function {function.name}")
        self._called.add(key)
        if len(inputs) != len(function.input) or None in inputs or len(node.output) != len(function.output):
            raise Unknown(f"{len(inputs)} operands for the {len(function.input)} of function {function.name}")
        if set(attributes) != set(function.attribute):
            raise Unknown(f"attributes {sorted(attributes)} for {sorted(function.attribute)} of {function.name}")
        scope: dict[str, Any] = dict(zip(function.input, inputs, strict=True))
        read = self._nodes(function.node, scope, attributes, outside=False)
        for name in scope:
            if name not in read and name not in function.output:
                self._idle(f"value {name} of function {function.name}")
        referred = {each.ref_attr_name for inner in function.node for each in inner.attribute}
        for name in set(attributes) - referred:
            self._idle(f"attribute {name} of function {function.name}")
        return [scope.get(name) or self.terms.edge(name) for name in function.output]


def _tensor_fields() -> frozenset[str]:
    """Fields of an initializer whose numbers lie in the file itself."""
    return frozenset({"dims", "data_type", "name", "raw_data", "float_data", "int32_data", "int64_data"})


def _value(value: Any, kind: str) -> Any:
    import onnx

    if kind == "TENSOR":
        array = onnx.numpy_helper.to_array(value)
        return f"{array.dtype} {list(array.shape)} {array.tobytes().hex()}"
    return list(value) if kind.endswith("S") and kind != "TENSORS" else float(value) if kind == "FLOAT" else value

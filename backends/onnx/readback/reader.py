"""An ONNX file as a description: every field of it is looked at, and what nobody knows or reads is a difference.

Left aside, because nothing that computes depends on them: names of nodes, of functions and of tensors that bear no
name of the reference, that of the graph, texts for people (`doc_string`), the order of nodes, and which nodes share a
function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isobit.backends.onnx.readback.vocabulary import (
    CONTRIB,
    KERNELS,
    LOCAL,
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
# Of an initializer, or of an attribute that is one, whose numbers lie in the file itself.
_TENSOR = frozenset({"dims", "data_type", "name", "raw_data", "float_data", "int32_data", "int64_data"})
_LOCAL_VERSION = 1  # of the opset that a file's own functions are


class NoModel(Exception):
    """The bytes are no ONNX model; the message says what the library calls that."""


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

    Raises:
        NoModel: what stands at `path` is none.
    """

    def __init__(self, path: Path, names: Collection[str], terms: Terms) -> None:
        content = path.read_bytes()
        model = _parsed(content)
        self.terms, self.names = terms, set(names)
        self.problems: list[Difference] = []
        self.idle: list[Difference] = []
        self.operators = self.constants = 0
        self._tensors: dict[str, Term] = {}
        self._functions = {(each.domain, each.name): each for each in model.functions}
        self._once((f"function {each.name}" for each in model.functions), "the model")
        for domain, name in self._functions:
            if domain != LOCAL:  # sessions take an operator of their own that is called so, whatever the function says
                self._problem(f"domain of function {name}", domain or "ONNX", LOCAL)
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

    def _once(self, names: Iterable[str], what: str) -> None:
        """Tell what is stated twice: a dictionary would keep the last, whatever the others say."""
        for name, count in Counter(names).items():
            if count > 1:
                self._problem(f"{name} of {what}", f"stated {count} times", "stated once")

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
        versions, own = self._opsets(model, "the model"), {domain for domain, _ in self._functions}
        facts = {
            "ir_version": model.ir_version, "producer": f"{model.producer_name} {model.producer_version}",
            **{f"opset of {domain or 'ONNX'}": version for domain, version in versions.items() if domain not in own},
        }
        for domain in sorted(own):
            if versions.get(domain) != _LOCAL_VERSION:
                self._problem(f"opset of the functions' domain {domain}", str(versions.get(domain)),
                              str(_LOCAL_VERSION))
        for function in model.functions:
            for domain, version in self._opsets(function, f"function {function.name}").items():
                if versions.get(domain) != version:
                    self._problem(f"opset of {domain or 'ONNX'} in function {function.name}", str(version),
                                  str(versions.get(domain)))
        self._once((f"metadata {each.key}" for each in model.metadata_props), "the model")
        return facts | {f"metadata {each.key}": each.value for each in model.metadata_props}

    def _opsets(self, owner: Any, what: str) -> dict[str, int]:
        """Versions by domain that a model or function states."""
        self._once((f"opset of {each.domain or 'ONNX'}" for each in owner.opset_import), what)
        for each in owner.opset_import:
            self._known(each, {"domain", "version"}, f"an opset of {what}")
        return {each.domain: each.version for each in owner.opset_import}

    def _port(self, value: Any) -> Port:
        import onnx

        self._known(value, {"name", "type"}, f"port {value.name}")
        tensor = value.type.tensor_type
        what = f"the type of port {value.name}"
        self._known(value.type, {"tensor_type"}, what)
        self._known(tensor, {"elem_type", "shape"}, what)
        self._known(tensor.shape, {"dim"}, what)
        for place, each in enumerate(tensor.shape.dim):
            self._known(each, {"dim_value", "dim_param"}, f"axis {place} in {what}")
        sizes = tuple(
            each.dim_value if each.WhichOneof("value") == "dim_value" else None if each.dim_param == "N" else -1
            for each in tensor.shape.dim
        )
        kinds = {number: name for name, number in onnx.TensorProto.DataType.items()}
        return Port(value.name, kinds.get(tensor.elem_type, f"type {tensor.elem_type}"), sizes)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _graph(self, graph: Any, outputs: Sequence[str]) -> dict[str, Term]:
        scope: dict[str, Term] = {each.name: self.terms.edge(each.name) for each in graph.input}
        for tensor in graph.initializer:
            what = f"initializer {tensor.name}"
            if tensor.name in scope:
                self._problem(what, "a second value of that name")
            try:
                scope[tensor.name] = self.terms.constant(self._array(tensor, what))
            except Unknown as unknown:
                self._problem(what, str(unknown), "numbers of its type and shape")
                scope[tensor.name] = self.terms.edge(what)
        self.constants = len(graph.initializer)
        read = self._nodes(graph.node, scope, {}, outside=True)
        read.update(each.name for each in graph.input)  # the network may have inputs that it does not use
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
        if not any(node.output):
            self._problem(what, "a node that gives nothing", "one whose outputs somebody reads")
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
                found[each.name] = self._value(getattr(each, value), kind, f"attribute {each.name}")
        return found

    def _value(self, value: Any, kind: str, what: str) -> Any:
        if kind == "TENSOR":
            array = self._array(value, what)
            return f"{array.dtype} {list(array.shape)} {array.tobytes().hex()}"
        return list(value) if kind.endswith("S") else float(value) if kind == "FLOAT" else value

    def _array(self, tensor: Any, what: str) -> Any:
        """Numbers that lie in the file itself; raises Unknown where they are not as many as the shape says."""
        import onnx

        self._known(tensor, _TENSOR, what)
        stated = [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]
        if len(stated) > 1:
            raise Unknown(f"numbers in {' and '.join(stated)}")
        try:
            return onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:  # what the library says of these, and of no others
            raise Unknown(f"no tensor ({error})") from None

    def _call(self, node: Any, inputs: Sequence[Term | None], attributes: Mapping[str, Any]) -> list[Term]:
        """A function's nodes in the place of its call."""
        key = (node.domain, node.op_type)
        function = self._functions[key]
        self._known(function, _FUNCTION, f"function {function.name}")
        for names in (function.input, function.output, function.attribute):
            self._once(names, f"function {function.name}")
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


def _parsed(content: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise NoModel(type(error).__name__) from None

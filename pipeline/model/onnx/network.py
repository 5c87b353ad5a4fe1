"""A graph of an ONNX file as an `nn.Module`: one sub-module for each node, run in the file's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature

import torch
from torch import Tensor, nn

from isobit.pipeline.errors import CompileError, InputError, first_line, nearest_spelling
from isobit.pipeline.graph.file_nodes import FileNode
from isobit.pipeline.model.onnx import operators as _operators  # noqa: F401 - they register themselves
from isobit.pipeline.model.onnx.call import OPERATORS, BatchAxis, Call, Result, Value, as_host
from isobit.pipeline.model.onnx.graph import MAX_NAME, Graph, Node
from isobit.pipeline.model.onnx.names import module_paths, parameter_name

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
SMALL, SMALL_INTEGERS = 4096, 1 << 20  # elements of constants that are kept as numbers too
Step = Callable[["OnnxNode", Sequence[Value | None]], Result]


class OnnxNode(FileNode):
    """One node with the constants that it reads; every operator type has a class of its own below this one."""

    def __init__(self, node: Node, opset: int, constants: Mapping[int, Tensor]) -> None:
        super().__init__(node.where, node.shown)
        self.node, self.opset = node, opset
        self.batch_axes: tuple[BatchAxis, ...] = ()
        self.names: dict[int, str] = {}
        self.numbers: dict[int, Value] = {}
        known = OPERATORS[node.op].parameters
        for position, tensor in constants.items():
            self.hold(position, tensor, parameter_name(node, position, known))

    def hold(self, position: int, tensor: Tensor, name: str) -> None:
        """Own `tensor` as the constant input `position`."""
        if tensor.is_floating_point():
            shared = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name, shared)
        else:
            self.register_buffer(name, tensor)
        self.names[position] = name
        if tensor.numel() <= (SMALL if tensor.is_floating_point() else SMALL_INTEGERS):
            self.numbers[position] = as_host(tensor.detach())
        else:
            self.numbers.pop(position, None)

    def held_tensor(self, position: int) -> Tensor:
        """The constant input `position`."""
        return getattr(self, self.names[position])

    def forward(self, *values: Value | None) -> Result:
        """The node's value, or one for each of its outputs; `values` has None for constants and for what is left out.

        Raises:
            InputError: the operator cannot be computed; names the node.
        """
        given = [self.numbers.get(position, value) for position, value in enumerate(values)]
        constants = {position: self.held_tensor(position) for position in self.names}
        call = Call(self.node, self.opset, given, constants, self.batch_axes)
        try:
            return OPERATORS[self.node.op].function(call)
        except CompileError:
            raise
        except Exception as error:  # torch may refuse any operand
            shapes = ", ".join(str(list(value.shape)) for value in values if isinstance(value, Tensor))
            raise InputError(
                f"the operator cannot be computed on {shapes or 'its constants'}: {first_line(error)}",
                where=self.node.where, hint="Check that the file runs in ONNX Runtime at this input shape.",
            ) from error


class OnnxNetwork(nn.Module):
    """The whole file: takes its inputs in order, returns its output, or a tuple of several."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.paths = module_paths(graph)
        shared: dict[tuple[str, str], nn.Parameter] = {}
        for node, path in zip(graph.nodes, self.paths, strict=True):
            _add(self, path, _operator(node, graph, shared))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for `inputs` [N, ...]."""
        return self.run(inputs, lambda operator, values: operator(*values))

    def run(self, inputs: Sequence[Tensor], step: Step) -> Tensor | tuple[Tensor, ...]:
        """The same, where `step` computes a node's values from its module and its inputs."""
        values: dict[str, Value] = {port.name: tensor for port, tensor in zip(self.graph.inputs, inputs, strict=True)}
        for node, path in zip(self.graph.nodes, self.paths, strict=True):
            result = step(self.node_module(path), [values.get(name) for name in node.inputs])
            made = result if isinstance(result, tuple) else (result,)
            for name, value in zip(node.outputs, made, strict=False):
                if name:
                    values[name] = value
        outputs = tuple(self._output(name, values) for name in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def node_module(self, path: str) -> OnnxNode:
        """The module of a node."""
        module = self.get_submodule(path)
        if not isinstance(module, OnnxNode):
            raise TypeError(f"{path} is no node")
        return module

    def _output(self, name: str, values: Mapping[str, Value]) -> Tensor:
        value = values.get(name)
        if isinstance(value, Tensor):
            return value
        raise InputError(
            f"the output '{name[:100]}' does not depend on the input's values", where="the .onnx file",
            allowed="outputs that are computed from the inputs",
        )


def build_network(graph: Graph) -> OnnxNetwork:
    """The network of a file, in eval mode, whose `forward` names each input: torch.export asks for its signature."""

    def forward(self: OnnxNetwork, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return OnnxNetwork.forward(self, *inputs)

    names = ["input"] if len(graph.inputs) == 1 else [f"input_{place}" for place in range(len(graph.inputs))]
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    setattr(forward, "__signature__", Signature(parameters))  # noqa: B010 - no attribute that a type checker knows
    kind: type[OnnxNetwork] = type("OnnxNetwork", (OnnxNetwork,), {"forward": forward, "__module__": __name__})
    return kind(graph).eval()


def _operator(node: Node, graph: Graph, shared: dict[tuple[str, str], nn.Parameter]) -> OnnxNode:
    """The module of a node; constants that several nodes read in one form are one parameter."""
    if node.op not in OPERATORS:
        raise InputError(
            f"the operator {node.op} is not known", where=node.where, field="outputs",
            allowed=f"the {len(OPERATORS)} operators of `pipeline/model/onnx/operators`",
            hint=_left_out(node, graph) or nearest_spelling(node.op, OPERATORS),
        )
    prepare = OPERATORS[node.op].prepare
    constants = {
        position: graph.constants[name] for position, name in enumerate(node.inputs) if name in graph.constants
    }
    form = f"{node.op} {sorted(node.attributes.items(), key=str)}" if prepare is not None else ""
    try:
        prepared = dict(constants) if prepare is None else prepare(node, dict(constants))
    except CompileError:
        raise
    except Exception as error:  # attributes of any type, constants of any shape
        raise InputError(
            f"the operator does not take these attributes and constants: {first_line(error)}", where=node.where,
            hint="Check that the file runs in ONNX Runtime.",
        ) from error
    for position, tensor in prepared.items():
        if position not in constants or not tensor.is_floating_point():
            continue
        key = (node.inputs[position], f"{form} {position}" if form else "")
        prepared[position] = shared.setdefault(key, nn.Parameter(tensor, requires_grad=False))
    kind = type(node.op, (OnnxNode,), {"__module__": __name__})
    return kind(node, graph.opset, prepared)


def _left_out(node: Node, graph: Graph) -> str:
    """How to build the network without a node that no layer follows (a choice of boxes); empty for others."""
    after = set(node.outputs)
    for later in graph.nodes:
        if after.intersection(later.inputs):
            if later.op in _LAYERS:
                return ""
            after.update(later.outputs)
    names = [name for name in node.inputs if name and name not in graph.constants]
    names += [name for name in graph.outputs if name not in after and name not in names]
    wanted = " and ".join(f"`outputs={name[:MAX_NAME]}`" for name in names)
    return f"To leave it and what follows out, and have what it reads as outputs: {wanted}." if names else ""


def _add(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        if owner not in root._modules:
            root.add_module(owner, nn.Module())
        root = root.get_submodule(owner)
    root.add_module(name, leaf)


def input_example(graph: Graph, batch: int) -> tuple[Tensor, ...]:
    """Zeros for every input, `batch` samples."""
    return tuple(
        torch.zeros((batch, *(size or 1 for size in port.shape[1:])), dtype=port.dtype) for port in graph.inputs
    )

"""Graphs made of a graph: a part of it, the network without quantizers, and one whose constants are worked out once."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    get_attribute,
    is_constant,
    op_name,
    quantizer_of,
    source_of,
)

Module = TypeVar("Module", bound=nn.Module)
_VALUE_KEYS = ("val", "shape", "dtype", "example")  # the meta of a node that says what its value is


class Constant(nn.Module):
    """Answers with one tensor, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value: Tensor
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value


def channels_last(module: Module) -> Module:
    """`module` itself, its images and kernels laid out channels last; torch's own call refuses tensors of rank 5."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            # Not `contiguous`: it leaves the strides of 1x1 kernels, which choose the kernel and so a sum's last bits.
            tensor.data = tensor.data.to(tensor.device, memory_format=torch.channels_last)
    return module


def in_dtype(graph: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A copy whose parameters are in `dtype`, and in which no operator asks for float32 or checks that it got it."""
    copied = copy.deepcopy(graph).to(dtype)
    for node in list(copied.graph.nodes):
        if node.op != "call_function":
            continue
        if op_name(node) == "_assert_tensor_metadata":
            copied.graph.erase_node(node)
            continue
        node.args, node.kwargs = _retyped((node.args, node.kwargs), dtype)
    copied.recompile()
    return copied


def _retyped(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_retyped(each, dtype) for each in value)
    if isinstance(value, dict):
        return {name: _retyped(each, dtype) for name, each in value.items()}
    return dtype if value is torch.float32 else value


@torch.no_grad()
def fold_constants(graph: fx.GraphModule, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
    """A copy in `dtype` with the same answers, in which quantizers of weights and biases compute nothing any more.

    Args:
        graph: every constant's numbers are decided.
    """
    folded = in_dtype(graph, dtype)
    values = {
        node: get_attribute(folded, node).detach() for node in folded.graph.nodes if node.op == "get_attr"
    }
    constants: dict[str, Constant] = {}
    for node in folded.graph.nodes:
        quantizer = quantizer_of(folded, node) or bias_quantizer_of(folded, node)
        if quantizer is None or node.args[0] not in values:
            continue
        constants[str(node.target)] = Constant(quantizer(values[node.args[0]]))
    for target, constant in constants.items():  # a bias quantizer reads its parents: they go last
        folded.set_submodule(target, constant)
    return folded


class SubGraph(fx.GraphModule):
    """A part of a graph, as `extract` gives it: its inputs and outputs by the names of the whole graph's nodes."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def extract(
    graph: fx.GraphModule, names: Collection[str], *, quantized: bool = True, answers: Collection[str] = ()
) -> SubGraph:
    """A sub-graph of `graph` that shares its parameters and quantizers (same objects, nothing is copied back).

    Args:
        names: nodes of the sub-graph; parameters that they read come along.
        quantized: False leaves every quantizer out (the teacher's view of the same nodes).
        answers: nodes whose values are its output, in execution order; without any, those that are used outside.

    Returns:
        A module whose inputs are the outside activations that the nodes read, in execution order (placeholders carry
        the outside node's name), and whose output is a tuple of the values that are used outside, in execution order;
        `.input_names` and `.output_names` list them.
    """
    wanted = set(names)
    inside = [node for node in graph.graph.nodes if node.name in wanted]
    sub = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    read = {source for node in inside for source in node.all_input_nodes if source.name not in wanted}
    outside = [node for node in graph.graph.nodes if node in read and not is_constant(node)]
    for node in outside:
        copies[node] = sub.placeholder(node.name)
        copies[node].meta = {key: node.meta[key] for key in _VALUE_KEYS if key in node.meta}
    for node in inside:
        for source in node.all_input_nodes:
            _copy_constant(graph, sub, source, copies, quantized)
        if node in copies:
            continue
        if not quantized and node.op == "call_module":
            copies[node] = copies[source_of(node)]
        else:
            copies[node] = sub.node_copy(node, lambda n: copies[n])
    outputs = [
        n for n in inside
        if (n.name in answers if answers else not is_constant(n) and any(u.name not in wanted for u in n.users))
    ]
    sub.output(tuple(copies[node] for node in outputs))
    module = SubGraph(graph, sub)
    module.input_names = tuple(node.name for node in outside)
    module.output_names = tuple(node.name for node in outputs)
    return module


def float_network(graph: fx.GraphModule, answers: Collection[str] = ()) -> SubGraph:
    """The whole graph without its quantizers, as `extract` gives it: its outputs, or `answers`, come as a tuple."""
    names = [node.name for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    return extract(graph, names, quantized=False, answers=answers)


def _copy_constant(
    graph: fx.GraphModule, sub: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], quantized: bool
) -> None:
    if node in copies or not is_constant(node):
        return
    for source in node.all_input_nodes:
        _copy_constant(graph, sub, source, copies, quantized)
    if node.op == "call_module" and not quantized:
        copies[node] = copies[source_of(node)]
    else:
        copies[node] = sub.node_copy(node, lambda n: copies[n])

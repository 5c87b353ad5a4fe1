"""A graph as its readers see it: every node once, with what it computes, from what, and for whom.

Passes edit nodes; whoever only reads takes calls. A call is worked out once, so nobody asks a node the same thing
again. `Calls` refuses to be read once its graph was edited; a call that was taken before that goes on telling what it
was, its place, arguments and readers included, so whoever edits keeps none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_arg

from isobit.pipeline.graph.annotation import float_override, kept_float
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    computes_size,
    get_attribute,
    module_path,
    module_stack,
    op_name,
    quantizer_of,
    tensor_dtype,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.ports import output_nodes
from isobit.pipeline.quant.quantizer import BiasQuantizer, Quantizer


@dataclass(frozen=True, eq=False)
class Call:
    """One node of a graph that is only read.

    Args:
        graph: that holds it.
        node: for whoever edits, or runs the graph.
        place: in the graph's order, from 0.
        op: canonical name of its operator (`pipeline.graph.nodes.op_name`); empty where it calls none.
        args: of an ATen operator, by the names of its schema, with calls in the place of nodes; else empty.
        sources: what it reads, each once, in the order of the arguments.
        inputs: those of its arguments that depend on the network's input, in their order; one read twice, twice.
        constant: its value does not depend on the network's input: a parameter or its quantizer.
        shape: of its value, None where it varies with the batch; () where it is no tensor.
        dtype: of its value.
        readers: what reads it.
    """

    graph: fx.GraphModule = field(repr=False)
    node: fx.Node
    place: int
    op: str
    args: Mapping[str, Any] = field(repr=False)
    sources: tuple[Call, ...] = field(repr=False)
    inputs: tuple[Call, ...] = field(repr=False)
    constant: bool
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    readers: Sequence[Call] = field(repr=False)

    @property
    def name(self) -> str:
        """The node's."""
        return self.node.name

    @property
    def is_input(self) -> bool:
        """It is an input of the network."""
        return self.node.op == "placeholder"

    @property
    def is_output(self) -> bool:
        """It returns what it reads."""
        return self.node.op == "output"

    @property
    def is_size(self) -> bool:
        """Its value is a number that follows from the size of the batch."""
        return computes_size(self.node)

    @property
    def module(self) -> str:
        """Path of the innermost module that ran it (`layer1.0.conv1`), or the empty string."""
        return module_path(self.node)

    @property
    def module_stack(self) -> list[tuple[str, str]]:
        """(path, class name) of every module around it, outermost first."""
        return module_stack(self.node)

    @property
    def where(self) -> str:
        """Node, module path and source line in one phrase, for errors."""
        return where(self.node)

    @property
    def kept_float(self) -> str:
        """Why the recipe keeps it in float; empty where it does not. Read afresh: `annotate` decides it on calls."""
        return kept_float(self.node)

    @property
    def float_override(self) -> str:
        """The `where` of the override that keeps it in float; empty where none does."""
        return float_override(self.node)

    @property
    def tensor(self) -> torch.Tensor:
        """The tensor of a parameter or buffer."""
        return get_attribute(self.graph, self.node)

    @property
    def quantizer(self) -> Quantizer | None:
        """The `Quantizer` that it calls."""
        return quantizer_of(self.graph, self.node)

    @property
    def bias_quantizer(self) -> BiasQuantizer | None:
        """The `BiasQuantizer` that it calls."""
        return bias_quantizer_of(self.graph, self.node)


class Calls:
    """Every node of a graph as a `Call`, in execution order.

    Args:
        graph: with its shapes recorded. Where it has been edited since, the view refuses (`RuntimeError`) to be read.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self._calls: dict[fx.Node, Call] = {}
        self._seen: dict[fx.Node, tuple[Any, ...]] = {}
        readers: dict[fx.Node, list[Call]] = {node: [] for node in graph.graph.nodes}
        for place, node in enumerate(graph.graph.nodes):
            self._calls[node] = self._read(node, place, readers[node])
            self._seen[node] = _state(node)
        for node, found in readers.items():
            found.extend(self._calls[reader] for reader in node.users)

    def __iter__(self) -> Iterator[Call]:
        self._check_nodes()
        return (self[node] for node in self._calls)

    def __reversed__(self) -> Iterator[Call]:
        self._check_nodes()
        return (self[node] for node in reversed(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def outputs(self) -> list[Call]:
        """What the network returns, in its order; a call may stand there twice."""
        return [self[node] for node in output_nodes(self.graph)]

    def __getitem__(self, node: fx.Node) -> Call:
        """The call of `node`."""
        if node not in self._calls or _state(node) != self._seen[node]:
            raise RuntimeError(f"{where(node)} is new, or was edited after the graph was read")
        return self._calls[node]

    def _check_nodes(self) -> None:
        if list(self.graph.graph.nodes) != list(self._calls):
            raise RuntimeError("nodes were added, erased or moved after the graph was read")

    def _read(self, node: fx.Node, place: int, readers: list[Call]) -> Call:
        read: list[Call] = []

        def call_of(source: fx.Node) -> Any:
            read.append(self._calls[source])
            return read[-1]

        map_arg((node.args, node.kwargs), call_of)
        sources, inputs = tuple(dict.fromkeys(read)), tuple(source for source in read if not source.constant)
        args = map_arg(bound_args(node), call_of) if isinstance(node.target, OpOverload) else {}
        constant = node.op == "get_attr" or (node.op == "call_module" and all(source.constant for source in sources))
        return Call(
            self.graph, node, place, op_name(node), args, sources, inputs, constant, tensor_shape(node),
            tensor_dtype(node), readers,
        )


def _state(node: fx.Node) -> tuple[Any, ...]:
    """What an edit replaces."""
    return node.target, node.args, node.kwargs

"""What an ONNX file says, without its protobuf: nodes with typed attributes, constants as tensors, its ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isobit.pipeline.errors import InputError

MAX_NAME = 120  # characters of a file's name that a message repeats


@dataclass(frozen=True)
class Node:
    """One node of the file.

    Args:
        op: its type (`Conv`).
        name: as the file has it; may be empty.
        inputs, outputs: names of values; empty where one is left out.
        attributes: int, float, str, lists of them, or an array: a tensor is not read while a network is traced.
        scope: path of the module that the exporter says it comes from; empty where it does not.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    scope: str = ""

    @property
    def shown(self) -> str:
        """Its name, or that of its first value, as it can be printed."""
        name = self.name or next(filter(None, self.outputs), "")
        return "".join(sign if sign.isprintable() else "?" for sign in name[:MAX_NAME])

    @property
    def where(self) -> str:
        """The node as a person finds it in a viewer: its type and name, or that of its first value."""
        return f"{self.op} node '{self.shown}'"


@dataclass(frozen=True)
class Port:
    """An input of the file: `shape` has None where a size is free."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A whole file: nodes in an order in which they can be run.

    Args:
        constants: initializers and the values of Constant nodes, by name.
        outputs: names of values, in the file's order.
        opset: version of the standard operators.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    opset: int

    @property
    def batch(self) -> int:
        """The size that the file declares for the first axis of its inputs; 1 where it is free."""
        return next((port.shape[0] for port in self.inputs if port.shape and port.shape[0]), 1)

    @property
    def fixed_batch(self) -> bool:
        """The file declares a size for the batch."""
        return any(port.shape and port.shape[0] for port in self.inputs)


def in_order(nodes: tuple[Node, ...], known: set[str]) -> tuple[Node, ...]:
    """The nodes, each after those whose values it reads; `known` are the values that no node makes.

    Raises:
        InputError: a value is made twice, or by none, or from itself.
    """
    made = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    if len(made) != sum(1 for node in nodes for name in node.outputs if name) or known & made.keys():
        raise InputError("two nodes of the file make a value of the same name", where="the .onnx file")
    wanted = [{made[name] for name in node.inputs if name in made} for node in nodes]
    for node in nodes:
        lacking = next((name for name in node.inputs if name and name not in made and name not in known), None)
        if lacking is not None:
            raise InputError(f"no node makes the value '{lacking[:MAX_NAME]}', which it reads", where=node.where)
    readers: list[list[int]] = [[] for _ in nodes]
    for index, sources in enumerate(wanted):
        for source in sources:
            readers[source].append(index)
    missing = [len(sources) for sources in wanted]
    ready = [index for index in reversed(range(len(nodes))) if not missing[index]]
    order: list[Node] = []
    while ready:
        index = ready.pop()
        order.append(nodes[index])
        for reader in reversed(readers[index]):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    if len(order) < len(nodes):
        stuck = next(node for index, node in enumerate(nodes) if missing[index])
        raise InputError("the nodes of the file form a circle", where=stuck.where)
    # The file's own order is an order of execution in every file that keeps to the standard.
    sorted_already = all(source < index for index, sources in enumerate(wanted) for source in sources)
    return nodes if sorted_already else tuple(order)


def with_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The graph with the inputs' sizes after the batch taken from `shapes`.

    Raises:
        InputError: a name is not there, a rank differs, or a size stays unknown.
    """
    known = {port.name: port for port in graph.inputs}
    for name, shape in shapes.items():
        if name not in known:
            raise InputError(
                f"the model has no input '{name}'", field="input_shape", allowed=", ".join(known) or "no input"
            )
        if len(shape) != len(known[name].shape):
            raise InputError(
                f"the input '{name}' has {len(known[name].shape)} axes, {len(shape)} sizes are given",
                field="input_shape", allowed=f"the batch first, as {_example(known[name])}",
            )
    ports = []
    for port in graph.inputs:
        given = shapes.get(port.name)
        sizes = (port.shape[0], *given[1:]) if given is not None else port.shape
        if None in sizes[1:]:
            raise InputError(
                f"the size of the input '{port.name}' is free: {shape_text(port.shape)}", field="input_shape",
                allowed="one size for each axis", hint=f"For example `input_shape={port.name}={_example(port)}`.",
            )
        ports.append(replace(port, shape=tuple(sizes)))
    return replace(graph, inputs=tuple(ports))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """[N, 3, ?, ?]."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _example(port: Port) -> str:
    return "x".join(str(size or (1 if axis == 0 else 224)) for axis, size in enumerate(port.shape))

"""The whole network trained in less memory: what lies within a unit is computed again on the way back, not kept.

Autograd keeps what every operation of a step needs for its gradient, all layers at once: of a network of U units alike,
U times what a unit takes. Here the forward pass keeps only the values between units; the backward pass runs each unit
forward once more, just before it differentiates it (Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory
Cost, 2016, arXiv 1604.06174). Values and gradients are the same to the last bit; a step takes a third more time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import checkpoint

from isobit.pipeline.graph.nodes import is_constant
from isobit.pipeline.memory import available_memory
from isobit.pipeline.samples.batching import footprint
from isobit.pipeline.stages import Unit

# Bytes that autograd keeps, as multiples of the values that the graph names: of the finish 1.1 for ResNet-18 and 1.3
# for MobileNetV2, weights apart.
KEPT = 1.5
SHARE = 0.5  # of the free memory that activations may take; weights, their gradients and Adam's moments are beside them


def runner(
    interpreter: fx.Interpreter, units: Sequence[Unit], samples: int, device: torch.device, free: float | None = None
) -> Callable[..., Any]:
    """What to call in place of `interpreter.run`: itself, or the same recomputed where activations would not fit.

    Args:
        interpreter: of a graph with recorded shapes; its `run_node` draws no random number.
        units: what is recomputed together; what lies between them is as well, apart.
        samples: of one step.
        free: bytes; None for what `device` has left.
    """
    room = SHARE * (free_memory(device) if free is None else free)
    if activation_bytes(_graph_of(interpreter), samples) <= room:
        return interpreter.run
    return Recomputed(interpreter, units)


def activation_bytes(graph: fx.GraphModule, samples: int) -> float:
    """What autograd keeps of one step with so many samples, about."""
    return KEPT * samples * footprint(graph).total


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _graph_of(interpreter: fx.Interpreter) -> fx.GraphModule:
    if not isinstance(interpreter.module, fx.GraphModule):
        raise TypeError("the interpreter runs no graph")
    return interpreter.module


@dataclass(frozen=True)
class _Part:
    """Nodes that are computed together.

    Args:
        nodes: in execution order, with the constants that they read.
        reads: whose values come from earlier parts.
        gives: whose values later parts read.
        forget: what nobody reads afterwards.
    """

    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    gives: tuple[fx.Node, ...]
    forget: tuple[fx.Node, ...]


class Recomputed:
    """Runs an interpreter's graph part by part and keeps only what passes between parts."""

    def __init__(self, interpreter: fx.Interpreter, units: Sequence[Unit]) -> None:
        self._interpreter, self._graph = interpreter, _graph_of(interpreter).graph
        self._parts = _parts(self._graph, units)
        *self._ending, self._output = _with_constants(self._graph.find_nodes(op="output"))

    def __call__(self, *inputs: Any) -> Any:
        """What `interpreter.run(*inputs)` gives."""
        self._interpreter.args_iter = iter(self._graph.process_inputs(*inputs))
        values = {node: self._computed(node, {}) for node in self._graph.find_nodes(op="placeholder")}
        for part in self._parts:
            given = checkpoint(
                self._run, part, *(values[node] for node in part.reads), use_reentrant=False, preserve_rng_state=False
            )
            values.update(zip(part.gives, given, strict=True))
            for node in part.forget:
                del values[node]
        for node in self._ending:
            values[node] = self._computed(node, values)
        return self._graph.process_outputs(self._computed(self._output, values))

    def _computed(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        self._interpreter.env = values
        return self._interpreter.run_node(node)

    def _run(self, part: _Part, *inputs: Any) -> tuple[Any, ...]:
        values = dict(zip(part.reads, inputs, strict=True))
        for node in part.nodes:
            values[node] = self._computed(node, values)
        return tuple(values[node] for node in part.gives)


def _parts(graph: fx.Graph, units: Sequence[Unit]) -> list[_Part]:
    """The graph cut into runs of nodes that belong to the same unit, or to none."""
    owner = {name: number for number, unit in enumerate(units) for name in unit.nodes}
    runs: list[tuple[int | None, list[fx.Node]]] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or is_constant(node):
            continue
        unit = owner.get(node.name)
        if not runs or runs[-1][0] != unit:
            runs.append((unit, []))
        runs[-1][1].append(node)
    whole = [_with_constants(nodes) for _, nodes in runs]
    reads = [_sources(nodes) for nodes in whole]
    ending = _sources(_with_constants(graph.find_nodes(op="output")))
    last = {node: place for place, nodes in enumerate(reads) for node in nodes} | dict.fromkeys(ending, len(whole))
    return [
        _Part(
            tuple(nodes), reads[place], tuple(node for node in nodes if last.get(node, -1) > place),
            tuple(node for node, final in last.items() if final == place),
        )
        for place, nodes in enumerate(whole)
    ]


def _with_constants(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The nodes, each after the constants that it reads and that none before it read."""
    found: dict[fx.Node, None] = {}

    def add(node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if is_constant(source) and source not in found:
                add(source)
        found.setdefault(node)

    for node in nodes:
        add(node)
    return list(found)


def _sources(nodes: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
    """What these nodes read and are not themselves."""
    inside = set(nodes)
    return tuple(dict.fromkeys(source for node in nodes for source in node.all_input_nodes if source not in inside))

"""Regions in float as steps: codes become values, operators run one after the other, values become codes again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.floats.calls import Floats
from isobit.backends.fixed_point.floats.steps import Decode, Encode, Leave
from isobit.backends.fixed_point.joined import Joined
from isobit.backends.fixed_point.program import Buffer
from isobit.backends.fixed_point.tensors import Tensors
from isobit.backends.fixed_point.values import Refusal, Value, graph_shape
from isobit.backends.regions import Region
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.nodes import computes_size, module_path, op_name
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.target import Target


class FloatLowering(Tensors):
    """What a walk over the regions does with those that run in float.

    Attributes:
        flow: whose grid each value is on.
        joined: values that layout operators put together from several grids for the network's output.
        raw: see `program.Program`.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, trial: bool = False) -> None:
        super().__init__(graph, target, trial)
        self.flow, self.floats = GridMap(target), Floats(graph, target)
        self.raw: dict[int, int] = {}
        self.joined: dict[fx.Node, Joined] = {}

    def runs_in_float(self, region: Region) -> bool:
        """The region computes in float where it may, or lays out values that are in float."""
        if region.kind == "float":
            return self.floats.allows(region.anchor)
        if region.kind == "input" and region.inputs[0].op == "placeholder":
            return False
        if self.is_in_float(region.inputs):
            return True
        if not region.is_layout or region.grid is not None or not self.floats.allows(region.anchor):
            return False
        if any(source.op == "placeholder" and source not in self.values for source in region.inputs):
            return True
        return op_name(region.anchor) == "cat" and not self.flow.only_leaves(self.calls[region.anchor])

    def run_in_float(self, region: Region) -> None:
        """The steps of such a region.

        Raises:
            Refusal: codes that it reads or gives have no place.
        """
        if region.kind == "input":
            number = self._in_float(region.inputs[0])
        elif computes_size(region.anchor) or not self.floats.is_tensor(region.anchor):
            return
        else:
            number = [self._computed(node) for node in (region.anchor, *region.absorbed)][-1]
        if region.quantizer is not None:
            grid = self.grid(region)
            by_lines = any(reader.op == "linear" for reader in self.flow.consumers(self.calls[region.value]))
            output = self.store(region, grid, by_lines, anywhere=True)
            self.steps.append(Encode(
                region.value.name, region.module, (), output, (number,), None, grid.low, grid.high))

    def store_unread(self, node: fx.Node) -> None:
        """A tensor for an input whose codes nobody reads: what a description of it needs."""
        shape = graph_shape(node)
        self.add(Buffer(node.name, layout.map_shape(shape, False), 0, 1.0, False, shape))

    def is_in_float(self, nodes: Sequence[fx.Node]) -> bool:
        """One of the values is in float, and not only read as such by somebody."""
        return any(node in self.floats.numbers and node not in self.values and node not in self.joined
                   and node.op != "placeholder" for node in nodes)

    def pretend(self, region: Region) -> None:
        """In a trial, a tensor for the value of a region that is refused, so that the walk goes on after it."""
        shape = tuple(self.floats.examples[region.value].shape)
        number = self.add(Buffer(region.value.name, (1, 1, math.prod(shape)), 0, 1.0, False, shape))
        one = CodeGrid(torch.tensor(1.0), 0, 0, 255)
        self.values[region.value] = Value(number, one, np.arange(math.prod(shape)).reshape(shape))

    def leave_in_float(self, outputs: Sequence[fx.Node], logits: tuple[int, int] | None = None) -> None:
        """Write the logits of outputs of which one is in float; all of them, or which: see `program.Step`."""
        numbers = tuple(self._in_float(node) for node in outputs)
        self.steps.append(Leave(outputs[0].name, "", (), None, numbers, None, logits=logits))

    def _computed(self, node: fx.Node) -> int:
        """Number of the value that an operator gives; it is computed here, and once."""
        if node not in self.floats.numbers:
            sources, step = self.floats.compute(node, self.trial)
            reads = tuple(self._in_float(source) for source in sources)
            self.steps.append(replace(step, reads=reads, writes=self.floats.add(node)))
        return self.floats.numbers[node]

    def _in_float(self, node: fx.Node) -> int:
        """Number of the value of a node, from its codes where it has such."""
        if node in self.floats.numbers:
            return self.floats.numbers[node]
        if node.op == "placeholder":
            number = self.floats.add(node)
            self.raw[number] = input_nodes(self.graph).index(node)
            return number
        value = self.values.get(node)
        if isinstance(value, Value):
            try:
                in_order = self.lies_in_order(node)
                codes = self.as_laid_out(node, self.codes(node, node, in_order=in_order, anywhere=True), in_order)
            except Refusal:
                if node.op != "call_function":
                    raise
            else:
                number = self.floats.add(node)
                self.steps.append(Decode(node.name, module_path(node), (codes,), None, (), number))
                return number
        if node.op != "call_function" or (node in self.values and not isinstance(value, Value)):
            raise Refusal(node, "float operators cannot read what has no grid")
        return self._computed(node)


"""The tensors and steps of a program while it is made: where values lie, and the moves that lay them out anew."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid, output_grid
from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.program import Buffer, Move, Step
from isobit.backends.fixed_point.values import Refusal, Sums, Value, per_sample, sample_shape
from isobit.backends.regions import Region
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.nodes import computes_size, module_path, op_name, tensor_shape
from isobit.pipeline.operators.moves import is_move
from isobit.pipeline.target import Target


class Tensors:
    """What a walk over the regions has made so far.

    Args:
        trial: only find out what is refused: the quantizers have no numbers, and no step is made.

    Attributes:
        buffers, steps: of the program.
        values: where the value of each node lies.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, trial: bool = False) -> None:
        self.graph, self.target, self.trial = graph, target, trial
        self.calls = Calls(graph)
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Value | Sums] = {}
        self._read: dict[tuple[fx.Node, tuple[int, ...], bool], int] = {}

    def grid(self, region: Region) -> CodeGrid:
        """The grid of the result of a region that has a quantizer; any grid in a trial."""
        grid = output_grid(self.graph, region) if not self.trial else CodeGrid(torch.tensor(1.0), 0, 0, 255)
        if grid is None:
            raise Refusal(region.anchor, f"the output of {op_name(region.anchor)} is not quantized")
        return grid

    def add(self, buffer: Buffer) -> int:
        """Number of a new tensor."""
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def store(self, region: Region, grid: CodeGrid, in_order: bool = False, anywhere: bool = False) -> int:
        """A new tensor for the region's value.

        Args:
            in_order: its channels are the graph's last axis.
            anywhere: the samples may lie on any axis of the value.
        """
        node = region.value
        shape = sample_shape(node) if anywhere else per_sample(node)[1:]
        in_order = in_order and len(shape) > 1
        number = self.add(Buffer(
            node.name, layout.map_shape(shape, in_order), grid.zero_point, float(grid.scale),
            region.quantizer is not None, shape, in_order,
        ))
        numbers = np.arange(math.prod(shape)).reshape(shape) if in_order else layout.identity_map(
            self.buffers[number].shape, shape)
        self.values[node] = Value(number, grid, self._as_in_graph(node, numbers))
        return number

    def _as_in_graph(self, node: fx.Node, numbers: np.ndarray) -> np.ndarray:
        """The numbers of one sample's elements, of `sample_shape`, in the shape of a batch of one in the graph."""
        if samples_of(node).is_first:
            return numbers[None]
        samples = samples_of(node)
        return numbers.reshape(*numbers.shape[:samples.axis], -1, *numbers.shape[samples.axis + 2:])

    def store_integers(self, node: fx.Node) -> int:
        """A new tensor of integers for the value of `node`."""
        shape = per_sample(node)[1:]
        size = math.prod(shape)
        number = self.add(Buffer(node.name, (1, 1, size), 0, 1.0, False, shape, in_order=True, integers=True))
        one = CodeGrid(torch.tensor(1.0), 0, 0, 0)
        self.values[node] = Value(number, one, np.arange(size).reshape(1, *shape))
        return number

    def check_on_grid(self, node: fx.Node, reader: fx.Node) -> None:
        """Refuse a value that stayed in float, because what computes with it has no integer kernel."""
        if node in self.values:
            return
        while is_move(op_name(reader)):
            users = [user for user in reader.users if not computes_size(user)]
            if len(users) != 1 or users[0].op == "output":
                break
            reader = users[0]
        raise Refusal(reader, self.target.rule_of(self.calls[reader]).reason or f"{node.name} is on no grid")

    def value(self, node: fx.Node, reader: fx.Node) -> Value:
        """Where codes lie that `reader` computes with; a value in float and sums without a grid are refused."""
        self.check_on_grid(node, reader)
        value = self.values[node]
        if not isinstance(value, Value):
            raise Refusal(reader, "it reads sums of a layer that have no grid")
        return value

    def integers(self, node: fx.Node, reader: fx.Node) -> int:
        """Number of the tensor of integers that is the value of `node`, as it is."""
        value = self.value(node, reader)
        if not self.buffers[value.buffer].integers or not layout.is_identity(value.numbers):
            raise Refusal(reader, f"{op_name(reader)} reads integers as they come in, and {node.name} are others")
        return value.buffer

    def codes(
        self, node: fx.Node, reader: fx.Node, shape: tuple[int, ...] | None = None, in_order: bool = False,
        anywhere: bool = False,
    ) -> int:
        """Number of a tensor that holds the value of `node`, repeated to `shape`; a `Move` makes it where none does.

        Args:
            in_order, anywhere: as of `store`.
        """
        value = self.value(node, reader)
        if anywhere and not samples_of(node).is_first:
            value = replace(value, numbers=value.numbers.reshape(1, *sample_shape(node)))
        elif value.numbers.shape[0] != 1 or tensor_shape(node)[0] is not None:
            raise Refusal(reader, f"the samples do not lie one after the other on the first axis of {node.name}")
        shape = shape or value.numbers.shape
        in_order = in_order and len(shape) > 2
        if not value.numbers.size:
            raise Refusal(reader, f"{node.name} has no elements")
        if self.buffers[value.buffer].integers:
            raise Refusal(reader, f"{op_name(reader)} computes with codes, and {node.name} are integers")
        if (node, shape, in_order) in self._read:
            return self._read[node, shape, in_order]
        number = value.buffer
        if not self.trial:
            source = self.buffers[value.buffer]
            numbers = layout.as_map(np.broadcast_to(value.numbers, shape)[0], in_order)
            if numbers.shape != source.shape or not layout.is_identity(numbers):
                number = len(self.buffers)
                form = layout.find_form(numbers, source.shape)
                self.buffers.append(Buffer(
                    node.name, numbers.shape, source.zero_point, source.scale, False, shape[1:], in_order,
                ))
                self.steps.append(Move(node.name, module_path(node), (value.buffer,), number, **vars(form)))
        self._read[node, shape, in_order] = number
        return number

    def lies_in_order(self, node: fx.Node) -> bool:
        """The value's elements lie in memory in the order of the graph, and not by channels."""
        value = self.values.get(node)
        return (
            isinstance(value, Value) and self.buffers[value.buffer].in_order and value.numbers.ndim > 2
            and layout.is_identity(value.numbers)
        )

    def as_laid_out(self, node: fx.Node, number: int, in_order: bool) -> int:
        """A tensor with the codes of `node` that says how these lie, to who asks the tensor.

        A matrix by rows and its transpose by columns are the same bytes, of two orders.
        """
        source = self.buffers[number]
        height, width, channels = source.shape
        if self.trial or source.in_order == in_order or 1 in (height * width, channels):
            return number
        return self._same(node, number, replace(
            source, name=node.name, quantized=False, nchw=sample_shape(node), in_order=in_order))

    def reshaped(self, node: fx.Node, number: int, shape: tuple[int, int, int]) -> int:
        """A tensor of the same bytes as a map of another shape."""
        source = self.buffers[number]
        if source.shape == shape:
            return number
        height, width, channels = shape
        return self._same(node, number, replace(
            source, shape=shape, quantized=False, nchw=(channels, height, width), in_order=False))

    def _same(self, node: fx.Node, number: int, told: Buffer) -> int:
        """A tensor of the bytes of another, of which other things are told."""
        output = self.add(told)
        self.steps.append(same_bytes(node.name, module_path(node), number, output, told.size))
        return output


def same_bytes(name: str, module: str, source: int, output: int, size: int) -> Move:
    """A tensor under another shape."""
    return Move(name, module, (source,), output, (1, 1), (0, 0), np.zeros(0, np.int32), np.arange(size, dtype=np.int32))

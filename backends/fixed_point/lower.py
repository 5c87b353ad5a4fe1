"""A frozen reference as a `Program`: regions in, integer steps out; nothing is fused here that regions do not fuse.

`refused` takes the same walk before there are numbers, so that what it lets pass can be lowered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid, output_grid
from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.joined import Joined, find_parts, join
from isobit.backends.fixed_point.numbers import fill_code, regrid_table, requantize_table
from isobit.backends.fixed_point.program import Buffer, Concat, Conv, Dequantize, Lookup, Move, Program, Step, Weights
from isobit.backends.fixed_point.steps import joined_axis, make_step, refusal
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.grid_map import GridMap, data_inputs
from isobit.pipeline.graph.nodes import (
    bound_args,
    known_sizes,
    module_path,
    op_name,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.ports import input_names, input_nodes, output_names, output_nodes
from isobit.pipeline.operators.index_map import move_numbers
from isobit.pipeline.operators.moves import MOVES, is_move
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target

_PAIRS = ("add", "mul")  # operators of two tensors, of which one may be repeated along an axis of the other


def lower(reference: Reference) -> Program:
    """The program of a frozen graph that was placed for an integer target (`rules.integer_target`).

    Raises:
        TargetError: numbers that fit no integers, or an operator that `refused` names.
    """
    try:
        return _Lowering(reference.graph, reference.quantized.target).run()
    except _Refusal as refusal:
        raise TargetError(refusal.reason, where=where(refusal.node), field="target") from None


def refused(graph: fx.GraphModule, target: Target) -> list[tuple[fx.Node, str]]:
    """What of a quantized graph cannot be lowered, with the reason; its quantizers need no numbers yet."""
    try:
        _Lowering(graph, target, trial=True).run()
    except _Refusal as refusal:
        return [(refusal.node, refusal.reason)]
    return []


class _Refusal(Exception):
    """Why a node cannot be lowered."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class _Value:
    """Where the value of a node lies: elements of a tensor, by number, in the order of the graph.

    Args:
        buffer: number of the tensor.
        grid: of its codes.
        numbers: int64 of the node's shape for one sample, the batch included; into the tensor's elements;
            `layout.OUTSIDE` for the code of zero.
    """

    buffer: int
    grid: CodeGrid
    numbers: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """A value whose elements are the sums of the last layer, which have no grid; `numbers` as of `_Value`."""

    numbers: np.ndarray


class _Lowering:
    """One walk over the regions; layout operators only change `_Value.numbers` until somebody reads codes.

    Args:
        trial: only find out what is refused: the quantizers have no numbers, and no step is made.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, trial: bool = False) -> None:
        self.graph, self.target, self.trial = graph, target, trial
        self.flow = GridMap(graph, target)
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.values: dict[fx.Node, _Value | _Sums] = {}
        self.joined: dict[fx.Node, Joined] = {}
        self.read: dict[tuple[fx.Node, tuple[int, ...]], int] = {}

    def run(self) -> Program:
        """The program, of a trial without its steps; raises _Refusal."""
        _, *further = input_nodes(self.graph)
        if further:
            raise _Refusal(further[0], f"it takes one input, and the model has {', '.join(input_names(self.graph))}")
        for region in find_regions(self.graph, self.target):
            self._region(region)
        nodes = output_nodes(self.graph)
        shapes = [_graph_shape(node) for node in nodes]
        if len(nodes) == 1:
            self._leave(nodes[0])
        else:
            self._leave_together(nodes)
        logits = shapes[0] if len(nodes) == 1 else (sum(map(math.prod, shapes)),)
        outputs = tuple(zip(output_names(self.graph), shapes, strict=True))
        return Program(tuple(self.buffers), tuple(self.steps), logits, outputs, input_names(self.graph)[0])

    def _region(self, region: Region) -> None:
        node = region.anchor
        if region.kind == "input" and region.inputs[0] in self.values:
            inputs = (self._codes(region.inputs[0], node),)
            before, grid = self._value(region.inputs[0], node).grid, self._grid(region)
            output = self._store(region, grid)
            if not self.trial:
                table = regrid_table(before, grid)
                self.steps.append(Lookup(region.value.name, region.module, inputs, output, table))
        elif region.kind == "input":
            if len(_graph_shape(node)) > 3:
                raise _Refusal(node, f"an input of {len(tensor_shape(node))} axes: four at most, the batch included")
            self._store(region, self._grid(region))
        elif self._is_joined(region):
            self.joined[node] = self._join(node)
        elif is_move(op_name(node)) and region.inputs[0] in self.values and region.quantizer is None:
            self.values[node] = self._moved(node)
        elif not region.integer:
            raise _Refusal(node, region.reason)
        elif op_name(node) in MOVES:
            self._filled(region)
        elif op_name(node) == "cat" and joined_axis(node) > 1:
            self._concatenate(region)
        else:
            self._step(region)

    def _is_joined(self, region: Region) -> bool:
        """The region lays values of several grids out for the network's output."""
        node = region.anchor
        starts = op_name(node) == "cat" or node.args[0] in self.joined
        return region.is_layout and starts and self.flow.only_leaves(node)

    def _step(self, region: Region) -> None:
        """A region that computes."""
        node = region.anchor
        for reason, operator in ((refusal(operator), operator) for operator in (node, *region.absorbed)):
            if reason:
                raise _Refusal(operator, reason)
        for source in region.inputs:
            self._check_on_grid(source, node)
        sources = [source for source in region.inputs if op_name(node) != "cat" or self.values[source].numbers.size]
        inputs = tuple(self._operand(source, region) for source in sources)
        grids = [self._value(source, node).grid for source in sources]
        if region.quantizer is None and not region.is_layout:
            shape = _per_sample(region.value)
            self.values[region.value] = _Sums(np.arange(np.prod(shape)).reshape(shape))
            grid = output = None
        else:
            # Codes that a layout operator passes on, a maximum or a concatenation, keep the grid they have.
            grid = grids[0] if region.is_layout else self._grid(region)
            output = self._store(region, grid)
        if not self.trial:
            step = make_step(self.graph, region, grids, grid)
            self.steps.append(replace(step, inputs=inputs, output=output))

    def _leave(self, output: fx.Node) -> None:
        """The output: the sums of the last layer in the order in which they leave, or codes that become numbers."""
        if output in self.joined:
            self._leave_joined(self.joined[output], output)
            return
        value = self.values.get(output)
        if value is None:
            raise _Refusal(output, "an output that no layer computes is in float")
        if isinstance(value, _Value):
            self.steps.append(Dequantize(output.name, "", (self._codes(output, output),), None))
        elif not self.trial and not layout.is_identity(value.numbers):
            layers = ((i, step) for i, step in enumerate(self.steps) if isinstance(step, Conv) and step.output is None)
            index, layer = next(layers)
            self.steps[index] = _reordered(layer, value.numbers.reshape(-1))

    def _leave_together(self, outputs: Sequence[fx.Node]) -> None:
        """Several outputs: the elements of all of them, one output after the other."""
        values = [self._whole(output, output) for output in outputs]
        for output, value in zip(outputs, values, strict=True):
            if value.numbers.shape[0] != 1:
                raise _Refusal(output, f"the samples do not lie one after the other on the first axis of {output.name}")
        together = join(values, lambda numbers: torch.cat([part.reshape(1, -1) for part in numbers], 1))
        self._leave_joined(together, outputs[0])

    def _leave_joined(self, joined: Joined, output: fx.Node) -> None:
        """The output where layout operators put it together from tensors on several grids."""
        if joined.numbers.shape[0] != 1 or tensor_shape(output)[0] is not None:
            raise _Refusal(output, f"the samples do not lie one after the other on the first axis of {output.name}")
        parts = find_parts(joined, [self.buffers[number].shape for number, _ in joined.sources])
        if not parts:
            raise _Refusal(output, f"{output.name} has no elements")
        self.steps.append(Dequantize(
            output.name, "", tuple(number for number, _ in parts), None, tuple(places for _, places in parts)))

    def _grid(self, region: Region) -> CodeGrid:
        """The grid of the result of a region that has a quantizer; any grid in a trial."""
        grid = output_grid(self.graph, region) if not self.trial else CodeGrid(torch.tensor(1.0), 0, 0, 255)
        if grid is None:
            raise _Refusal(region.anchor, f"the output of {op_name(region.anchor)} is not quantized")
        return grid

    def _buffer(self, buffer: Buffer) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def _store(self, region: Region, grid: CodeGrid) -> int:
        """A new tensor for the region's value."""
        node = region.value
        shape = _per_sample(node)[1:]
        number = len(self.buffers)
        channels, height, width = layout.channels_first(shape)
        buffer = Buffer(
            node.name, (height, width, channels), grid.zero_point, float(grid.scale), region.quantizer is not None,
            shape,
        )
        self.buffers.append(buffer)
        self.values[node] = _Value(number, grid, layout.identity_map(buffer.shape, shape)[None])
        return number

    def _moved(self, node: fx.Node) -> _Value | _Sums:
        """A layout operator, run on the numbers of the elements."""
        source = self.values[next(n for n in node.all_input_nodes if n in self.values)]
        return replace(source, numbers=move_numbers(node, source.numbers))

    def _filled(self, region: Region) -> None:
        """What is moved beside a number: codes brought to the grid that holds both, then moved."""
        node = region.anchor
        number, before = self._codes(region.inputs[0], node), self._value(region.inputs[0], node).grid
        grid = self._grid(region)
        table = None if self.trial else requantize_table(node, before, grid)
        if table is not None:
            between = self._buffer(replace(self.buffers[number], quantized=False))
            self.steps.append(Lookup(node.name, region.module, (number,), between, table))
            number = between
        output = self._store(region, grid)
        if not self.trial:
            source = self.buffers[number]
            numbers = move_numbers(node, layout.identity_map(source.shape, source.nchw)[None])
            form = layout.find_form(layout.channels_last(numbers[0]), source.shape)
            self.steps.append(Move(region.value.name, region.module, (number,), output, **vars(form),
                                   fill=fill_code(node, grid)))

    def _concatenate(self, region: Region) -> None:
        """A concatenation along another axis than the channels: along the channels of tensors that are reshaped."""
        node = region.anchor
        sources = [source for source in region.inputs if self.values[source].numbers.size]
        inputs = [self._codes(source, node) for source in sources]
        grids = [self._value(source, node).grid for source in sources]
        # The order of memory: channels last, the batch of one left out.
        order = [*range(2, len(_per_sample(node))), 1]
        before = order[:order.index(joined_axis(node))]
        lines = math.prod(_per_sample(node)[axis] for axis in before)
        parts = [self._reshaped(node, number, lines) for number in inputs]
        grid = grids[0] if region.is_layout else self._grid(region)
        total = sum(self.buffers[number].shape[2] for number in parts)
        joined = self._buffer(Buffer(
            node.name, (lines, 1, total), grid.zero_point, float(grid.scale), False, (total, lines, 1)))
        if not self.trial:
            tables = (None if region.is_layout else requantize_table(node, before, grid) for before in grids)
            self.steps.append(Concat(node.name, region.module, tuple(parts), joined, tuple(tables)))
        if region.is_layout:
            channels, height, width = layout.channels_first(_per_sample(node)[1:])
            numbers = layout.identity_map((height, width, channels), _per_sample(node)[1:])
            self.values[node] = _Value(joined, grid, numbers[None])
        else:
            output = self._store(region, grid)
            self.steps.append(_same_bytes(region.value.name, region.module, joined, output, lines * total))

    def _reshaped(self, node: fx.Node, number: int, lines: int) -> int:
        """A tensor of the same bytes with so many rows of one pixel."""
        source = self.buffers[number]
        size = source.size
        shape = (lines, 1, size // lines)
        if source.shape == shape:
            return number
        output = self._buffer(replace(source, shape=shape, quantized=False, nchw=(shape[2], lines, 1)))
        self.steps.append(_same_bytes(node.name, module_path(node), number, output, size))
        return output

    def _join(self, node: fx.Node) -> Joined:
        """A layout operator after which nothing is computed: its inputs keep their grids up to the logits."""
        return join([self._whole(source, node) for source in data_inputs(node)], lambda numbers: _run(node, numbers))

    def _whole(self, node: fx.Node, reader: fx.Node) -> Joined:
        """The value of `node` as one that can be joined."""
        if node in self.joined:
            return self.joined[node]
        value = self.values.get(node)
        if not isinstance(value, _Value):
            raise _Refusal(reader, f"{node.name} is on no grid")
        return Joined(((value.buffer, self.buffers[value.buffer].size),), value.numbers)

    def _check_on_grid(self, node: fx.Node, reader: fx.Node) -> None:
        """Refuse a value that stayed in float, because what computes with it has no integer kernel."""
        if node in self.values:
            return
        while is_move(op_name(reader)) and len(reader.users) == 1 and next(iter(reader.users)).op != "output":
            reader = next(iter(reader.users))
        raise _Refusal(reader, self.target.rule(op_name(reader)).reason or f"{node.name} is on no grid")

    def _value(self, node: fx.Node, reader: fx.Node) -> _Value:
        """Where codes lie that `reader` computes with; a value in float and sums without a grid are refused."""
        self._check_on_grid(node, reader)
        value = self.values[node]
        if not isinstance(value, _Value):
            raise _Refusal(reader, "it reads sums of a layer that have no grid")
        return value

    def _operand(self, source: fx.Node, region: Region) -> int:
        """Number of a tensor that an operator reads: of the result's shape where it takes two, or one pixel of it."""
        node = region.anchor
        pair = next((n for n in (node, *region.absorbed) if op_name(n) in _PAIRS), None)
        if pair is None or (source is region.inputs[0] and node is not pair):
            return self._codes(source, node)
        have, shape = self.values[source].numbers.shape, _per_sample(pair)
        if len(have) != len(shape):
            raise _Refusal(pair, f"operands of {len(have)} and {len(shape)} axes, the batch first in both")
        channels, height, width = layout.channels_first(have[1:])
        pixel = node is pair and (height, width) == (1, 1) and channels == layout.channels_first(shape[1:])[0]
        return self._codes(source, pair, None if pixel else shape)

    def _codes(self, node: fx.Node, reader: fx.Node, shape: tuple[int, ...] | None = None) -> int:
        """Number of a tensor that holds the value of `node`, repeated to `shape`; a `Move` makes it where none does."""
        value = self._value(node, reader)
        shape = shape or value.numbers.shape
        if shape[0] != 1 or tensor_shape(node)[0] is not None:
            raise _Refusal(reader, f"the samples do not lie one after the other on the first axis of {node.name}")
        if not value.numbers.size:
            raise _Refusal(reader, f"{node.name} has no elements")
        if (node, shape) in self.read:
            return self.read[node, shape]
        number = value.buffer
        if not self.trial:
            source = self.buffers[value.buffer]
            numbers = layout.channels_last(np.broadcast_to(value.numbers, shape)[0])
            if numbers.shape != source.shape or not layout.is_identity(numbers):
                number = len(self.buffers)
                form = layout.find_form(numbers, source.shape)
                self.buffers.append(Buffer(
                    node.name, numbers.shape, source.zero_point, source.scale, False, shape[1:]
                ))
                self.steps.append(Move(node.name, module_path(node), (value.buffer,), number, **vars(form)))
        self.read[node, shape] = number
        return number


def _same_bytes(name: str, module: str, source: int, output: int, size: int) -> Move:
    """A tensor under another shape."""
    return Move(name, module, (source,), output, (1, 1), (0, 0), np.zeros(0, np.int32), np.arange(size, dtype=np.int32))


def _run(node: fx.Node, numbers: list[torch.Tensor]) -> torch.Tensor:
    """A layout operator or a concatenation on the numbers of elements, in the order in which it reads tensors."""
    if op_name(node) in MOVES:
        return torch.from_numpy(move_numbers(node, numbers[0].numpy()))
    return torch.cat(numbers, bound_args(node)["dim"])


def _reordered(step: Conv, numbers: np.ndarray) -> Conv:
    """The layer whose sums are these of `step`; a sum of nothing where the number is `OUTSIDE`."""
    inside = numbers != layout.OUTSIDE
    rows = np.where(inside, numbers, 0)
    codes = step.weights.codes[rows] * inside.reshape(-1, 1, 1, 1).astype(np.int8)
    weights = Weights(codes, step.weights.bits, step.weights.offset[rows])
    bias = np.where(inside, step.bias[rows], 0).astype(np.int32)
    return replace(step, weights=weights, bias=bias, logit_scale=step.scale_of_logits[rows])


def _graph_shape(node: fx.Node) -> tuple[int, ...]:
    return known_sizes(tensor_shape(node)[1:])


def _per_sample(node: fx.Node) -> tuple[int, ...]:
    """The shape of one sample's value, a batch of one first."""
    shape = tensor_shape(node)
    if not samples_of(node).is_first or not shape or shape[0] is not None or None in shape[1:]:
        raise _Refusal(node, f"the samples do not lie on the first axis of {node.name}, or on others as well")
    return (1, *known_sizes(shape[1:]))

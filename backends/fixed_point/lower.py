"""A frozen reference as a `Program`: regions in, integer steps out; nothing is fused here that regions do not fuse.

`refused` takes the same walk before there are numbers, so that what it lets pass can be lowered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from backends.fixed_point import layout
from backends.fixed_point.joined import Joined, find_parts, join
from backends.fixed_point.numbers import (
    FUNCTIONS,
    average_rescale,
    function_of,
    function_table,
    layer_rescale,
    logit_scale,
    pool_divisors,
    product_rescale,
    regrid_table,
    requantize_table,
    sum_rescale,
    window_of,
)
from backends.fixed_point.program import (
    AveragePool,
    Buffer,
    Concat,
    Conv,
    Dequantize,
    DequantizeParts,
    GlobalAverage,
    Lookup,
    MaxPool,
    Move,
    Product,
    Program,
    Step,
    Sum,
    Weights,
    Window,
)
from backends.integer import CodeGrid, layer_of, network_output, output_grid
from backends.regions import Region, data_inputs, find_regions
from pipeline.dialect import BORDERS, MOVES, POOLS, lays_out_output
from pipeline.errors import TargetError
from pipeline.graph import bound_args, module_path, op_name, quantizer_of, tensor_shape, where
from pipeline.samples import samples_of
from pipeline.stages import Reference
from pipeline.target import Target

_INT8_BITS = 8
_PACKED_BITS = (2, 3, 4)
_PAIRS = ("add", "mul")  # operators of two tensors, of which one may be repeated along an axis of the other
_OF_MAPS = frozenset({"conv2d", "max_pool2d", *POOLS})  # operators that know height and width


def lower(reference: Reference) -> Program:
    """The program of a frozen graph that was placed for an integer target (`rules.integer_target`).

    Raises:
        TargetError: numbers that fit no integers, or an operator that `refused` names.
    """
    return _Lowering(reference.graph, reference.quantized.target).run()


def refused(graph: fx.GraphModule, target: Target) -> list[tuple[fx.Node, str]]:
    """What of a quantized graph cannot be lowered, with the reason; its quantizers need no numbers yet."""
    walk = _Lowering(graph, target, trial=True)
    walk.run()
    return walk.problems


class _Refusal(Exception):
    """Why a node cannot be lowered."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@dataclass(frozen=True)
class _Value:
    """Where the value of a node lies: elements of a tensor, by number, in the order of the graph.

    Args:
        buffer: number of the tensor; None of logits, whose elements are the sums of the last layer.
        grid: of its codes; None of logits.
        numbers: int64 of the node's shape for one sample, the batch included; into the tensor's elements;
            `layout.OUTSIDE` for the code of zero.
    """

    buffer: int | None
    grid: CodeGrid | None
    numbers: np.ndarray


class _Lowering:
    """One walk over the regions; layout operators only change `_Value.numbers` until somebody reads codes.

    Args:
        trial: only find out what is refused: the quantizers have no numbers, and no step is made.

    Attributes:
        problems: what a trial found; a walk that is none raises them.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, trial: bool = False) -> None:
        self.graph, self.target, self.trial = graph, target, trial
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.values: dict[fx.Node, _Value] = {}
        self.joined: dict[fx.Node, Joined] = {}
        self.read: dict[tuple[fx.Node, tuple[int, ...]], int] = {}
        self.problems: list[tuple[fx.Node, str]] = []

    def run(self) -> Program | None:
        """The program; None where something is refused in a trial."""
        try:
            for region in find_regions(self.graph, self.target):
                self._region(region)
            self._leave()
        except _Refusal as refusal:
            if not self.trial:
                raise TargetError(refusal.reason, where=where(refusal.node)) from None
            self.problems.append((refusal.node, refusal.reason))
            return None
        return Program(tuple(self.buffers), tuple(self.steps), _graph_shape(network_output(self.graph)))

    def _region(self, region: Region) -> None:
        node = region.anchor
        if region.kind == "input" and region.inputs[0] in self.values:
            grid = self._grid(region)
            inputs = (self._codes(region.inputs[0], node),)
            before = self.values[region.inputs[0]].grid
            output = self._store(region, grid)
            if not self.trial:
                table = regrid_table(before, grid)
                self.steps.append(Lookup(region.value.name, region.module, inputs, output, table))
        elif region.kind == "input":
            if len(_graph_shape(node)) > 3:
                raise _Refusal(node, f"an input of {len(tensor_shape(node))} axes: four at most, the batch included")
            self._store(region, self._grid(region))
        elif region.is_layout and lays_out_output(node) and (op_name(node) == "cat" or node.args[0] in self.joined):
            self.joined[node] = self._join(node)
        elif op_name(node) in MOVES and region.inputs[0] in self.values and region.quantizer is None:
            self.values[node] = self._moved(node)
        elif not region.integer:
            raise _Refusal(node, region.reason)
        else:
            self._step(region)

    def _step(self, region: Region) -> None:
        """A region that computes."""
        node = region.anchor
        reason = _refusal(node)
        if reason:
            raise _Refusal(node, reason)
        for source in region.inputs:
            self._check_on_grid(source, node)
        sources = [source for source in region.inputs if op_name(node) != "cat" or self.values[source].numbers.size]
        inputs = tuple(self._operand(source, region) for source in sources)
        grids = [self.values[source].grid for source in sources]
        # Codes that a layout operator passes on, a maximum or a concatenation, keep the grid they have.
        grid = grids[0] if region.is_layout else self._grid(region)
        if region.quantizer is None and not region.is_layout:
            shape = _per_sample(region.value)
            self.values[region.value] = _Value(None, None, np.arange(np.prod(shape)).reshape(shape))
            output = None
        else:
            output = self._store(region, grid)
        if not self.trial:
            step = _EMITTERS[op_name(node)](self, region, grids, grid)
            self.steps.append(replace(step, inputs=inputs, output=output))

    def _leave(self) -> None:
        """The output: the sums of the last layer in the order in which they leave, or codes that become numbers."""
        output = network_output(self.graph)
        if output in self.joined:
            self._leave_joined(output)
            return
        value = self.values[output]
        if value.buffer is not None:
            self.steps.append(Dequantize(output.name, "", (self._codes(output, output),), None))
        elif not self.trial and not layout.is_identity(value.numbers):
            index = next(i for i, step in enumerate(self.steps) if step.output is None)
            self.steps[index] = _reordered(self.steps[index], value.numbers.reshape(-1))

    def _leave_joined(self, output: fx.Node) -> None:
        """The output where layout operators put it together from tensors on several grids."""
        joined = self.joined[output]
        if joined.numbers.shape[0] != 1 or tensor_shape(output)[0] is not None:
            raise _Refusal(output, f"the samples do not lie one behind the other on the first axis of {output.name}")
        parts = find_parts(joined, [self.buffers[number].shape for number, _ in joined.sources])
        if not parts:
            raise _Refusal(output, f"{output.name} has no elements")
        self.steps.append(DequantizeParts(
            output.name, "", tuple(number for number, _ in parts), None, tuple(places for _, places in parts)))

    def _grid(self, region: Region) -> CodeGrid | None:
        """The grid of a region's result; any grid in a trial."""
        return output_grid(self.graph, region) if not self.trial else CodeGrid(torch.tensor(1.0), 0, 0, 255)

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

    def _moved(self, node: fx.Node) -> _Value:
        """A layout operator, run on the numbers of the elements."""
        source = self.values[next(n for n in node.all_input_nodes if n in self.values)]
        return replace(source, numbers=_run(node, [torch.from_numpy(source.numbers)]).numpy())

    def _join(self, node: fx.Node) -> Joined:
        """A layout operator behind which nothing is computed: its inputs keep their grids up to the logits."""
        return join([self._whole(source, node) for source in data_inputs(node)], lambda numbers: _run(node, numbers))

    def _whole(self, node: fx.Node, reader: fx.Node) -> Joined:
        """The value of `node` as one that can be joined."""
        if node in self.joined:
            return self.joined[node]
        value = self.values.get(node)
        if value is None or value.buffer is None:
            raise _Refusal(reader, f"{node.name} is on no grid")
        return Joined(((value.buffer, math.prod(self.buffers[value.buffer].shape)),), value.numbers)

    def _check_on_grid(self, node: fx.Node, reader: fx.Node) -> None:
        """Refuse a value that stayed in float, because what computes with it has no integer kernel."""
        if node in self.values:
            return
        while op_name(reader) in MOVES and len(reader.users) == 1 and next(iter(reader.users)).op != "output":
            reader = next(iter(reader.users))
        raise _Refusal(reader, self.target.rule(op_name(reader)).reason or f"{node.name} is on no grid")

    def _operand(self, source: fx.Node, region: Region) -> int:
        """Number of a tensor that an operator reads: of the result's shape where it takes two, or one pixel of it."""
        node = region.anchor
        pair = next((n for n in (node, *region.absorbed) if op_name(n) in _PAIRS), None)
        if pair is None or (source is region.inputs[0] and node is not pair):
            return self._codes(source, node)
        have, shape = self.values[source].numbers.shape, _per_sample(pair)
        if len(have) != len(shape):
            raise _Refusal(pair, f"operands of {len(have)} and {len(shape)} axes, the batch in front of both")
        channels, height, width = layout.channels_first(have[1:])
        pixel = node is pair and (height, width) == (1, 1) and channels == layout.channels_first(shape[1:])[0]
        return self._codes(source, pair, None if pixel else shape)

    def _codes(self, node: fx.Node, reader: fx.Node, shape: tuple[int, ...] | None = None) -> int:
        """Number of a tensor that holds the value of `node`, repeated to `shape`; a `Move` makes it where none does."""
        self._check_on_grid(node, reader)
        value = self.values[node]
        if value.buffer is None:
            raise _Refusal(reader, "it reads sums of a layer that have no grid")
        shape = shape or value.numbers.shape
        if shape[0] != 1 or tensor_shape(node)[0] is not None:
            raise _Refusal(reader, f"the samples do not lie one behind the other on the first axis of {node.name}")
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

    # -- one function per operator: the step without its tensors -------------------------------------------------

    def _layer(self, region: Region, grids: list[CodeGrid], grid: CodeGrid | None) -> Step:
        node, x = region.anchor, grids[0]
        numbers = layer_of(self.graph, node)
        residual = grids[1] if len(grids) == 2 else None
        codes = numbers.weight.numpy().astype(np.int8)
        linear = op_name(node) == "linear"
        window = Window((1, 1), (1, 1), (0, 0, 0, 0)) if linear else Window(*window_of(node))
        codes = codes[:, :, None, None] if linear else codes
        bias = np.zeros(len(codes), np.int32) if numbers.bias is None else numbers.bias.numpy().astype(np.int32)
        return Conv(
            *_about(region), weights=_weights(self.graph, node, codes), bias=bias, window=window,
            groups=1 if linear else bound_args(node)["groups"],
            rescale=None if grid is None else layer_rescale(node, x, numbers, residual, grid),
            low=0 if grid is None else grid.low, high=0 if grid is None else grid.high,
            logit_scale=logit_scale(x, numbers) if grid is None else None,
        )

    def _add(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        return Sum(*_about(region), sum_rescale(region.anchor, *grids, grid), grid.low, grid.high)

    def _mul(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        return Product(*_about(region), product_rescale(region.anchor, *grids, grid), grid.low, grid.high)

    def _mean(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        height, width = tensor_shape(region.anchor.args[0])[2:]
        rescale = average_rescale(region.anchor, grids[0], height * width, height * width, grid)
        return GlobalAverage(*_about(region), rescale, grid.low, grid.high)

    def _avg_pool2d(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        node, window = region.anchor, Window(*window_of(region.anchor))
        divisors = pool_divisors(node)
        elements = window.kernel[0] * window.kernel[1]
        rescales = {
            divisor: average_rescale(node, grids[0], elements, divisor, grid)
            for divisor in np.unique(divisors).tolist()
        }
        return AveragePool(*_about(region), window, divisors, rescales, grid.low, grid.high)

    def _max_pool2d(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        return MaxPool(*_about(region), Window(*window_of(region.anchor)))

    def _cat(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        tables = (None if region.is_layout else requantize_table(region.anchor, x, grid) for x in grids)
        return Concat(*_about(region), tuple(tables))

    def _function(self, region: Region, grids: list[CodeGrid], grid: CodeGrid) -> Step:
        return Lookup(*_about(region), function_table(function_of(region.anchor), grids[0], grid))


_EMITTERS: dict[str, Any] = {
    "conv2d": _Lowering._layer,
    "linear": _Lowering._layer,
    "add": _Lowering._add,
    "mul": _Lowering._mul,
    "mean": _Lowering._mean,
    "avg_pool2d": _Lowering._avg_pool2d,
    "max_pool2d": _Lowering._max_pool2d,
    "cat": _Lowering._cat,
    **dict.fromkeys(FUNCTIONS, _Lowering._function),
}


def _about(region: Region) -> tuple[str, str, tuple[int, ...], None]:
    return region.value.name, region.module, (), None


def _weights(graph: fx.GraphModule, node: fx.Node, codes: np.ndarray) -> Weights:
    """[K, C, R, S] -> [K, R, S, C], and how many bits hold them."""
    quantizer = quantizer_of(graph, bound_args(node)["weight"])
    grid, codes = quantizer.spec.grid, np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    if quantizer.spec.levels != "uniform" or grid.bits not in _PACKED_BITS:
        return Weights(codes, _INT8_BITS, np.full(len(codes), 128, np.int16))
    zero_point = quantizer.zero_point.detach().cpu().numpy().reshape(-1) - grid.qmin
    return Weights(codes, grid.bits, np.broadcast_to(zero_point, len(codes)).astype(np.int16))


def _run(node: fx.Node, numbers: list[torch.Tensor]) -> torch.Tensor:
    """A layout operator on the numbers of elements, in the order in which it reads tensors."""
    given = iter(numbers)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: next(given))
    if op_name(node) == "pad":
        return torch.nn.functional.pad(args[0], bound_args(node)["pad"], value=layout.OUTSIDE)
    if op_name(node) in BORDERS | {"upsample_nearest2d"}:  # no kernels for integers
        args = (args[0].double(), *args[1:])
    return node.target(*args, **kwargs).long()


def _reordered(step: Conv, numbers: np.ndarray) -> Conv:
    """The layer whose sums are these of `step`; a sum of nothing where the number is `OUTSIDE`."""
    inside = numbers != layout.OUTSIDE
    rows = np.where(inside, numbers, 0)
    codes = step.weights.codes[rows] * inside.reshape(-1, 1, 1, 1).astype(np.int8)
    weights = Weights(codes, step.weights.bits, step.weights.offset[rows])
    bias = np.where(inside, step.bias[rows], 0).astype(np.int32)
    return replace(step, weights=weights, bias=bias, logit_scale=step.logit_scale[rows])


def _refusal(node: fx.Node) -> str:
    """Why an operator's arguments have no kernel, or an empty string."""
    name, arguments, shape = op_name(node), bound_args(node), tensor_shape(node)
    if name == "avg_pool2d" and arguments["divisor_override"] is not None:
        return "avg_pool2d with a divisor of its own"
    if name == "avg_pool2d" and arguments["ceil_mode"]:
        return "avg_pool2d with ceil_mode, whose last window may be cut off"
    if name == "cat" and arguments["dim"] not in (1, 1 - len(shape)):
        return f"concatenation along axis {arguments['dim']}: only channels (axis 1) can be joined"
    if name in _OF_MAPS and len(shape) != 4:
        return f"{name} of a tensor of {len(shape)} axes: maps are [N, C, H, W]"
    return ""


def _graph_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(tensor_shape(node)[1:])


def _per_sample(node: fx.Node) -> tuple[int, ...]:
    """The shape of one sample's value, a batch of one in front."""
    shape = tensor_shape(node)
    if not samples_of(node).is_first or not shape or shape[0] is not None or None in shape[1:]:
        raise _Refusal(node, f"the samples do not lie on the first axis of {node.name}, or on others as well")
    return (1, *shape[1:])

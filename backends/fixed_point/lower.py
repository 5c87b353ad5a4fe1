"""A frozen reference as a `Program`: regions in, integer steps out; nothing is fused here that regions do not fuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from backends.fixed_point import layout
from backends.fixed_point.numbers import (
    FUNCTIONS,
    average_rescale,
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
from backends.regions import Region, find_regions
from pipeline.dialect import LAYOUT
from pipeline.errors import TargetError
from pipeline.graph import bound_args, module_path, op_name, quantizer_of, tensor_shape, where
from pipeline.stages import Reference

_INT8_BITS = 8
_PACKED_BITS = (2, 3, 4)


def lower(reference: Reference) -> Program:
    """The program of a frozen graph that was placed for an integer target (`rules.integer_target`).

    Raises:
        TargetError: numbers that fit no integers, or an operator that `rules.unsupported` should have refused.
    """
    return _Lowering(reference).run()


@dataclass(frozen=True)
class _Value:
    """Where the value of a node lies: elements of a tensor, by number, in the order of the graph.

    Args:
        buffer: number of the tensor.
        grid: of its codes.
        numbers: int64 of the node's shape, into the tensor's elements; `layout.OUTSIDE` for the code of zero.
    """

    buffer: int
    grid: CodeGrid
    numbers: np.ndarray


class _Lowering:
    """One walk over the regions; layout operators only change `_Value.numbers` until somebody reads codes."""

    def __init__(self, reference: Reference) -> None:
        self.graph, self.target = reference.graph, reference.quantized.target
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.values: dict[fx.Node, _Value] = {}
        self.read: dict[fx.Node, int] = {}

    def run(self) -> Program:
        for region in find_regions(self.graph, self.target):
            if not region.integer:
                raise TargetError(f"no integer kernel: {region.reason}", where=where(region.anchor))
            self._region(region)
        output = network_output(self.graph)
        if output in self.values:
            self.steps.append(Dequantize(output.name, "", (self._codes(output),), None))
        return Program(tuple(self.buffers), tuple(self.steps), _graph_shape(output))

    def _region(self, region: Region) -> None:
        node = region.anchor
        if region.kind == "input" and region.inputs[0] in self.values:
            grid = output_grid(self.graph, region)
            table = regrid_table(self.values[region.inputs[0]].grid, grid)
            inputs = (self._codes(region.inputs[0]),)
            self.steps.append(Lookup(region.value.name, region.module, inputs, self._store(region, grid), table))
        elif region.kind == "input":
            self._store(region, output_grid(self.graph, region))
        elif region.is_layout and op_name(node) in LAYOUT - {"max_pool2d"}:
            self.values[node] = self._moved(node)
        else:
            inputs = tuple(self._codes(source) for source in region.inputs)
            grids = [self.values[source].grid for source in region.inputs]
            # Codes that a layout operator passes on, a maximum or a concatenation, keep the grid they have.
            grid = grids[0] if region.is_layout else output_grid(self.graph, region)
            step = _EMITTERS[op_name(node)](self, region, grids, grid)
            output = None if grid is None else self._store(region, grid)
            self.steps.append(replace(step, inputs=inputs, output=output))

    def _store(self, region: Region, grid: CodeGrid) -> int:
        """A new tensor for the region's value."""
        node = region.value
        shape = _graph_shape(node)
        number = len(self.buffers)
        buffer = Buffer(
            node.name, _channels_last_shape(node), grid.zero_point, float(grid.scale), region.quantizer is not None,
            shape,
        )
        self.buffers.append(buffer)
        self.values[node] = _Value(number, grid, layout.identity_map(buffer.shape, shape))
        return number

    def _moved(self, node: fx.Node) -> _Value:
        """A layout operator, run on the numbers of the elements."""
        source = self.values[next(n for n in node.all_input_nodes if n in self.values)]
        numbers = torch.from_numpy(source.numbers[None])
        if op_name(node) == "pad":
            moved = torch.nn.functional.pad(numbers, bound_args(node)["pad"], value=layout.OUTSIDE)
        else:
            # In float64, which holds the numbers: reflecting pads take no integers.
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers.double())
            moved = node.target(*args, **kwargs).long()
        return replace(source, numbers=moved[0].numpy())

    def _codes(self, node: fx.Node) -> int:
        """Number of a tensor that holds the value of `node` as it is; a `Move` makes it where none does."""
        if node in self.read:
            return self.read[node]
        value = self.values[node]
        source = self.buffers[value.buffer]
        if value.numbers.ndim not in (1, 3):
            raise TargetError(f"a tensor of {value.numbers.ndim + 1} axes is read by a kernel", where=where(node))
        numbers = layout.channels_last(value.numbers)
        number = value.buffer
        if numbers.shape != source.shape or not layout.is_identity(numbers):
            number = len(self.buffers)
            form = layout.find_form(numbers, source.shape)
            self.buffers.append(Buffer(
                node.name, numbers.shape, source.zero_point, source.scale, False, value.numbers.shape
            ))
            self.steps.append(Move(node.name, module_path(node), (value.buffer,), number, **vars(form)))
        self.read[node] = number
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
        return Lookup(*_about(region), function_table(FUNCTIONS[op_name(region.anchor)], grids[0], grid))


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


def _graph_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(tensor_shape(node)[1:])


def _channels_last_shape(node: fx.Node) -> tuple[int, int, int]:
    shape = _graph_shape(node)
    if len(shape) not in (1, 3):
        raise TargetError(f"a tensor of {len(shape) + 1} axes has no kernel", where=where(node))
    return (1, 1, shape[0]) if len(shape) == 1 else (shape[1], shape[2], shape[0])

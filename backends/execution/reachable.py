"""The target's arithmetic against the mathematics over every input that integers allow, without a sample.

Each quantized tensor is judged by itself, from all codes that its inputs' grids have:

    layers, averages, products of matrices    every integer between the least and the largest sum, by `thresholds`
    a layer with a residual                   those for each code of the residual
    operators of two tensors                  all pairs of codes
    operators of one tensor, concatenations   all codes
    the network's input                       all finite float32 numbers, by `thresholds`

What runs in float is said to be open. Moves of codes change none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from isobit.backends.execution import thresholds
from isobit.backends.execution.codes import CodeGrid, Codes, dequantized, quantize_float, stored
from isobit.backends.execution.exact import ExactRegions
from isobit.backends.execution.kernels import ElementKernel, SumKernel
from isobit.backends.execution.layer_sums import SumRange, crossed
from isobit.backends.execution.sum_values import value_of_sums
from isobit.backends.execution.thresholds import (
    Levels,
    NotMonotone,
    Parting,
    Range,
    check_steps,
    find_thresholds,
    levels_of,
    ordered,
    parting,
)
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import op_name, tensor_dtype, tensor_shape
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.graph.sums import sum_bounds
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.proof.counts import Reach

if TYPE_CHECKING:
    from isobit.backends.execution.integer import Execution

_ELEMENTS = 1 << 20  # codes that are computed at once
_AT_ONCE = 1 << 17  # thresholds that are looked for at once: they stay in the processor's cache
_FLOATS, _INTEGERS = "the network's input in float32", "an input of integers"
Place = CodeGrid | str  # the grid that a value is on, or in words what it is instead


def every_input(run: Execution) -> list[Reach]:
    """What can be said of each quantized tensor, in execution order, and of layers whose sums leave in float."""
    exact = ExactRegions(run.graph)
    bounds = {call.node.name: bound for call, bound in sum_bounds(run.graph, run.target)}
    places: dict[fx.Node, Place] = {
        node: _FLOATS if tensor_dtype(node).is_floating_point else _INTEGERS for node in input_nodes(run.graph)
    }
    found, limit = [], run.target.sums.largest
    for region in run.regions:
        bound, grid = bounds.get(region.anchor.name), run.grid_of(region)
        read = [places.get(node, "a value in float") for node in region.inputs]
        if region.quantizer is not None and grid is not None:
            judged = _judge(run, exact, region, read, grid)
            found.append(judged if bound is None else replace(judged, bound=bound, limit=limit))
        elif bound is not None:
            found.append(Reach(region.value.name, "nothing", why="its sums leave in float", bound=bound, limit=limit))
        places[region.value] = _moved(region, read) if grid is None else grid
    return found


def _moved(region: Region, read: Sequence[Place]) -> Place:
    """What a region without a quantizer gives: codes on the grid that it reads, in which padding writes zeros."""
    first = read[0] if read else "a constant"
    if not region.is_layout:
        return "a value in float"
    if isinstance(first, str):
        return first
    if region.grid is None:
        return "values from several grids"
    ends = [(place.low, place.high) for place in read if isinstance(place, CodeGrid)]
    return replace(first, low=min(first.zero_point, *(low for low, _ in ends)),
                   high=max(first.zero_point, *(high for _, high in ends)))


def _judge(run: Execution, exact: ExactRegions, region: Region, read: Sequence[Place], grid: CodeGrid) -> Reach:
    """One region that has a quantizer."""
    name, grids = region.value.name, [place for place in read if isinstance(place, CodeGrid)]
    if region.kind == "float":
        return Reach(name, "nothing", why="runs in float")
    numbers = region.kind == "input" and read[0] == _FLOATS
    if len(grids) < len(read) and not numbers:
        return Reach(name, "nothing", why=f"reads {next(place for place in read if isinstance(place, str))}")
    kernel = _REGRID if region.kind == "input" else run.kernel_of(region)
    try:
        if numbers:
            return _over_numbers(exact, region, grid)
        if isinstance(kernel, SumKernel):
            return _over_sums(run, exact, region, kernel, grids, grid)
        if isinstance(kernel, ElementKernel):
            return _over_codes(run, exact, region, kernel, grids, grid)
    except NotMonotone as error:
        return Reach(name, "nothing", why=f"its rescaling is no staircase: {error}")
    return Reach(name, "nothing", why="its kernel depends on more than one sum or single codes")


# A quantizer that reads codes of another grid.
_REGRID = ElementKernel(lambda run, region, inputs, grid: quantize_float(dequantized(inputs[0]), grid))


def _over_numbers(exact: ExactRegions, region: Region, grid: CodeGrid) -> Reach:
    """All finite numbers that an input may hold."""
    shape = _channels(grid, (1,) * (len(tensor_shape(region.value)) - 1))
    ends = (torch.full(shape, sign * thresholds.LARGEST_FLOAT, dtype=torch.int64) for sign in (-1, 1))
    compared = _Compared(
        Range(*ends), lambda numbers: exact.codes(region, {region.inputs[0]: ordered(numbers).double()}),
        lambda numbers: grid.settle(quantize_float(ordered(numbers), grid)),
    )
    count, digest = _compare([compared])
    return Reach(region.value.name, "numbers", compared.within.count, count.numbers, count.max_lsb, digest=digest)


def _over_sums(
    run: Execution, exact: ExactRegions, region: Region, kernel: SumKernel, grids: Sequence[CodeGrid], grid: CodeGrid
) -> Reach:
    """All integers between the least and the largest sum, and with them all codes of what is added beside."""
    reach, stands_for = kernel.reach(run, region, grids), value_of_sums(run, region, grids)
    if stands_for is None:
        return Reach(region.value.name, "nothing", why=f"no unit of sums of {op_name(region.anchor)} is known")
    if grid.multiples is not None and (reach.least.dim() != grid.multiples.dim() or reach.beside is not None):
        return Reach(region.value.name, "nothing", why="its levels differ by position")

    def compared(reach: SumRange, other: Tensor | None) -> _Compared:
        beside = None if other is None or reach.beside is None else other * reach.beside.scale.double()

        def value(totals: Tensor) -> Tensor:
            return stands_for(reach.sums(totals, other))

        def exactly(totals: Tensor) -> Tensor:
            given = {region.anchor: value(totals)}
            return exact.codes(region, given if beside is None else {**given, region.inputs[1]: beside})

        def guess(within: Range, levels: Levels) -> Tensor:
            moved = 0.0 if beside is None else beside
            return _guess(lambda totals: value(totals) + moved, within, levels, grid)

        within = Range(*(end.expand(_channels(grid, end.shape)) for end in (reach.least, reach.largest)))
        return _Compared(within, exactly, lambda totals: grid.settle(
            kernel.bring(run, region, grids, reach.sums(totals, other), grid)), guess, reach.crossing)

    beside = reach.beside
    if beside is None:
        pairs = [compared(reach, None)]
    else:
        codes = torch.arange(beside.low, beside.high + 1, dtype=torch.float64) - beside.zero_point
        some = max(1, _AT_ONCE // ((grid.high - grid.low + 1) * reach.least.numel()))
        pairs = [compared(*crossed(reach, part)) for part in codes.split(some)]
    count, digest = _compare(pairs)
    total = sum(pair.within.count for pair in pairs)
    return Reach(region.value.name, "sums", total, count.numbers, count.max_lsb, digest=digest)


def _guess(value: Callable[[Tensor], Tensor], within: Range, levels: Levels, grid: CodeGrid) -> Tensor:
    """Where the thresholds of a line must lie, by its two ends; any error costs time alone."""
    first, last = value(within.least[None]), value(within.largest[None])
    steps = levels.along(first.dim())
    wanted = (steps - grid.zero_point - 0.5) * grid.scale.double()
    share = (wanted - first) / (last - first)
    place = torch.ceil(share.nan_to_num(0.0).clamp(0, 1) * (within.largest - within.least))
    return within.least + place.long()


@dataclass(frozen=True)
class _Compared:
    """Two functions on one range of integers.

    Args:
        guess: where the thresholds of the first must lie.
        crossing: the axis of the range along which the codes that are added beside go; None without.
    """

    within: Range
    exact: thresholds.Codes
    target: thresholds.Codes
    guess: Callable[[Range, Levels], Tensor | None] = lambda within, levels: None
    crossing: int | None = None


def _compare(pairs: Sequence[_Compared]) -> tuple[Parting, str]:
    """What two functions part in on all ranges together, and the digest of the second one's thresholds.

    Args:
        pairs: in an order in which codes rise.
    """
    ends = [levels_of((pair.exact, pair.target), pair.within) for pair in (pairs[0], pairs[-1])]
    first = min(one.first for one in ends)
    levels = Levels(first, max(one.first + one.count for one in ends) - first)
    found, digest = Parting(), hashlib.sha256()
    for number, pair in enumerate(pairs):
        wanted = find_thresholds(pair.exact, pair.within, levels, pair.guess(pair.within, levels))
        got = find_thresholds(pair.target, pair.within, levels, wanted)
        for codes, steps in ((pair.exact, wanted), (pair.target, got)):
            check_steps(codes, pair.within, levels, steps, around=number == 0)  # the next ranges are this one, moved
        found += parting(wanted, got)
        # One code beside at a time, so that it says nothing how many were looked at together.
        axis = pair.crossing
        for table, least, largest in zip(*((each,) if axis is None else each.unbind(axis + place) for each, place in (
                (got, 1), (pair.within.least, 0), (pair.within.largest, 0))), strict=True):
            digest.update(_table_bytes(table, least, largest, levels.first))
    return found, digest.hexdigest()


def _table_bytes(table: Tensor, least: Tensor, largest: Tensor, first: int) -> bytes:
    """The ends of a range, the least code that it can step up to, and the thresholds [levels, ...] of all that it can.

    `backends.onnx.rederive` makes the same bytes from a file.
    """
    steps = ((table > least).flatten(1).any(1).nonzero()[:, 0], (table <= largest).flatten(1).any(1).nonzero()[:, 0])
    start = int(steps[0][0]) if len(steps[0]) else len(table)
    end = int(steps[1][-1]) + 1 if len(steps[1]) else 0
    kept = table[start:end].numpy().astype("<i8")
    ends = b"".join(each.numpy().astype("<i8").tobytes() for each in (least, largest))
    return np.array([first + start, *kept.shape], "<i8").tobytes() + ends + kept.tobytes()


def _channels(grid: CodeGrid, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one sample, with all channels where their levels differ."""
    return shape if grid.multiples is None else (len(grid.multiples.flatten()), *shape[1:])


def _over_codes(
    run: Execution, exact: ExactRegions, region: Region, kernel: ElementKernel, grids: Sequence[CodeGrid],
    grid: CodeGrid,
) -> Reach:
    """All codes of one input, or of each of several; all pairs of two that are read together."""
    by_node = dict(zip(region.inputs, grids, strict=True))
    pairs = kernel.together and len(by_node) == 2
    shapes = {node: _probe_shape(region, node, grid, pairs) for node in by_node}
    if region.kind in MOVES and tensor_shape(region.inputs[0])[0] is not None:
        return Reach(region.value.name, "nothing", why="its samples do not lie on the first axis")
    found, total, digest = Parting(), 0, hashlib.sha256()
    ends = [(place.low, place.high) for place in by_node.values()]
    for rows in _rows(ends, pairs, max(math.prod(shape) for shape in shapes.values())):
        codes = {
            node: row.reshape(-1, *[1] * len(shapes[node])).expand(-1, *shapes[node]).float()
            for (node, place), row in zip(by_node.items(), rows, strict=True)
        }
        got = grid.settle(kernel(run, region, [Codes(codes[node], by_node[node]) for node in region.inputs], grid))
        values = {node: (codes[node].double() - place.zero_point) * place.scale.double()
                  for node, place in by_node.items()}
        steps = (got.double() - exact.codes(region, values)).abs()
        digest.update(stored(got).contiguous().numpy().tobytes())
        # Joined along the first axis, the parts lie below each other.
        apart = steps.reshape(-1, len(rows[0]), math.prod(steps.shape[1:])).amax((0, 2))
        found += Parting(int((apart > 0).sum()), 0, int(apart.max()))
        total += len(rows[0])
    over = "pairs" if pairs else "codes"
    return Reach(region.value.name, over, total, found.numbers, found.max_lsb, digest=digest.hexdigest())


def _probe_shape(region: Region, node: fx.Node, grid: CodeGrid, pairs: bool) -> tuple[int, ...]:
    """One sample's shape in which every element is the same code: as small as shows what the kernel depends on."""
    sizes = [1 if size is None else size for size in tensor_shape(node)[1:]]
    if region.kind in MOVES:
        return tuple(sizes)
    # Of two operands, which one is repeated along which axis may choose the formula.
    most = [2 if pairs else 1] * len(sizes)
    if sizes and (grid.multiples is not None or not pairs):
        most[0] = sizes[0]
    return tuple(min(size, limit) for size, limit in zip(sizes, most, strict=True))


def _rows(ends: Sequence[tuple[int, int]], pairs: bool, elements: int) -> Iterator[list[Tensor]]:
    """Codes of each tensor, so many at once as fit; of two in pairs, else each from its least to its largest."""
    if pairs:
        first, second = (torch.arange(low, high + 1) for low, high in ends)
        for some in first.split(max(1, _ELEMENTS // (elements * len(second)))):
            yield [some.repeat_interleave(len(second)), second.repeat(len(some))]
        return
    codes = torch.arange(min(low for low, _ in ends), max(high for _, high in ends) + 1)
    for some in codes.split(max(1, _ELEMENTS // elements)):
        yield [some.clamp(low, high) for low, high in ends]

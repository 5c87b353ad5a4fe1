"""Samples that are made to show what a runtime's kernels compute: codes chosen for every quantized tensor by itself.

A network's own samples seldom bring its layers to their ends. So each layer is given codes that do, whatever the layer
before it would give:

    the least code, the largest, the code of zero, everywhere
    both ends in turn, as a chessboard, along the channels, and by chance
    one code in a channel, another in the next; any code by chance
    zero with a few largest codes, which show single weights
    for a layer, the codes at which the sum of one of its channels is largest, and least

The network's input gets numbers on its grid, halfway between two codes, and beyond its ends.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.layer_sums import Layer, explicit_padding
from isobit.pipeline.errors import CalibrationError, first_line
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, op_name, pair, tensor_dtype
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.proof.arithmetic import Arithmetic, Chosen, Pieces, Runner
from isobit.pipeline.proof.counts import Directed
from isobit.pipeline.proof.parity import LevelReport, compare_results
from isobit.pipeline.samples.network_inputs import Inputs, part, sample_count, tensors

if TYPE_CHECKING:
    from isobit.backends.execution.integer import Execution

_FEW = 0.02  # of the codes in a sample that is zero elsewhere
SAMPLES = 14


def directed_samples(run: Execution, like: Inputs) -> Chosen:
    """`SAMPLES` inputs, and the codes that take the place of every quantized tensor, whoever computed it.

    Args:
        like: at least one sample; inputs of integers, whose numbers mean something, are taken from there.
    """
    rows = [place % sample_count(like) for place in range(SAMPLES)]
    grids = {region.inputs[0]: run.grid_of(region) for region in run.regions if region.kind == "input"}
    x = [
        _numbers(values[rows], grids.get(node), node.name) if tensor_dtype(node).is_floating_point else values[rows]
        for node, values in zip(input_nodes(run.graph), tensors(like), strict=True)
    ]
    inputs = tuple(x) if len(x) > 1 else x[0]
    shapes = {name: codes.shape[1:] for name, codes in run.run(part(inputs, slice(1))).items()}
    readers, codes, levels = _layers_of(run), dict[str, np.ndarray](), dict[str, int]()
    for region in run.regions:
        grid = run.grid_of(region)
        if region.quantizer is not None and grid is not None:
            name = region.quantizer.name
            codes[name] = _codes(tuple(shapes[name]), grid, _chance(name), readers.get(region.quantizer))
            levels[name] = _levels(grid)
    return Chosen(inputs, codes, levels)


def direct(arithmetic: Arithmetic, session: Runner, pieces: Pieces | None, like: Inputs) -> Directed:
    """Run an artifact on chosen samples, and each of its layers on chosen codes where its target can.

    Args:
        session: of the artifact.
        pieces: the same, layer by layer; None where only whole networks can be run.
        like: see `directed_samples`.
    """
    level = LevelReport("directed", True)
    try:
        chosen = arithmetic.directed(like)
        if chosen is None:
            return Directed(reason="the target's arithmetic is that of its runtime")
        shown = [session.run(chosen.inputs)]
        expected = arithmetic.follow(chosen.inputs, shown[0])
        compare_results(level, arithmetic, expected, shown[0])
        if pieces is not None:
            expected = arithmetic.pieces(chosen.inputs, chosen.codes)
            shown.append(pieces.run(chosen.inputs, chosen.codes))
            compare_results(level, arithmetic, expected, shown[1])
    except CalibrationError as error:
        return Directed(reason=first_line(error))
    wrong = level.codes.differing + level.unexplained + len(level.wrong_outputs)
    first = level.first_divergence or next(iter(level.wrong_outputs), None)
    return Directed(SAMPLES, pieces is not None, level.codes, wrong, first, {
        name: len(np.unique(np.concatenate([results[name].reshape(-1) for results in shown]))) / count
        for name, count in chosen.levels.items() if all(name in results for results in shown)
    })


def _levels(grid: CodeGrid) -> int:
    """How many codes a tensor may have, those of all its channels together."""
    codes = torch.arange(grid.low, grid.high + 1)
    if grid.multiples is not None:
        codes = grid.settle(codes[:, None].repeat(1, grid.multiples.numel()))
    return len(codes.unique())


def _chance(name: str) -> np.random.Generator:
    """By a name, so that a tensor's samples are the same whatever else is in the network."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def _numbers(values: Tensor, grid: CodeGrid | None, name: str) -> Tensor:
    """Halves of steps from two steps before the grid to two after it, of an input's shape."""
    low, high, scale, zero = (0, 255, 1.0, 0) if grid is None else (
        grid.low, grid.high, float(grid.scale), grid.zero_point)
    halves = _chance(name).integers(2 * low - 4, 2 * high + 5, tuple(values.shape))
    halves[0], halves[1], halves[2] = 2 * low, 2 * high, 2 * zero
    return torch.from_numpy((halves / 2 - zero).astype(np.float32)) * scale


def _codes(
    shape: tuple[int, ...], grid: CodeGrid, chance: np.random.Generator, layer: tuple[Layer, fx.Node] | None
) -> np.ndarray:
    """uint8 [SAMPLES, *shape] of one tensor."""
    low, high, zero = grid.low, grid.high, min(max(grid.zero_point, grid.low), grid.high)
    places = np.indices(shape, sparse=True)
    odd = np.broadcast_to(sum(places) % 2 == 1 if shape else np.asarray(False), shape)
    in_turn = np.broadcast_to(places[0] % 2 == 1 if shape else np.asarray(True), shape)
    up = None if layer is None else _largest_sum(*layer, shape)
    up = chance.random(shape) < 0.5 if up is None else up

    def any_code() -> np.ndarray:
        return chance.integers(low, high + 1, shape)

    def by_channel() -> np.ndarray:
        return np.broadcast_to(chance.integers(low, high + 1, np.asarray(places[0]).shape if shape else ()), shape)

    rows = [
        np.full(shape, low), np.full(shape, high), np.full(shape, zero),
        np.where(odd, high, low), np.where(odd, low, high), np.where(in_turn, high, low),
        np.where(chance.random(shape) < 0.5, high, low), np.where(chance.random(shape) < _FEW, high, zero),
        np.where(up, high, low), np.where(up, low, high), by_channel(), by_channel(),
        any_code(), any_code(),
    ]
    return grid.settle(torch.from_numpy(np.stack(rows))).to(torch.uint8).numpy()


def _layers_of(run: Execution) -> dict[fx.Node, tuple[Layer, fx.Node]]:
    """By the quantizer's node, the first layer that reads its tensor as it is."""
    found: dict[fx.Node, tuple[Layer, fx.Node]] = {}
    for region in run.regions:
        if op_name(region.anchor) in WEIGHTED and region.kind != "float":
            found.setdefault(region.inputs[0], (run.layer(region.anchor), region.anchor))
    return found


def _largest_sum(layer: Layer, node: fx.Node, shape: tuple[int, ...]) -> np.ndarray | None:
    """Where the codes must be largest for one channel of each group to reach its largest sum; None for other shapes."""
    weight = layer.weight.numpy()
    if weight.ndim == 2:
        fits = len(shape) > 0 and shape[-1] == weight.shape[1]
        return np.broadcast_to(weight[np.abs(weight).sum(1).argmax()] > 0, shape) if fits else None
    arguments = bound_args(node)
    groups = arguments["groups"]
    if len(shape) != 3 or shape[0] != weight.shape[1] * groups:
        return None
    of_group = weight.reshape(groups, -1, *weight.shape[1:])
    strongest = np.abs(of_group).sum((2, 3, 4)).argmax(1)
    taps = of_group[np.arange(groups), strongest].reshape(shape[0], *weight.shape[2:]) > 0
    top, left, _, _ = explicit_padding(arguments["padding"], weight.shape[2:], arguments["dilation"])
    rows, columns = (
        (np.arange(size) + before) // step % taps.shape[1 + axis]
        for axis, (size, before, step) in enumerate(zip(
            shape[1:], (top, left), pair(arguments["dilation"]), strict=True))
    )
    return taps[:, rows[:, None], columns]

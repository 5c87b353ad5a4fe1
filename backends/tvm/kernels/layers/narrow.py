"""Sums of products, and for how long they may stay in 16 bits: reductions over taps and input channels.

An instruction that adds products of bytes in 16 bits does twice the work of one that adds them in 32. How many dot
products may be added before the sum must be widened follows from the largest code and from the weights themselves:
all positive products of a run, and all negative ones, must fit. It is found when the kernel is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import TypeAlias

import numpy as np

from isobit.backends.fixed_point.program import Conv
from isobit.backends.tvm.instructions.base import Buffer, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Code

Operands: TypeAlias = tuple[Buffer, Index, Buffer, Index]  # codes, where, weights, where
LARGEST = 32767  # of an int16


def longest_run(weights: np.ndarray, loops: Sequence[int], largest: int) -> int:
    """How many dot products may be added in 16 bits, for any codes 0 ... largest; 0: not even one.

    Args:
        weights: int8 [blocks, dot products of the loops, sums, weights whose products each sum adds].
        loops: how often each loop of the reduction runs, the innermost last; a run is some of the innermost ones, or an
            equal part of the last.
        largest: code.
    """
    blocks, count = weights.shape[:2]
    wide = weights.astype(np.int64)
    parts = [np.maximum(sign * wide, 0).sum(3) * largest for sign in (1, -1)]
    return next((run for run in _runs(loops) if all(
        part.reshape(blocks, count // run, run, -1).sum(2).max() <= LARGEST for part in parts)), 0)


def window_fits(step: Conv, largest: int) -> bool:
    """Whether all products of a window of one filter a channel may be added in 16 bits, for any codes 0 ... largest."""
    filters, rows, columns = step.weights.codes.shape[:3]
    return longest_run(step.weights.codes.reshape(filters, -1, 1, 1), (rows * columns,), largest) == rows * columns


def _runs(loops: Sequence[int]) -> Iterator[int]:
    """The lengths that a run may have, the longest first."""
    for first in range(len(loops)):
        yield prod(loops[first:])
    yield from (run for run in range(loops[-1] - 1, 0, -1) if loops[-1] % run == 0)


@contextmanager
def nest(code: Code, loops: Sequence[tuple[str, int]]) -> Iterator[list[Index]]:
    """Loops one within the other, by name and count; gives their indices."""
    with ExitStack() as stack:
        yield [stack.enter_context(code.loop(name, count)) for name, count in loops]


def narrow_sums(code: Code, e: InstructionSet, count: int) -> list[Buffer]:
    """Registers for `count` vectors of sums of 16 bits."""
    return [code.scratch(f"narrow{number}", e.narrow_lanes, "int16") for number in range(count)]


def write_reduction(
    code: Code, e: InstructionSet, sums: Sequence[Buffer], narrow: Sequence[Buffer], loops: Sequence[tuple[str, int]],
    run: int, operands: Callable[[Sequence[Index]], Sequence[Operands]],
) -> None:
    """Add to each of `sums` its dot products over the loops.

    Args:
        narrow: of `narrow_sums`, at least as many; none where each product is added in 32 bits.
        run: of `longest_run`, for these loops.
        operands: codes and weights of the dot product of each sum, given the loops' indices.
    """
    if not narrow:
        with nest(code, loops) as indices:
            for total, operand in zip(sums, operands(indices), strict=True):
                code.store(total, 0, e.dot(e.load(total, 0), *operand), e.lanes)
        return
    lanes, narrow = e.narrow_lanes, narrow[:len(sums)]
    before, within = _split(loops, run)
    with nest(code, before) as outer:
        for part in narrow:
            code.store(part, 0, e.splat(e.number("int16", 0), lanes), lanes)
        with nest(code, within) as inner:
            indices = [*outer, *inner]
            if len(indices) > len(loops):
                indices[-2:] = [indices[-2] * run + indices[-1]]
            for part, operand in zip(narrow, operands(indices), strict=True):
                code.store(part, 0, e.narrow_dot(e.load(part, 0, lanes), *operand), lanes)
        for total, part in zip(sums, narrow, strict=True):
            code.store(total, 0, e.widened(e.load(total, 0), e.load(part, 0, lanes)), e.lanes)


def _split(
    loops: Sequence[tuple[str, int]], run: int
) -> tuple[Sequence[tuple[str, int]], Sequence[tuple[str, int]]]:
    """The loops outside of a run and within it; the last loop may become two."""
    for first in range(len(loops)):
        if prod(count for _, count in loops[first:]) == run:
            return loops[:first], loops[first:]
    name, count = loops[-1]
    if count % run or run > count:
        raise ValueError(f"a run of {run} dot products is no part of the loops {loops}")
    return [*loops[:-1], ("run", count // run)], [(name, run)]

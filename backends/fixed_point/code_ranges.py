"""What can occur in a program: the largest code of each tensor, the least and the largest sum of a layer."""

from __future__ import annotations

import numpy as np

from isobit.backends.fixed_point.floats.steps import Encode
from isobit.backends.fixed_point.operators.steps import Extreme, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    Concat,
    Conv,
    GlobalAverage,
    Lookup,
    MaxPool,
    Move,
    Product,
    Program,
    Step,
    Sum,
)

BYTE = 255


def largest_codes(program: Program) -> list[int]:
    """By the number of a tensor; the border of a map, which holds its zero point, counts.

    An input may hold any byte, and so may what a step writes whose ends nobody states.
    """
    written = {step.output: step for step in program.steps if step.output is not None}
    found: list[int] = []
    for number, buffer in enumerate(program.buffers):
        step = written.get(number)
        largest = BYTE if step is None else min(_largest(step, program, found), BYTE)
        found.append(max(largest, buffer.zero_point))
    return found


def _largest(step: Step, program: Program, known: list[int]) -> int:
    """The largest code that a step writes; `known` holds those of the tensors before it."""
    read = [known[number] if number < len(known) else BYTE for number in step.inputs]
    match step:
        case Concat():  # inputs may leave out codes of the grid, which a proof gives to a layer
            unchanged = [largest for largest, table in zip(read, step.tables, strict=True) if table is None]
            return max([step.high, *unchanged])
        case Move():
            return max(read[0], step.outside(program.buffers[step.inputs[0]]))
        case MaxPool():
            return read[0]
        case Lookup() | Conv() | Sum() | Product() | GlobalAverage() | AveragePool() | Extreme() | Resample():
            return step.high
        case Encode():
            return step.high
    return BYTE


def sum_ends(step: Conv, zero_point: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest sum of each channel, bias included, int64, for codes 0 ... largest of the input."""
    codes = step.weights.codes.astype(np.int64).reshape(len(step.bias), -1)
    bias, positive, negative = (
        step.bias.astype(np.int64), np.maximum(codes, 0).sum(1), np.minimum(codes, 0).sum(1))
    ends = -zero_point, largest - zero_point
    return bias + positive * ends[0] + negative * ends[1], bias + positive * ends[1] + negative * ends[0]

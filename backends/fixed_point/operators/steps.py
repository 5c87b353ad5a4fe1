"""Steps of larger and smaller elements, of reductions along axes, of tables of rows, of maps of another size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.program import Step
from isobit.backends.fixed_point.rescale import Rescale


@dataclass(frozen=True)
class Extreme(Step):
    """clip(e(rescales[0](a - zero_point(a)), rescales[1](b - zero_point(b))), low, high), e the larger or the smaller.

    An input may be 1 x 1 x C (broadcast). Each rescale has one term.
    """

    rescales: tuple[Rescale, Rescale]
    largest: bool
    low: int
    high: int


@dataclass(frozen=True)
class Reduce(Step):
    """One code for all elements along some axes of the input: their sum, or the largest or smallest code.

    Output (y, x, c) stands for the elements whose index along axis `follows[0]` (of 0 row, 1 column, 2 channel) is y,
    along `follows[1]` x, along `follows[2]` c; where `follows` holds -1, the output has one element along that axis.
    A sum is `clip(rescale(sum of x - zero_point(x)), low, high)`.

    Args:
        rescale: of a sum; None of the largest or smallest code, which stays as it is.
        largest: the largest code, not the smallest, where there is no `rescale`.
    """

    follows: tuple[int, int, int]
    rescale: Rescale | None
    largest: bool
    low: int
    high: int


@dataclass(frozen=True)
class ArgMax(Step):
    """Where along one axis the largest code stands, as an integer; of equal codes the first, or of the smallest.

    Args:
        axis: of the input: 0 row, 1 column, 2 channel.
        follows: input axes in the order of the output's elements, -1 for none.
        largest: the largest code, not the smallest.
    """

    axis: int
    follows: tuple[int, int, int]
    largest: bool


@dataclass(frozen=True)
class Gather(Step):
    """Rows of a table: element (i, d) of the output, in the order of the graph, is `table[integers[i]][d]`.

    An integer outside of the table counts as the nearest row. The output is `in_order`: 1 x integers x D.

    Args:
        table: uint8 [V, D].
    """

    table: np.ndarray


@dataclass(frozen=True)
class Taps:
    """Which rows (or columns) of a map make one of another, and with what weight.

    Args:
        first: int32 [M], the first that is read; all `weights.shape[1]` from there lie inside of the map.
        weights: int32 [M, taps], 0 or positive.
    """

    first: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Resample(Step):
    """A map of another size: out[y, x] = clip(rescale(sum of rows[y][i] * columns[x][j] * (in[i, j] - zero_point))).

    Args:
        rows, columns: see `Taps`.
        divisor: int32 [H, W] of the output: what each sum is divided by. `rescales` holds a `Rescale` for each.
    """

    rows: Taps
    columns: Taps
    divisor: np.ndarray
    rescales: dict[int, Rescale]
    low: int
    high: int

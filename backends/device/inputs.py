"""Inputs for timing, where no sample is at hand: seeded values of a shape and a type.

A part of `run.py` (see `backends.device.standalone`): numpy alone, and the syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from isobit.backends.device.replay import CannotCheck


def random_inputs(described: Iterable[tuple[Sequence[int], Any]]) -> list[np.ndarray]:
    """An array for each shape and numpy type: floats of a normal distribution, bytes of all values, and of wider
    integers, which may be places in a table, 0 and 1.
    """
    random, found = np.random.default_rng(0), []
    for shape, name in described:
        kind = np.dtype(name)
        if kind.kind == "f":
            values = random.standard_normal(tuple(shape))
        elif kind in (np.uint8, np.int8):
            values = random.integers(0, 256, tuple(shape))
        else:
            values = random.integers(0, 2, tuple(shape))
        found.append(values.astype(kind))
    return found


def runs_of(declared: Sequence[Sequence[Any]], batch: int) -> tuple[list[list[int]], int]:
    """(shapes of the inputs in one run, how many runs are a batch) of a model; the first size of each is of samples.

    Args:
        declared: shapes as the model states them; what is no integer is left open.

    Raises:
        CannotCheck: another size than the number of samples is open, or no number of runs is a batch.
    """
    for shape in declared:
        if not all(isinstance(size, int) for size in shape[1:]):
            raise CannotCheck(f"sizes of its input {list(shape)} are open: write the model with fixed ones")
    fixed = [shape[0] for shape in declared if len(shape) and isinstance(shape[0], int)]
    size = max(fixed) if fixed else batch
    if batch % size:
        raise CannotCheck(f"it takes {size} samples at a time: give --batch {size}")
    shapes = [[shape[0] if isinstance(shape[0], int) else size, *shape[1:]] if len(shape) else [] for shape in declared]
    return shapes, batch // size

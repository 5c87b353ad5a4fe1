"""Steps of a program that compute in float32, between codes that become values and values that become codes.

An operator is a graph of its own, with its inputs and parameters as arguments: calls that are written alike are equal,
so that a backend compiles them once. What it computes is what PyTorch computes; in which order sums are added is the
backend's, so that two machines may differ in a last bit and, right after, in a code by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx

from isobit.backends.fixed_point.program import Step


@dataclass(frozen=True)
class FloatCall:
    """One operator as a graph; equal for calls that are written alike.

    Args:
        text: of the graph.
        arguments: shape and type of each, for one sample: the tensors that it reads, then its parameters.
        graph: fx, whose placeholders are the arguments; returns one tensor.
    """

    text: str
    arguments: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    graph: fx.Graph = field(compare=False)


@dataclass(frozen=True)
class FloatStep(Step):
    """A step that reads or writes values.

    Args:
        reads: numbers of the values that it reads.
        writes: number of the value that it writes; None where that is codes or the logits.
    """

    reads: tuple[int, ...]
    writes: int | None


@dataclass(frozen=True)
class Decode(FloatStep):
    """Values from the codes of the only input, in the graph's order: `float32(code - zero_point) * scale`."""


@dataclass(frozen=True)
class Compute(FloatStep):
    """One operator in float32.

    Args:
        call: what it computes, of the values that it reads and of `parameters`.
        parameters: of any type.
    """

    call: FloatCall
    parameters: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Encode(FloatStep):
    """Codes from values: `clip(round_half_even(x / scale) + zero_point, low, high)`."""

    low: int
    high: int


@dataclass(frozen=True)
class Leave(FloatStep):
    """The logits: the elements of every value that it reads, one after the other."""

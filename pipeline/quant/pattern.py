"""What the codes of one tensor are made of when they are chosen to show its readers' kernels.

A part of `run.py` on a device as well (see `backends.device.standalone`): numpy only, and the syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pattern:
    """A tensor's grid, or an input's; `backends.device.chosen` makes codes of it, the same on every machine.

    Args:
        name: of the tensor or the input.
        shape: of one sample.
        low, high, zero: the least and the largest code, and that of zero.
        multiples: of which the codes of each index of the first axis are multiples; None for all codes.
        up: bool of the `shape`, where codes are to be largest for a sum to become so; None where chance says.
        scale: one step of the grid, where numbers of an input are asked for; they may lie beyond the grid.
    """

    name: str
    shape: tuple[int, ...]
    low: int
    high: int
    zero: int
    multiples: tuple[int, ...] | None = None
    up: np.ndarray | None = None
    scale: float | None = None

    def facts(self) -> dict[str, Any]:
        """All but `up`, for JSON; what is None is left out."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "up"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()
                if value is not None}


def pattern_of(facts: Mapping[str, Any], up: np.ndarray | None = None) -> Pattern:
    """The pattern of what `Pattern.facts` gave."""
    tuples = {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}
    return Pattern(**{**facts, **tuples, "up": up})

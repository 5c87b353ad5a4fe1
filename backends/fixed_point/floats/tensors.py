"""The tensors of values beside those of codes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FloatTensor:
    """One tensor of values that a float operator reads or gives.

    Args:
        name: of the node whose value it is.
        shape: of one sample, as in the graph, the batch included.
        kind: numpy's name of its type.
    """

    name: str
    shape: tuple[int, ...]
    kind: str

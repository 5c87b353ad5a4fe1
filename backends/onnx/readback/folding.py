"""Operators on constants, in numpy: what a session folds while it loads, packed weights among them.

Only what a file of ours holds is folded, in the types and shapes that it has there; anything else stays an operator,
and is a difference. What a table holds beyond the entries that are read is checked as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = list[Any]  # None for an operand that is left out
Attributes = Mapping[str, Any]
_BYTES = 256


def folded(op: str, inputs: Arrays, attributes: Attributes) -> np.ndarray | None:
    """What `op` makes of arrays; None where it is not one of those, or they do not fit it."""
    if op not in _FOLDS or not set(attributes) <= _ATTRIBUTES[op]:
        return None
    try:
        with np.errstate(all="ignore"):
            return np.asarray(_FOLDS[op](*inputs, **attributes))
    except (ValueError, IndexError, TypeError, KeyError, ArithmeticError, MemoryError):
        return None


def _cast(x: np.ndarray, to: int) -> np.ndarray:
    import onnx

    return x.astype(onnx.helper.tensor_dtype_to_np_dtype(to))


def _slice(
    x: np.ndarray, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    places = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(places)]


def _reshape(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    if np.any((shape == 0) | (shape < -1)):
        raise ValueError("a size that is that of the operand, or none")
    return x.reshape(shape.tolist())


def _expand(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _gather(x: np.ndarray, index: np.ndarray, axis: int = 0) -> np.ndarray:
    """Entries of a table: of the fields of a byte, of a palette, or rows in their order."""
    if index.dtype != np.int32 or axis:
        raise TypeError("an index that no file of ours has")
    if x.ndim == 2 and len(x) == _BYTES:
        _check_fields(x)
    else:
        rows = x.reshape(len(x), -1)
        read = np.zeros(len(x), bool)
        read[index] = True
        known = {row.tobytes() for row in rows[read]}
        if any(row.tobytes() not in known for row in rows[~read]):
            raise ValueError("an entry that nobody reads")
    return np.take(x, index, axis=0)


def _check_fields(table: np.ndarray) -> None:
    """Row b holds the fields of byte b from its least bits up, each times one number and less another."""
    bits = 8 // table.shape[1]
    fields = np.arange(_BYTES)[:, None] >> np.arange(table.shape[1]) * bits & (1 << bits) - 1
    offset, step = int(table[0, 0]), int(table[1, 0]) - int(table[0, 0])
    if step <= 0 or not np.array_equal(table, fields * step + offset):
        raise ValueError("no table of a byte's fields")


def _of_integers(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """An operator of two arrays of int32: runtimes have no other for codes."""

    def apply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype != np.int32 or b.dtype != np.int32:
            raise TypeError(f"{a.dtype} and {b.dtype}")
        return function(a, b)

    return apply


def _scales(one: np.ndarray, by_channel: np.ndarray) -> np.ndarray:
    """What a bias is worth: the input's scale times those of the weight."""
    if one.dtype != np.float32 or by_channel.dtype != np.float32 or (one.ndim, by_channel.ndim) != (0, 1):
        raise TypeError("no product of scales")
    return one * by_channel


_FOLDS: Mapping[str, Callable[..., Any]] = {
    "Cast": _cast,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Expand": _expand,
    "Transpose": lambda x, perm: np.transpose(x, perm),
    "Add": _of_integers(np.add),
    "Sub": _of_integers(np.subtract),
    "Mul": _scales,
}
_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_FOLDS, frozenset()), "Cast": frozenset({"to"}), "Gather": frozenset({"axis"}),
    "Concat": frozenset({"axis"}), "Transpose": frozenset({"perm"}),
}

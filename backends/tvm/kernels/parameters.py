"""The numbers of a layer beside its weights, in one int32 constant: kernels of equal shape differ in nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

ALIGNMENT = 16  # int32 values: a cache line


class Parameters:
    """Vectors that a kernel reads by their offset. Offsets follow from lengths, so equal shapes give equal offsets."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._length = 0

    def add(self, values: Any, length: int | None = None, fill: int = 0) -> int:
        """Append int32 values (uint32 bit patterns and float32 too), padded to `length`; returns their offset."""
        array = np.ravel(np.asarray(values))
        array = array.view(np.int32) if array.dtype == np.float32 else array.astype(np.int64).astype(np.int32)
        length = max(length or 0, len(array))
        padded = np.full(-(-length // ALIGNMENT) * ALIGNMENT, fill, np.int32)
        padded[:len(array)] = array
        offset = self._length
        self._parts.append(padded)
        self._length += len(padded)
        return offset

    def splat(self, value: int) -> int:
        """Append one number as often as the widest vector has lanes."""
        return self.add(np.full(ALIGNMENT, value, np.int64))

    def splat_byte(self, value: int) -> int:
        """Append a vector of bytes of one value."""
        return self.splat(value * 0x01010101)

    @property
    def array(self) -> np.ndarray:
        """The constant, int32."""
        return np.concatenate(self._parts) if self._parts else np.zeros(ALIGNMENT, np.int32)

"""Weights of 1 to 4 bits, packed in the file and unpacked by operators that every session folds while it loads.

A byte is an index into a table of its 8/b codes, so the file holds b bits a weight and the session int8:

    uint8 bytes -> Cast int32 -> Gather(int8 table [256, 8/b]) -> Reshape(shape)

ONNX's own 4- and 2-bit types are not an option: kernels never fuse with them, and before 1.24 they do not load.
Three bits are stored as a plane of two and a plane of one. A grid with zero points per channel is stored as it is
(b bits); `code - zero_point`, an int8 code with zero point 0, is computed while loading.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.quantizer import Quantizer

# Field widths of the planes that hold b bits, from the most significant down.
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}


@dataclass(frozen=True)
class Plane:
    """One field of every code: `table[bytes].flatten()[:count]` gives its share of the codes.

    Args:
        data: uint8 [ceil(count * bits / 8)].
        table: int8 [256, 8 / bits].
    """

    data: np.ndarray
    table: np.ndarray


@dataclass(frozen=True)
class PackedWeight:
    """Integers of one weight tensor as the file holds them.

    Args:
        shape: of the weight.
        codes: int8 `shape`, zero point 0: what the kernels get.
        planes: empty where int8 is stored as it is; else the codes are the planes' sum minus `offset`.
        offset: int8 [K, 1, ...], subtracted from the planes' sum; None where it is 0 everywhere.
    """

    shape: tuple[int, ...]
    codes: np.ndarray
    planes: tuple[Plane, ...]
    offset: np.ndarray | None


def pack_weight(quantizer: Quantizer) -> PackedWeight:
    """Pack the frozen codes of a weight; 5 bits and more stay int8."""
    codes = quantizer.codes.detach().cpu().numpy().astype(np.int64)
    column = [-1] + [1] * (codes.ndim - 1)
    zero_point = quantizer.zero_point.detach().cpu().numpy().astype(np.int64).reshape(column)
    kernel_codes = (codes - zero_point).astype(np.int8)
    grid = quantizer.spec.grid
    if grid.bits not in PLANES:
        return PackedWeight(codes.shape, kernel_codes, (), None)
    middle = 1 << (grid.bits - 1)
    # The table answers `field - middle` on every grid, so that files share one table per width.
    offset = zero_point - grid.qmin - middle if not grid.signed or np.any(zero_point) else np.zeros(1)
    fields = codes - grid.qmin
    if not np.any(offset):
        fields, offset = kernel_codes.astype(np.int64) + middle, None
    else:
        offset = np.broadcast_to(offset, (codes.shape[0], *column[1:])).astype(np.int8)
    return PackedWeight(codes.shape, kernel_codes, pack_fields(fields, grid.bits), offset)


def pack_fields(fields: np.ndarray, bits: int) -> tuple[Plane, ...]:
    """Planes of unsigned `fields` (0 ... 2^bits - 1) whose tables sum to `field - 2^(bits - 1)`."""
    planes, position, widths = [], bits, PLANES[bits]
    for width in widths:
        position -= width
        part = (fields.reshape(-1) >> position) & ((1 << width) - 1)
        offset = (1 << (bits - 1)) if position + width == bits else 0
        planes.append(Plane(_to_bytes(part, width), _table(width, 1 << position, offset)))
    return tuple(planes)


def _to_bytes(fields: np.ndarray, width: int) -> np.ndarray:
    per_byte = 8 // width
    padded = np.zeros(-(-fields.size // per_byte) * per_byte, np.uint8)
    padded[: fields.size] = fields
    shifts = np.arange(per_byte, dtype=np.uint8) * width
    return np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)


def _table(width: int, weight: int, offset: int) -> np.ndarray:
    shifts = np.arange(8 // width) * width
    fields = (np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)
    return (fields * weight - offset).astype(np.int8)


def unpack(weight: PackedWeight) -> np.ndarray:
    """int8 codes from the packed form, as the file's operators compute them."""
    if not weight.planes:
        return weight.codes
    count = int(np.prod(weight.shape))
    total = sum(plane.table[plane.data].reshape(-1)[:count].astype(np.int32) for plane in weight.planes)
    total = total.reshape(weight.shape)
    return (total if weight.offset is None else total - weight.offset).astype(np.int8)

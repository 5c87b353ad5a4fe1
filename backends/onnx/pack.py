"""Weights of 1 to 4 bits, packed in the file and unpacked by operators that every session folds while it loads.

A byte is an index into a table of its 8/b codes, so the file holds b bits a weight and the session int8:

    uint8 bytes -> Cast int32 -> Gather(int8 table [256, 8/b]) -> Reshape(shape)

ONNX's own 4- and 2-bit types are not an option: kernels never fuse with them, and before 1.24 they do not load.
Three bits are stored as a plane of two and a plane of one. A grid with zero points per channel is stored as it is
(b bits); `code - zero_point`, an int8 code with zero point 0, is computed while loading.

A codebook per channel is stored in the bits of each channel: the rows of equally many bits are packed together as
numbers of their values, `Gather` takes those from a palette of 2^b codes, and one more puts the rows in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from isobit.pipeline.quant.quantizer import Quantizer

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
class RowGroup:
    """Rows (output channels) of one number of bits.

    Args:
        shape: of the rows together.
        planes: whose sum is an index into the palette, from -len/2 up: negative ones count from its end, as Gather's
            do. Empty where every code is `palette[0]`.
        palette: int8 [2^bits].
    """

    shape: tuple[int, ...]
    planes: tuple[Plane, ...]
    palette: np.ndarray


@dataclass(frozen=True)
class PackedWeight:
    """Integers of one weight tensor as the file holds them.

    Args:
        shape: of the weight.
        codes: int8 `shape`, zero point 0: what the kernels get.
        planes: empty where int8 is stored as it is; else the codes are the planes' sum minus `offset`.
        offset: int8 [K, 1, ...], subtracted from the planes' sum; None where it is 0 everywhere.
        groups: of a tensor with a codebook per channel, instead of planes; by bits, ascending.
        order: uint8 or uint16 [K]: row k of the weight is row `order[k]` of the groups one after the other; empty
            where there are no groups.
    """

    shape: tuple[int, ...]
    codes: np.ndarray
    planes: tuple[Plane, ...]
    offset: np.ndarray | None
    groups: tuple[RowGroup, ...] = ()
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


def pack_weight(quantizer: Quantizer) -> PackedWeight:
    """Pack the frozen codes of a weight; uniform ones of 5 bits and more stay int8."""
    codes = quantizer.decided.detach().cpu().numpy().astype(np.int64)
    if quantizer.channel_bits is not None:
        return _pack_rows(codes.astype(np.int8), quantizer.channel_bits.cpu().numpy())
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


def _pack_rows(codes: np.ndarray, bits: np.ndarray) -> PackedWeight:
    """Rows of equally many bits together; int8 as it is where they have more values than that (a projected grid)."""
    order = np.argsort(np.argsort(bits, kind="stable"))
    groups = []
    for width in np.unique(bits).tolist():
        rows = codes[bits == width]
        values, index = np.unique(rows, return_inverse=True)
        if len(values) > 1 << width:
            return PackedWeight(codes.shape, codes, (), None)
        # Value i has number i - middle, so that the planes share the tables of ordinary weights.
        palette = np.roll(np.resize(values, 1 << width), (1 << width) // 2)
        planes = pack_fields(index.reshape(rows.shape), width) if width else ()
        groups.append(RowGroup(rows.shape, planes, palette))
    narrow = np.uint8 if len(bits) <= 256 else np.uint16
    return PackedWeight(codes.shape, codes, (), None, tuple(groups), order.astype(narrow))


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
    if weight.groups:
        parts = [group.palette[_summed(group.planes, group.shape)] for group in weight.groups]
        return np.concatenate(parts)[weight.order]
    if not weight.planes:
        return weight.codes
    total = _summed(weight.planes, weight.shape)
    return (total if weight.offset is None else total - weight.offset).astype(np.int8)


def _summed(planes: tuple[Plane, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Sum of the planes, int32 `shape`; zeros without any."""
    count = int(np.prod(shape))
    total = np.zeros(count, np.int32)
    for plane in planes:
        total += plane.table[plane.data].reshape(-1)[:count]
    return total.reshape(shape)

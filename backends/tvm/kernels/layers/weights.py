"""Weights in the order in which kernels read them: blocks of output channels, then taps, then groups of inputs.

`[K / (vectors * lanes)][R][S][C / group][vectors][lanes * group]`; a group is what one dot product takes. A grouped
convolution reads, for each block, the input channels that its groups need, as a dense one with zeros. Weights of
2 ... 4 bits are stored packed, several vectors in one, and each kernel unpacks one block at a time into a scratch that
stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.program import Conv
from isobit.backends.tvm.instructions.base import InstructionSet

MOST_PACKED_BITS = 4
ALIGNED = 4  # channels; pixels are at least as wide, and a group never straddles one


@dataclass(frozen=True)
class Block:
    """How the weights of a layer are cut.

    Args:
        vectors: of output channels in a block.
        blocks: how many.
        groups: of input channels that each reads.
        starts: first input channel of each block, int32 [blocks].
    """

    vectors: int
    blocks: int
    groups: int
    starts: np.ndarray


def cut(step: Conv, pixel: int, e: InstructionSet, vectors: int) -> Block:
    """The blocks of a layer whose input pixels have `pixel` bytes."""
    filters, inputs = step.weights.codes.shape[0], step.weights.codes.shape[3]
    blocks = -(-filters // (vectors * e.lanes))
    first = np.arange(blocks) * vectors * e.lanes
    last = np.minimum(first + vectors * e.lanes, filters) - 1
    per_group = filters // step.groups
    low = first // per_group * inputs // ALIGNED * ALIGNED
    high = (last // per_group + 1) * inputs
    groups = int(-(-(high - low).max() // e.group))
    return Block(vectors, blocks, groups, np.minimum(low, max(0, pixel - groups * e.group)).astype(np.int32))


def arrange(step: Conv, block: Block, e: InstructionSet) -> np.ndarray:
    """Codes int8 [blocks, R * S * groups * vectors, lanes * group] as an instruction set reads them."""
    codes = step.weights.codes
    filters, rows, columns, inputs = codes.shape
    per_group, width = filters // step.groups, block.vectors * e.lanes
    dense = np.zeros((block.blocks, width, rows, columns, block.groups * e.group), np.int8)
    for k in range(filters):
        start = k // per_group * inputs - block.starts[k // width]
        dense[k // width, k % width, :, :, start:start + inputs] = codes[k]
    parts = dense.reshape(block.blocks, block.vectors, e.lanes, rows, columns, block.groups, e.group)
    ordered = parts.transpose(0, 3, 4, 5, 1, 2, 6)  # block, r, s, group, vector, lane, input
    return lane_order(ordered, e).reshape(block.blocks, -1, e.lanes * e.group)


def lane_order(vectors: np.ndarray, e: InstructionSet) -> np.ndarray:
    """[..., lanes, group] -> [..., lanes * group] in the order that the flavour's `weights` reads."""
    if e.by_input:
        vectors = np.swapaxes(vectors, -1, -2)
    return np.ascontiguousarray(vectors).reshape(*vectors.shape[:-2], -1)


def stored_bits(bits: int) -> int:
    """Bits that a weight takes in the module."""
    return bits if bits <= MOST_PACKED_BITS else 8


def planes(bits: int) -> list[int]:
    """Widths that divide a byte and together make `bits`: 3 is 2 and 1."""
    return [width for width in (8, 4, 2, 1) if bits & width]


def group_size(bits: int) -> int:
    """How many vectors are packed together, so that every plane fills whole vectors."""
    return max(8 // width for width in planes(bits))


def fields(bits: int, position: int) -> list[tuple[int, int, int, int]]:
    """Where the bits of a group's vector lie: (packed vector, place in its bytes, width, place in the code) a plane."""
    found, vectors, done = [], 0, 0
    for width in planes(bits):
        vector, place = divmod(position, 8 // width)
        found.append((vectors + vector, place * width, width, done))
        vectors += group_size(bits) * width // 8
        done += width
    return found


def pack(vectors: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes uint8 [blocks, vectors, bytes] -> int8 [blocks, packed vectors, bytes].

    A group of vectors becomes, for each plane, the vectors' bits of that plane side by side in one byte.
    """
    group = group_size(bits)
    blocks, count, width = vectors.shape
    padded = np.zeros((blocks, -(-count // group) * group, width), np.uint8)
    padded[:, :count] = vectors
    grouped = padded.reshape(blocks, -1, group, width)
    packed, done = [], 0
    for plane in planes(bits):
        fields = (grouped >> done) & (2**plane - 1)
        fields = fields.reshape(blocks, -1, group * plane // 8, 8 // plane, width)
        places = np.arange(8 // plane, dtype=np.uint8)[:, None] * plane
        packed.append((fields << places).sum(3, dtype=np.uint8))
        done += plane
    return np.concatenate(packed, 2).reshape(blocks, -1, width).view(np.int8)

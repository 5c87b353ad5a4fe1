"""Convolutions and linear layers, dense and grouped: sums of dot products in registers, one requantization, one store.

A tile of output pixels times vectors of output channels is accumulated over all taps and inputs; nothing but the final
codes goes back to memory. The last tile of a row or column is moved back so that it ends with the map: it computes some
pixels twice, and no pixel needs a case of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Call, Code, last_fits
from isobit.backends.tvm.kernels.layers.layer import (
    Layer,
    Numbers,
    Sums,
    kernel_name,
    layer_call,
    layer_numbers,
    write_border,
    write_outputs,
    write_unpacked,
)
from isobit.backends.tvm.kernels.layers.narrow import Operands, longest_run, narrow_sums, write_reduction
from isobit.backends.tvm.kernels.layers.tile import choose_tile
from isobit.backends.tvm.kernels.layers.weights import Block, arrange, cut
from isobit.backends.tvm.kernels.layout import Place
from isobit.backends.tvm.kernels.threads import evenness


def conv_call(step: Conv, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The call of a convolution, of a linear layer, or of the layer that gives the logits (padded to whole vectors)."""
    source = places[step.inputs[0]]
    target = None if step.output is None else places[step.output]
    residual = places[step.inputs[1]] if step.residual else None
    name = kernel_name(step)
    if source.pixel == 1:
        step = _folded(step)
    largest = largest_codes(program)[step.inputs[0]]
    by_bytes = e.by_bytes(largest)
    if by_bytes is not None and run_of(step, cut(step, source.pixel, by_bytes, 1), by_bytes, largest):
        e = by_bytes
    taps = step.window.kernel[0] * step.window.kernel[1]
    filters = step.weights.codes.shape[0]
    tile = choose_tile(
        target.height if target else 1, target.width if target else 1, -(-filters // e.lanes),
        lambda vectors: taps * cut(step, source.pixel, e, vectors).groups, e, one_loop=taps == 1,
    )
    block = cut(step, source.pixel, e, tile.vectors)
    run = run_of(step, block, e, largest) if e.narrow else 0
    layer = Layer(step, source, target, residual, e, tile, block, run)
    numbers = layer_numbers(layer, program)
    return layer_call(name, layer, numbers, lambda code: _write(code, layer, numbers))


def run_of(step: Conv, block: Block, e: InstructionSet, largest: int) -> int:
    """How many dot products of a layer's codes 0 ... largest may be added in 16 bits."""
    vectors = e.by_sum(arrange(step, block, e))
    shape = (block.blocks, -1, block.vectors * vectors.shape[-2], vectors.shape[-1])  # sums of a block side by side
    return longest_run(vectors.reshape(shape), (*step.window.kernel, block.groups), largest)


def _folded(step: Conv) -> Conv:
    """A layer of one channel whose pixels lie side by side: the columns of its kernel are its channels."""
    codes = step.weights.codes.transpose(0, 1, 3, 2)
    window = replace(step.window, kernel=(step.window.kernel[0], 1))
    return replace(step, weights=replace(step.weights, codes=codes), window=window)


@dataclass(frozen=True)
class _Buffers:
    """What the inner loop reads and writes.

    Args:
        sums: of a tile and a block.
        narrow: of a run of dot products, in 16 bits.
        packed: scratch for four of them as bytes.
        codes: the input, or those of its rows that were widened.
        weights: as stored, or unpacked.
    """

    sums: list[Buffer]
    narrow: list[Buffer]
    packed: Buffer
    codes: Buffer
    weights: Buffer


def _write(code: Code, layer: Layer, numbers: Numbers) -> None:
    e, tile, block = layer.e, layer.tile, layer.block
    sums, packed = code.sums(tile.sums, e.lanes), code.scratch("packed", PACK * e.lanes, "uint8")
    weights, codes = code["weights"], code["input"]
    if layer.unpacked:
        size = layer.packed_steps * layer.unit * (block.blocks if layer.rows_first else 1)
        weights = code.scratch("unpacked", size, e.operand)
    if layer.widened:
        codes = code.scratch("widened", layer.widened_codes, e.operand)
    narrow = narrow_sums(code, e, tile.sums) if layer.run > 1 else []
    buffers = _Buffers(sums, narrow, packed, codes, weights)
    write_border(code, layer, numbers)
    (_write_rows_first if layer.rows_first else _write_blocks_first)(code, layer, numbers, buffers)


def _write_rows_first(code: Code, layer: Layer, numbers: Numbers, buffers: _Buffers) -> None:
    """Each row of tiles for all blocks, whose weights stay in the first cache."""
    if layer.unpacked:
        with code.loop("block", layer.block.blocks) as block:
            write_unpacked(code, layer, numbers, block, buffers.weights, block * layer.packed_steps)
    with code.loop("tile_row", layer.tile_rows, layer.shared) as row:
        y = last_fits(code, row, layer.tile.rows, layer.height)
        if layer.widened:
            _write_widened(code, layer, buffers.codes, _first_row(layer, y))
        with code.loop("block", layer.block.blocks) as block:
            _write_tiles(code, layer, numbers, buffers, block, y)


def _write_blocks_first(code: Code, layer: Layer, numbers: Numbers, buffers: _Buffers) -> None:
    """Each block for the whole map, so that its weights are read once."""
    if layer.widened:
        _write_widened(code, layer, buffers.codes, 0)
    by_block = evenness(layer.block.blocks) >= evenness(layer.tile_rows)
    with code.loop("block", layer.block.blocks, layer.shared and by_block) as block:
        if layer.unpacked:
            write_unpacked(code, layer, numbers, block, buffers.weights, 0)
        with code.loop("tile_row", layer.tile_rows, layer.shared and not by_block) as row:
            _write_tiles(code, layer, numbers, buffers, block, last_fits(code, row, layer.tile.rows, layer.height))


def _write_tiles(code: Code, layer: Layer, numbers: Numbers, buffers: _Buffers, block: Expr, y: Index) -> None:
    """A row of tiles of one block."""
    e, tile = layer.e, layer.tile
    with code.loop("tile_column", -(-layer.width // tile.columns)) as column:
        x = last_fits(code, column, tile.columns, layer.width)
        for i, vector in enumerate(buffers.sums):
            code.store(vector, 0, e.load(code["numbers"], numbers.bias + layer.channel(block, i)), e.lanes)
        sums = Sums(buffers.sums, buffers.packed, block, y, x)
        _write_products(code, layer, numbers, buffers, sums)
        write_outputs(code, layer, numbers, sums)


def _write_products(code: Code, layer: Layer, numbers: Numbers, buffers: _Buffers, sums: Sums) -> None:
    """The sums of a tile, over all taps and groups of input channels."""
    e, source, block, window = layer.e, layer.source, layer.block, layer.step.window
    top = 0 if layer.widened and layer.rows_first else _first_row(layer, sums.y)
    left = (source.border[1] - window.padding[1]) * source.pixel
    row, column = window.stride[0] * source.row, window.stride[1] * source.pixel

    def operands(indices: Sequence[Index]) -> list[Operands]:
        r, s, group = indices
        corner = top + left + sums.x * column + r * (window.dilation[0] * source.row) \
            + s * (window.dilation[1] * source.pixel) + group * e.group
        if numbers.starts is not None:
            corner = corner + code["numbers"][numbers.starts + sums.block]
        tap = ((r * window.kernel[1] + s) * block.groups + group) * block.vectors
        if not layer.unpacked or layer.rows_first:
            tap = sums.block * (layer.packed_steps if layer.unpacked else layer.steps) + tap
        found = []
        for i in range(layer.tile.sums):
            pixel, number = divmod(i, block.vectors)
            y, x = divmod(pixel, layer.tile.columns)
            found.append((buffers.codes, corner + (y * row + x * column), buffers.weights, (tap + number) * layer.unit))
        return found

    loops = [("tap_row", window.kernel[0]), ("tap_column", window.kernel[1]), ("group", block.groups)]
    write_reduction(code, e, buffers.sums, buffers.narrow, loops, layer.run, operands)


def _write_widened(code: Code, layer: Layer, widened: Buffer, start: Index) -> None:
    """Widen codes from `start` on, once for each code instead of once for each product."""
    e, chunk = layer.e, layer.chunk
    with code.loop("chunk", layer.widened_codes // chunk - 1, layer.shared and not layer.rows_first) as i:
        codes = e.cast(f"{e.operand}x{chunk}", e.load(code["input"], start + i * chunk, chunk))
        code.store(widened, i * chunk, codes, chunk)


def _first_row(layer: Layer, y: Index) -> Index:
    """Offset of the first input row that output row y reads."""
    window, row = layer.step.window, layer.source.row
    return (layer.source.border[0] - window.padding[0]) * row + y * (window.stride[0] * row)

"""What kernels of convolutions share, however they sum: the layer, its constants, unpacked weights, requantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes, sum_ends
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.fixed_point.real_rescale import RealRescale, Residual, real_rescale
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.instructions.base import PACK, Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, make_kernel
from isobit.backends.tvm.kernels.layers.tile import Tile
from isobit.backends.tvm.kernels.layers.weights import Block, arrange, fields, group_size, lane_order, pack, stored_bits
from isobit.backends.tvm.kernels.layout import NARROW, PIXEL, Place, output_of
from isobit.backends.tvm.kernels.parameters import Parameters
from isobit.backends.tvm.kernels.rescaling import RealVectors, Vectors, add_real_rescale, add_rescale
from isobit.backends.tvm.kernels.threads import is_shared

SMALL = 24 * 1024  # bytes of weights that leave room in the first cache
CODES_OFFSET = 128  # of instructions that multiply signed by signed bytes


@dataclass(frozen=True)
class Layer:
    """A convolution, where its tensors lie, and how it is cut into tiles and blocks.

    Args:
        run: how many dot products are added in 16 bits; 0 and 1: none.
    """

    step: Conv
    source: Place
    target: Place | None
    residual: Place | None
    e: InstructionSet
    tile: Tile
    block: Block
    run: int = 0

    @property
    def height(self) -> int:
        return self.target.height if self.target is not None else 1

    @property
    def width(self) -> int:
        return self.target.width if self.target is not None else 1

    @property
    def tile_rows(self) -> int:
        return -(-self.height // self.tile.rows)

    @property
    def shared(self) -> bool:
        """Threads share the layer."""
        return is_shared(self.height * self.width * self.step.weights.codes.size)

    @property
    def channels(self) -> int:
        """Output channels in whole blocks."""
        return self.block.blocks * self.block.vectors * self.e.lanes

    @property
    def bits(self) -> int:
        return stored_bits(self.step.weights.bits)

    @property
    def unpacked(self) -> bool:
        """The inner loop cannot read the weights as they are stored."""
        return self.bits < 8 or self.e.operand != "int8"

    @property
    def widened(self) -> bool:
        """Codes are widened before the inner loop."""
        return self.e.operand != "int8"

    @property
    def widened_rows(self) -> int:
        """Rows of the input, border included, that are widened at a time: those of a tile, or all."""
        window = self.step.window
        if not self.rows_first:
            return self.source.rows
        return (self.tile.rows - 1) * window.stride[0] + (window.kernel[0] - 1) * window.dilation[0] + 1

    @property
    def widened_codes(self) -> int:
        """Codes of those rows, in whole vectors, and what a group that begins in the last one reads after it."""
        chunk = self.chunk
        return -(-self.widened_rows * self.source.row // chunk) * chunk + chunk

    @property
    def chunk(self) -> int:
        """Codes that are widened at once: what divides a row, or what may be read after it."""
        return min(max(self.source.pixel, NARROW), PIXEL)

    @property
    def unit(self) -> int:
        """Weights of one vector."""
        return self.e.lanes * self.e.group

    @property
    def packed_steps(self) -> int:
        """Vectors of weights of one block in the scratch: whole groups of packed ones."""
        group = group_size(self.bits)
        return -(-self.steps // group) * group

    @property
    def rows_first(self) -> bool:
        """All weights stay in the first cache: all channels of a row of tiles are computed before the next row."""
        return self.block.blocks * self.packed_steps * self.unit * self.e.operand_bytes <= SMALL

    @property
    def steps(self) -> int:
        """Vectors of weights of one block."""
        rows, columns = self.step.window.kernel
        return rows * columns * self.block.groups * self.block.vectors

    def channel(self, block: Index, vector: int) -> Index:
        """First channel of a vector of a block."""
        return (block * self.block.vectors + vector % self.block.vectors) * self.e.lanes

    def offset(self, place: Place, i: int) -> int:
        """Bytes from the first vector of a tile to vector i in a tensor of the output's shape."""
        pixel, vector = divmod(i, self.block.vectors)
        y, x = divmod(pixel, self.tile.columns)
        return y * place.row + x * place.pixel + vector * self.e.lanes


@dataclass(frozen=True)
class Numbers:
    """The constant `numbers` of a layer, and where in it things begin; None for what the layer does not need.

    Args:
        array: int32.
        bias: of each output channel.
        border: the zero point of the output.
        starts: the first input channel of each block.
        scale: of each logit, float32.
        rescale: of the sums, and of the residual.
        residual_zero: the zero point of the residual.
        clip: vectors of bytes, the ends of the output's grid.
        byte_offsets: what packing added to each byte of a block's vectors.
    """

    array: np.ndarray
    bias: int
    border: int | None
    starts: int | None
    scale: int | None
    rescale: Vectors | RealVectors | None
    residual_zero: int | None
    clip: tuple[int, int] | None
    byte_offsets: int | None


def layer_numbers(
    layer: Layer, program: Program, unpacked_first: bool = False, bias: np.ndarray | None = None
) -> Numbers:
    """All numbers of a layer beside its weights, in the order in which the kernel reads them.

    Args:
        unpacked_first: weights are unpacked before anything is requantized.
        bias: what sums start with, instead of `layer_bias`.
    """
    step, parameters = layer.step, Parameters()
    first_bias = parameters.add(layer_bias(layer, program) if bias is None else bias, layer.channels)
    border = starts = scale = rescale = residual_zero = clip = byte_offsets = None
    if layer.target is not None and any(layer.target.border):
        border = parameters.splat(program.buffers[output_of(step)].zero_point)
    if step.groups > 1 and layer.block.starts.any():
        starts = parameters.add(layer.block.starts)
    if unpacked_first:
        byte_offsets = _add_byte_offsets(layer, parameters)
    if step.logit_scale is not None:
        scale = parameters.add(step.logit_scale.astype(np.float32), layer.channels)
    if step.rescale is not None:
        rescale = add_layer_rescale(parameters, step.rescale, step, program, layer.channels)
        if isinstance(rescale, Vectors) and layer.residual is not None and program.buffers[step.inputs[1]].zero_point:
            residual_zero = parameters.splat(program.buffers[step.inputs[1]].zero_point)
        if (step.low, step.high) != (0, 255):
            clip = (parameters.splat_byte(step.low), parameters.splat_byte(step.high))
    if not unpacked_first:
        byte_offsets = _add_byte_offsets(layer, parameters)
    return Numbers(parameters.array, first_bias, border, starts, scale, rescale, residual_zero, clip, byte_offsets)


def add_layer_rescale(
    parameters: Parameters, rescale: Rescale, step: Conv, program: Program, channels: int,
    order: np.ndarray | None = None,
) -> Vectors | RealVectors:
    """Append how a layer's sums become codes, for `channels` padded channels: in float32 where that is the same.

    `order` permutes the channels.
    """
    real = layer_real_rescale(step, program)
    if real is None:
        return add_rescale(parameters, rescale, channels, order)
    return add_real_rescale(parameters, real, channels, order)


def layer_real_rescale(step: Conv, program: Program) -> RealRescale | None:
    """How the sums of a layer become codes in float32; None where that might differ."""
    if step.rescale is None:
        return None
    largest = largest_codes(program)
    ends = sum_ends(step, program.buffers[step.inputs[0]].zero_point, largest[step.inputs[0]])
    residual = None
    if step.residual:
        residual = Residual(largest[step.inputs[1]], program.buffers[step.inputs[1]].zero_point)
    return real_rescale(step.rescale, ends, step.low, step.high, residual)


def layer_bias(layer: Layer, program: Program) -> np.ndarray:
    """Sums start where the zero point, and the offset of signed codes, are already taken away."""
    offset = program.buffers[layer.step.inputs[0]].zero_point - (CODES_OFFSET if layer.e.signed_input else 0)
    totals = layer.step.weights.codes.astype(np.int64).sum((1, 2, 3))
    return layer.step.bias.astype(np.int64) - offset * totals


def _add_byte_offsets(layer: Layer, parameters: Parameters) -> int | None:
    if layer.bits == 8:
        return None
    return parameters.add(np.ascontiguousarray(_byte_offsets(layer)).reshape(-1).view(np.int32))


def layer_weights(layer: Layer) -> np.ndarray:
    """The constant `weights`, int8, flat."""
    vectors = arrange(layer.step, layer.block, layer.e)
    if layer.bits == 8:
        return vectors.reshape(-1)
    offsets = _byte_offsets(layer).astype(np.int16)
    offsets = np.tile(offsets, (1, layer.steps // layer.block.vectors, 1))
    return pack((vectors + offsets).astype(np.uint8), layer.bits).reshape(-1)


def _byte_offsets(layer: Layer) -> np.ndarray:
    """What was added to each byte of a block's vectors, [blocks, vectors, unit]."""
    offsets = np.zeros(layer.channels, np.uint8)
    offsets[:len(layer.step.weights.offset)] = layer.step.weights.offset
    lanes = offsets.reshape(layer.block.blocks, layer.block.vectors, layer.e.lanes)
    return lane_order(np.repeat(lanes[..., None], layer.e.group, -1), layer.e)


def layer_call(name: str, layer: Layer, numbers: Numbers, write: Callable[[Code], None]) -> Call:
    """The call of a layer whose statements `write` writes.

    The kernel's buffers: `input`, `residual` where there is one, `weights`, `numbers`, `output`.
    """
    step, source, target, residual = layer.step, layer.source, layer.target, layer.residual
    weights = layer_weights(layer)
    shape, kind = ((target.size,), "uint8") if target is not None else ((layer.channels,), "float32")
    arguments = [
        Argument("input", (source.size,), "uint8"),
        *([Argument("residual", (residual.size,), "uint8")] if residual is not None else []),
        Argument("weights", weights.shape, "int8"), Argument("numbers", numbers.array.shape, "int32"),
        Argument("output", shape, kind),
    ]
    return Call(name, make_kernel(arguments, write), step.inputs, (weights, numbers.array), shape, kind)


def kernel_name(step: Conv) -> str:
    """What reports call it."""
    if step.rescale is None:
        return "logits"
    return f"conv{step.window.kernel[0]}x{step.window.kernel[1]}"


def write_border(code: Code, layer: Layer, numbers: Numbers) -> None:
    """Fill the output's border."""
    if layer.target is not None and numbers.border is not None:
        fill_border(code, layer.target, layer.e.cast("uint8", code["numbers"][numbers.border]), code["output"])


def write_unpacked(code: Code, layer: Layer, numbers: Numbers, block: Expr, unpacked: Buffer, first: Index) -> None:
    """Bring the weights of a block into `unpacked`, from vector `first` on."""
    e, unit, bits, group = layer.e, layer.unit, layer.bits, group_size(layer.bits)
    groups = layer.packed_steps // group
    with code.loop("packed_group", groups) as number:
        base = (block * groups + number) * (group * bits // 8 * unit)
        for j in range(group):
            offset = None
            if numbers.byte_offsets is not None:
                vector = block * layer.block.vectors + (number * group + j) % layer.block.vectors
                offset = e.load(code["numbers"], numbers.byte_offsets + vector * (unit // 4), unit // 4)
            weights = e.unpack(code["weights"], base, fields(bits, j), unit, offset)
            code.store(unpacked, (first + number * group + j) * unit, weights, unit)


@dataclass(frozen=True)
class Sums:
    """The sums of one tile of outputs and one block of output channels.

    Args:
        vectors: pixel by pixel, in each the vectors of the block.
        packed: scratch for four of them as bytes.
        block: number of the block.
        y, x: first output row and column of the tile.
    """

    vectors: Sequence[Buffer]
    packed: Buffer
    block: Expr
    y: Index
    x: Index


def write_outputs(code: Code, layer: Layer, numbers: Numbers, sums: Sums) -> None:
    """What becomes of the sums: codes, or logits."""
    if numbers.rescale is not None and layer.target is not None:
        _write_codes(code, layer, layer.target, numbers, numbers.rescale, sums)
    if numbers.scale is not None:
        _write_logits(code, layer, numbers.scale, sums)


def _write_logits(code: Code, layer: Layer, scales: int, sums: Sums) -> None:
    """One float32 product a logit; `scales` is where theirs lie among the numbers."""
    e = layer.e
    for i in range(layer.tile.sums):
        channel = layer.channel(sums.block, i)
        scale = e.bits(f"float32x{e.lanes}", e.load(code["numbers"], scales + channel))
        code.store(code["output"], channel, e.real(e.load(sums.vectors[i], 0)) * scale, e.lanes)


def _write_codes(
    code: Code, layer: Layer, target: Place, numbers: Numbers, rescale: Vectors | RealVectors, sums: Sums
) -> None:
    """Requantization, packing and storing, four vectors at a time."""
    e, residual = layer.e, layer.residual
    for i in range(layer.tile.sums):
        values = [e.load(sums.vectors[i], 0)]
        if residual is not None:
            value = e.widen(e.load(code["residual"], _address(layer, residual, sums, i)))
            zero = numbers.residual_zero
            values.append(value if zero is None else value - e.load(code["numbers"], zero))
        codes = rescale.apply(e, code["numbers"], values, layer.channel(sums.block, i))
        code.store(sums.vectors[i], 0, codes, e.lanes)
    for first in range(0, layer.tile.sums, PACK):
        _store(code, layer, target, numbers, sums, list(range(first, min(first + PACK, layer.tile.sums))))


def _address(layer: Layer, place: Place, sums: Sums, i: int) -> Index:
    """Where vector i of the tile lies in a tensor of the output's shape."""
    start = place.at(0, 0) + layer.offset(place, i)
    return start + sums.y * place.row + sums.x * place.pixel + sums.block * (layer.block.vectors * layer.e.lanes)


def _store(code: Code, layer: Layer, target: Place, numbers: Numbers, sums: Sums, group: list[int]) -> None:
    """Pack up to four vectors and store them, in one piece where they are neighbours in memory."""
    e, size = layer.e, len(group) * layer.e.lanes
    packed = e.pack([e.load(sums.vectors[i], 0) for i in group])
    if numbers.clip is not None:
        low, high = (e.bits(f"uint8x{size}", e.load(code["numbers"], end, size // 4)) for end in numbers.clip)
        packed = e.clip(packed, low, high)
    runs = neighbours([layer.offset(target, i) for i in group], e.lanes)
    if len(runs) == 1:
        code.store(code["output"], _address(layer, target, sums, group[0]), packed, size)
        return
    code.store(sums.packed, 0, packed, size)
    for first, count in runs:
        piece = e.load(sums.packed, first * e.lanes, count * e.lanes)
        code.store(code["output"], _address(layer, target, sums, group[first]), piece, count * e.lanes)


def neighbours(places: list[int], lanes: int) -> list[tuple[int, int]]:
    """(first, number) of vectors that are neighbours in memory; numbers are powers of two."""
    runs: list[tuple[int, int]] = []
    for position, place in enumerate(places):
        first, size = runs[-1] if runs else (0, 0)
        if runs and place - places[first] == size * lanes:
            runs[-1] = (first, size + 1)
        else:
            runs.append((position, 1))
    return [piece for first, size in runs for piece in ([(first, 2), (first + 2, 1)] if size == 3 else [(first, size)])]

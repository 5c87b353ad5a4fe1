"""Kernels that move codes: into the network, out of it, and between places; and lookups, which rename them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.floats.tensors import FloatTensor
from isobit.backends.fixed_point.program import Concat, Dequantize, Lookup, Move, Program, Step
from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, last_fits, make_kernel
from isobit.backends.tvm.kernels.layout import NARROW, Place, output_of
from isobit.backends.tvm.kernels.parameters import Parameters

LONGEST = 64  # bytes moved at once
MOST_PIECES = 16  # vectors of one pixel; more runs of channels than that go by a table


def _element(place: Place, y: Index, x: Index, c: Index) -> Index:
    return place.at(0, 0) + y * place.row + x * place.pixel + c


@contextmanager
def _elements(code: Code, place: Place, channels: int | None = None) -> Iterator[tuple[Expr, Expr, Expr]]:
    """What is written inside runs for each (row, column, channel) of a map."""
    with code.pixels(place) as (y, x), code.loop("channel", place.channels if channels is None else channels) as c:
        yield y, x, c


def _call(
    name: str, inputs: tuple[int, ...], arguments: list[Argument], constants: dict[str, np.ndarray], output: Argument,
    write: Callable[[Code], None], foreign: bool = False,
) -> Call:
    """A call with tensors, constants by name, and the output."""
    tables = [Argument(key, array.shape, array.dtype.name) for key, array in constants.items()]
    kernel = make_kernel([*arguments, *tables, output], write, foreign)
    return Call(name, kernel, inputs, tuple(constants.values()), output.shape, output.kind)


def _codes(name: str, place: Place) -> Argument:
    """A tensor as a buffer."""
    return Argument(name, (place.size,), "uint8")


@dataclass(frozen=True)
class Entry:
    """How an input comes in: what a user gives, and the kernel that reads it."""

    given: Argument
    call: Call


def quantize_call(program: Program, number: int, place: Place, e: InstructionSet) -> Entry:
    """float32 [1, C, H, W] -> codes: `round_half_even(x / scale) + zero_point`, clipped; integers as they are.

    Division, rounding to even and the clip are exact in IEEE arithmetic, so every device gives the same codes. An image
    of up to four channels is written as whole pixels: one int32 lane is a pixel.
    """
    buffer, numbers = program.inputs[number], Parameters()
    if buffer.integers:
        return _copy_integers(buffer.nchw, place)
    scale, zero = numbers.splat(int(np.float32(buffer.scale).view(np.int32))), numbers.splat(buffer.zero_point)
    lanes = max(lanes for lanes in (1, 4, 8, e.lanes) if lanes <= place.width)

    def write(code: Code) -> None:
        image, output = code["image"], code["output"]
        fill_border(code, place, e.cast("uint8", code["numbers"][zero]), output)
        if place.pixel == NARROW and len(buffer.nchw) == 3 and lanes > 1:
            _write_pixels(code, place, e.of(lanes), scale, zero)
            return
        with _elements(code, place) as (y, x, c):
            index = [0, *{1: [c], 2: [c, x], 3: [c, y, x]}[len(buffer.nchw)]]
            value = e.of(1).quantize(image[*index], code["numbers"][scale], code["numbers"][zero])
            code.store(output, _element(place, y, x, c), e.cast("uint8", value))

    image = Argument("image", (1, *buffer.nchw), "float32")
    return Entry(image, _call(
        "quantize", (), [image], {"numbers": numbers.array}, _codes("output", place), write, foreign=True))


def _copy_integers(shape: tuple[int, ...], place: Place) -> Entry:
    """int32 [1, ...] as they are, flat."""
    size, given = place.channels, Argument("integers", (1, *shape), "int32")
    whole = Argument("output", (place.size,), "int32")

    def write(code: Code) -> None:
        with code.loop("number", size) as i:
            code.store(code["output"], i, code["integers"][*unraveled(i, (1, *shape))])
        if place.size > size:  # the rest of the least place that a tensor takes
            with code.loop("rest", place.size - size) as rest:
                code.store(code["output"], rest + size, code.T.int32(0))

    return Entry(given, _call("integers", (), [given], {}, whole, write, foreign=True))


def arrive_call(value: FloatTensor) -> Call:
    """An input as it is given, from wherever a user's array lies to where TVM's own functions take it to lie."""
    shape = value.shape

    def write(code: Code) -> None:
        with code.loop("number", math.prod(shape)) as i:
            index = unraveled(i, shape)
            code.store(code["output"], index, code["given"][*index])

    given, output = (Argument(name, shape, value.kind) for name in ("given", "output"))
    return _call("arrive", (), [given], {}, output, write, foreign=True)


def unraveled(number: Expr, shape: tuple[int, ...]) -> list[Index]:
    """The index in a tensor of `shape` of its element of that number."""
    indices, rest = [], number
    for axis in reversed(range(1, len(shape))):
        indices.insert(0, rest % shape[axis] if axis > 1 else rest)
        rest = rest // shape[axis]
    return [0, *indices]


def _write_pixels(code: Code, place: Place, e: InstructionSet, scale: int, zero: int) -> None:
    """Quantize a vector of pixels at a time; `scale` and `zero` are places of the numbers."""
    numbers = code["numbers"]
    with code.loop("row", place.height) as y, code.loop("column", -(-place.width // e.lanes)) as number:
        x = last_fits(code, number, e.lanes, place.width)
        codes = [
            e.quantize(code["image"][0, c, y, code.T.Ramp(x, 1, e.lanes)], e.load(numbers, scale),
                       e.load(numbers, zero))
            for c in range(place.channels)
        ]
        pixels = place.at(0, 0) + y * place.row + x * NARROW
        code.store(code["output"], pixels, e.join(codes), NARROW * e.lanes)


def enter_call(program: Program, number: int, place: Place, e: InstructionSet) -> Entry:
    """Codes uint8 [1, H, W, C] into the place of a tensor, an input mostly; integers as they are."""
    numbers, buffer = Parameters(), program.buffers[number]
    if buffer.integers:
        return _copy_integers(buffer.nchw, place)
    zero = numbers.splat(buffer.zero_point)

    def write(code: Code) -> None:
        fill_border(code, place, e.cast("uint8", code["numbers"][zero]), code["output"])
        with _elements(code, place) as (y, x, c):
            code.store(code["output"], _element(place, y, x, c), code["codes"][0, y, x, c])

    codes = Argument("codes", (1, place.height, place.width, place.channels), "uint8")
    return Entry(codes, _call(
        "enter", (), [codes], {"numbers": numbers.array}, _codes("output", place), write, foreign=True))


def leave_call(number: int, place: Place) -> Call:
    """A tensor as uint8 [1, H, W, C], without padding and border."""
    def write(code: Code) -> None:
        with _elements(code, place) as (y, x, c):
            code.store(code["codes"], (0, y, x, c), code["input"][_element(place, y, x, c)])

    codes = Argument("codes", (1, place.height, place.width, place.channels), "uint8")
    return _call("leave", (number,), [_codes("input", place)], {}, codes, write)


def finish_call(steps: Sequence[Step], padded: Sequence[int], program: Program) -> Call:
    """Logits in the graph's shape, from those of each step that writes some; `padded` of each are more than it has."""
    names = ["padded", *(f"padded{place}" for place in range(1, len(steps)))]

    def write(code: Code) -> None:
        for name, step in zip(names, steps, strict=True):
            first, count = program.logits_of(step)
            with code.loop("logit", count) as i:
                code.store(code["logits"], unraveled(i + first if first else i, (1, *program.logits)), code[name][i])

    logits = Argument("logits", (1, *program.logits), "float32")
    given = [Argument(name, (size,), "float32") for name, size in zip(names, padded, strict=True)]
    return _call("finish", (), given, {}, logits, write)


def _add_grid(numbers: Parameters, scale: float, zero_point: int) -> tuple[int, int]:
    """Add a zero point and a scale, and say where they are."""
    return numbers.splat(zero_point), numbers.splat(int(np.float32(scale).view(np.int32)))


def _value(e: InstructionSet, code: Code, codes: Buffer, element: Index, grid: tuple[int, int] | None) -> Expr:
    """float32 of one code; of an integer where there is no grid."""
    if grid is None:
        return e.cast("float32", codes[element])
    zero, scale = (code["numbers"][place] for place in grid)
    return e.cast("float32", e.cast("int32", codes[element]) - zero) * e.bits("float32", scale)


def dequantize_call(step: Dequantize, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """`float32(code - zero_point) * scale`, channels first; flat, `finish_call` gives the shape."""
    place, buffer = places[step.inputs[0]], program.buffers[step.inputs[0]]
    numbers = Parameters()
    grid = _add_grid(numbers, buffer.scale, buffer.zero_point)
    size = place.height * place.width * place.channels

    def write(code: Code) -> None:
        with _elements(code, place) as (y, x, c):
            value = _value(e, code, code["input"], _element(place, y, x, c), grid)
            code.store(code["logits"], (c * place.height + y) * place.width + x, value)

    return _call("dequantize", step.inputs, [_codes("input", place)], {"numbers": numbers.array},
                 Argument("logits", (size,), "float32"), write)


def dequantize_parts_call(step: Dequantize, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The same from several tensors, each element to its own place among the logits."""
    numbers, tables = Parameters(), {}
    _, size = program.logits_of(step)
    buffers = [program.buffers[number] for number in step.inputs]
    grids = [None if buffer.integers else _add_grid(numbers, buffer.scale, buffer.zero_point) for buffer in buffers]
    sources = [places[number] for number in step.inputs]
    for i, (part, place) in enumerate(zip(step.parts, sources, strict=True)):
        if len(part.logits):
            tables[f"elements{i}"] = _offsets(part.elements, place)
            tables[f"places{i}"] = part.logits.astype(np.int32)

    def write(code: Code) -> None:
        with code.loop("logit", size) as logit:
            code.store(code["logits"], logit, e.number("float32", 0))
        for i, (part, place, grid) in enumerate(zip(step.parts, sources, grids, strict=True)):
            if len(part.logits):
                with code.loop("element", len(part.logits)) as number:
                    value = _value(e, code, code[f"input{i}"], code[f"elements{i}"][number], grid)
                    code.store(code["logits"], code[f"places{i}"][number], value)
            else:
                rows, columns, channels = part.steps
                with _elements(code, place) as (y, x, c):
                    value = _value(e, code, code[f"input{i}"], _element(place, y, x, c), grid)
                    code.store(code["logits"], part.first + y * rows + x * columns + c * channels, value)

    arguments = [Argument(f"input{i}", (place.size,), "int32" if buffer.integers else "uint8")
                 for i, (place, buffer) in enumerate(zip(sources, buffers, strict=True))]
    return _call("dequantize", step.inputs, arguments, {"numbers": numbers.array, **tables},
                 Argument("logits", (size,), "float32"), write)


def lookup_call(step: Lookup, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """table[code], or table[channel][code]."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    zeros = np.full(16, program.buffers[output_of(step)].zero_point, np.uint8)

    def write(code: Code) -> None:
        fill_border(code, target, code["zeros"][0], code["output"])
        with _elements(code, target) as (y, x, c):
            index = e.cast("int32", code["input"][_element(source, y, x, c)])
            if step.table.ndim == 2:
                index = c * step.table.shape[1] + index
            code.store(code["output"], _element(target, y, x, c), code["table"][index])

    return _call("lookup", step.inputs, [_codes("input", source)],
                 {"table": step.table.astype(np.uint8).reshape(-1), "zeros": zeros}, _codes("output", target), write)


def concat_call(step: Concat, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Channels side by side, brought to the output's grid by a table each where they are not on it."""
    target, sources = places[output_of(step)], [places[number] for number in step.inputs]
    zeros = np.full(16, program.buffers[output_of(step)].zero_point, np.uint8)
    tables = {f"table{i}": table.astype(np.uint8) for i, table in enumerate(step.tables) if table is not None}

    def write(code: Code) -> None:
        fill_border(code, target, code["zeros"][0], code["output"])
        first = 0
        for i, source in enumerate(sources):
            codes, output = code[f"input{i}"], code["output"]
            if f"table{i}" in tables:
                with _elements(code, target, source.channels) as (y, x, c):
                    value = code[f"table{i}"][e.cast("int32", codes[_element(source, y, x, c)])]
                    code.store(output, _element(target, y, x, first) + c, value)
            else:
                with code.pixels(target) as (y, x):
                    for start, size in _pieces(source.channels):
                        piece = e.load(codes, _element(source, y, x, start), size)
                        code.store(output, _element(target, y, x, first + start), piece, size)
            first += source.channels

    arguments = [_codes(f"input{i}", source) for i, source in enumerate(sources)]
    return _call("concat", step.inputs, arguments, {**tables, "zeros": zeros}, _codes("output", target), write)


def move_call(step: Move, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Codes gathered from the source; what comes from nowhere is the fill, the source's zero point mostly."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    runs = _runs(step.channels) if step.index is None else []
    if runs and sum(len(_pieces(length)) for _, _, length in runs) > MOST_PIECES:
        runs = []
    if step.index is not None:
        index = _offsets(step.index, source)
    else:
        index = np.zeros(1, np.int32) if runs else step.channels.astype(np.int32)

    def write(code: Code) -> None:
        fill_border(code, target, code["border"][0], code["output"])
        if step.index is not None:
            _write_elements(code, e, target)
        elif runs:
            _write_runs(code, e, step, source, target, runs)
        else:
            _write_channels(code, e, step, source, target)

    constants = {
        "index": index, "zeros": np.full(LONGEST, step.outside(program.buffers[step.inputs[0]]), np.uint8),
        "border": np.full(16, program.buffers[output_of(step)].zero_point, np.uint8),
    }
    return _call("move", step.inputs, [_codes("input", source)], constants, _codes("output", target), write)


def _write_elements(code: Code, e: InstructionSet, target: Place) -> None:
    """Elements in any order, by a table of their offsets."""
    with _elements(code, target) as (y, x, c):
        place = code["index"][(y * target.width + x) * target.channels + c]
        value = e.choose(place >= 0, code["input"][e.larger(place, 0)], code["zeros"][0])
        code.store(code["output"], _element(target, y, x, c), value)


def _inside(
    e: InstructionSet, step: Move, source: Place, target: Place, y: Expr, x: Expr
) -> tuple[Expr, Expr, Expr | None]:
    """Row and column of the source, and whether they lie inside the map; None where all do."""
    inside = None
    places = y * step.stride[0] + step.origin[0], x * step.stride[1] + step.origin[1]
    sizes, limits = (target.height, target.width), (source.height, source.width)
    for where, size, stride, origin, limit in zip(places, sizes, step.stride, step.origin, limits, strict=True):
        ends = origin, (size - 1) * stride + origin
        if min(ends) < 0 or max(ends) >= limit:
            within = e.both(where >= 0, where < limit)
            inside = within if inside is None else e.both(inside, within)
    return *places, inside


def _write_runs(
    code: Code, e: InstructionSet, step: Move, source: Place, target: Place, runs: list[tuple[int, int, int]]
) -> None:
    """Runs of neighbouring channels, as vectors."""
    with code.pixels(target) as (row, column):
        y, x, inside = _inside(e, step, source, target, row, column)
        for first, start, length in runs:
            for offset, size in _pieces(length):
                value = zeros = e.load(code["zeros"], 0, size)
                if start >= 0:
                    value = e.load(code["input"], _element(source, y, x, start + offset), size)
                    value = value if inside is None else e.choose(inside, value, zeros)
                code.store(code["output"], _element(target, row, column, first + offset), value, size)


def _write_channels(code: Code, e: InstructionSet, step: Move, source: Place, target: Place) -> None:
    """Channels in any order, one after the other."""
    with _elements(code, target) as (row, column, c):
        y, x, inside = _inside(e, step, source, target, row, column)
        channel = code["index"][c]
        known = channel >= 0 if inside is None else e.both(inside, channel >= 0)
        value = code["input"][e.larger(_element(source, y, x, channel), 0)]
        code.store(code["output"], _element(target, row, column, c), e.choose(known, value, code["zeros"][0]))


def _runs(channels: np.ndarray) -> list[tuple[int, int, int]]:
    """(first channel of the output, first of the input or -1, length) of runs of neighbours."""
    runs: list[tuple[int, int, int]] = []
    for number, channel in enumerate(channels.tolist()):
        if runs:
            first, start, length = runs[-1]
            if channel == (-1 if start < 0 else start + length):
                runs[-1] = (first, start, length + 1)
                continue
        runs.append((number, channel, 1))
    return runs


def _pieces(length: int) -> list[tuple[int, int]]:
    """(start, size) of vectors that cover a run, sizes powers of two."""
    found, start = [], 0
    while start < length:
        size = min(LONGEST, 1 << ((length - start).bit_length() - 1))
        found.append((start, size))
        start += size
    return found


def _offsets(index: np.ndarray, source: Place) -> np.ndarray:
    """Offsets in the source's place of elements given by their number, -1 for none; int32, flat."""
    rows, columns, channels = np.indices((source.height, source.width, source.channels))
    where = source.at(0, 0) + rows * source.row + columns * source.pixel + channels
    return np.append(where.ravel(), -1)[index].astype(np.int32)

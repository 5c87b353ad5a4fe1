"""Kernels that move codes: into the network, out of it, and between places; and lookups, which rename them."""

from __future__ import annotations

import numpy as np

from backends.fixed_point.program import Concat, Dequantize, DequantizeParts, Lookup, Move, Program
from backends.tvm_int8.expressions import Expressions
from backends.tvm_int8.kernel import Call, fill_border, function
from backends.tvm_int8.layout import NARROW, Place
from backends.tvm_int8.parameters import Parameters

LONGEST = 64  # bytes moved at once
MOST_PIECES = 16  # vectors of one pixel; more runs of channels than that go by a table


def _element(place: Place, y: str = "y", x: str = "x", c: str = "c") -> str:
    return f"{place.at(0, 0)} + {y} * {place.row} + {x} * {place.pixel} + {c}"


def _vector(start: str, size: int) -> str:
    return start if size == 1 else f"T.Ramp({start}, 1, {size})"


def _for_each(place: Place, body: str, channels: int | None = None) -> str:
    return (
        f"for y in T.serial({place.height}):\n"
        f"    for x in T.serial({place.width}):\n"
        f"        for c in T.serial({place.channels if channels is None else channels}):\n"
        f"            {body}"
    )


def _for_each_pixel(place: Place, lines: list[str]) -> str:
    return "\n".join([
        f"for y in T.serial({place.height}):", f"    for x in T.serial({place.width}):",
        *(" " * 8 + line for line in lines),
    ])


def quantize_call(program: Program, place: Place, e: Expressions) -> Call:
    """float32 [1, C, H, W] -> codes: `round_half_even(x / scale) + zero_point`, clipped.

    Division, rounding to even and the clip are exact in IEEE arithmetic, so every device gives the same codes. An image
    of up to four channels is written as whole pixels: one int32 lane is a pixel.
    """
    buffer = program.input
    numbers = Parameters()
    scale, zero = numbers.splat(int(np.float32(buffer.scale).view(np.int32))), numbers.splat(buffer.zero_point)
    border = fill_border(place, f'T.Cast("uint8", P[{zero}])')
    lanes = max(lanes for lanes in (1, 4, 8, e.lanes) if lanes <= place.width)
    if place.pixel == NARROW and len(buffer.nchw) == 3 and lanes > 1:
        first = f"x * {lanes}" if place.width % lanes == 0 else f"T.min(x * {lanes}, {place.width - lanes})"
        codes = [
            f"w.quantize(X[0, {c}, y, T.Ramp({first}, 1, {lanes})], w.load(P, {scale}), w.load(P, {zero}))"
            for c in range(place.channels)
        ]
        body = (
            f"for y in T.serial({place.height}):\n"
            f"    for x in T.serial({-(-place.width // lanes)}):\n"
            f"        Y[T.Ramp({place.at(0, 0)} + y * {place.row} + ({first}) * {NARROW}, 1, {NARROW * lanes})] = "
            f"w.join([{', '.join(codes)}])"
        ).replace("w.", f"e.of({lanes}).")
    else:
        index = ", ".join(["0", *{1: "c", 2: "cx", 3: "cyx"}[len(buffer.nchw)]])
        body = _for_each(
            place, f"Y[{_element(place)}] = "
            f'T.Cast("uint8", e.of(1).quantize(X[{index}], P[{scale}], P[{zero}]))'
        )
    image = ("X", (1, *buffer.nchw), "float32")
    arguments = [image, ("P", numbers.array.shape, "int32"), ("Y", (place.size,), "uint8")]
    text = function(arguments, f"{border}\n{body}", foreign=True)
    return Call("quantize", text, (), (numbers.array,), (place.size,))


def enter_call(program: Program, place: Place) -> Call:
    """Codes uint8 [1, H, W, C] into the place of the input."""
    numbers = Parameters()
    zero = numbers.splat(program.input.zero_point)
    body = "\n".join([
        fill_border(place, f'T.Cast("uint8", P[{zero}])'),
        _for_each(place, f"Y[{_element(place)}] = X[0, y, x, c]"),
    ])
    shape = (1, place.height, place.width, place.channels)
    arguments = [("X", shape, "uint8"), ("P", numbers.array.shape, "int32"), ("Y", (place.size,), "uint8")]
    return Call("enter", function(arguments, body, foreign=True), (), (numbers.array,), (place.size,))


def leave_call(number: int, place: Place) -> Call:
    """A tensor as uint8 [1, H, W, C], without padding and border."""
    shape = (1, place.height, place.width, place.channels)
    body = _for_each(place, f"Y[0, y, x, c] = X[{_element(place)}]")
    text = function([("X", (place.size,), "uint8"), ("Y", shape, "uint8")], body)
    return Call("leave", text, (number,), (), shape)


def finish_call(number: int, padded: int, program: Program) -> Call:
    """Logits in the graph's shape, from the padded ones of the last layer."""
    shape = (1, *program.logits)
    size = int(np.prod(program.logits))
    indices, rest = [], "i"
    for axis in reversed(range(len(program.logits))):
        indices.insert(0, f"{rest} % {program.logits[axis]}" if axis else rest)
        rest = f"({rest}) // {program.logits[axis]}"
    body = f"for i in T.serial({size}):\n    Y[{', '.join(['0', *indices])}] = X[i]"
    text = function([("X", (padded,), "float32"), ("Y", shape, "float32")], body)
    return Call("finish", text, (number,), (), shape, "float32")


def dequantize_call(step: Dequantize, program: Program, places: list[Place]) -> Call:
    """`float32(code - zero_point) * scale`, channels first; flat, `finish_call` gives the shape."""
    place, buffer = places[step.inputs[0]], program.buffers[step.inputs[0]]
    numbers = Parameters()
    zero, scale = numbers.splat(buffer.zero_point), numbers.splat(int(np.float32(buffer.scale).view(np.int32)))
    size = place.height * place.width * place.channels
    body = _for_each(
        place, f"Y[(c * {place.height} + y) * {place.width} + x] = "
        f'T.Cast("float32", T.Cast("int32", X[{_element(place)}]) - P[{zero}]) * T.reinterpret("float32", P[{scale}])'
    )
    arguments = [("X", (place.size,), "uint8"), ("P", numbers.array.shape, "int32"), ("Y", (size,), "float32")]
    return Call("dequantize", function(arguments, body), step.inputs, (numbers.array,), (size,), "float32")


def dequantize_parts_call(step: DequantizeParts, program: Program, places: list[Place]) -> Call:
    """The same from several tensors, each element to its own place among the logits."""
    numbers, tables = Parameters(), []
    size = int(np.prod(program.logits))
    lines = [f"for i in T.serial({size}):\n    Y[i] = T.float32(0)"]
    for index, (part, number) in enumerate(zip(step.parts, step.inputs, strict=True)):
        place, buffer = places[number], program.buffers[number]
        zero, scale = numbers.splat(buffer.zero_point), numbers.splat(int(np.float32(buffer.scale).view(np.int32)))
        value = (f'T.Cast("float32", T.Cast("int32", X{index}[{{}}]) - P[{zero}]) * '
                 f'T.reinterpret("float32", P[{scale}])')
        if len(part.logits):
            tables += [_offsets(part.elements, place), part.logits.astype(np.int32)]
            element, logit = f"I{len(tables) - 2}", f"I{len(tables) - 1}"
            lines.append(f"for i in T.serial({len(part.logits)}):\n"
                         f"    Y[{logit}[i]] = {value.format(f'{element}[i]')}")
        else:
            rows, columns, channels = part.steps
            lines.append(_for_each(place, f"Y[{part.first} + y * {rows} + x * {columns} + c * {channels}] = "
                                          f"{value.format(_element(place))}"))
    arguments = [
        *((f"X{index}", (places[number].size,), "uint8") for index, number in enumerate(step.inputs)),
        ("P", numbers.array.shape, "int32"),
        *((f"I{index}", table.shape, "int32") for index, table in enumerate(tables)), ("Y", (size,), "float32"),
    ]
    text = function(arguments, "\n".join(lines))
    return Call("dequantize", text, step.inputs, (numbers.array, *tables), (size,), "float32")


def lookup_call(step: Lookup, program: Program, places: list[Place]) -> Call:
    """table[code]."""
    source, target = places[step.inputs[0]], places[step.output]
    body = "\n".join([
        fill_border(target, "Z[0]"),
        _for_each(target, f'Y[{_element(target)}] = B[T.Cast("int32", X[{_element(source)}])]'),
    ])
    zero = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    arguments = [("X", (source.size,), "uint8"), ("B", (256,), "uint8"), ("Z", (16,), "uint8"),
                 ("Y", (target.size,), "uint8")]
    return Call("lookup", function(arguments, body), step.inputs, (step.table.astype(np.uint8), zero), (target.size,))


def concat_call(step: Concat, program: Program, places: list[Place]) -> Call:
    """Channels side by side, brought to the output's grid by a table each where they are not on it."""
    target = places[step.output]
    zero = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    names = [f"X{i}" for i in range(len(step.inputs))]
    tables = {f"B{i}": table.astype(np.uint8) for i, table in enumerate(step.tables) if table is not None}
    parts, first = [fill_border(target, "Z[0]")], 0
    for i, (name, number) in enumerate(zip(names, step.inputs, strict=True)):
        source = places[number]
        if step.tables[i] is None:
            lines = [
                f"Y[{_vector(_element(target, c=str(first + start)), size)}] = "
                f"e.load({name}, {_element(source, c=str(start))}, {size})" for start, size in _pieces(source.channels)
            ]
            parts.append(_for_each_pixel(target, lines))
        else:
            code = f'B{i}[T.Cast("int32", {name}[{_element(source)}])]'
            parts.append(_for_each(target, f"Y[{_element(target, c=f'{first} + c')}] = {code}", source.channels))
        first += source.channels
    arguments = [*((name, (places[number].size,), "uint8") for name, number in zip(names, step.inputs, strict=True)),
                 *((name, (256,), "uint8") for name in tables), ("Z", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    text = function(arguments, "\n".join(parts))
    return Call("concat", text, step.inputs, (*tables.values(), zero), (target.size,))


def move_call(step: Move, program: Program, places: list[Place]) -> Call:
    """Codes gathered from the source; what comes from nowhere is the source's zero point."""
    source, target = places[step.inputs[0]], places[step.output]
    zeros = np.full(LONGEST, program.buffers[step.inputs[0]].zero_point, np.uint8)
    border = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    runs = _runs(step.channels) if step.index is None else []
    if runs and sum(len(_pieces(length)) for _, _, length in runs) <= MOST_PIECES:
        table, body = np.zeros(1, np.int32), _move_runs(step, source, target, runs)
    elif step.index is None:
        table, body = step.channels.astype(np.int32), _move_channels(step, source, target)
    else:
        table = _offsets(step.index, source)
        flat = f"(y * {target.width} + x) * {target.channels} + c"
        chosen = f"T.if_then_else(I[{flat}] >= 0, X[T.max(I[{flat}], 0)], Z[0])"
        body = _for_each(target, f"Y[{_element(target)}] = {chosen}")
    arguments = [("X", (source.size,), "uint8"), ("I", table.shape, "int32"), ("Z", zeros.shape, "uint8"),
                 ("B", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    text = function(arguments, fill_border(target, "B[0]") + "\n" + body)
    return Call("move", text, step.inputs, (table, zeros, border), (target.size,))


def _inside(step: Move, source: Place, target: Place) -> tuple[str, str, str]:
    """Row and column of the source, and whether they lie inside the map; empty where all do."""
    y, x = (f"(y * {step.stride[0]} + {step.origin[0]})", f"(x * {step.stride[1]} + {step.origin[1]})")
    conditions = []
    for where, size, stride, origin, limit in (
        (y, target.height, step.stride[0], step.origin[0], source.height),
        (x, target.width, step.stride[1], step.origin[1], source.width),
    ):
        ends = origin, (size - 1) * stride + origin
        if min(ends) < 0 or max(ends) >= limit:
            conditions.append(f"T.And({where} >= 0, {where} < {limit})")
    condition = f"T.And({', '.join(conditions)})" if len(conditions) == 2 else "".join(conditions)
    return y, x, condition


def _move_runs(step: Move, source: Place, target: Place, runs: list[tuple[int, int, int]]) -> str:
    """Runs of neighbouring channels, as vectors."""
    y, x, inside = _inside(step, source, target)
    lines = []
    for first, start, length in runs:
        for offset, size in _pieces(length):
            code = zeros = f"e.load(Z, 0, {size})"
            if start >= 0:
                code = f"e.load(X, {_element(source, y, x, str(start + offset))}, {size})"
                code = f"T.if_then_else({inside}, {code}, {zeros})" if inside else code
            lines.append(f"Y[{_vector(_element(target, c=str(first + offset)), size)}] = {code}")
    return _for_each_pixel(target, lines)


def _move_channels(step: Move, source: Place, target: Place) -> str:
    """Channels in any order, one after the other."""
    y, x, inside = _inside(step, source, target)
    known = f"T.And({inside}, I[c] >= 0)" if inside else "I[c] >= 0"
    code = f"T.if_then_else({known}, X[T.max({_element(source, y, x, 'I[c]')}, 0)], Z[0])"
    return _for_each(target, f"Y[{_element(target)}] = {code}")


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

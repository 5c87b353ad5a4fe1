"""Kernels that move codes: into the network, out of it, and between places; and lookups, which rename them."""

from __future__ import annotations

import numpy as np

from backends.fixed_point.program import Concat, Dequantize, Lookup, Move, Program
from backends.tvm_int8.kernel import Call, fill_border, function
from backends.tvm_int8.layout import Place
from backends.tvm_int8.parameters import Parameters


def _element(place: Place, y: str = "y", x: str = "x", c: str = "c") -> str:
    return f"{place.at(0, 0)} + {y} * {place.row} + {x} * {place.pixel} + {c}"


def _for_each(place: Place, body: str, channels: int | None = None) -> str:
    return (
        f"for y in T.serial({place.height}):\n"
        f"    for x in T.serial({place.width}):\n"
        f"        for c in T.serial({place.channels if channels is None else channels}):\n"
        f"            {body}"
    )


def _border(place: Place, zero: str) -> str:
    return fill_border(place, zero)


def quantize_call(program: Program, place: Place) -> Call:
    """float32 [1, C, H, W] -> codes: `round_half_even(x / scale) + zero_point`, clipped; NaN becomes the zero point.

    Division, rounding to even and the clip are exact in IEEE arithmetic, so every device gives the same codes.
    """
    buffer = program.input
    numbers = Parameters()
    scale, zero = numbers.splat(int(np.float32(buffer.scale).view(np.int32))), numbers.splat(buffer.zero_point)
    low, high = f'T.Cast("float32", 0 - P[{zero}])', f'T.Cast("float32", 255 - P[{zero}])'
    ratio = f'T.nearbyint(X[0, c, y, x] / T.reinterpret("float32", P[{scale}]))'
    code = f'T.Cast("uint8", T.Cast("int32", T.min(T.max({ratio}, {low}), {high})) + P[{zero}])'
    body = "\n".join([
        _border(place, f'T.Cast("uint8", P[{zero}])'),
        _for_each(place, f"Y[{_element(place)}] = {code}"),
    ])
    shape = (1, place.channels, place.height, place.width)
    arguments = [("X", shape, "float32"), ("P", numbers.array.shape, "int32"), ("Y", (place.size,), "uint8")]
    return Call(function(arguments, body), (), (numbers.array,), (place.size,))


def enter_call(program: Program, place: Place) -> Call:
    """Codes uint8 [1, H, W, C] into the place of the input."""
    numbers = Parameters()
    zero = numbers.splat(program.input.zero_point)
    body = "\n".join([
        _border(place, f'T.Cast("uint8", P[{zero}])'),
        _for_each(place, f"Y[{_element(place)}] = X[0, y, x, c]"),
    ])
    shape = (1, place.height, place.width, place.channels)
    arguments = [("X", shape, "uint8"), ("P", numbers.array.shape, "int32"), ("Y", (place.size,), "uint8")]
    return Call(function(arguments, body), (), (numbers.array,), (place.size,))


def leave_call(number: int, place: Place) -> Call:
    """A tensor as uint8 [1, H, W, C], without padding and border."""
    shape = (1, place.height, place.width, place.channels)
    body = _for_each(place, f"Y[0, y, x, c] = X[{_element(place)}]")
    return Call(function([("X", (place.size,), "uint8"), ("Y", shape, "uint8")], body), (number,), (), shape)


def finish_call(number: int, padded: int, program: Program) -> Call:
    """Logits in the graph's shape, from the padded ones of the last layer."""
    shape = (1, *program.logits)
    size = int(np.prod(program.logits))
    indices, rest = [], "i"
    for axis in reversed(range(len(program.logits))):
        indices.insert(0, f"{rest} % {program.logits[axis]}" if axis else rest)
        rest = f"({rest}) // {program.logits[axis]}"
    body = f"for i in T.serial({size}):\n    Y[{', '.join(['0', *indices])}] = X[i]"
    return Call(function([("X", (padded,), "float32"), ("Y", shape, "float32")], body), (number,), (), shape, "float32")


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
    return Call(function(arguments, body), step.inputs, (numbers.array,), (size,), "float32")


def lookup_call(step: Lookup, program: Program, places: list[Place]) -> Call:
    """table[code]."""
    source, target = places[step.inputs[0]], places[step.output]
    body = "\n".join([
        _border(target, f'B[{program.buffers[step.output].zero_point}]' if False else "Z[0]"),
        _for_each(target, f'Y[{_element(target)}] = B[T.Cast("int32", X[{_element(source)}])]'),
    ])
    zero = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    arguments = [("X", (source.size,), "uint8"), ("B", (256,), "uint8"), ("Z", (16,), "uint8"),
                 ("Y", (target.size,), "uint8")]
    return Call(function(arguments, body), step.inputs, (step.table.astype(np.uint8), zero), (target.size,))


def concat_call(step: Concat, program: Program, places: list[Place]) -> Call:
    """Channels side by side, brought to the output's grid by a table each where they are not on it."""
    target = places[step.output]
    zero = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    names = [f"X{i}" for i in range(len(step.inputs))]
    tables = {f"B{i}": table.astype(np.uint8) for i, table in enumerate(step.tables) if table is not None}
    parts, first = [_border(target, "Z[0]")], 0
    for i, (name, number) in enumerate(zip(names, step.inputs, strict=True)):
        source = places[number]
        code = f"{name}[{_element(source)}]"
        code = code if step.tables[i] is None else f'B{i}[T.Cast("int32", {code})]'
        parts.append(_for_each(target, f"Y[{_element(target, c=f'{first} + c')}] = {code}", source.channels))
        first += source.channels
    arguments = [*((name, (places[number].size,), "uint8") for name, number in zip(names, step.inputs, strict=True)),
                 *((name, (256,), "uint8") for name in tables), ("Z", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    return Call(function(arguments, "\n".join(parts)), step.inputs, (*tables.values(), zero), (target.size,))


def move_call(step: Move, program: Program, places: list[Place]) -> Call:
    """Codes gathered by their offset in the source; what comes from nowhere is the source's zero point."""
    source, target = places[step.inputs[0]], places[step.output]
    index = _offsets(step, source, target)
    zeros = np.full(16, program.buffers[step.inputs[0]].zero_point, np.uint8)
    border = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    flat = f"(y * {target.width} + x) * {target.channels} + c"
    body = "\n".join([
        _border(target, "B[0]"),
        _for_each(target, f"Y[{_element(target)}] = T.if_then_else(I[{flat}] < 0, Z[0], X[T.max(I[{flat}], 0)])"),
    ])
    arguments = [("X", (source.size,), "uint8"), ("I", index.shape, "int32"), ("Z", (16,), "uint8"),
                 ("B", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    return Call(function(arguments, body), step.inputs, (index, zeros, border), (target.size,))


def _offsets(step: Move, source: Place, target: Place) -> np.ndarray:
    """For each element of the output its offset in the source, -1 for none; int32, flat."""
    where = np.full((source.height, source.width, source.channels), -1, np.int64)
    rows, columns, channels = np.indices(where.shape)
    where = source.at(0, 0) + rows * source.row + columns * source.pixel + channels
    if step.index is not None:
        flat = np.append(where.ravel(), -1)
        return flat[step.index].astype(np.int32)
    rows, columns = (
        np.arange(size) * stride + origin
        for size, stride, origin in zip((target.height, target.width), step.stride, step.origin, strict=True)
    )
    inside = ((rows >= 0) & (rows < source.height))[:, None, None] & ((columns >= 0) & (columns < source.width))[:, None]
    inside = inside & (step.channels >= 0)
    found = where[rows.clip(0, source.height - 1)[:, None, None], columns.clip(0, source.width - 1)[:, None],
                  step.channels.clip(0)]
    return np.where(inside, found, -1).astype(np.int32).ravel()

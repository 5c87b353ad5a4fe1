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


def quantize_call(program: Program, place: Place) -> Call:
    """float32 [1, C, H, W] -> codes: `round_half_even(x / scale) + zero_point`, clipped.

    Division, rounding to even and the clip are exact in IEEE arithmetic, so every device gives the same codes.
    """
    buffer = program.input
    numbers = Parameters()
    scale, zero = numbers.splat(int(np.float32(buffer.scale).view(np.int32))), numbers.splat(buffer.zero_point)
    low, high = f'T.Cast("float32", 0 - P[{zero}])', f'T.Cast("float32", 255 - P[{zero}])'
    index = ("0", *("cyx" if len(buffer.nchw) == 3 else "c"))
    ratio = f'T.nearbyint(X[{", ".join(index)}] / T.reinterpret("float32", P[{scale}]))'
    steps = f'T.Cast("int32", T.min(T.max({ratio}, {low}), {high}))'
    code = f'T.Cast("uint8", {steps} + P[{zero}])'
    body = "\n".join([
        fill_border(place, f'T.Cast("uint8", P[{zero}])'),
        _for_each(place, f"Y[{_element(place)}] = {code}"),
    ])
    image = ("X", (1, *buffer.nchw), "float32")
    arguments = [image, ("P", numbers.array.shape, "int32"), ("Y", (place.size,), "uint8")]
    return Call("quantize", function(arguments, body), (), (numbers.array,), (place.size,))


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
    return Call("enter", function(arguments, body), (), (numbers.array,), (place.size,))


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
        code = f"{name}[{_element(source)}]"
        code = code if step.tables[i] is None else f'B{i}[T.Cast("int32", {code})]'
        parts.append(_for_each(target, f"Y[{_element(target, c=f'{first} + c')}] = {code}", source.channels))
        first += source.channels
    arguments = [*((name, (places[number].size,), "uint8") for name, number in zip(names, step.inputs, strict=True)),
                 *((name, (256,), "uint8") for name in tables), ("Z", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    return Call("concat", function(arguments, "\n".join(parts)), step.inputs, (*tables.values(), zero), (target.size,))


def move_call(step: Move, program: Program, places: list[Place]) -> Call:
    """Codes gathered from the source; what comes from nowhere is the source's zero point."""
    source, target = places[step.inputs[0]], places[step.output]
    zeros = np.full(16, program.buffers[step.inputs[0]].zero_point, np.uint8)
    border = np.full(16, program.buffers[step.output].zero_point, np.uint8)
    if step.index is not None:
        table, inside = _offsets(step.index, source), "I[{flat}] >= 0"
        code = "X[T.max(I[{flat}], 0)]"
    else:
        table = step.channels.astype(np.int32)
        y, x = (f"{axis} * {step.stride[i]} + {step.origin[i]}" for i, axis in enumerate("yx"))
        inside = f"T.And(T.And({y} >= 0, {y} < {source.height}), T.And({x} >= 0, {x} < {source.width}))"
        inside = f"T.And({inside}, I[c] >= 0)"
        code = f"X[T.max({_element(source, f'({y})', f'({x})', 'I[c]')}, 0)]"
    flat = f"(y * {target.width} + x) * {target.channels} + c"
    chosen = f"T.if_then_else({inside}, {code}, Z[0])".replace("{flat}", flat)
    body = "\n".join([fill_border(target, "B[0]"), _for_each(target, f"Y[{_element(target)}] = {chosen}")])
    arguments = [("X", (source.size,), "uint8"), ("I", table.shape, "int32"), ("Z", (16,), "uint8"),
                 ("B", (16,), "uint8"), ("Y", (target.size,), "uint8")]
    return Call("move", function(arguments, body), step.inputs, (table, zeros, border), (target.size,))


def _offsets(index: np.ndarray, source: Place) -> np.ndarray:
    """Offsets in the source's place of elements given by their number, -1 for none; int32, flat."""
    rows, columns, channels = np.indices((source.height, source.width, source.channels))
    where = source.at(0, 0) + rows * source.row + columns * source.pixel + channels
    return np.append(where.ravel(), -1)[index].astype(np.int32)

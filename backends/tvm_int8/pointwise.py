"""Kernels without weights: sums and products of two tensors, averages and maxima over windows.

Vectors of channels, one pixel after the other. An input of one pixel is broadcast over the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.fixed_point.program import AveragePool, GlobalAverage, MaxPool, Product, Program, Sum
from backends.fixed_point.rescale import Rescale
from backends.tvm_int8.expressions import Expressions
from backends.tvm_int8.kernel import Call, fill_border, function, indent
from backends.tvm_int8.layout import Place
from backends.tvm_int8.parameters import Parameters
from backends.tvm_int8.rescaling import Vectors, add_rescale

_NAMES = {
    Sum: "sum", Product: "product", GlobalAverage: "global_average", AveragePool: "average_pool", MaxPool: "max_pool",
}


class _Frame:
    """What these kernels share: parameters, the border, the loop over vectors of channels, the store."""

    def __init__(self, step: Sum | Product | GlobalAverage | AveragePool | MaxPool, program: Program,
                 places: list[Place], e: Expressions) -> None:
        self.step, self.program, self.e = step, program, e
        self.name = _NAMES[type(step)]
        self.sources = [places[number] for number in step.inputs]
        self.target = places[step.output]
        self.numbers = Parameters()
        self.zero = self.numbers.splat(program.buffers[step.output].zero_point)
        self.clip: tuple[int, int] | None = None
        low, high = getattr(step, "low", 0), getattr(step, "high", 255)
        if (low, high) != (0, 255):
            self.clip = (self.numbers.splat_byte(low), self.numbers.splat_byte(high))

    def rescale(self, rescale: Rescale) -> Vectors:
        """A rescale for the channels of the output."""
        return add_rescale(self.numbers, rescale, self.target.pixel)

    def centered(self, i: int, address: str) -> str:
        """Input i at an address as int32, without its zero point."""
        value = f"e.widen(e.load(X{i}, {address}))"
        zero = self.program.buffers[self.step.inputs[i]].zero_point
        return f"({value} - e.load(P, {self.numbers.splat(zero)}))" if zero else value

    def address(self, place: Place, y: str = "y", x: str = "x") -> str:
        """A vector of channels of a pixel; the only pixel where a tensor has one."""
        if (place.height, place.width) == (1, 1) and (self.target.height, self.target.width) != (1, 1):
            y = x = "0"
        return f"{place.at(0, 0)} + ({y}) * {place.row} + ({x}) * {place.pixel} + n * {self.e.lanes}"

    def store(self, sums: str) -> str:
        """Saturate, clip and store one vector."""
        lanes = self.e.lanes
        packed = f"e.pack([{sums}])"
        if self.clip is not None:
            low, high = (f'e.bits("uint8x{lanes}", e.load(P, {offset}, {lanes // 4}))' for offset in self.clip)
            packed = f"e.clip({packed}, {low}, {high})"
        return f"Y[T.Ramp({self.address(self.target)}, 1, {lanes})] = {packed}"

    def call(self, body: str, allocations: Sequence[str] = (), constants: Sequence[np.ndarray] = (),
             names: Sequence[str] = ()) -> Call:
        """The kernel that runs `body` for each vector (y, x, n) of the output."""
        text = "\n".join([
            *allocations,
            fill_border(self.target, f'T.Cast("uint8", P[{self.zero}])'),
            f"for y in T.serial({self.target.height}):",
            f"    for x in T.serial({self.target.width}):",
            f"        for n in T.serial({-(-self.target.channels // self.e.lanes)}):",
            indent(body, 3),
        ])
        kinds = {"int32": "int32", "uint8": "uint8"}
        arguments = [
            *((f"X{i}", (place.size,), "uint8") for i, place in enumerate(self.sources)),
            *((name, constant.shape, kinds[constant.dtype.name])
              for name, constant in zip(names, constants, strict=True)),
            ("P", self.numbers.array.shape, "int32"), ("Y", (self.target.size,), "uint8"),
        ]
        everything = (*constants, self.numbers.array)
        return Call(self.name, function(arguments, text), self.step.inputs, everything, (self.target.size,))


def sum_call(step: Sum, program: Program, places: list[Place], e: Expressions) -> Call:
    """a + b, each on its grid."""
    frame = _Frame(step, program, places, e)
    values = [frame.centered(i, frame.address(place)) for i, place in enumerate(frame.sources)]
    return frame.call(frame.store(frame.rescale(step.rescale).apply(values, f"n * {e.lanes}")))


def product_call(step: Product, program: Program, places: list[Place], e: Expressions) -> Call:
    """a * b."""
    frame = _Frame(step, program, places, e)
    a, b = (frame.centered(i, frame.address(place)) for i, place in enumerate(frame.sources))
    return frame.call(frame.store(frame.rescale(step.rescale).apply([f"{a} * {b}"], f"n * {e.lanes}")))


def _window_sum(frame: _Frame, rows: int, columns: int, address: str, place: Place) -> str:
    """Statements that leave in `A` the sum of the codes of a window, without their zero points."""
    lanes, zero = frame.e.lanes, frame.program.buffers[frame.step.inputs[0]].zero_point
    start = frame.numbers.splat(-zero * rows * columns)
    return "\n".join([
        f"A[T.Ramp(0, 1, {lanes})] = e.load(P, {start})",
        f"for r in T.serial({rows}):",
        f"    for s in T.serial({columns}):",
        f"        A[T.Ramp(0, 1, {lanes})] = e.load(A, 0) + e.widen(e.load(X0, {address}))",
    ])


def global_average_call(step: GlobalAverage, program: Program, places: list[Place], e: Expressions) -> Call:
    """Sum over the map, rescaled."""
    frame = _Frame(step, program, places, e)
    place = frame.sources[0]
    address = f"{place.at(0, 0)} + r * {place.row} + s * {place.pixel} + n * {e.lanes}"
    body = "\n".join([
        _window_sum(frame, place.height, place.width, address, place),
        frame.store(frame.rescale(step.rescale).apply(["e.load(A, 0)"], f"n * {e.lanes}")),
    ])
    return frame.call(body, [f'A = T.sblock_alloc_buffer(({e.lanes},), "int32")'])


def average_pool_call(step: AveragePool, program: Program, places: list[Place], e: Expressions) -> Call:
    """Sums over windows; the border holds the zero point, so it adds nothing. One rescale a divisor, by pixel."""
    frame = _Frame(step, program, places, e)
    place, window = frame.sources[0], step.window
    corner = place.at(-window.padding[0], -window.padding[1])
    address = (
        f"{corner} + (y * {window.stride[0]} + r * {window.dilation[0]}) * {place.row}"
        f" + (x * {window.stride[1]} + s * {window.dilation[1]}) * {place.pixel} + n * {e.lanes}"
    )
    lines = [_window_sum(frame, *window.kernel, address, place)]
    divisors = sorted(step.rescales)
    for divisor in divisors:
        code = frame.store(frame.rescale(step.rescales[divisor]).apply(["e.load(A, 0)"], f"n * {e.lanes}"))
        lines.append(code if len(divisors) == 1 else f"if D[y * {frame.target.width} + x] == {divisor}:\n    {code}")
    constants = [] if len(divisors) == 1 else [step.divisor.astype(np.int32).ravel()]
    return frame.call("\n".join(lines), [f'A = T.sblock_alloc_buffer(({e.lanes},), "int32")'],
                      constants, ["D"][:len(constants)])


def max_pool_call(step: MaxPool, program: Program, places: list[Place], e: Expressions) -> Call:
    """Largest code. Windows are clamped to the map: reading a pixel twice changes no maximum."""
    frame = _Frame(step, program, places, e)
    place, window = frame.sources[0], step.window

    def inside(index: str, stride: int, tap: str, dilation: int, padding: int, size: int) -> str:
        where = f"{index} * {stride} + {tap} * {dilation} - {padding}"
        return f"T.max(T.min({where}, {size - 1}), 0)"

    row = inside("y", window.stride[0], "r", window.dilation[0], window.padding[0], place.height)
    column = inside("x", window.stride[1], "s", window.dilation[1], window.padding[1], place.width)
    code = f"e.load(X0, {place.at(0, 0)} + {row} * {place.row} + {column} * {place.pixel} + n * {e.lanes})"
    body = "\n".join([
        f'M[T.Ramp(0, 1, {e.lanes})] = T.Broadcast(T.uint8(0), {e.lanes})',
        f"for r in T.serial({window.kernel[0]}):",
        f"    for s in T.serial({window.kernel[1]}):",
        f"        M[T.Ramp(0, 1, {e.lanes})] = T.max(e.load(M, 0), {code})",
        f"Y[T.Ramp({frame.address(frame.target)}, 1, {e.lanes})] = e.load(M, 0)",
    ])
    return frame.call(body, [f'M = T.sblock_alloc_buffer(({e.lanes},), "uint8")'])

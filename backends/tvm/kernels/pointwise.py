"""Kernels without weights: sums and products of two tensors, averages and maxima over windows.

Vectors of channels, one pixel after the other. An input of one pixel is broadcast over the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.operators.steps import Extreme, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    GlobalAverage,
    MaxPool,
    Product,
    Program,
    Step,
    Sum,
)
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.instructions.base import Buffer, Expr, Index, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, make_kernel
from isobit.backends.tvm.kernels.layout import Place, output_of
from isobit.backends.tvm.kernels.parameters import Parameters
from isobit.backends.tvm.kernels.rescaling import Vectors, add_rescale

_NAMES = {
    Sum: "sum", Product: "product", GlobalAverage: "global_average", AveragePool: "average_pool", MaxPool: "max_pool",
    Extreme: "extreme", Resample: "resample",
}


@dataclass(frozen=True)
class _Position:
    """One vector of channels of one pixel of the output: row, column, number of the vector."""

    y: Expr
    x: Expr
    n: Expr


class _Frame:
    """What these kernels share: numbers, the border, the loop over vectors of channels, the store.

    Everything is added to the numbers before the kernel is written: their count is part of its signature.
    """

    def __init__(self, step: Step, program: Program, places: list[Place], e: InstructionSet) -> None:
        self.step, self.program, self.e = step, program, e
        self.name = _NAMES[type(step)]
        self.sources = [places[number] for number in step.inputs]
        self.target = places[output_of(step)]
        self.numbers = Parameters()
        self._border = self.numbers.splat(program.buffers[output_of(step)].zero_point)
        self._clip: tuple[int, int] | None = None
        low, high = getattr(step, "low", 0), getattr(step, "high", 255)
        if (low, high) != (0, 255):
            self._clip = (self.numbers.splat_byte(low), self.numbers.splat_byte(high))

    def rescale(self, rescale: Rescale) -> Vectors:
        """Add a rescale for the channels of the output."""
        return add_rescale(self.numbers, rescale, self.target.pixel)

    def zeros(self) -> list[int | None]:
        """Add the zero points of the inputs; None for those that are 0."""
        zeros = [self.program.buffers[number].zero_point for number in self.step.inputs]
        return [self.numbers.splat(zero) if zero else None for zero in zeros]

    def centered(self, code: Code, zeros: Sequence[int | None], at: _Position) -> list[Expr]:
        """A vector of each input as int32, without its zero point."""
        values = []
        for i, (place, zero) in enumerate(zip(self.sources, zeros, strict=True)):
            value = self.e.widen(self.e.load(code[f"input{i}"], self.address(place, at)))
            values.append(value if zero is None else value - self.e.load(code["numbers"], zero))
        return values

    def address(self, place: Place, at: _Position) -> Index:
        """A vector of channels of a pixel; of the only pixel where a tensor has one."""
        single = (place.height, place.width) == (1, 1) and (self.target.height, self.target.width) != (1, 1)
        start = place.at(0, 0)
        return (start if single else start + at.y * place.row + at.x * place.pixel) + at.n * self.e.lanes

    def store(self, code: Code, codes: Expr, at: _Position) -> None:
        """Saturate, clip and store one vector of int32."""
        lanes = self.e.lanes
        packed = self.e.pack([codes])
        if self._clip is not None:
            low, high = (
                self.e.bits(f"uint8x{lanes}", self.e.load(code["numbers"], end, lanes // 4)) for end in self._clip
            )
            packed = self.e.clip(packed, low, high)
        code.store(code["output"], self.address(self.target, at), packed, lanes)

    def call(self, write: Callable[[Code, _Position, Buffer], None], scratch: str | None = None,
             tables: dict[str, np.ndarray] | None = None) -> Call:
        """The kernel that runs what `write` writes for each vector of the output.

        Args:
            write: is given the scratch, or without one the output.
            scratch: type of a vector that the kernel needs.
            tables: further int32 constants by name.
        """
        def write_all(code: Code) -> None:
            vector = code["output"] if scratch is None else code.scratch("vector", self.e.lanes, scratch)
            fill_border(code, self.target, self.e.cast("uint8", code["numbers"][self._border]), code["output"])
            vectors = -(-self.target.channels // self.e.lanes)
            with code.pixels(self.target) as (y, x), code.loop("vector", vectors) as n:
                write(code, _Position(y, x, n), vector)

        constants = {**(tables or {}), "numbers": self.numbers.array}
        arguments = [
            *(Argument(f"input{i}", (place.size,), "uint8") for i, place in enumerate(self.sources)),
            *(Argument(name, constant.shape, "int32") for name, constant in constants.items()),
            Argument("output", (self.target.size,), "uint8"),
        ]
        kernel = make_kernel(arguments, write_all)
        return Call(self.name, kernel, self.step.inputs, tuple(constants.values()), (self.target.size,))


def sum_call(step: Sum, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """a + b, each on its grid."""
    frame = _Frame(step, program, places, e)
    zeros, rescale = frame.zeros(), frame.rescale(step.rescale)

    def write(code: Code, at: _Position, _: Buffer) -> None:
        values = frame.centered(code, zeros, at)
        frame.store(code, rescale.apply(e, code["numbers"], values, at.n * e.lanes), at)

    return frame.call(write)


def extreme_call(step: Extreme, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """The larger or the smaller of two, each brought to the output's grid."""
    frame = _Frame(step, program, places, e)
    zeros, rescales = frame.zeros(), [frame.rescale(rescale) for rescale in step.rescales]
    choose = e.larger if step.largest else e.smaller

    def write(code: Code, at: _Position, _: Buffer) -> None:
        values = frame.centered(code, zeros, at)
        a, b = (rescale.apply(e, code["numbers"], [value], at.n * e.lanes)
                for rescale, value in zip(rescales, values, strict=True))
        frame.store(code, choose(a, b), at)

    return frame.call(write)


def product_call(step: Product, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """a * b."""
    frame = _Frame(step, program, places, e)
    zeros, rescale = frame.zeros(), frame.rescale(step.rescale)

    def write(code: Code, at: _Position, _: Buffer) -> None:
        a, b = frame.centered(code, zeros, at)
        frame.store(code, rescale.apply(e, code["numbers"], [a * b], at.n * e.lanes), at)

    return frame.call(write)


def _add_window_start(frame: _Frame, rows: int, columns: int) -> int:
    """Add what the sum over a window starts at: the zero points of its codes are taken away."""
    zero = frame.program.buffers[frame.step.inputs[0]].zero_point
    return frame.numbers.splat(-zero * rows * columns)


def _write_window_sum(
    code: Code, e: InstructionSet, total: Buffer, start: int, window: tuple[int, int], address: Callable[..., Index]
) -> None:
    """Leave in `total` the sum of the codes of a window, from `start` on; `address` is of a tap (row, column)."""
    code.store(total, 0, e.load(code["numbers"], start), e.lanes)
    with code.loop("tap_row", window[0]) as r, code.loop("tap_column", window[1]) as s:
        codes = e.widen(e.load(code["input0"], address(r, s)))
        code.store(total, 0, e.load(total, 0) + codes, e.lanes)


def global_average_call(step: GlobalAverage, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Sum over the map, rescaled."""
    frame = _Frame(step, program, places, e)
    place = frame.sources[0]
    start, rescale = _add_window_start(frame, place.height, place.width), frame.rescale(step.rescale)

    def write(code: Code, at: _Position, total: Buffer) -> None:
        def address(r: Expr, s: Expr) -> Index:
            return place.at(0, 0) + r * place.row + s * place.pixel + at.n * e.lanes

        _write_window_sum(code, e, total, start, (place.height, place.width), address)
        frame.store(code, rescale.apply(e, code["numbers"], [e.load(total, 0)], at.n * e.lanes), at)

    return frame.call(write, "int32")


def average_pool_call(step: AveragePool, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Sums over windows; the border holds the zero point, so it adds nothing. One rescale a divisor, by pixel."""
    frame = _Frame(step, program, places, e)
    place, window = frame.sources[0], step.window
    start = _add_window_start(frame, *window.kernel)
    rescales = {divisor: frame.rescale(step.rescales[divisor]) for divisor in sorted(step.rescales)}

    def write(code: Code, at: _Position, total: Buffer) -> None:
        def address(r: Expr, s: Expr) -> Index:
            row = at.y * window.stride[0] + r * window.dilation[0]
            column = at.x * window.stride[1] + s * window.dilation[1]
            corner = place.at(-window.padding[0], -window.padding[1])
            return corner + row * place.row + column * place.pixel + at.n * e.lanes

        _write_window_sum(code, e, total, start, window.kernel, address)
        _write_divided(code, frame, rescales, total, at)

    tables = {} if len(rescales) == 1 else {"divisors": step.divisor.astype(np.int32).ravel()}
    return frame.call(write, "int32", tables)


def resample_call(step: Resample, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Weighted sums of rows and columns. One rescale a divisor, by pixel."""
    frame = _Frame(step, program, places, e)
    place, zeros = frame.sources[0], frame.zeros()
    rescales = {divisor: frame.rescale(step.rescales[divisor]) for divisor in sorted(step.rescales)}
    tall, wide = step.rows.weights.shape[1], step.columns.weights.shape[1]

    def write(code: Code, at: _Position, total: Buffer) -> None:
        code.store(total, 0, e.splat(e.number("int32", 0)), e.lanes)
        with code.loop("tap_row", tall) as r, code.loop("tap_column", wide) as s:
            row, column = code["first_rows"][at.y] + r, code["first_columns"][at.x] + s
            address = place.at(0, 0) + row * place.row + column * place.pixel + at.n * e.lanes
            value = e.widen(e.load(code["input0"], address))
            value = value if zeros[0] is None else value - e.load(code["numbers"], zeros[0])
            weight = code["row_weights"][at.y * tall + r] * code["column_weights"][at.x * wide + s]
            code.store(total, 0, e.load(total, 0) + value * e.splat(weight), e.lanes)
        _write_divided(code, frame, rescales, total, at)

    tables = {"first_rows": step.rows.first, "row_weights": step.rows.weights.ravel(),
              "first_columns": step.columns.first, "column_weights": step.columns.weights.ravel()}
    if len(rescales) > 1:
        tables["divisors"] = step.divisor.ravel()
    return frame.call(write, "int32", {name: table.astype(np.int32) for name, table in tables.items()})


def _write_divided(
    code: Code, frame: _Frame, rescales: Mapping[int, Vectors], total: Buffer, at: _Position
) -> None:
    """Store a vector of sums, rescaled by the divisor of its pixel."""
    e = frame.e

    def finish(rescale: Vectors) -> None:
        frame.store(code, rescale.apply(e, code["numbers"], [e.load(total, 0)], at.n * e.lanes), at)

    if len(rescales) == 1:
        finish(*rescales.values())
        return
    for divisor, rescale in rescales.items():
        with code.when(e.equal(code["divisors"][at.y * frame.target.width + at.x], divisor)):
            finish(rescale)


def max_pool_call(step: MaxPool, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """Largest code. Windows are clamped to the map: reading a pixel twice changes no maximum.

    A dilated window may not have the pixel at the edge; there, taps beyond the map are left out.
    """
    frame = _Frame(step, program, places, e)
    place, window = frame.sources[0], step.window

    def inside(code: Code, index: Expr, tap: Expr, axis: int, size: int) -> tuple[Expr, AbstractContextManager[None]]:
        where = index * window.stride[axis] + tap * window.dilation[axis] - window.padding[axis]
        found = e.larger(e.smaller(where, size - 1), 0)
        return found, nullcontext() if window.dilation[axis] == 1 else code.when(e.equal(where, found))

    def write(code: Code, at: _Position, largest: Buffer) -> None:
        code.store(largest, 0, e.splat(e.number("uint8", 0)), e.lanes)
        with code.loop("tap_row", window.kernel[0]) as r, code.loop("tap_column", window.kernel[1]) as s:
            (row, in_rows), (column, in_columns) = (
                inside(code, at.y, r, 0, place.height), inside(code, at.x, s, 1, place.width))
            address = place.at(0, 0) + row * place.row + column * place.pixel + at.n * e.lanes
            with in_rows, in_columns:
                codes = e.load(code["input0"], address)
                code.store(largest, 0, e.larger(e.load(largest, 0), codes), e.lanes)
        code.store(code["output"], frame.address(frame.target, at), e.load(largest, 0), e.lanes)

    return frame.call(write, "uint8")

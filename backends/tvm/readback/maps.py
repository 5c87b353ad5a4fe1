"""Constants of what goes over maps without weights: sums and products of two tensors, pools, other sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.fixed_point.operators.steps import Extreme, Resample
from isobit.backends.fixed_point.program import AveragePool, GlobalAverage, MaxPool, Product, Program, Step, Sum
from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.tvm.readback.numbers import Fields, Wanted, Whole, form_of
from isobit.backends.tvm.readback.places import Place


class Map:
    """What all of them begin with: the border, the ends of the codes.

    Attributes:
        form: what of the step is in the machine code.
    """

    def __init__(self, step: Any, program: Program, places: list[Place], lanes: int) -> None:
        self.step, self.fields, self.tables = step, Fields(), dict[str, np.ndarray]()
        self.source, self.target = places[step.inputs[0]], places[step.output]
        self.zeros = [program.buffers[number].zero_point for number in step.inputs]
        self.fields.one("border", program.buffers[step.output].zero_point)
        limited = not isinstance(step, MaxPool)
        if limited:
            self.fields.ends(step.low, step.high)
        self.form: list[Any] = [*(places[number].frame for number in step.inputs), self.target.frame,
                                -(-self.target.shape[2] // lanes),
                                limited and (step.low, step.high) != (0, 255)]

    @property
    def constants(self) -> tuple[Wanted, ...]:
        """Tables, then numbers."""
        return (*(Whole(name, np.asarray(table, np.int32).reshape(-1)) for name, table in self.tables.items()),
                self.fields.wanted)

    def centers(self) -> None:
        """Zero points of what is read, where they are not 0."""
        for number, zero in enumerate(self.zeros):
            if zero:
                self.fields.one(f"zero_point_{number}", zero)
        self.form.append(tuple(zero != 0 for zero in self.zeros))

    def rescale(self, rescale: Rescale, name: str = "") -> None:
        """How the sum becomes a code."""
        self.fields.rescale(rescale, range(self.target.pixel), name)
        self.form.append(form_of(rescale))

    def divided(self, rescales: Mapping[int, Rescale], divisor: np.ndarray) -> None:
        """The same by what the sum of a pixel is divided by."""
        several = sorted(rescales)
        for number, each in enumerate(several):
            self.rescale(rescales[each], f"scale_{number}_")
        if len(several) > 1:
            self.tables["divisors"] = divisor
            self.form += several


def map_of(step: Step, program: Program, places: list[Place], lanes: int) -> Map | None:
    """The constants of a step of this kind, on a processor of so many lanes; None for others."""
    describe = _KINDS.get(type(step))
    if describe is None:
        return None
    found = Map(step, program, places, lanes)
    describe(found, step)
    return found


def _sum(found: Map, step: Sum | Product) -> None:
    found.centers()
    found.rescale(step.rescale)


def _extreme(found: Map, step: Extreme) -> None:
    found.centers()
    for name, rescale in zip("ab", step.rescales, strict=True):
        found.rescale(rescale, f"{name}_")
    found.form.append(step.largest)


def _global_average(found: Map, step: GlobalAverage) -> None:
    height, width, _ = found.source.shape
    found.fields.one("sum_of_zeros", -found.zeros[0] * height * width)
    found.rescale(step.rescale)


def _average_pool(found: Map, step: AveragePool) -> None:
    rows, columns = step.window.kernel
    found.fields.one("sum_of_zeros", -found.zeros[0] * rows * columns)
    found.divided(step.rescales, step.divisor)
    _window(found, step)


def _max_pool(found: Map, step: MaxPool) -> None:
    _window(found, step)


def _window(found: Map, step: AveragePool | MaxPool) -> None:
    window = step.window
    found.form.append((window.kernel, window.stride, window.padding[:2], window.dilation))


def _resample(found: Map, step: Resample) -> None:
    found.centers()
    for name, taps in (("row", step.rows), ("column", step.columns)):
        found.tables |= {f"first_{name}s": taps.first, f"{name}_weights": taps.weights}
        found.form.append(taps.weights.shape[1])
    found.divided(step.rescales, step.divisor)


_KINDS: Mapping[type[Step], Callable[[Map, Any], None]] = {
    Sum: _sum, Product: _sum, Extreme: _extreme, GlobalAverage: _global_average, AveragePool: _average_pool,
    MaxPool: _max_pool, Resample: _resample,
}

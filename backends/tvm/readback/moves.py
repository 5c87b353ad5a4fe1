"""Constants of what moves, renames and lays out codes, and of what goes element by element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from isobit.backends.fixed_point.floats.steps import Decode, Encode, Leave
from isobit.backends.fixed_point.operators.steps import ArgMax, Gather, Reduce
from isobit.backends.fixed_point.program import Buffer, Concat, Dequantize, Lookup, Move, Program, Step
from isobit.backends.tvm.readback.numbers import Fields, Wanted, Whole
from isobit.backends.tvm.readback.places import VECTOR, Place

LONGEST = 64  # bytes of a vector that is moved
MOST_VECTORS = 16  # of a pixel: what takes more goes by a table


@dataclass(frozen=True)
class Moved:
    """A kernel: its constants, and what of it is in the machine code beside its name."""

    constants: tuple[Wanted, ...]
    form: tuple[Any, ...]


def moved(step: Step, program: Program, places: list[Place]) -> Moved | None:
    """The kernel of a step of this kind; None for others."""
    describe = _KINDS.get(type(step))
    return None if describe is None else describe(step, program, places)


def grid(scale: float, zero_point: int) -> tuple[Wanted, ...]:
    """Numbers of what quantizes the values of an input: scale, zero point."""
    fields = Fields()
    fields.real("scale", scale)
    fields.one("zero_point", zero_point)
    return (fields.wanted,)


def border(zero_point: int) -> tuple[Wanted, ...]:
    """Numbers of what takes codes in: what stands around the map."""
    fields = Fields()
    fields.one("border", zero_point)
    return (fields.wanted,)


def _ends(step: Any, program: Program, places: list[Place]) -> tuple[list[Place], Place, int]:
    """Places of the inputs and of the output, and the output's zero point."""
    return [places[number] for number in step.inputs], places[step.output], program.buffers[step.output].zero_point


def _values(fields: Fields, buffer: Buffer, name: str = "") -> None:
    """Zero point and scale of codes that become values."""
    fields.one(f"{name}zero_point", buffer.zero_point)
    fields.real(f"{name}scale", buffer.scale)


def _bytes(name: str, value: int, count: int = VECTOR) -> Whole:
    """A constant of one code."""
    return Whole(name, np.array([value] * count, np.uint8))


def _lookup(step: Lookup, program: Program, places: list[Place]) -> Moved:
    (source,), target, zero = _ends(step, program, places)
    table = Whole("table", np.concatenate(list(np.atleast_2d(step.table))).astype(np.uint8))
    return Moved((table, _bytes("border", zero)), (source, target, step.table.ndim))


def _concat(step: Concat, program: Program, places: list[Place]) -> Moved:
    sources, target, zero = _ends(step, program, places)
    tables = [Whole(f"table_{number}", np.array(table, np.uint8))
              for number, table in enumerate(step.tables) if table is not None]
    return Moved((*tables, _bytes("border", zero)), (*sources, target, tuple(table is None for table in step.tables)))


def _move(step: Move, program: Program, places: list[Place]) -> Moved:
    (source,), target, zero = _ends(step, program, places)
    fill = program.buffers[step.inputs[0]].zero_point if step.fill is None else step.fill
    if step.index is not None:
        elements = source.elements.reshape(-1)
        index, form = np.where(step.index < 0, -1, elements[step.index]), ()
    else:
        runs = tuple(_runs(step.channels.tolist()))
        if sum(length // LONGEST + (length % LONGEST).bit_count() for _, _, length in runs) > MOST_VECTORS:
            runs = ()
        index, form = np.zeros(1) if runs else step.channels, (step.stride, step.origin, runs)
    constants = (Whole("index", index.astype(np.int32).reshape(-1)), _bytes("fill", fill, LONGEST),
                 _bytes("border", zero))
    return Moved(constants, (source, target, form))


def _runs(channels: list[int]) -> Iterator[tuple[int, int, int]]:
    """First channel of the output and of the input (-1 for none) of each run of neighbours, and its length."""
    breaks = [place for place, (one, other) in enumerate(pairwise(channels), 1)
              if not (other == one == -1 or (one >= 0 and other == one + 1))]
    for first, end in pairwise([0, *breaks, len(channels)]):
        yield first, channels[first], end - first


def _dequantize(step: Dequantize, program: Program, places: list[Place]) -> Moved:
    sources = [places[number] for number in step.inputs]
    buffers, fields = [program.buffers[number] for number in step.inputs], Fields()
    if not step.parts:
        _values(fields, buffers[0])
        return Moved((fields.wanted,), tuple(sources))
    tables: list[Wanted] = []
    for number, (buffer, place, part) in enumerate(zip(buffers, sources, step.parts, strict=True)):
        if not buffer.integers:
            _values(fields, buffer, f"{number}_")
        if len(part.logits):
            where = place.elements.reshape(-1)[part.elements]
            tables += [Whole(f"elements_{number}", where.astype(np.int32)),
                       Whole(f"places_{number}", np.array(part.logits, np.int32))]
    form = [(place, buffer.integers, (part.first, part.steps) if not len(part.logits) else len(part.logits))
            for place, buffer, part in zip(sources, buffers, step.parts, strict=True)]
    numbers = fields.wanted if any(not buffer.integers for buffer in buffers) else _bytes_of_nothing()
    return Moved((numbers, *tables), (*form, program.logits_of(step)[1]))


def _bytes_of_nothing() -> Whole:
    """The numbers of a kernel that needs none."""
    return Whole("numbers", np.zeros(VECTOR, np.int32))


def _gather(step: Gather, program: Program, places: list[Place]) -> Moved:
    (source,), target, zero = _ends(step, program, places)
    table = np.concatenate(list(step.table)).astype(np.uint8)
    return Moved((Whole("table", table),), (source, target, step.table.shape, zero))


def _reduce(step: Reduce, program: Program, places: list[Place]) -> Moved:
    (source,), target, zero = _ends(step, program, places)
    numbers = [0]
    if step.rescale is not None:
        term = step.rescale.terms[0]
        numbers = [*term.multiplier.tolist()[:1], term.lift, step.rescale.offset, step.rescale.shift]
    center = program.buffers[step.inputs[0]].zero_point if step.rescale is not None else None
    form = (source, target, zero, step.follows, step.largest, step.rescale is None, center, step.low, step.high)
    return Moved((Whole("numbers", np.array([numbers], np.int64)),), form)


def _arg_max(step: ArgMax, program: Program, places: list[Place]) -> Moved:
    (source,), target, _ = _ends(step, program, places)
    return Moved((), (source, target, step.axis, step.follows, step.largest))


def _decode(step: Decode, program: Program, places: list[Place]) -> Moved:
    fields, buffer = Fields(), program.buffers[step.inputs[0]]
    _values(fields, buffer)
    return Moved((fields.wanted,), (places[step.inputs[0]], program.floats[step.writes or 0].shape, buffer.in_order))


def _encode(step: Encode, program: Program, places: list[Place]) -> Moved:
    fields, number = Fields(), step.output or 0
    buffer, value = program.buffers[number], program.floats[step.reads[0]]
    _values(fields, buffer)
    return Moved((fields.wanted,), (places[number], value.shape, value.kind, step.low, step.high, buffer.in_order))


def _leave(step: Leave, program: Program, places: list[Place]) -> Moved:
    return Moved((), tuple((program.floats[number].shape, program.floats[number].kind) for number in step.reads))


_KINDS: Mapping[type[Step], Callable[[Any, Program, list[Place]], Moved]] = {
    Lookup: _lookup, Concat: _concat, Move: _move, Dequantize: _dequantize, Gather: _gather, Reduce: _reduce,
    ArgMax: _arg_max, Decode: _decode, Encode: _encode, Leave: _leave,
}

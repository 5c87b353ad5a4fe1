"""Kernels under construction: TVM's IR builder, with names for what buffers hold and loops count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from isobit.backends.tvm.instructions.base import Buffer, Expr, Index
from isobit.backends.tvm.kernels.layout import Place
from isobit.backends.tvm.kernels.threads import parts_of

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class Argument:
    """A buffer that a kernel is called with.

    Args:
        name: of what it holds.
        shape, kind: of its elements.
    """

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Args:
        name: of the kind of kernel.
        kernel: the function; structurally equal ones become one function of the module.
        inputs: numbers of the tensors that it reads.
        constants: its constants, after the tensors.
        shape, kind: of its result.
    """

    name: str
    kernel: PrimFunc
    inputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    kind: str = "uint8"


class Code:
    """Statements of one kernel, in the order in which they are written.

    Args:
        arguments: buffers by name.
    """

    def __init__(self, arguments: Mapping[str, Buffer]) -> None:
        from tvm.script.ir_builder import IRBuilder, tirx

        self.T, self._builder, self._arguments = tirx, IRBuilder, arguments

    def __getitem__(self, name: str) -> Buffer:
        return self._arguments[name]

    def scratch(self, name: str, size: int, kind: str) -> Buffer:
        """A buffer of the kernel's own; small ones become registers."""
        return self._builder.name(name, self.T.sblock_alloc_buffer((size,), kind))

    def sums(self, count: int, lanes: int) -> list[Buffer]:
        """Vectors of int32 that stay in registers."""
        return [self.scratch(f"sums{number}", lanes, "int32") for number in range(count)]

    @contextmanager
    def loop(self, name: str, count: int, shared: bool = False) -> Iterator[Expr]:
        """What is written inside runs `count` times; gives the index.

        Args:
            shared: threads share the iterations, see `threads`.
        """
        parts = parts_of(count) if shared else 1
        if parts == 1:
            with self.T.serial(count) as index:
                yield self._builder.name(name, index)
            return
        with self.T.parallel(parts) as part:
            part = self._builder.name(f"{name}_part", part)
            with self.T.serial(part * count // parts, (part + 1) * count // parts) as index:
                yield self._builder.name(name, index)

    @contextmanager
    def pixels(self, place: Place) -> Iterator[tuple[Expr, Expr]]:
        """What is written inside runs for each (row, column) of a map."""
        with self.loop("row", place.height) as row, self.loop("column", place.width) as column:
            yield row, column

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """What is written inside runs where the condition holds."""
        with self.T.If(condition), self.T.Then():
            yield

    def store(self, buffer: Buffer, index: Index | Sequence[Index], value: Expr, lanes: int = 1) -> None:
        """Write `lanes` neighbours of a flat buffer, or one element of any buffer."""
        self.T.buffer_store(buffer, value, index if lanes == 1 else self.T.Ramp(index, 1, lanes))


def make_kernel(arguments: Sequence[Argument], write: Callable[[Code], None], foreign: bool = False) -> PrimFunc:
    """The function, named `kernel`, whose statements `write` writes.

    The runtime's own memory starts at 64 bytes and kernels rely on it; with `foreign`, the first argument is a user's
    and may start at any of its elements.

    Args:
        arguments: the last one is written.
        write: is called once.
        foreign: the first argument is a user's.
    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        buffers = {}
        for number, argument in enumerate(arguments):
            align = np.dtype(argument.kind).itemsize if foreign and not number else 0
            buffer = T.buffer(argument.shape, argument.kind, align=align, layout=None)
            buffers[argument.name] = T.arg(argument.name, buffer)
        # Opaque (8): Relax must not join kernels into one.
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        with T.sblock("root"):
            T.reads()
            T.writes()
            write(Code(buffers))
    return cast("PrimFunc", builder.get())


def last_fits(code: Code, index: Expr, tile: int, whole: int) -> Expr:
    """Start of tile number `index`; the last one is moved back so that it ends with the whole."""
    return index * tile if whole % tile == 0 else code.T.min(index * tile, whole - tile)


def fill_border(code: Code, place: Place, value: Expr, output: Buffer) -> None:
    """Write `value` (a uint8) to the border of a tensor."""
    chunk = min(place.pixel, 16)
    for start, length, rows in border_parts(place):
        with code.loop("part", rows) as part, code.loop("chunk", length // chunk) as i:
            filling = code.T.Broadcast(value, chunk) if chunk > 1 else value
            code.store(output, start + part * place.row + i * chunk, filling, chunk)


def border_parts(place: Place) -> list[tuple[int, int, int]]:
    """(start, bytes, rows): what lies before the map, between its rows and after it."""
    if not any(place.border):
        return []
    first, after = place.at(0, 0), place.at(place.height - 1, place.width)
    gap = place.row - place.width * place.pixel
    parts = ((0, first, 1), (place.at(0, place.width), gap, place.height - 1),
             (after, place.rows * place.row - after, 1))
    return [(start, length, rows) for start, length, rows in parts if length and rows]

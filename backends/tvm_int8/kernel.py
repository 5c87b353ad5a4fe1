"""A kernel's text and what it is called with. The text is TVMScript; equal texts become one function of the module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.tvm_int8.layout import Place

INDENT = "    "


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Args:
        name: of the template.
        text: the function, named `KERNEL`.
        inputs: numbers of the tensors that it reads.
        constants: its constants, behind the tensors.
        shape, kind: of its result.
    """

    name: str
    text: str
    inputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    kind: str = "uint8"


def function(arguments: Sequence[tuple[str, tuple[int, ...], str]], body: str, foreign: bool = False) -> str:
    """A kernel of (name, shape, type) arguments, the last one written; `body` is indented from the margin.

    The runtime's own memory starts at 64 bytes and kernels rely on it; with `foreign`, the first argument is a user's
    and may start at any of its elements.
    """
    buffers = [f'{name}: T.Buffer({shape}, "{kind}")' for name, shape, kind in arguments]
    if foreign:
        buffers[0] = f"{buffers[0][:-1]}, align={np.dtype(arguments[0][2]).itemsize})"
    signature = ", ".join(buffers)
    lines = "\n".join(2 * INDENT + line for line in body.splitlines() if line.strip())
    return (
        "@T.prim_func(s_tir=True)\n"
        f"def KERNEL({signature}):\n"
        # Opaque (8): Relax must not join kernels into one.
        '    T.func_attr({"tirx.noalias": True, "op_pattern": 8})\n'
        '    with T.sblock("root"):\n'
        "        T.reads()\n"
        "        T.writes()\n"
        f"{lines}\n"
    )


def indent(text: str, levels: int) -> str:
    """Lines moved to the right by `levels`."""
    return "\n".join(INDENT * levels + line for line in text.splitlines())


def fill_border(place: Place, value: str, name: str = "Y") -> str:
    """Statements that write `value` (a uint8 expression) to the border of a tensor."""
    if not any(place.border):
        return ""
    chunk = min(place.pixel, 16)
    first, after = place.at(0, 0), place.at(place.height - 1, place.width)
    gap = place.row - place.width * place.pixel
    parts = []
    for start, length, rows in ((0, first, 1), (place.at(0, place.width), gap, place.height - 1),
                                (after, place.rows * place.row - after, 1)):
        if length and rows:
            where = f"{start} + b * {place.row} + i * {chunk}"
            store = f"{name}[T.Ramp({where}, 1, {chunk})] = T.Broadcast({value}, {chunk})"
            parts.append(
                f"for b in T.serial({rows}):\n    for i in T.serial({length // chunk}):\n"
                f"        {store if chunk > 1 else f'{name}[{where}] = {value}'}"
            )
    return "\n".join(parts)

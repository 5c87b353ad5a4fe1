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


def function(arguments: Sequence[tuple[str, tuple[int, ...], str]], body: str) -> str:
    """A kernel of (name, shape, type) arguments, the last one written; `body` is indented from the margin."""
    signature = ", ".join(f'{name}: T.Buffer({shape}, "{kind}")' for name, shape, kind in arguments)
    lines = "\n".join(2 * INDENT + line for line in body.splitlines() if line.strip())
    return (
        "@T.prim_func(s_tir=True)\n"
        f"def KERNEL({signature}):\n"
        '    T.func_attr({"tirx.noalias": True})\n'
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
                                (after, place.size - after, 1)):
        if length and rows:
            parts.append(
                f"for b in T.serial({rows}):\n"
                f"    for i in T.serial({length // chunk}):\n"
                f"        {name}[T.Ramp({start} + b * {place.row} + i * {chunk}, 1, {chunk})] = "
                f"T.Broadcast({value}, {chunk})"
            )
    return "\n".join(parts)

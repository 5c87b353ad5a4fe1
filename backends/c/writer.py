"""What every step's writer shares: constants under names of the step, and the text of structures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from isobit.backends.c.constants import array, braces, structure
from isobit.backends.fixed_point.program import Buffer, Program, Window
from isobit.backends.fixed_point.rescale import Rescale, Term

LOGITS = "logits"


@dataclass(frozen=True)
class Code:
    """C of one step.

    Args:
        kernels: files below `kernels/` without their ending, in the order in which they must stand.
        constants: definitions.
        size: bytes of the arrays among them.
        calls: statements.
    """

    kernels: tuple[str, ...]
    constants: tuple[str, ...]
    size: int
    calls: tuple[str, ...]


class Writer:
    """Collects the constants of one step under names that end with its number.

    Args:
        program: the network.
        number: of the step.
        pointer: C expression of a tensor's first code, by the tensor's number.
        scratch: C expression of the step's scratch.
        value: C expression of the first element of a float value, by the value's number.

    Attributes:
        first, count: the first logit that the step writes, and how many, if it does.
    """

    def __init__(
        self, program: Program, number: int, pointer: Callable[[int], str], scratch: str,
        value: Callable[[int], str] = "v{}".format,
    ) -> None:
        self.program, self.number, self.scratch, self.value = program, number, scratch, value
        self.step = program.steps[number]
        self.inputs = [program.buffers[tensor] for tensor in self.step.inputs]
        self.x = [pointer(tensor) for tensor in self.step.inputs]
        self.first, self.count = program.logits_of(self.step)
        logits = f"{LOGITS} + {self.first}" if self.first else LOGITS
        self.y = logits if self.step.output is None else pointer(self.step.output)
        self.constants: list[str] = []
        self.size = 0

    @property
    def output(self) -> Buffer:
        """The tensor that the step writes; raises ValueError where it writes the logits."""
        if self.step.output is None:
            raise ValueError(f"{self.step.name} writes the logits, no tensor")
        return self.program.buffers[self.step.output]

    def array(self, name: str, values: np.ndarray) -> str:
        """Define an array; returns its name."""
        full = f"{name}_{self.number}"
        self.constants.append(array(full, np.ascontiguousarray(values)))
        self.size += values.nbytes
        return full

    def structure(self, kind: str, fields: Mapping[str, str]) -> str:
        """Define a kernel's parameters; returns the address of them."""
        self.constants.append(structure(kind, f"{kind}_{self.number}", fields))
        return f"&{kind}_{self.number}"

    def term(self, term: Term, name: str) -> str:
        """Initializer of `struct term`."""
        step = 0 if len(term.multiplier) == 1 else 1
        return braces(self.array(name, term.multiplier.astype(np.int32)), step, term.lift)

    def code(self, kernels: tuple[str, ...], *calls: str) -> Code:
        return Code(kernels, tuple(self.constants), self.size, calls)


def shape_of(buffer: Buffer) -> str:
    """Initializer of `struct shape`."""
    return braces(*buffer.shape)


def window_of(window: Window) -> str:
    """Initializer of `struct window`."""
    top, left, _, _ = window.padding
    return braces(*window.kernel, *window.stride, top, left, *window.dilation)


def rescale_of(rescale: Rescale, low: int, high: int) -> str:
    """Initializer of `struct rescale`."""
    return braces(rescale.offset, rescale.shift - 32, low, high)

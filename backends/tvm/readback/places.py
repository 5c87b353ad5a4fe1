"""Where the codes of a tensor must lie: bytes of a pixel and a row, the border that its readers look into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isobit.backends.fixed_point.program import AveragePool, Buffer, Conv, Move, Program

VECTOR, LANE = 16, 4  # bytes: of a pixel a multiple of the first; of an image of few channels the second


@dataclass(frozen=True)
class Place:
    """One tensor.

    Args:
        shape: height, width, channels.
        pixel: bytes of a pixel, padding included; of integers how many there are.
        border: pixels above, left, below, right.
        spare: bytes after the last pixel.
    """

    shape: tuple[int, int, int]
    pixel: int
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    spare: int = 0

    @property
    def whole(self) -> tuple[int, int, int]:
        """Rows, columns, bytes of a pixel, with all padding."""
        top, left, bottom, right = self.border
        return self.shape[0] + top + bottom, self.shape[1] + left + right, self.pixel

    @property
    def size(self) -> int:
        """Elements in all."""
        rows, columns, pixel = self.whole
        return rows * columns * pixel + self.spare

    @property
    def frame(self) -> tuple[Any, ...]:
        """All but the number of channels, which kernels of whole vectors do not know."""
        return *self.shape[:2], self.pixel, self.border, self.spare

    @property
    def one_plane(self) -> bool:
        """A pixel is one byte."""
        return self.pixel == 1

    @property
    def elements(self) -> np.ndarray:
        """Where each code lies, int64 [height, width, channels]."""
        rows, columns, pixel = self.whole
        numbers = np.arange(rows * columns * pixel).reshape(rows, columns, pixel)
        (top, left, _, _), (height, width, channels) = self.border, self.shape
        return numbers[top:top + height, left:left + width, :channels]


def places_of(program: Program) -> list[Place]:
    """The place of every tensor."""
    return [_place(program, number, buffer) for number, buffer in enumerate(program.buffers)]


def _place(program: Program, number: int, buffer: Buffer) -> Place:
    if buffer.integers:
        return Place(buffer.shape, max(buffer.size, LANE))
    looking = [step.window.padding for step in program.steps
               if isinstance(step, Conv | AveragePool) and step.inputs[0] == number]
    top, left, bottom, right = np.array([(0, 0, 0, 0), *looking]).max(0).tolist()
    border, channels = (top, left, bottom, right), buffer.shape[2]
    if channels == 1 and _only_neighbours(program, number):
        return Place(buffer.shape, 1, border, VECTOR)
    if number < len(program.inputs) and channels <= LANE:
        return Place(buffer.shape, LANE, border)
    return Place(buffer.shape, channels + -channels % VECTOR, border)


def _only_neighbours(program: Program, number: int) -> bool:
    """A map of one channel, put there by moves and read by dense layers, whose taps are neighbours, and by moves."""
    readers = [step for step in program.steps if number in step.inputs]
    if not readers or any(step.output == number and not isinstance(step, Move) for step in program.steps):
        return False
    return all(isinstance(step, Move) or (
        isinstance(step, Conv) and step.groups == 1 and len(step.inputs) == 1 and step.window.dilation[1] == 1)
        for step in readers)

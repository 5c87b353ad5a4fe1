"""Where codes lie in memory: rows of pixels, channels padded to whole vectors, a border that convolutions may read.

A convolution that pads reads pixels outside its map. They are real bytes here, holding the tensor's zero point: whoever
writes a tensor writes its border too, and no kernel asks where the map ends. What the padding lanes of the channels
hold never matters: weights are 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

from isobit.backends.fixed_point.program import AveragePool, Conv, Move, Program, Step

PIXEL = 16  # bytes; channels are padded to a multiple
NARROW = 4  # bytes of an image's pixel of up to four channels: one 32-bit load of a dot product


@dataclass(frozen=True)
class Place:
    """One tensor of one sample.

    Args:
        height, width, channels: of the map.
        pixel: bytes from one pixel to the next.
        border: (top, left, bottom, right) pixels around the map.
    """

    height: int
    width: int
    channels: int
    pixel: int
    border: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return (self.width + self.border[1] + self.border[3]) * self.pixel

    @property
    def rows(self) -> int:
        """Rows of the map and its border."""
        return self.height + self.border[0] + self.border[2]

    @property
    def size(self) -> int:
        """Bytes in all. After pixels of one byte a group of codes may be read that begins in the last."""
        return self.rows * self.row + (PIXEL if self.pixel == 1 else 0)

    def at(self, y: int, x: int) -> int:
        """Offset of a pixel of the map or its border."""
        return (y + self.border[0]) * self.row + (x + self.border[1]) * self.pixel


def output_of(step: Step) -> int:
    """Number of the tensor that a step writes.

    Raises:
        TypeError: it writes the logits, for which its kernel was not made.
    """
    if step.output is None:
        raise TypeError(f"no kernel for {type(step).__name__} '{step.name}' that writes the logits")
    return step.output


def plan_places(program: Program) -> list[Place]:
    """The place of each of a program's tensors, with the border that its readers need."""
    borders = [[0, 0, 0, 0] for _ in program.buffers]
    for step in program.steps:
        if isinstance(step, Conv | AveragePool):
            border = borders[step.inputs[0]]
            border[:] = [max(pair) for pair in zip(border, step.window.padding, strict=True)]
    return [_place(program, number, border) for number, border in enumerate(borders)]


def _place(program: Program, number: int, border: list[int]) -> Place:
    buffer, image = program.buffers[number], number < len(program.inputs)
    if buffer.integers:  # in a row, which numbers of 32 bits each
        return Place(*buffer.shape, max(buffer.size, NARROW))
    pixel = 1 if _is_plane(program, number) else pixel_bytes(buffer.shape[2], image)
    return Place(*buffer.shape, pixel, (border[0], border[1], border[2], border[3]))


def _is_plane(program: Program, number: int) -> bool:
    """One channel, written as it comes and read by convolutions: neighbours in a row are taps of one dot product."""
    writers = [step for step in program.steps if step.output == number]
    readers = [step for step in program.steps if number in step.inputs]
    return (
        program.buffers[number].shape[2] == 1 and all(isinstance(step, Move) for step in writers) and bool(readers)
        and all(isinstance(step, Move) or (isinstance(step, Conv) and step.inputs == (number,) and step.groups == 1
                                           and step.window.dilation[1] == 1) for step in readers)
    )


def pixel_bytes(channels: int, image: bool = False) -> int:
    """Bytes of one pixel of so many channels, of the network's input or within."""
    return NARROW if image and channels <= NARROW else -(-channels // PIXEL) * PIXEL

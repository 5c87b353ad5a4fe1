"""Small networks as programs, with random weights: what modules are built from in tests."""

from __future__ import annotations

import numpy as np

from isobit.backends.fixed_point.program import Buffer, Conv, GlobalAverage, Program, Step, Weights, Window
from isobit.backends.fixed_point.rescale import Part, make_rescale


class Network:
    """A program under construction. Outputs are scaled so that codes spread over the grid.

    Args:
        shape: of the input, (height, width, channels).
        bits: of weights and activations.
    """

    def __init__(self, shape: tuple[int, int, int], bits: tuple[int, int] = (8, 8), seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.bits, self.high = bits[0], 2 ** bits[1] - 1
        self.buffers = [self._buffer("input", shape, 114)]
        self.steps: list[Step] = []

    def _buffer(self, name: str, shape: tuple[int, int, int], zero_point: int) -> Buffer:
        height, width, channels = shape
        return Buffer(name, shape, zero_point, 0.02, True, (channels, height, width))

    def conv(self, source: int, filters: int, kernel: int, stride: int = 1, groups: int = 1,
             residual: int | None = None) -> int:
        """Number of the output of a convolution with "same" padding."""
        height, width, channels = self.buffers[source].shape
        middle = 1 << (self.bits - 1)
        codes = self.random.integers(-middle + 1, middle, (filters, kernel, kernel, channels // groups)).astype(np.int8)
        pad = kernel // 2
        size = tuple((side + 2 * pad - kernel) // stride + 1 for side in (height, width))
        bound = int(np.abs(codes.astype(int)).sum((1, 2, 3)).max()) * 255
        # The sum of n random products spreads over sqrt(n); the ratio fits that to the grid.
        spread = middle * 60.0 * np.sqrt(codes[0].size)
        parts = [Part(self.random.uniform(0.5, 1.0, filters) * self.high / spread, bound)]
        if residual is not None:
            parts.append(Part(np.array([0.6]), 255))
        inputs = (source,) if residual is None else (source, residual)
        name = f"conv{len(self.steps)}"
        self.buffers.append(self._buffer(name, (*size, filters), 0))
        self.steps.append(Conv(
            name, name, inputs, len(self.buffers) - 1,
            Weights(codes, self.bits, np.full(filters, middle, np.int16)),
            self.random.integers(-2000, 2000, filters).astype(np.int32),
            Window((kernel, kernel), (stride, stride), (pad,) * 4), groups, make_rescale(parts, 0), 0, self.high, None,
        ))
        return len(self.buffers) - 1

    def finish(self, source: int, classes: int) -> Program:
        """Average and linear layer."""
        height, width, channels = self.buffers[source].shape
        self.buffers.append(self._buffer("average", (1, 1, channels), 0))
        rescale = make_rescale([Part(np.array([1 / (height * width)]), 255 * height * width)], 0)
        self.steps.append(GlobalAverage("average", "average", (source,), len(self.buffers) - 1, rescale, 0, self.high))
        codes = self.random.integers(-127, 128, (classes, 1, 1, channels)).astype(np.int8)
        self.steps.append(Conv(
            "logits", "fc", (len(self.buffers) - 1,), None, Weights(codes, 8, np.full(classes, 128, np.int16)),
            np.arange(classes, dtype=np.int32), Window((1, 1), (1, 1), (0,) * 4), 1, None, 0, 255,
            self.random.uniform(0.001, 0.1, classes).astype(np.float32),
        ))
        return Program(tuple(self.buffers), tuple(self.steps), (classes,))


def resnet(blocks: int = 3, widths: tuple[int, ...] = (16, 32, 64), size: int = 32, bits: tuple[int, int] = (8, 8),
           classes: int = 10) -> Program:
    """A ResNet for CIFAR-10; three blocks of each width are ResNet-20."""
    net = Network((size, size, 3), bits)
    x = net.conv(0, widths[0], 3)
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = net.conv(x, width, 1, stride) if stride == 2 else x
            x = net.conv(net.conv(x, width, 3, stride), width, 3, residual=shortcut)
    return net.finish(x, classes)

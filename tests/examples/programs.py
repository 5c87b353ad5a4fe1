"""Whole programs with random numbers: a builder step by step, and networks of the shape of ResNet-20 and DS-CNN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isobit.backends.fixed_point.program import (
    AveragePool,
    Buffer,
    Concat,
    Conv,
    Dequantize,
    GlobalAverage,
    Lookup,
    MaxPool,
    Move,
    Product,
    Program,
    Step,
    Sum,
    Weights,
    Window,
)
from isobit.backends.fixed_point.rescale import Part, make_rescale


class Builder:
    """Appends steps; every method returns the number of the tensor it made.

    Args:
        shape: (height, width, channels) of the input.
        bits: of the weights.
        signed: weight codes around 0; else with an offset of their own in each channel.
        zero_points: draw one for every tensor; else all are 0.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, bits: int = 8, signed: bool = True, zero_points: bool = True,
        seed: int = 0,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.bits, self.signed, self.zero_points = bits, signed, zero_points
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.add_buffer(shape)

    def add_buffer(self, shape: Sequence[int], zero_point: int | None = None, quantized: bool = True) -> int:
        height, width, channels = (int(size) for size in shape)
        if zero_point is None:
            zero_point = int(self.random.integers(1, 100)) if self.zero_points else 0
        number = len(self.buffers)
        self.buffers.append(Buffer(f"t{number}", (height, width, channels), zero_point, 0.05 + 0.01 * number, quantized,
                                   (channels, height, width)))
        return number

    def shape(self, number: int) -> tuple[int, int, int]:
        return self.buffers[number].shape

    def conv(
        self, x: int, filters: int, kernel: tuple[int, int] = (3, 3), *, stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (1, 1, 1, 1), dilation: tuple[int, int] = (1, 1), groups: int = 1,
        residual: int | None = None, logits: bool = False, bits: int | None = None, low: int = 0,
    ) -> int | None:
        window = Window(kernel, stride, padding, dilation)
        channels = self.shape(x)[2]
        weights = self._weights((filters, *kernel, channels // groups), bits or self.bits)
        bias = self.random.integers(-3000, 3000, filters).astype(np.int32)
        fan, spread = kernel[0] * kernel[1] * channels // groups, float(weights.codes.std()) + 1e-3
        name = f"conv{len(self.steps)}"
        fixed = (weights, bias, window, groups)
        if logits:
            scale = self.random.uniform(0.001, 0.1, filters).astype(np.float32)
            self.steps.append(Conv(name, f"layer.{name}", (x,), None, *fixed, None, 0, 255, scale))
            return None
        ratio = 50 / (80 * spread * fan**0.5) * self.random.uniform(0.5, 1.5, filters)
        parts = [Part(ratio, 255 * int(np.abs(weights.codes.astype(int)).reshape(filters, -1).sum(1).max()) + 3000)]
        inputs = [x]
        if residual is not None:
            parts.append(Part(np.array([self.random.uniform(0.3, 1.2)]), 255))
            inputs.append(residual)
        y = self.add_buffer((*_map(self.shape(x), window), filters))
        rescale = make_rescale(parts, self.buffers[y].zero_point)
        self.steps.append(Conv(name, f"layer.{name}", tuple(inputs), y, *fixed, rescale, low, 255, None))
        return y

    def _weights(self, shape: tuple[int, ...], bits: int) -> Weights:
        middle = np.full(shape[0], 1 << (bits - 1))
        offset = middle if self.signed or bits == 8 else self.random.integers(0, 1 << bits, shape[0])
        codes = self.random.integers(0, 1 << bits, shape) - offset.reshape(-1, 1, 1, 1)
        return Weights(codes.astype(np.int8), bits, offset.astype(np.int16))

    def sum(self, a: int, b: int) -> int:
        y = self.add_buffer(np.maximum(self.shape(a), self.shape(b)))
        parts = [Part(np.array([ratio]), 255) for ratio in self.random.uniform(0.2, 1.3, 2)]
        self.steps.append(Sum("sum", "add", (a, b), y, make_rescale(parts, self.buffers[y].zero_point), 0, 255))
        return y

    def product(self, a: int, b: int) -> int:
        y = self.add_buffer(np.maximum(self.shape(a), self.shape(b)))
        part = Part(np.array([self.random.uniform(0.003, 0.02)]), 255 * 255)
        rescale = make_rescale([part], self.buffers[y].zero_point)
        self.steps.append(Product("product", "mul", (a, b), y, rescale, 3, 250))
        return y

    def global_average(self, x: int) -> int:
        height, width, channels = self.shape(x)
        y = self.add_buffer((1, 1, channels))
        part = Part(np.array([self.random.uniform(0.8, 1.5) / (height * width)]), 255 * height * width)
        rescale = make_rescale([part], self.buffers[y].zero_point)
        self.steps.append(GlobalAverage("mean", "pool", (x,), y, rescale, 0, 255))
        return y

    def average_pool(self, x: int, window: Window, count_padding: bool = False) -> int:
        height, width, channels = self.shape(x)
        rows, columns = _map(self.shape(x), window)
        y = self.add_buffer((rows, columns, channels))
        taps = _taps(height, rows, window, 0)[:, None] * _taps(width, columns, window, 1)[None, :]
        divisor = np.full_like(taps, window.kernel[0] * window.kernel[1]) if count_padding else taps
        rescales = {
            int(d): make_rescale([Part(np.array([1.2 / d]), 255 * window.kernel[0] * window.kernel[1])],
                                 self.buffers[y].zero_point)
            for d in np.unique(divisor)
        }
        self.steps.append(AveragePool("avg", "avgpool", (x,), y, window, divisor.astype(np.int32), rescales, 0, 255))
        return y

    def max_pool(self, x: int, window: Window) -> int:
        y = self.add_buffer((*_map(self.shape(x), window), self.shape(x)[2]), self.buffers[x].zero_point)
        self.steps.append(MaxPool("max", "maxpool", (x,), y, window))
        return y

    def lookup(self, x: int, by_channel: bool = False) -> int:
        y = self.add_buffer(self.shape(x))
        shape = (self.shape(x)[2], 256) if by_channel else (256,)
        self.steps.append(Lookup("act", "act", (x,), y, self.random.integers(0, 256, shape).astype(np.uint8)))
        return y

    def concat(self, inputs: Sequence[int]) -> int:
        height, width, _ = self.shape(inputs[0])
        y = self.add_buffer((height, width, sum(self.shape(x)[2] for x in inputs)))
        tables = tuple(None if i % 2 else self.random.integers(0, 256, 256).astype(np.uint8)
                       for i in range(len(inputs)))
        self.steps.append(Concat("cat", "cat", tuple(inputs), y, tables))
        return y

    def move(
        self, x: int, shape: tuple[int, int, int], channels: Sequence[int], stride: tuple[int, int] = (1, 1),
        origin: tuple[int, int] = (0, 0),
    ) -> int:
        y = self.add_buffer(shape, self.buffers[x].zero_point, quantized=False)
        self.steps.append(Move("move", "move", (x,), y, stride, origin, np.array(channels, np.int32), None))
        return y

    def move_indexed(self, x: int, shape: tuple[int, int, int], index: np.ndarray) -> int:
        y = self.add_buffer(shape, self.buffers[x].zero_point, quantized=False)
        nothing = np.arange(shape[2], dtype=np.int32)
        self.steps.append(Move("move", "move", (x,), y, (1, 1), (0, 0), nothing, index.astype(np.int32)))
        return y

    def build(self, last: int | None) -> Program:
        """Finish; logits from the codes of `last`, or None where the last step gives them."""
        if last is None:
            logits = (len(self.steps[-1].bias),)
        else:
            self.steps.append(Dequantize("logits", "", (last,), None))
            logits = self.buffers[last].nchw
        return Program(tuple(self.buffers), tuple(self.steps), logits)


def _map(shape: tuple[int, int, int], window: Window) -> tuple[int, int]:
    top, left, bottom, right = window.padding
    height = shape[0] + top + bottom - window.dilation[0] * (window.kernel[0] - 1) - 1
    width = shape[1] + left + right - window.dilation[1] * (window.kernel[1] - 1) - 1
    return height // window.stride[0] + 1, width // window.stride[1] + 1


def _taps(size: int, outputs: int, window: Window, axis: int) -> np.ndarray:
    """How many taps of each window lie inside along one axis."""
    starts = np.arange(outputs) * window.stride[axis] - window.padding[axis]
    places = starts[:, None] + np.arange(window.kernel[axis]) * window.dilation[axis]
    return ((places >= 0) & (places < size)).sum(1)


def resnet20(bits: int = 8, width: int = 16, size: int = 32, signed: bool = True, zero_points: bool = False) -> Program:
    """CIFAR ResNet-20 with shortcuts that drop pixels and add empty channels."""
    net = Builder((size, size, 3), bits=bits, signed=signed, zero_points=zero_points)
    x = net.conv(0, width, bits=8)
    for stage in range(3):
        for block in range(3):
            channels = width << stage
            down = stage > 0 and block == 0
            stride = (2, 2) if down else (1, 1)
            y = net.conv(x, channels, stride=stride)
            shortcut = x
            if down:
                side = net.shape(y)[0]
                empty = [-1] * (channels // 4)
                shortcut = net.move(x, (side, side, channels), [*empty, *range(channels // 2), *empty], (2, 2))
            x = net.conv(y, channels, residual=shortcut)
    x = net.global_average(x)
    net.conv(x, 10, (1, 1), padding=(0, 0, 0, 0), logits=True, bits=8)
    return net.build(None)


def ds_cnn(bits: int = 8, channels: int = 64, zero_points: bool = True) -> Program:
    """The keyword-spotting network of MLPerf Tiny: 49 frames of 10 numbers."""
    net = Builder((49, 10, 1), bits=bits, zero_points=zero_points)
    x = net.conv(0, channels, (10, 4), stride=(2, 2), padding=(4, 1, 5, 1), bits=8)
    for _ in range(4):
        x = net.conv(x, channels, groups=channels)
        x = net.conv(x, channels, (1, 1), padding=(0, 0, 0, 0))
    height, width, _ = net.shape(x)
    x = net.average_pool(x, Window((height - 1, width), (height - 1, width), (0, 0, 0, 0)))
    net.conv(x, 12, (1, 1), padding=(0, 0, 0, 0), logits=True, bits=8)
    return net.build(None)


def every_step(bits: int = 3, seed: int = 0) -> Program:
    """A small network with every kind of step and every kind of convolution, channels that fill no tile."""
    net = Builder((11, 9, 3), bits=bits, signed=False, seed=seed)
    a = net.conv(0, 10, (3, 4), padding=(1, 2, 1, 1))
    b = net.conv(a, 10, (3, 3), groups=10, stride=(1, 1), residual=a)
    c = net.conv(b, 15, (3, 3), groups=5, dilation=(2, 2), padding=(2, 2, 2, 2))
    d = net.conv(c, 10, (1, 1), padding=(0, 0, 0, 0), residual=b, bits=4)
    gate = net.lookup(net.global_average(d))
    d = net.product(d, gate)
    e = net.lookup(net.sum(d, net.conv(d, 10, (5, 1), padding=(2, 0, 2, 0), bits=5)), by_channel=True)
    pooled = net.max_pool(e, Window((3, 2), (2, 1), (1, 1, 1, 0)))
    average = net.average_pool(e, Window((3, 2), (2, 1), (1, 1, 1, 0)))
    f = net.concat([pooled, average, pooled])
    height, width, channels = net.shape(f)
    shuffled = net.move(f, (height + 1, width, channels + 1), [*range(channels - 1, -1, -1), -1], (1, 1), (-1, 0))
    flat_index = np.arange(np.prod(net.shape(shuffled)))
    flat_index[::7] = -1
    flat = net.move_indexed(shuffled, (1, 1, flat_index.size), net.random.permutation(flat_index))
    g = net.conv(flat, 13, (1, 1), padding=(0, 0, 0, 0), low=7)
    g = net.sum(g, net.conv(g, 13, (1, 1), padding=(0, 0, 0, 0), groups=13, bits=2))
    return net.build(g)

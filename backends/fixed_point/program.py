"""A network as a list of integer steps: what a backend needs to write kernels, and nothing that it has to work out.

Every tensor is uint8 in the order height, width, channels (NHWC of one sample; features are 1 x 1 x C). A code stands
for `scale * (code - zero_point)`. Each step reads tensors by number and writes one; the last writes float32 logits, or
each of several its part of them.
Steps say what is computed, in integers and in full; how (layouts, tiles, instructions, packing) is the backend's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isobit.backends.fixed_point.floats.tensors import FloatTensor
from isobit.backends.fixed_point.rescale import Rescale
from isobit.pipeline.graph.ports import INPUT, OUTPUT


@dataclass(frozen=True)
class Buffer:
    """One uint8 tensor of one sample.

    Args:
        name: of the quantizer whose codes these are (the tensor's name in parity reports); of the operator where the
            step only moves codes.
        shape: (height, width, channels).
        zero_point: the code of 0.0.
        scale: float32 value of one step.
        quantized: parity compares it: a quantizer stands after it.
        nchw: its shape in the graph without the batch, which may hide height and width: (C,), (C, H, W).
        in_order: its elements lie in the order of the graph, the last axis fastest, not the channels.
        integers: int32 numbers, no codes: tokens, the places of largest elements. They lie in the order of the graph.
    """

    name: str
    shape: tuple[int, int, int]
    zero_point: int
    scale: float
    quantized: bool
    nchw: tuple[int, ...]
    in_order: bool = False
    integers: bool = False

    @property
    def size(self) -> int:
        """How many codes it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Step:
    """One kernel.

    Args:
        name: of the node whose value it computes.
        module: module path of the operator, for comments and errors.
        inputs: numbers of the tensors it reads, in the operator's order.
        output: number of the tensor it writes; None where it writes the logits.
        logits: of a step that writes only some of the logits, the first of them and how many; None for all.
    """

    name: str
    module: str
    inputs: tuple[int, ...]
    output: int | None
    logits: tuple[int, int] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Weights:
    """Weight codes of a layer, zero point 0.

    Args:
        codes: int8 [K, R, S, C / groups]; of a linear layer R = S = 1.
        bits: 2 ... 8, in which they may be stored: `codes + offset[k]` is in 0 ... 2^bits - 1.
        offset: int16 [K].
    """

    codes: np.ndarray
    bits: int
    offset: np.ndarray


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pool: (rows, columns) each; padding is (top, left, bottom, right).

    A convolution pads with the input's zero point, a maximum pool with code 0, an average pool with the zero point.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Conv(Step):
    """Convolution or linear layer (1 x 1 on a 1 x 1 map), with the residual sum where one is fused.

    acc[k] = bias[k] + sum of (x - zero_point(x)) * codes[k], exact in int32. With `rescale` the output is a code,
    `clip(rescale(acc[, residual - zero_point(residual)]), low, high)`; the residual is `inputs[1]`. Without, the output
    is `float32(acc[k]) * logit_scale[k]`: one float32 product, the only floating point of a network.

    Args:
        weights: see `Weights`.
        bias: int32 [K].
        window: geometry.
        groups: of channels.
        rescale: one term, or two with a residual; None for logits.
        low, high: least and largest code.
        logit_scale: float32 [K] where there is no `rescale`.
    """

    weights: Weights
    bias: np.ndarray
    window: Window
    groups: int
    rescale: Rescale | None
    low: int
    high: int
    logit_scale: np.ndarray | None

    @property
    def scale_of_logits(self) -> np.ndarray:
        """`logit_scale` of a layer that writes logits; raises ValueError for one that writes codes."""
        if self.logit_scale is None:
            raise ValueError(f"{self.name} writes codes, not logits")
        return self.logit_scale

    @property
    def residual(self) -> bool:
        """A second tensor is added before the sum becomes a code."""
        return len(self.inputs) == 2


@dataclass(frozen=True)
class Sum(Step):
    """clip(rescale(a - zero_point(a), b - zero_point(b)), low, high); an input may be 1 x 1 x C (broadcast)."""

    rescale: Rescale
    low: int
    high: int


@dataclass(frozen=True)
class Product(Step):
    """clip(rescale((a - zero_point(a)) * (b - zero_point(b))), low, high); an input may be 1 x 1 x C (broadcast)."""

    rescale: Rescale
    low: int
    high: int


@dataclass(frozen=True)
class GlobalAverage(Step):
    """clip(rescale(sum over the map of x - zero_point(x)), low, high): 1 x 1 x C."""

    rescale: Rescale
    low: int
    high: int


@dataclass(frozen=True)
class AveragePool(Step):
    """clip(rescale(sum over the window of x - zero_point(x)), low, high).

    Args:
        divisor: int32 [H, W] of the output: the number that each window's sum is divided by. `rescales` holds a
            `Rescale` for each divisor that occurs.
    """

    window: Window
    divisor: np.ndarray
    rescales: dict[int, Rescale]
    low: int
    high: int


@dataclass(frozen=True)
class MaxPool(Step):
    """Largest code of the window."""

    window: Window


@dataclass(frozen=True)
class Lookup(Step):
    """code -> table[code], or table[channel][code]: a function of one number, ends of the grid applied.

    Args:
        table: uint8 [256], or [C, 256] where channels differ.
        high: the largest code of the output's grid.
    """

    table: np.ndarray
    high: int = field(default=255, kw_only=True)


@dataclass(frozen=True)
class Concat(Step):
    """Channels side by side; `tables[i]` brings the codes of input i to the output's grid, None where they are on it.

    A table is the clipped `rescale` of one term, written out for all 256 codes.

    Args:
        high: the largest code of the output's grid.
    """

    tables: tuple[np.ndarray | None, ...]
    high: int = field(default=255, kw_only=True)


@dataclass(frozen=True)
class Move(Step):
    """Codes moved unchanged: slice, pad, shuffle, flatten, transpose, and runs of them in one step.

    out[y, x, c] = in[y * stride[0] + origin[0], x * stride[1] + origin[1], channels[c]], and `fill` where that lies
    outside the map or `channels[c]` is -1. Where no such form exists `index` says it all.

    Args:
        stride, origin: (rows, columns).
        channels: int32 [C of the output].
        index: int32 [elements of the output] into the input's elements, -1 for `fill`; None with the form above.
        fill: the code that comes from nowhere; None for the input's zero point.
    """

    stride: tuple[int, int]
    origin: tuple[int, int]
    channels: np.ndarray
    index: np.ndarray | None
    fill: int | None = None

    def outside(self, source: Buffer) -> int:
        """The code that comes from nowhere, of the input `source`."""
        return source.zero_point if self.fill is None else self.fill


@dataclass(frozen=True)
class LogitPlaces:
    """Where the elements of one tensor stand among the logits.

    Args:
        first, steps: element (y, x, c) is logit `first + y * steps[0] + x * steps[1] + c * steps[2]` of those that the
            step writes.
        elements, logits: int32 [n] where no such steps exist: element `elements[i]` is logit `logits[i]`; else empty.
    """

    first: int
    steps: tuple[int, int, int]
    elements: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Dequantize(Step):
    """Logits from codes, each tensor on its own grid: `float32(code - zero_point) * scale`; 0 in no part.

    Args:
        parts: of each input, where it stands among the logits; empty where the only input is all of them in the order
            of the graph (channels first).
    """

    parts: tuple[LogitPlaces, ...] = ()


@dataclass(frozen=True)
class Program:
    """The network.

    Args:
        buffers: the first are the inputs, in their order: codes, `round_half_even(x / scale) + zero_point`, clipped, or
            integers as they are.
        steps: in execution order.
        logits: shape of one sample's logits in the graph, (classes,) mostly; of several outputs all their elements, one
            after the other.
        outputs: name and shape of one sample, of each output.
        input_names: that users know.
        floats: what the steps of `floats` read and write, by their own numbers.
        raw: the inputs that are read as they are given, number of the input by that among `floats`.
    """

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    logits: tuple[int, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    input_names: tuple[str, ...] = (INPUT,)
    floats: tuple[FloatTensor, ...] = ()
    raw: Mapping[int, int] = field(default_factory=dict)

    @property
    def ports(self) -> dict[str, Any]:
        """What a description of the artifact says of names: nothing where they are `input` and `logits`."""
        said: dict[str, Any] = {}
        names = list(self.input_names)
        if len(names) > 1:
            said["input_names"] = names
        elif names != [INPUT]:
            said["input_name"] = names[0]
        if [name for name, _ in self.outputs] not in ([], [OUTPUT]):
            said["outputs"] = [{"name": name, "shape": list(shape)} for name, shape in self.outputs]
        return said

    def logits_of(self, step: Step) -> tuple[int, int]:
        """The first logit that a step writes, and how many."""
        return step.logits or (0, math.prod(self.logits))

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """The network's inputs, in their order."""
        return self.buffers[:len(self.input_names)]

    @property
    def input(self) -> Buffer:
        """The network's first input."""
        return self.buffers[0]

    @property
    def order(self) -> list[int]:
        """Numbers of all tensors in the order in which they are there: the inputs, then what each step writes."""
        return [*range(len(self.inputs)), *(step.output for step in self.steps if step.output is not None)]

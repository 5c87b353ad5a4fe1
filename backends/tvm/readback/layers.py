"""Constants of convolutions and linear layers: which weight stands at which place, and the numbers beside them.

Weights lie by blocks of output channels, taps, groups of input channels, vectors of the block, lanes, inputs of a
group. How many vectors a block has is the kernel's own choice: any that the constant's length allows may stand there,
and all its bytes must be those of one of them. Weights of 2 to 4 bits share bytes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Conv, Program
from isobit.backends.readback.description import Terms
from isobit.backends.tvm.readback.numbers import Either, Fields, Numbers, Reals, Wanted, Whole, form_of, nearest
from isobit.backends.tvm.readback.places import Place
from isobit.backends.tvm.readback.processors import Processor
from isobit.backends.tvm.readback.sums import (
    Reach,
    add_reals,
    apart_mark,
    longest_run,
    reach_of,
    transformed,
    transformed_run,
    transforms_fit,
)

MOST_VECTORS = 8
PACKED = {2: ((2, 4),), 3: ((2, 4), (1, 8)), 4: ((4, 2),)}  # by bits: widths of fields of a byte, and how many
TOGETHER = {2: 4, 3: 8, 4: 2}  # vectors that share bytes
SIGN = 128
STARTS, START = "first input channels", 4  # a block begins at a multiple
PAIR, QUAD, UNIT = 2, 4, 16  # taps of one channel side by side, or these; channels of 128 bits


@dataclass(frozen=True)
class Layer:
    """A layer as its kernel sees it.

    Args:
        codes: weights [K, rows, columns, inputs of a group].
        source, target: None for logits.
    """

    step: Conv
    codes: np.ndarray
    source: Place
    target: Place | None
    residual: Place | None
    input_zero: int
    processor: Processor

    @property
    def lanes(self) -> int:
        """Output channels in whole vectors."""
        count = int(self.codes.shape[0])
        return count + -count % self.processor.lanes

    @property
    def packed(self) -> bool:
        return self.step.weights.bits in PACKED


def layer_of(step: Conv, program: Program, places: list[Place], processor: Processor) -> Layer:
    """A layer as its kernel sees it: of one byte a pixel the taps of a row lie as channels do elsewhere."""
    source, codes, zero = places[step.inputs[0]], step.weights.codes, program.buffers[step.inputs[0]].zero_point
    return Layer(step, codes.swapaxes(2, 3) if source.one_plane else codes, source,
                 None if step.output is None else places[step.output],
                 places[step.inputs[1]] if step.residual else None, zero, processor)


def has_own_taps(step: Conv, processor: Processor) -> bool:
    """One filter a channel has kernels of its own on some processors."""
    count, _, _, inputs = step.weights.codes.shape
    apart = bool(processor.depthwise or processor.channels_apart)
    return apart and step.output is not None and inputs == 1 < count == step.groups and len(step.inputs) == 1


@dataclass(frozen=True)
class Cut:
    """How weights are cut: vectors of a block, blocks, groups of inputs, the first input channel of each block."""

    processor: Processor
    vectors: int
    blocks: int
    groups: int
    starts: tuple[int, ...]


def cuts(layer: Layer) -> Iterator[Cut]:
    """All that the layer's vectors can be divided into."""
    for processor in layer.processor.ways:
        vectors = layer.lanes // processor.lanes
        for each in range(1, min(vectors, MOST_VECTORS) + 1):
            if vectors % each == 0:
                yield _cut(layer, processor, each)


def _cut(layer: Layer, processor: Processor, vectors: int) -> Cut:
    count, inputs = len(layer.codes), layer.codes.shape[3]
    width, of_group = vectors * processor.lanes, count // layer.step.groups
    spans = []
    for first in range(0, count, width):
        last = min(first + width, count) - 1
        low = first // of_group * inputs
        spans.append((low - low % START, (last // of_group + 1) * inputs))
    group = processor.group
    groups = max(-(-(high - low) // group) for low, high in spans)
    latest = max(0, layer.source.pixel - groups * group)
    return Cut(processor, vectors, len(spans), groups, tuple(min(low, latest) for low, _ in spans))


def _laid_out(layer: Layer, cut: Cut) -> np.ndarray:
    """The constant of a cut."""
    offset = layer.step.weights.offset if layer.packed else np.zeros(len(layer.codes), np.int16)
    channel, weight = _indices(layer, cut)
    flat = np.append(layer.codes.reshape(-1).astype(np.int16), 0)[weight]
    if not layer.packed:
        return flat.astype(np.int8).reshape(-1)
    return _shared(flat + np.append(offset, 0)[channel], layer.step.weights.bits)


def _indices(layer: Layer, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """For each place [blocks, vectors of it, bytes] the output channel, and the number of the weight; -1 for none."""
    processor, (count, rows, columns, inputs) = cut.processor, layer.codes.shape
    order = (processor.group, processor.lanes) if processor.by_input else (processor.lanes, processor.group)
    shape = (cut.blocks, rows, columns, cut.groups, cut.vectors, *order)
    at = np.indices(shape, sparse=True)
    lane, inner = (at[6], at[5]) if processor.by_input else (at[5], at[6])
    channel = (at[0] * cut.vectors + at[4]) * processor.lanes + lane
    first = channel // (count // layer.step.groups) * inputs  # of the group that the channel belongs to
    position = np.array(cut.starts)[at[0]] + at[3] * processor.group + inner - first
    known = (channel < count) & (position >= 0) & (position < inputs)
    weight = ((channel * rows + at[1]) * columns + at[2]) * inputs + position
    channel = np.broadcast_to(np.where(channel < count, channel, -1), shape)
    flat = (cut.blocks, -1, processor.lanes * processor.group)
    return channel.reshape(flat), np.where(known, weight, -1).reshape(flat)


def _shared(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes [blocks, vectors, bytes], several in a byte: the lowest bits of all vectors of a group first."""
    blocks, vectors, size = codes.shape
    missing = -vectors % TOGETHER[bits]
    codes = np.concatenate([codes, np.zeros((blocks, missing, size), codes.dtype)], 1).astype(np.int64)
    groups, done = codes.reshape(blocks, -1, TOGETHER[bits], size), 0
    parts = []
    for width, count in PACKED[bits]:
        field = groups >> done & (1 << width) - 1
        together = np.zeros((blocks, groups.shape[1], TOGETHER[bits] // count, size), np.int64)
        for place in range(count):
            together += field[:, :, place::count] << place * width
        parts.append(together)
        done += width
    return np.concatenate(parts, 2).astype(np.uint8).view(np.int8).reshape(-1)


@dataclass(frozen=True)
class _Form:
    """Which numbers stand in which order.

    Args:
        starts: first input channel of each block.
        real: sums are multiplied in float32.
        offsets_first: those of weights stand before the rescale.
        four: there are four biases, for layers that are transformed in bytes.
    """

    starts: tuple[int, ...]
    real: bool
    offsets_first: bool = False
    four: bool = False


@dataclass(frozen=True, eq=False)
class LayerConstants(Wanted):
    """The weights of a layer in any cut, and the numbers beside them in one of the orders that go with that cut."""

    layer: Layer
    output_zero: int
    residual_zero: int
    largest: int
    reach: Reach | None
    count = 2

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        is_, must, _ = self.read(found, terms)
        return is_, must

    def read(
        self, found: Sequence[np.ndarray | None], terms: Terms
    ) -> tuple[dict[str, Any], dict[str, Any], Hashable]:
        weights, ways = found[0], list(cuts(self.layer))
        is_ = None if weights is None else terms.constant(weights)
        must = None
        fitting = []  # several where weights are alike; the numbers tell them apart
        for cut in ways:
            read = terms.constant(_laid_out(self.layer, cut))
            if read is is_ and self._holds(cut):
                fitting.append(cut)
            elif read is not is_ and (must is None or weights is None or (
                    must.array.shape != weights.shape == read.array.shape)):
                must = read
        must, ways = (is_, fitting) if fitting else (must, ways)
        forms = [(cut, form) for cut in ways for form in self.forms(cut)]
        numbers = [form.fields(found[1:], terms) for _, form in forms]
        number = nearest(numbers)
        cut, form = forms[number]
        rescale = None if isinstance(form, Reals) else self.layer.step.rescale
        products = self._fours[cut.processor] if "four biases" in form.parts else self._run(cut)
        way = (cut.processor.group, cut.vectors, products, tuple(form.parts), rescale and form_of(rescale))
        return {"weights": is_, **numbers[number][0]}, {"weights": must, **numbers[number][1]}, way

    def _run(self, cut: Cut) -> int:
        """How many dot products machine code adds in 16 bits; 0 and 1 are the same where bytes lie as they do else."""
        if self.largest > cut.processor.adds_16:
            return 0
        _, weight = _indices(self.layer, cut)
        flat = np.append(self.layer.codes.reshape(-1).astype(np.int16), 0)[weight]
        _, rows, columns, _ = self.layer.codes.shape
        loops, processor = (rows, columns, cut.groups), cut.processor
        shape = (cut.blocks, math.prod(loops), cut.vectors)
        if processor.by_input:
            parts = flat.reshape(*shape, processor.group, processor.lanes).swapaxes(3, 4)
        else:
            parts = flat.reshape(*shape, -1, 2)
        run = longest_run(parts.reshape(*shape[:2], -1, parts.shape[-1]), loops, self.largest)
        return 0 if processor.by_input and run == 1 else run

    def _holds(self, cut: Cut) -> bool:
        """The products of a way are exact: those of bytes apart must fit 16 bits."""
        return cut.processor is self.layer.processor or self._run(cut) > 0

    @cached_property
    def _fours(self) -> dict[Processor, tuple[int, int] | None]:
        """By processor, of a layer that may be transformed, how it is in bytes; None where it is not."""
        return {each: transformed_run(self.layer.step.weights.codes, self.largest, each)
                for each in self.layer.processor.ways if _transformable(self.layer, each)}

    def forms(self, cut: Cut) -> Iterator[Numbers]:
        """The numbers in each order and kind that goes with a cut."""
        starts = cut.starts if self.layer.step.groups > 1 else ()
        for real in (False, True) if self.reach is not None else (False,):
            yield self._form(cut, _Form(starts, real))
            if _transformable(self.layer, cut.processor):
                yield self._form(cut, _Form(starts, real, offsets_first=True))
                if self._fours.get(cut.processor) is not None:
                    yield self._form(cut, _Form(starts, real, offsets_first=True, four=True))

    def _form(self, cut: Cut, form: _Form) -> Numbers:
        layer, step, fields = self.layer, self.layer.step, Fields()
        sums = step.weights.codes.reshape(len(step.bias), -1).sum(1, dtype=np.int64)
        zero = layer.input_zero - SIGN if cut.processor.signed and not form.four else layer.input_zero
        bias = step.bias.astype(np.int64) - sums * zero
        fields.add("four biases" if form.four else "bias", self._four_biases(bias, cut) if form.four else bias)
        if layer.target is not None and layer.target.border != (0, 0, 0, 0):
            fields.one("border", self.output_zero)
        if any(form.starts):
            fields.add(STARTS, form.starts)
        if form.offsets_first:
            self._offsets(fields, cut)
        if step.rescale is None:
            fields.add("scale", np.asarray(step.scale_of_logits, np.float32).view(np.int32))
        else:
            if form.real and self.reach is not None:
                add_reals(fields, self.reach, range(layer.lanes))
            else:
                fields.rescale(step.rescale, range(layer.lanes))
            if layer.residual is not None and self.residual_zero and not form.real:
                fields.one("residual_zero", self.residual_zero)
            fields.ends(step.low, step.high)
        if not form.offsets_first:
            self._offsets(fields, cut)
        return fields.wanted

    def _four_biases(self, bias: np.ndarray, cut: Cut) -> np.ndarray:
        """Four times the bias for each pixel of a tile of 2 x 2, less what codes bring that are moved above 0.

        The tile is computed of products of transformed codes and weights. All transformed codes but those of two added
        rows and columns are larger by twice the largest code than they should be, where bytes have no sign.
        """
        moved = 0 if cut.processor.signed else 2 * self.largest
        changed = np.full((4, 4), moved)
        changed[1, 1] = 0
        products = transformed(self.layer.step.weights.codes.astype(np.int64).sum(3)) * changed
        both = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
        pixels = (both @ products @ both.T).reshape(len(bias), 4)
        found = np.zeros((4, self.layer.lanes), np.int64)
        found[:, :len(bias)] = 4 * bias - pixels.T
        return found

    def _offsets(self, fields: Fields, cut: Cut) -> None:
        """What was added to the weights that share bytes, a byte for each of a vector."""
        layer = self.layer
        if not layer.packed:
            return
        lanes = np.zeros(layer.lanes, np.uint8)
        lanes[:len(layer.codes)] = layer.step.weights.offset
        vectors, group = lanes.reshape(-1, cut.processor.lanes), cut.processor.group
        whole = np.tile(vectors, (1, group)) if cut.processor.by_input else np.repeat(vectors, group, 1)
        fields.add("offsets of weights", np.ascontiguousarray(whole).reshape(-1).view("<i4"))


def _transformable(layer: Layer, processor: Processor) -> bool:
    window = layer.step.window
    return processor.transforms and layer.step.groups == 1 and layer.codes.shape[1:3] == (3, 3) \
        and window.stride == window.dilation == (1, 1) and layer.target is not None


def conv_constants(step: Conv, program: Program, places: list[Place], processor: Processor) -> tuple[Wanted, ...]:
    """Weights, then numbers."""
    layer = layer_of(step, program, places, processor)
    output = 0 if step.output is None else program.buffers[step.output].zero_point
    largest, reach = largest_codes(program)[step.inputs[0]], reach_of(step, program)
    if has_own_taps(step, processor) and layer.target is not None:
        ways, marks = [], []
        apart = {each: apart_mark(step.weights.codes[..., 0], largest, each) for each in processor.ways}
        for each, mark in ((each, mark) for each, mark in apart.items() if mark is not None):
            for real in (None, reach):
                ways.append(_own_taps(layer, layer.target, output, each, mark.narrow, real))
                marks.append((mark, step.rescale and real is None and form_of(step.rescale)))
        return (Either(ways, marks),)
    return (LayerConstants(layer, output, program.buffers[step.inputs[-1]].zero_point, largest, reach),)


def conv_form(step: Conv, program: Program, places: list[Place], processor: Processor) -> tuple[Any, ...]:
    """What of the layer is in the machine code, beside the way in which its constants are: its geometry."""
    window, layer = step.window, layer_of(step, program, places, processor)
    largest = largest_codes(program)[step.inputs[0]]
    return (*(place and place.frame for place in (layer.source, layer.target, layer.residual)), layer.lanes,
            _transformable(layer, processor) and transforms_fit(step.weights.codes, step.bias, largest),
            layer.codes.shape[1:3], window.stride, window.dilation, window.padding[:2], step.rescale is None,
            layer.packed and not has_own_taps(step, processor) and step.weights.bits, (step.low, step.high) == (0, 255))


def _own_taps(
    layer: Layer, target: Place, output_zero: int, processor: Processor, narrow: bool, reach: Reach | None
) -> tuple[Wanted, ...]:
    """Constants of one filter a channel: chunks of channels, the last moved back to end with the pixel."""
    step, pixel = layer.step, target.pixel
    if processor.channels_apart:
        return _side_by_side(layer, pixel, output_zero, processor.channels_apart, reach)
    size = next(QUAD * lanes for lanes in processor.depthwise if QUAD * lanes <= pixel)
    of_dot = PAIR if narrow else QUAD
    channels = _in_vectors(pixel, size, of_dot)
    count, rows, columns = step.weights.codes.shape[:3]
    dots = -(-columns // of_dot)
    codes = np.zeros((max(pixel, count), rows, dots * of_dot), np.int64)
    codes[:count, :, :columns] = step.weights.codes[..., 0]
    # Where taps are words of two bytes, those of even columns of all lanes stand before the others.
    halves = 2 if processor.taps == "int16" else 1
    half, of_lane, tap = np.indices((halves, size // of_dot, of_dot // halves))
    parts = [codes[vector[of_lane], row, dot * of_dot + tap * halves + half].reshape(-1)
             for chunk in channels for row in range(rows) for dot in range(dots) for vector in chunk]
    numbers = _apart_numbers(layer, codes.sum((1, 2)), output_zero, _in_vectors(pixel, size, QUAD).reshape(-1), reach)
    return Whole("weights", np.concatenate(parts).astype(processor.taps)), numbers


def _in_vectors(pixel: int, size: int, vectors: int) -> np.ndarray:
    """Channels [chunks of `size`, vectors, lanes]: of each 128 bits, a vector holds neighbours."""
    starts, part = [min(first, pixel - size) for first in range(0, pixel, size)], UNIT // vectors
    vector, lane = np.indices((vectors, size // vectors))
    return np.add.outer(starts, lane // part * UNIT + vector * part + lane % part)


def _side_by_side(
    layer: Layer, pixel: int, output_zero: int, channels: int, reach: Reach | None
) -> tuple[Wanted, ...]:
    """Constants of one filter a channel: taps one after the other, of so many channels."""
    count, rows, columns = layer.step.weights.codes.shape[:3]
    codes = np.zeros((pixel, rows, columns), np.int64)
    codes[:count] = layer.step.weights.codes[..., 0]
    parts = [codes[first:first + channels, row, column]
             for first in range(0, pixel, channels) for row in range(rows) for column in range(columns)]
    numbers = _apart_numbers(layer, codes.sum((1, 2)), output_zero, np.arange(pixel), reach)
    return Whole("weights", np.concatenate(parts).astype(np.int8)), numbers


def _apart_numbers(
    layer: Layer, sums: np.ndarray, output_zero: int, order: np.ndarray, reach: Reach | None
) -> Numbers:
    """The numbers of one filter a channel; `sums` are of each channel's weights, `order` the channels of lanes."""
    step, fields = layer.step, Fields()
    fields.one("border", output_zero)
    padding = np.zeros(len(sums) - len(step.bias), np.int64)
    bias = np.append(step.bias.astype(np.int64), padding) - layer.input_zero * sums
    fields.add("bias", bias[order])
    if reach is not None:
        add_reals(fields, reach, order.tolist())
    elif step.rescale is not None:
        fields.rescale(step.rescale, order.tolist())
    fields.ends(step.low, step.high)
    return fields.wanted

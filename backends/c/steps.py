"""One step of a program as C: its constants, and the call of the kernel that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.c.constants import braces, float_text, pack
from isobit.backends.c.floats.writers import FLOATS
from isobit.backends.c.plan import is_identity
from isobit.backends.c.pooling import POOLING
from isobit.backends.c.writer import LOGITS, Code, Writer, rescale_of, shape_of, window_of
from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.operators.steps import Extreme
from isobit.backends.fixed_point.program import (
    Buffer,
    Concat,
    Conv,
    Dequantize,
    LogitPlaces,
    Lookup,
    Move,
    Product,
    Program,
    Step,
    Sum,
    Window,
)
from isobit.pipeline.errors import TargetError

TILE = 4  # output channels that the kernels compute together
WIDE = 8  # weights of so many bits are not packed
WORD = 4  # codes that kernels read at once
PAIR = 2  # bytes of a weight in pairs


def write_step(
    program: Program, number: int, pointer: Callable[[int], str], scratch: str,
    value: Callable[[int], str] = "v{}".format,
) -> Code:
    """See `Writer` for the arguments.

    Raises:
        TargetError: sums of a layer could leave 32 bits on the way.
    """
    writer = Writer(program, number, pointer, scratch, value)
    return _WRITERS[type(writer.step)](writer, writer.step)


def scratch_bytes(program: Program, step: Step) -> int:
    """What the kernel needs beside its tensors with DSP instructions or Helium: weights of a tile, of 16 bits each
    where pixels of a map share them, and codes of a window, where windows that are cut or no whole words are copied.
    """
    if not isinstance(step, Conv):
        return 0
    size, source = int(np.prod(step.weights.codes.shape[1:])), program.buffers[step.inputs[0]]
    if is_depthwise(step):
        return PAIR * TILE * size
    if step.rescale is None or _map(source, step.window) == (1, 1):
        return plain_scratch_bytes(step)
    words = -(-size // WORD) * WORD
    as_they_lie = (step.groups == 1 and step.window.dilation[1] == 1 and source.zero_point == 0
                   and source.shape[2] % WORD == 0)
    return PAIR * TILE * words + (0 if as_they_lie else words)


def plain_scratch_bytes(step: Step) -> int:
    """The same of plain C: weights of a tile, where they are packed."""
    if not isinstance(step, Conv) or step.weights.bits >= WIDE:
        return 0
    return TILE * int(np.prod(step.weights.codes.shape[1:]))


def is_depthwise(step: Conv) -> bool:
    """One filter for every channel."""
    return step.groups == len(step.weights.codes) and step.weights.codes.shape[3] == 1 and step.rescale is not None


def _map(source: Buffer, window: Window) -> tuple[int, int]:
    """(height, width) of what a convolution gives."""
    top, left, bottom, right = window.padding
    sizes = (source.shape[0] + top + bottom, source.shape[1] + left + right)
    reach = [dilation * (taps - 1) + 1 for dilation, taps in zip(window.dilation, window.kernel, strict=True)]
    rows, columns = ((size - r) // stride + 1 for size, r, stride in zip(sizes, reach, window.stride, strict=True))
    return rows, columns


def _conv(writer: Writer, step: Conv) -> Code:
    source = writer.inputs[0]
    depthwise = is_depthwise(step)
    fields = {
        "in": shape_of(source),
        "out": braces(*_map(source, step.window), len(step.bias)),
        "window": window_of(step.window),
    }
    if not depthwise:
        filters, group_in = len(step.weights.codes), step.weights.codes.shape[3]
        fields |= {"group_in": str(group_in), "group_out": str(filters // step.groups)}
    fields |= {
        "zero_point": str(source.zero_point),
        "weights": _weights(writer, step, depthwise),
        "bias": writer.array("bias", _folded_bias(step, source.zero_point)),
    }
    last = ("depthwise",) if depthwise else ("dot", "conv")
    kernels = ("weights", "window", "pairs", "lanes", *last)
    x, scratch = writer.x[0], writer.scratch
    if step.rescale is None:
        scale = writer.array("scale", step.scale_of_logits.astype(np.float32))
        layer = writer.structure("conv", fields)
        return writer.code((*kernels, "conv_logits"), f"conv_logits({layer}, {x}, {scale}, {writer.y}, {scratch});")
    fields |= {
        "rescale": rescale_of(step.rescale, step.low, step.high),
        "sum": writer.term(step.rescale.terms[0], "multiplier"),
    }
    residual = "0"
    if step.residual:
        residual = writer.x[1]
        fields |= {
            "residual": writer.term(step.rescale.terms[1], "residual"),
            "residual_zero": str(writer.inputs[1].zero_point),
        }
    layer = writer.structure(kernels[-1], fields)
    return writer.code(kernels, f"{kernels[-1]}({layer}, {x}, {residual}, {writer.y}, {scratch});")


def _weights(writer: Writer, step: Conv, depthwise: bool) -> str:
    """Initializer of `struct weights`."""
    weights = step.weights
    size = int(np.prod(weights.codes.shape[1:]))
    if weights.bits < WIDE:
        offset = writer.array("offset", weights.offset.astype(np.int16))
        return braces(writer.array("weights", pack(weights)), offset, weights.bits, size)
    codes = weights.codes.reshape(len(weights.codes), size)
    return braces(writer.array("weights", (codes.T if depthwise else codes).reshape(-1)), "0", WIDE, size)


def _folded_bias(step: Conv, zero_point: int) -> np.ndarray:
    """bias - zero_point * sum of the weights; raises TargetError where a sum might leave int32 on the way."""
    codes = step.weights.codes.reshape(len(step.weights.codes), -1).astype(np.int64)
    folded = step.bias.astype(np.int64) - zero_point * codes.sum(1)
    if (largest := int((np.abs(folded) + 255 * np.abs(codes).sum(1)).max())) >= 1 << 31:
        raise TargetError(
            f"sums of up to {largest:,} do not fit the 32 bits in which they are added", where=step.module,
            allowed=f"{(1 << 31) - 1:,}", hint="the layer has too many weights or too large a bias for integer kernels",
            field="target",
        )
    return folded.astype(np.int32)


def _pair(writer: Writer, kind: str, fields: Mapping[str, str]) -> Code:
    """A kernel with two tensors of which one may be a single pixel."""
    a, b = writer.inputs
    pixels = {"a_pixel": _pixel_step(a, writer.output), "b_pixel": _pixel_step(b, writer.output)}
    zeros = {"a_zero": str(a.zero_point), "b_zero": str(b.zero_point)}
    parameters = writer.structure(kind, {"out": shape_of(writer.output), **pixels, **zeros, **fields})
    return writer.code((kind,), f"{kind}({parameters}, {writer.x[0]}, {writer.x[1]}, {writer.y});")


def _pixel_step(source: Buffer, output: Buffer) -> str:
    return str(source.shape[2]) if source.shape == output.shape else "0"


def _sum(writer: Writer, step: Sum) -> Code:
    a, b = step.rescale.terms
    return _pair(writer, "sum", {
        "rescale": rescale_of(step.rescale, step.low, step.high),
        "a_term": writer.term(a, "a_multiplier"), "b_term": writer.term(b, "b_multiplier"),
    })


def _extreme(writer: Writer, step: Extreme) -> Code:
    fields = {"largest": str(int(step.largest))}
    for name, rescale in zip("ab", step.rescales, strict=True):
        fields[f"{name}_rescale"] = rescale_of(rescale, step.low, step.high)
        fields[f"{name}_term"] = writer.term(rescale.terms[0], f"{name}_multiplier")
    return _pair(writer, "extreme", fields)


def _product(writer: Writer, step: Product) -> Code:
    return _pair(writer, "product", {
        "rescale": rescale_of(step.rescale, step.low, step.high),
        "term": writer.term(step.rescale.terms[0], "multiplier"),
    })


def _lookup(writer: Writer, step: Lookup) -> Code:
    table = writer.array("table", step.table.astype(np.uint8).reshape(-1))
    if step.table.ndim == 2:
        channels = writer.output.shape[2]
        pixels = writer.output.size // channels
        call = f"lookup_channels({table}, {writer.x[0]}, {writer.y}, {pixels}, {channels});"
        return writer.code(("lookup_channels",), call)
    return writer.code(("lookup",), f"lookup({table}, {writer.x[0]}, {writer.y}, {writer.output.size});")


def _concat(writer: Writer, step: Concat) -> Code:
    height, width, total = writer.output.shape
    calls, first = [], 0
    for index, (source, x, codes) in enumerate(zip(writer.inputs, writer.x, step.tables, strict=True)):
        table = "0" if codes is None else writer.array(f"table_of_input_{index}", codes.astype(np.uint8))
        channels = source.shape[2]
        calls.append(f"concat_part({table}, {x}, {height * width}, {channels}, {writer.y} + {first}, {total});")
        first += channels
    return writer.code(("concat",), *calls)


def _move(writer: Writer, step: Move) -> Code:
    source, output = writer.inputs[0], writer.output
    if is_identity(step, source, output):
        copy = () if writer.x[0] == writer.y else (f"memcpy({writer.y}, {writer.x[0]}, {output.size});",)
        return writer.code((), *copy)
    index = step.index
    if index is None and step.channels.max(initial=0) > np.iinfo(np.int16).max:
        form = layout.Form(step.stride, step.origin, step.channels, None)
        index = layout.expand(form, output.shape, source.shape).ravel()
    if index is not None:
        index = writer.array("index", index.astype(np.int32))
        call = f"move_indexed({index}, {step.outside(source)}, {writer.x[0]}, {writer.y}, {output.size});"
        return writer.code(("move_indexed",), call)
    parameters = writer.structure("move", {
        "in": shape_of(source), "out": shape_of(output),
        "row_stride": str(step.stride[0]), "column_stride": str(step.stride[1]),
        "row_origin": str(step.origin[0]), "column_origin": str(step.origin[1]),
        "zero_point": str(step.outside(source)), "channels": writer.array("channels", step.channels.astype(np.int16)),
    })
    return writer.code(("move",), f"move({parameters}, {writer.x[0]}, {writer.y});")


def _dequantize(writer: Writer, step: Dequantize) -> Code:
    if step.parts:
        return _dequantize_parts(writer, step)
    source = writer.inputs[0]
    call = (
        f"dequantize((struct shape){shape_of(source)}, {source.zero_point}, {float_text(source.scale)}, "
        f"{writer.x[0]}, {writer.y});"
    )
    return writer.code(("dequantize",), call)


def _dequantize_parts(writer: Writer, step: Dequantize) -> Code:
    kernels, calls, logits = set(), [], writer.count
    if sum(len(part.logits) or source.size for part, source in zip(step.parts, writer.inputs, strict=True)) < logits:
        calls.append(f"memset({writer.y}, 0, {logits} * sizeof *{LOGITS});")
    for index, (part, source, x) in enumerate(zip(step.parts, writer.inputs, writer.x, strict=True)):
        grid = f"{source.zero_point}, {float_text(source.scale)}, {x}"
        if source.integers:
            calls.append(_integers(writer, index, part))
            kernels.add("dequantize_integers")
        elif len(part.logits):
            tables = [writer.array(f"{name}_of_input_{index}", values.astype(np.int32))
                      for name, values in (("elements", part.elements), ("logits", part.logits))]
            kernels.add("dequantize_indexed")
            calls.append(f"dequantize_indexed({', '.join(tables)}, {len(part.logits)}, {grid}, {writer.y});")
        else:
            kernels.add("dequantize_part")
            calls.append(
                f"dequantize_part((struct shape){shape_of(source)}, (struct shape){braces(*part.steps)}, {grid}, "
                f"{writer.y} + {part.first});"
            )
    return writer.code(tuple(sorted(kernels)), *calls)


def _integers(writer: Writer, index: int, part: LogitPlaces) -> str:
    """The call that makes logits of integers."""
    size = writer.inputs[index].size
    elements, logits = (part.elements, part.logits) if len(part.logits) else (
        np.arange(size), part.first + part.steps[2] * np.arange(size))
    tables = [writer.array(f"{name}_of_input_{index}", values.astype(np.int32))
              for name, values in (("elements", elements), ("logits", logits))]
    return f"dequantize_integers({', '.join(tables)}, {len(elements)}, {writer.x[index]}, {writer.y});"


_WRITERS: dict[type[Step], Callable[[Writer, Any], Code]] = {
    Conv: _conv, Sum: _sum, Product: _product, Extreme: _extreme, Lookup: _lookup, Concat: _concat, Move: _move,
    Dequantize: _dequantize, **POOLING, **FLOATS,
}

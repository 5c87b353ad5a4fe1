"""What must stand in an ONNX file for an operator of several tensors, or one that moves elements; a second time.

Every form takes a writer and the call of the operator, and gives None where the file has no form that is known here:
then only what the operator reads is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from isobit.backends.onnx.readback.unary import UNARY
from isobit.backends.onnx.readback.vocabulary import onnx_operator
from isobit.backends.readback.description import Constant, Term, Terms
from isobit.pipeline.graph.calls import Call
from isobit.pipeline.operators.index_map import OUTSIDE, axis_maps, index_map
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY as ROWS
from isobit.pipeline.operators.unary import operand
from isobit.pipeline.shapes import known_sizes

Form = Callable[["CallForm", Call], Term | None]
_INT64_MAX = 2**63 - 1
# Operators that read no element of their operands, or of some of them for one of their results.
_OF_NO_VALUE = frozenset({"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
                          "new_empty", "fill", "zero", "broadcast_tensors", "meshgrid"})
_OF_THE_SECOND = frozenset({"copy"})  # an operator that writes one operand over the other


class CallForm:
    """Writes what must stand for one call.

    Args:
        read: the value of what the call reads: float, or codes for one that moves codes.
        kernel: mark of the kernel that computes it.
        fill: what stands where a move writes a number of its own, where it moves codes.
    """

    def __init__(
        self, terms: Terms, call: Call, read: Callable[[Call], Term], kernel: str = "", fill: Term | None = None
    ) -> None:
        self.terms, self.call, self.read, self.kernel, self.fill = terms, call, read, kernel, fill

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> Term:
        return onnx_operator(self.terms, op, [self.value(each) for each in inputs], attributes, self.kernel)

    def value(self, value: Any) -> Term | None:
        """A term of an argument: a number is a float32 constant, an array one of its own type."""
        if value is None or isinstance(value, Term):
            return value
        if isinstance(value, Call):
            return self.read(value)
        return self.terms.constant(value, None if isinstance(value, np.ndarray) else np.float32)

    def ints(self, values: Sequence[int] | np.ndarray) -> Term:
        return self.terms.constant(np.asarray(values, np.int64))

    def column(self, weight: Any, rank: int) -> Term:
        """Numbers of channels, shaped to broadcast against a tensor of `rank`."""
        return self.moved("Reshape", self.value(weight), self.ints([-1, *[1] * (rank - 2)]))

    def moved(self, op: str, value: Term | None, *inputs: Term, **attributes: Any) -> Term:
        """An operator that moves elements of a parameter, and so is no kernel's."""
        return onnx_operator(self.terms, op, [value, *inputs], attributes)

    @property
    def before(self) -> tuple[int | None, ...]:
        return self.call.sources[0].shape

    @property
    def rank(self) -> int:
        return len(self.before)


def form_of(
    terms: Terms, call: Call, read: Callable[[Call], Term], kernel: str = "", fill: Term | None = None
) -> Term | None:
    """What must stand for `call`; None where no form is known here."""
    f = CallForm(terms, call, read, kernel, fill)
    if not call.dtype.is_floating_point or any(source.is_size for source in call.sources):
        return None
    if call.op in UNARY:
        row, source = ROWS[call.op], operand(call.node)
        x = next(each for each in call.sources if each.node is source)
        arguments = {name: call.args["self"] if call.args[name] is x and name != "self" else call.args[name]
                     for name in row.parameters}
        return UNARY[call.op](f, read(x), **arguments)
    if call.op in _MOVES:
        return _MOVES[call.op](f, call)
    if call.op in MOVES:
        return _gathered(f, call)
    form = FORMS.get(call.op)
    return None if form is None else form(f, call)


# -- of several tensors ------------------------------------------------------------------------------------------------


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value, *value][:2] if len(value) == 1 else list(value)


def _binary(op: str) -> Form:
    def form(f: CallForm, call: Call) -> Term:
        other = f.value(call.args["other"])
        alpha = call.args.get("alpha", 1)
        return f(op, call.args["self"], other if alpha == 1 else f("Mul", other, alpha))

    return form


def _rsub(f: CallForm, call: Call) -> Term:
    subtracted, alpha = f.value(call.args["self"]), call.args.get("alpha", 1)
    return f("Sub", call.args["other"], subtracted if alpha == 1 else f("Mul", subtracted, alpha))


def _conv(f: CallForm, call: Call) -> Term:
    args = call.args
    dilation, kernel = _pair(args["dilation"]), known_sizes(args["weight"].shape[2:])
    if args["padding"] == "same":
        total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        pads = [each // 2 for each in total] + [each - each // 2 for each in total]
    else:
        pads = [0] * 4 if args["padding"] == "valid" else _pair(args["padding"]) * 2
    return f("Conv", args["input"], args["weight"], args["bias"], strides=_pair(args["stride"]), pads=pads,
             dilations=dilation, group=args["groups"])


def _conv_transpose(f: CallForm, call: Call) -> Term:
    args = call.args
    return f("ConvTranspose", args["input"], args["weight"], args["bias"], strides=_pair(args["stride"]),
             pads=_pair(args["padding"]) * 2, output_padding=_pair(args["output_padding"]),
             dilations=_pair(args["dilation"]), group=args["groups"])


def _linear(f: CallForm, call: Call) -> Term:
    args = call.args
    if len(args["input"].shape) == 2:
        return f("Gemm", args["input"], args["weight"], args["bias"], transB=1)
    product = f("MatMul", args["input"], f.moved("Transpose", f.value(args["weight"]), perm=[1, 0]))
    return product if args["bias"] is None else f("Add", product, args["bias"])


def _mean_over_dims(f: CallForm, call: Call) -> Term | None:
    args = call.args
    if args.get("dtype") is not None:
        return None
    axes = f.ints(args["dim"]) if args["dim"] else None
    return f("ReduceMean", args["self"], axes, keepdims=int(args["keepdim"]))


def _avg_pool(f: CallForm, call: Call) -> Term | None:
    args = call.args
    if args["divisor_override"] is not None:
        return None
    kernel, border = _pair(args["kernel_size"]), _pair(args["padding"])
    steps = _pair(args["stride"] or args["kernel_size"])
    sizes, after = (known_sizes(shape[2:]) for shape in (call.sources[0].shape, call.shape))
    reach = [(after[axis] - 1) * steps[axis] + kernel[axis] - sizes[axis] - border[axis] for axis in (0, 1)]
    ends = [max(0, each) for each in reach]
    counted = int(args["count_include_pad"]) if any(border) else 0
    if all(end <= pad for end, pad in zip(ends, border, strict=True)):
        return f("AveragePool", args["self"], kernel_shape=kernel, strides=steps, pads=border * 2,
                 count_include_pad=counted)
    padded = f("Pad", args["self"], f.ints([0, 0, *border, 0, 0, *ends]), 0.0, mode="constant")
    pooled = f("AveragePool", padded, kernel_shape=kernel, strides=steps)
    return f("Mul", pooled, _share_counted(call, kernel, steps, border, after))


def _share_counted(
    call: Call, kernel: list[int], steps: list[int], border: list[int], after: Sequence[int]
) -> np.ndarray:
    """float32 [H, W]: elements of a window for each that torch counts there, by counting them."""
    sizes = known_sizes(call.sources[0].shape[2:])
    outer = border if call.args["count_include_pad"] else [0, 0]
    counts = []
    for axis in (0, 1):
        counts.append([
            sum(-outer[axis] <= place - border[axis] < sizes[axis] + outer[axis]
                for place in range(start, start + kernel[axis]))
            for start in range(0, after[axis] * steps[axis], steps[axis])
        ])
    return (math.prod(kernel) / np.outer(*counts).astype(np.int64)).astype(np.float32)


def _max_pool(f: CallForm, call: Call) -> Term:
    args, before = call.args, _pair(call.args["padding"])
    kernel, steps, apart = (_pair(args[name] or args["kernel_size"]) for name in ("kernel_size", "stride", "dilation"))
    after = before
    if args["ceil_mode"]:  # as far as the last window of torch reads
        sizes, results = (known_sizes(each.shape[2:]) for each in (call.sources[0], call))
        last = [(results[axis] - 1) * steps[axis] + apart[axis] * (kernel[axis] - 1) for axis in (0, 1)]
        after = [max(0, last[axis] + 1 - sizes[axis] - before[axis]) for axis in (0, 1)]
    wide = any(end >= size for end, size in zip(after, kernel, strict=True))  # more than ONNX Runtime takes
    return f("MaxPool", args["self"], kernel_shape=kernel, strides=steps, pads=before + (before if wide else after),
             dilations=apart, ceil_mode=int(wide))


def _clamp(f: CallForm, call: Call) -> Term | None:
    ends = [call.args.get("min"), call.args.get("max")]
    if any(isinstance(end, Call) for end in ends):
        return None
    return f("Clip", call.args["self"], *ends)


def _softmax(f: CallForm, call: Call) -> Term | None:
    if call.args.get("dtype") is not None:
        return None
    return f("Exp", f("LogSoftmax", call.args["self"], axis=call.args["dim"]))


def _layer_norm(f: CallForm, call: Call) -> Term:
    args = call.args
    scale = np.ones(args["normalized_shape"], np.float32) if args["weight"] is None else args["weight"]
    return f("LayerNormalization", args["input"], scale, args["bias"], axis=-len(args["normalized_shape"]),
             epsilon=float(args["eps"]))


def _matmul(f: CallForm, call: Call) -> Term:
    return f("MatMul", call.args["self"], call.args["other"])


FORMS: Mapping[str, Form] = {
    **{name + kind: form for name, form in {
        "add": _binary("Add"), "mul": _binary("Mul"), "sub": _binary("Sub"), "rsub": _rsub, "div": _binary("Div"),
    }.items() for kind in ("", "_scaled", "_parameter")},
    **dict.fromkeys(("conv2d", "conv2d_dynamic"), _conv), "conv_transpose2d": _conv_transpose,
    **dict.fromkeys(("linear", "linear_dynamic"), _linear),
    "mean": lambda f, call: f("GlobalAveragePool", call.args["self"]), "mean_over_dims": _mean_over_dims,
    "avg_pool2d": _avg_pool, "max_pool2d": _max_pool, "clamp": _clamp, "softmax": _softmax, "layer_norm": _layer_norm,
    "cat": lambda f, call: f("Concat", *call.args["tensors"], axis=call.args["dim"]),
    **dict.fromkeys(("matmul", "matmul_of_parameter", "matmul_of_vector"), _matmul),
}


# -- that move elements ------------------------------------------------------------------------------------------------


def _view(f: CallForm, call: Call) -> Term:
    sizes = call.args["shape"] if "shape" in call.args else call.args["size"]
    return f("Reshape", call.sources[0], f.ints(sizes))


def _slice(f: CallForm, call: Call) -> Term:
    end = call.args["end"]
    ends = [call.args["start"] or 0, _INT64_MAX if end is None else min(end, _INT64_MAX)]
    return f("Slice", call.sources[0], *(f.ints([each]) for each in (*ends, call.args["dim"], call.args["step"])))


def _pad(f: CallForm, call: Call) -> Term:
    """ATen lists the ends of the last axis first."""
    pads = [0] * (2 * f.rank)
    for place, size in enumerate(call.args["pad"]):
        pads[f.rank - 1 - place // 2 + (f.rank if place % 2 else 0)] = size
    mode = {"replicate": "edge", "circular": "wrap"}.get(call.args["mode"], call.args["mode"])
    fill = None
    if mode == "constant":
        fill = float(call.args["value"] or 0) if f.fill is None else f.fill
    return f("Pad", call.sources[0], f.ints(pads), fill, mode=mode)


def _resize(f: CallForm, call: Call) -> Term:
    sizes, after = (known_sizes(shape[2:]) for shape in (f.before, call.shape))
    scales = np.asarray([1, 1, *(new // old for old, new in zip(sizes, after, strict=True))], np.float32)
    return f("Resize", call.sources[0], None, scales, mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric")


def _pixel_shuffle(f: CallForm, call: Call) -> Term:
    """[N, C r r, H, W] to [N, C, H r, W r]; without a batch axis where the batch lies on the channels."""
    r, (height, width), channels = call.args["upscale_factor"], known_sizes(f.before[-2:]), call.shape[-3]
    lead, channels = [-1] * (f.rank - 3), -1 if channels is None else channels
    split = f("Reshape", call.sources[0], f.ints([*lead, channels, r, r, height, width]))
    axes = len(lead)
    moved = f("Transpose", split, perm=[*range(axes), axes, axes + 3, axes + 1, axes + 4, axes + 2])
    return f("Reshape", moved, f.ints([*lead, channels, height * r, width * r]))


def _pixel_unshuffle(f: CallForm, call: Call) -> Term:
    r, (height, width), (channels, after) = call.args["downscale_factor"], known_sizes(call.shape[-2:]), (
        f.before[-3], call.shape[-3])
    lead = [-1] * (f.rank - 3)
    split = f("Reshape", call.sources[0], f.ints([*lead, -1 if channels is None else channels, height, r, width, r]))
    axes = len(lead)
    moved = f("Transpose", split, perm=[*range(axes), axes, axes + 2, axes + 4, axes + 1, axes + 3])
    return f("Reshape", moved, f.ints([*lead, -1 if after is None else after, height, width]))


_MOVES: Mapping[str, Form] = {
    "view": _view, "slice": _slice, "upsample_nearest2d": _resize,
    "permute": lambda f, call: f("Transpose", call.sources[0], perm=[dim % f.rank for dim in call.args["dims"]]),
    **dict.fromkeys(("pad", "pad_with_value", "pad_reflect", "pad_replicate", "pad_circular"), _pad),
    "pixel_shuffle": _pixel_shuffle, "pixel_unshuffle": _pixel_unshuffle,
}


def _gathered(f: CallForm, call: Call) -> Term | None:
    """Elements taken along each axis that changes, else one by one; the ATen call itself says which."""
    index, source = index_map(call.node), f.value(call.sources[0])
    shape = tuple(1 if size is None else size for size in f.before)
    along = axis_maps(index, shape)
    if along is not None:
        for axis, places in enumerate(along):
            if places.tolist() != list(range(shape[axis])):
                source = f("Gather", source, f.ints(places), axis=axis)
        return source
    if [size is None for size in f.before] != [True, *[False] * (f.rank - 1)] or call.shape[0] is not None:
        return None
    flat = f("Reshape", source, f.ints([-1, math.prod(shape[1:])]))
    flat = f("Gather", flat, f.ints(np.maximum(index, 0).reshape(-1)), axis=1)
    if OUTSIDE in index:
        flat = f("Where", np.asarray(index != OUTSIDE).reshape(1, -1), flat, 0.0 if f.fill is None else f.fill)
    return f("Reshape", flat, f.ints([-1, *known_sizes(call.shape[1:])]))


def arguments(call: Call) -> tuple[list[Call], list[Call]]:
    """What an operator that no form is known of must read, and what it may because its sizes or its type count."""
    sizes = [source for source in call.sources if source.is_size]
    inputs = [source for source in call.sources if not source.is_size]
    unread = [source for source in inputs if call.op in _OF_NO_VALUE or (
        call.op in _OF_THE_SECOND and source is call.sources[0] and source not in call.sources[1:])]
    measured = [*unread, *(each for source in sizes for part in arguments(source) for each in part)]
    return [source for source in inputs if source not in unread], list(dict.fromkeys(measured))


def parameter(terms: Terms, tensor: torch.Tensor) -> Constant:
    """A parameter as the file holds it: floats in 32 bits."""
    tensor = tensor.detach().cpu()
    return terms.constant((tensor.float() if tensor.is_floating_point() else tensor).numpy())

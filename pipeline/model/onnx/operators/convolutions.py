"""Convolutions, plain and transposed, with every kind of padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, operator

_PARAMETERS = {1: "weight", 2: "bias"}


@operator("Conv", parameters=_PARAMETERS)
def convolution(call: Call) -> Tensor:
    """A convolution over one, two or three spatial axes; uneven padding stands before it."""
    x, weight = call.tensor(0), call.tensor(1)
    rank = weight.ndim - 2
    function = spatial(call, rank, F.conv1d, F.conv2d, F.conv3d)
    stride, dilation = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    begin, end = paddings(call, list(x.shape[2:]), list(weight.shape[2:]), stride, dilation)
    if begin != end:
        x, begin = pad(x, begin, end, 0.0), [0] * rank
    return function(x, weight, call.optional(2), stride, begin, dilation, call.get("group", 1))


@operator("ConvTranspose", parameters=_PARAMETERS)
def transposed_convolution(call: Call) -> Tensor:
    """What uneven padding takes away at one end more is cut off."""
    x, weight = call.tensor(0), call.tensor(1)
    rank = weight.ndim - 2
    function = spatial(call, rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    stride, dilation = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    extra = list(call.get("output_padding", [0] * rank))
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    begin, end = _cuts(call, list(x.shape[2:]), kernel, stride, extra)
    common = [min(pair) for pair in zip(begin, end, strict=True)]
    for axis, (first, last) in enumerate(zip(begin, end, strict=True)):
        more = first - last  # cut at the beginning: torch adds as much at the end, and both are cut there
        if more > 0 and extra[axis] + more < max(stride[axis], dilation[axis]):
            common[axis], extra[axis] = first, extra[axis] + more
    result = function(x, weight, call.optional(2), stride, common, extra, call.get("group", 1), dilation)
    for axis, (first, last) in enumerate(zip(begin, end, strict=True)):
        front, back = first - common[axis], max(last - common[axis], 0)
        if front or back:
            result = result.narrow(axis + 2, front, result.shape[axis + 2] - front - back)
    return result


def _cuts(
    call: Call, sizes: list[int], kernel: list[int], stride: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much of the full result is cut off at the beginning and at the end of every axis."""
    mode, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(sizes, stride, strict=True)]
    if wanted is None:
        pads = call.get("pads", [0] * 2 * len(sizes)) if mode != "VALID" else [0] * 2 * len(sizes)
        return list(pads[: len(sizes)]), list(pads[len(sizes):])
    wanted = wanted[-len(sizes):]
    total = [
        step * (size - 1) + more + reach - out
        for step, size, more, reach, out in zip(stride, sizes, extra, kernel, wanted, strict=True)
    ]
    if min(total) < 0:
        raise call.refused(f"output_shape {wanted} is larger than the convolution makes")
    small, large = [each // 2 for each in total], [each - each // 2 for each in total]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def spatial(call: Call, rank: int, *functions: Any) -> Any:
    """The function for one, two or three spatial axes."""
    if not 1 <= rank <= len(functions):
        raise call.refused(f"{rank} spatial axes", f"1 to {len(functions)}")
    return functions[rank - 1]


def paddings(
    call: Call, sizes: list[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """How much stands before and after every spatial axis."""
    mode, rank = call.get("auto_pad", "NOTSET"), len(sizes)
    if mode == "NOTSET":
        pads = call.get("pads", [0] * 2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    if mode == "VALID":
        return [0] * rank, [0] * rank
    total = [
        max((-(-size // step) - 1) * step + (reach - 1) * wide + 1 - size, 0)
        for size, reach, step, wide in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    small, large = [each // 2 for each in total], [each - each // 2 for each in total]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float) -> Tensor:
    """`x` with `value` around its spatial axes."""
    amounts = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
    return F.pad(x, amounts, value=value)

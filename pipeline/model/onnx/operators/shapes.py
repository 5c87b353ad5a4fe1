"""Operators that change a tensor's shape, and what sizes are computed with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, Host, Value, as_tensor, host, operator

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64,
}


@operator("Reshape")
def reshape(call: Call) -> Value:
    """A size of 0 is that of the same axis; what means the file's batch follows the batch."""
    sizes = call.integers(1) if call.has(1) else list(call.get("shape"))
    if call.on_host(0):
        return call.host(0).reshape([int(size) for size in sizes])
    x = call.tensor(0)
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if _is(size, 0) else size for axis, size in enumerate(sizes)]
    for each in call.batch_axes:
        sizes[each.result] = each.size(x)
    return torch.reshape(x, sizes)


def _is(size: Any, number: int) -> bool:
    """The size is this very number; one that follows the batch is not asked."""
    return isinstance(size, int) and size == number


@operator("Flatten")
def flatten(call: Call) -> Tensor:
    """Two axes: all before `axis`, and all from it on."""
    x, axis = call.tensor(0), call.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return torch.flatten(x, 1) if x.ndim > 1 else x.reshape(-1, 1)
    return torch.reshape(x, (math.prod(x.shape[:axis]), -1))


@operator("Squeeze")
def squeeze(call: Call) -> Value:
    """Without axes all of size 1 but the batch."""
    axes = call.axes(1)
    if call.on_host(0):
        values = call.host(0)
        return np.squeeze(values, axis=tuple(axes) if axes else None)
    x = call.tensor(0)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if axis and _is(size, 1)]
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.squeeze(axis) if _is(x.shape[axis], 1) else _lost_axis(call, x, axis)
    return x


def _lost_axis(call: Call, x: Tensor, axis: int) -> Tensor:
    raise call.refused(f"axis {axis} of size {x.shape[axis]} is squeezed away", "axes of size 1, and not the batch")


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Value:
    """New axes of size 1, counted in the result."""
    axes = call.axes(1) or []
    if call.on_host(0):
        return np.expand_dims(call.host(0), tuple(axes))
    x = call.tensor(0)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(call: Call) -> Value:
    """By default all axes turned round."""
    if call.on_host(0):
        return np.transpose(call.host(0), call.get("perm"))
    x = call.tensor(0)
    return x.permute(call.get("perm", list(reversed(range(x.ndim)))))


@operator("Expand")
def expand(call: Call) -> Value:
    """Repeated along axes of size 1, where either side may be the larger."""
    sizes = call.integers(1)
    if call.on_host(0) and all(isinstance(size, int) for size in sizes):
        return np.broadcast_to(call.host(0), np.broadcast_shapes(call.host(0).shape, tuple(sizes)))
    x = call.tensor(0)
    sizes = [*[1] * (x.ndim - len(sizes)), *sizes]
    for each in call.batch_axes:
        sizes[each.result] = 1
    shift = len(sizes) - x.ndim
    return x.expand([-1 if axis >= shift and _is(size, 1) else size for axis, size in enumerate(sizes)])


@operator("Tile")
def tile(call: Call) -> Value:
    """The whole tensor again and again."""
    counts = call.integers(1)
    if call.on_host(0) and all(isinstance(count, int) for count in counts):
        return np.tile(call.host(0), counts)
    return call.tensor(0).repeat(counts)


@operator("ConstantOfShape")
def constant_of_shape(call: Call) -> Value:
    """One value everywhere."""
    value = call.get("value")
    number = 0.0 if value is None else value.reshape(-1)[0].item()
    kind = torch.float32 if value is None else torch.from_numpy(value).dtype
    sizes = call.integers(0)
    if len(sizes) <= 1 and not kind.is_floating_point and all(isinstance(size, int) and size < 4096 for size in sizes):
        return host([number] * (sizes[0] if sizes else 1)).reshape([int(size) for size in sizes])
    return torch.full(sizes, number, dtype=kind)


@operator("Range")
def numbers(call: Call) -> Value:
    """From start to limit."""
    start, limit, step = (call.number(position) for position in range(3))
    if all(isinstance(number, int) for number in (start, limit, step)):
        return host(list(range(start, limit, step)))
    return torch.arange(start, limit, step)


@operator("Cast")
def cast(call: Call) -> Value:
    """Another kind of number."""
    if call.get("to") not in _TYPES:
        raise call.refused(f"a cast to type {call.get('to')}", ", ".join(str(each) for each in _TYPES.values()))
    kind = _TYPES[call.get("to")]
    if call.on_host(0):
        return _cast_numbers(call.host(0), kind)
    x = call.tensor(0)
    return x if x.dtype is kind else x.to(kind)


def _cast_numbers(values: Host, kind: torch.dtype) -> Host:
    result = np.empty(values.shape, dtype=object)
    convert: Any = bool if kind is torch.bool else torch.sym_float if kind.is_floating_point else torch.sym_int
    for place in np.ndindex(values.shape):
        result[place] = convert(values[place])
    return result


@operator("CastLike")
def cast_like(call: Call) -> Tensor:
    """The kind of number of another tensor."""
    return call.tensor(0).to(call.tensor(1).dtype)


@operator("Identity")
def identity(call: Call) -> Value:
    """Itself."""
    return call.host(0) if call.on_host(0) else call.tensor(0)


@operator("Dropout")
def dropout(call: Call) -> Tensor:
    """Itself: nothing is dropped in inference."""
    if any(call.node.outputs[1:]):
        raise call.refused("the mask is asked for", "the values alone")
    return call.tensor(0)


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    """Blocks of channels become blocks of pixels."""
    x, size = call.tensor(0), call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    inner = channels // (size * size)
    x = x.reshape(batch, size, size, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, inner, height * size, width * size)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Tensor:
    """Blocks of pixels become blocks of channels."""
    x, size = call.tensor(0), call.get("blocksize")
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, channels * size * size, height // size, width // size)


@operator("Pad")
def pad(call: Call) -> Tensor:
    """Amounts are an attribute before opset 11 and an input since."""
    x, mode = call.tensor(0), call.get("mode", "constant")
    amounts = [int(amount) for amount in (call.integers(1) if call.has(1) else call.get("pads"))]
    value = call.number(2, call.get("value", 0.0))
    axes = call.axes(3) if call.has(3) else list(range(x.ndim))
    pairs = [(0, 0)] * x.ndim
    for axis, begin, end in zip(axes or [], amounts[: len(amounts) // 2], amounts[len(amounts) // 2:], strict=True):
        pairs[axis] = (begin, end)
    first = next((axis for axis, pair in enumerate(pairs) if any(pair)), None)
    if first is None:
        return x
    if mode == "constant":
        flat = [amount for pair in reversed(pairs[first:]) for amount in pair]
        return F.pad(x, flat, value=value)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes:
        raise call.refused(f"the padding is '{mode}'", "constant, " + ", ".join(modes))
    return _reflected(call, x, pairs, first, modes[mode])


def _reflected(call: Call, x: Tensor, pairs: list[tuple[int, int]], first: int, mode: str) -> Tensor:
    """torch pads the last one, two or three axes of a tensor with one or two axes before them."""
    first = max(min(first, x.ndim - 1), 0)
    count = x.ndim - first
    if count > 3:
        raise call.refused("more than three axes are padded with the tensor's own values", "the last three at most")
    flat = [amount for pair in reversed(pairs[first:]) for amount in pair]
    if first == 0:
        return F.pad(x.unsqueeze(0), flat, mode=mode).squeeze(0)
    if first <= 2:
        return F.pad(x, flat, mode=mode)
    folded = F.pad(x.flatten(1, first - 1), flat, mode=mode)
    return folded.reshape(*x.shape[:first], *folded.shape[2:])


@operator("Trilu")
def triangle(call: Call) -> Tensor:
    """The upper or the lower triangle."""
    function = torch.triu if call.get("upper", 1) else torch.tril
    return function(call.tensor(0), int(call.number(1, 0)))


@operator("EyeLike")
def eye_like(call: Call) -> Tensor:
    """Ones on a diagonal."""
    rows, columns = call.tensor(0).shape
    kind = _TYPES[call.get("dtype", 1)]
    return as_tensor(torch.ones(rows, columns, dtype=kind)).triu(call.get("k", 0)).tril(call.get("k", 0))

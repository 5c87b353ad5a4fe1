"""Pools."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, operator
from isobit.pipeline.model.onnx.operators.convolutions import pad, paddings, spatial


@operator("MaxPool")
def max_pool(call: Call) -> Tensor:
    """The largest of each window; uneven padding is minus infinity."""
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        raise call.refused("the places of the largest values are asked for", "values alone")
    call.only(storage_order=0)
    x, kernel, stride, dilation = _windows(call)
    function = spatial(call, len(kernel), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    begin, end = paddings(call, list(x.shape[2:]), kernel, stride, dilation)
    if begin != end or any(2 * size > reach for size, reach in zip(begin, kernel, strict=True)):
        x, begin = pad(x, begin, end, float("-inf")), [0] * len(kernel)
    return function(x, kernel, stride, begin, dilation, bool(call.get("ceil_mode", 0)))


@operator("AveragePool")
def average_pool(call: Call) -> Tensor:
    """The mean of each window, with or without its padding; uneven padding stands before it."""
    x, kernel, stride, dilation = _windows(call)
    if set(dilation) != {1}:
        raise call.refused("the window has holes", "dilations of 1")
    function = spatial(call, len(kernel), F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    begin, end = paddings(call, list(x.shape[2:]), kernel, stride, dilation)
    ceil, counted = bool(call.get("ceil_mode", 0)), bool(call.get("count_include_pad", 0))
    if begin == end and all(2 * size <= reach for size, reach in zip(begin, kernel, strict=True)):
        return function(x, kernel, stride, begin, ceil, counted or not any(begin))
    padded = function(pad(x, begin, end, 0.0), kernel, stride, 0, ceil)
    if counted:
        return padded
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    return padded / function(pad(ones, begin, end, 0.0), kernel, stride, 0, ceil)


@operator("LpPool")
def lp_pool(call: Call) -> Tensor:
    """The p-norm of each window."""
    x, kernel, stride, _ = _windows(call)
    if any(map(any, paddings(call, list(x.shape[2:]), kernel, stride, [1] * len(kernel)))):
        raise call.refused("the pool has padding", "no padding")
    function = spatial(call, len(kernel), F.lp_pool1d, F.lp_pool2d)
    return function(x, float(call.get("p", 2)), kernel[0] if len(kernel) == 1 else tuple(kernel), stride)


def _windows(call: Call) -> tuple[Tensor, list[int], list[int], list[int]]:
    """The input, and size, stride and dilation of the window."""
    kernel = list(call.get("kernel_shape"))
    ones = [1] * len(kernel)
    return call.tensor(0), kernel, list(call.get("strides", ones)), list(call.get("dilations", ones))


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Tensor:
    """The mean over space."""
    x = call.tensor(0)
    return spatial(call, x.ndim - 2, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)(x, 1)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Tensor:
    """The largest over space."""
    x = call.tensor(0)
    return torch.amax(x, dim=list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(call: Call) -> Tensor:
    """The p-norm over space."""
    x = call.tensor(0)
    return torch.linalg.vector_norm(x, call.get("p", 2), dim=list(range(2, x.ndim)), keepdim=True)

"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.model.onnx.call import Call, Result, Value, host, operator

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceProd": _product, "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, axes, keep: torch.sum(torch.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
}
_OF_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "ReduceSum": lambda a, b: a + b, "ReduceProd": lambda a, b: a * b, "ReduceMax": max, "ReduceMin": min,
}


@operator(*_REDUCTIONS)
def reduction(call: Call) -> Value:
    """Axes are an attribute in older opsets and an input in newer ones; without any, all axes."""
    axes, keep = call.axes(1), bool(call.get("keepdims", 1))
    if call.on_host(0) and call.node.op in _OF_NUMBERS and call.host(0).ndim == 1:
        total = reduce(_OF_NUMBERS[call.node.op], call.host(0))
        return host([total]) if keep else host([total]).reshape(())
    x = call.tensor(0)
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.ndim))
    return _REDUCTIONS[call.node.op](x, axes, keep)


@operator("ArgMax", "ArgMin")
def arg_extreme(call: Call) -> Tensor:
    """The place of the first extreme value."""
    call.only(select_last_index=0)
    function = torch.argmax if call.node.op == "ArgMax" else torch.argmin
    return function(call.tensor(0), call.get("axis", 0), bool(call.get("keepdims", 1)))


@operator("TopK")
def top_k(call: Call) -> Result:
    """The k largest or smallest, and their places."""
    count = call.get("k") if call.opset < 10 else int(call.number(1))
    largest, ordered = bool(call.get("largest", 1)), bool(call.get("sorted", 1))
    return tuple(torch.topk(call.tensor(0), count, call.get("axis", -1), largest, ordered))


@operator("CumSum")
def cumulative_sum(call: Call) -> Tensor:
    """Sums of all elements so far, from either end."""
    x, axis = call.tensor(0), int(call.number(1))
    x = x.flip(axis) if call.get("reverse", 0) else x
    result = torch.cumsum(x, axis)
    if call.get("exclusive", 0):
        result = result - x
    return result.flip(axis) if call.get("reverse", 0) else result


@operator("Size")
def size(call: Call) -> Value:
    """The number of elements."""
    return host([reduce(lambda a, b: a * b, call.tensor(0).shape, 1)]).reshape(())


@operator("Shape")
def shape(call: Call) -> Value:
    """The sizes of all axes, or of some."""
    whole = list(call.host(0).shape) if call.on_host(0) else list(call.tensor(0).shape)
    return host(whole[slice(call.get("start", 0), call.get("end"))])


@operator("NonZero")
def non_zero(call: Call) -> Value:
    """Where constants are not zero."""
    if not call.on_host(0):
        raise call.refused("how many values come out depends on the input", "sizes that the shapes tell")
    places = np.nonzero(call.host(0).astype(bool))
    result = np.empty((len(places), len(places[0])), dtype=object)
    result[:] = np.array(places)
    return result

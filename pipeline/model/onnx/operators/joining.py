"""Concat and Split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.model.onnx.call import Call, Result, Value, operator


@operator("Concat")
def concat(call: Call) -> Value:
    """Along one axis; a constant beside the samples of a batch is repeated for each."""
    count, axis = len(call.node.inputs), call.get("axis", 1)
    if call.on_host(*range(count)):
        return np.concatenate([call.host(position) for position in range(count)], axis=axis)
    tensors = [call.tensor(position) for position in range(count)]
    for each in call.batch_axes:
        size = next(t.shape[each.source] for position, t in enumerate(tensors) if position not in call.constants)
        for position in call.constants:
            tensors[position] = _repeated(tensors[position], each.result, size)
    return torch.cat(tensors, axis)


def _repeated(constant: Tensor, axis: int, size: int) -> Tensor:
    return constant.expand([size if place == axis else -1 for place in range(constant.ndim)])


@operator("Split")
def split(call: Call) -> Result:
    """Into pieces of given sizes, or of one size."""
    axis, pieces = call.get("axis", 0), len(call.node.outputs)
    sizes = call.get("split")
    if sizes is None and call.has(1):
        sizes = [int(size) for size in call.integers(1)]
    if call.on_host(0):
        values = call.host(0)
        whole = values.shape[axis]
        sizes = sizes or [whole // pieces] * pieces
        ends = np.cumsum([0, *sizes])
        return tuple(np.take(values, range(begin, end), axis=axis) for begin, end in pairwise(ends))
    x = call.tensor(0)
    if sizes is None or len(set(sizes)) == 1:
        return tuple(torch.chunk(x, pieces, axis))
    return tuple(torch.split(x, list(sizes), axis))

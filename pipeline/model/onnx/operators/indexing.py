"""Operators that take elements by their places."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, Value, operator

_ENDLESS = (1 << 31) - 1


@operator("Slice")
def slices(call: Call) -> Value:
    """Bounds are attributes before opset 10 and inputs since; a step below zero runs backwards."""
    if call.opset < 10:
        starts, ends, axes, steps = list(call.get("starts")), list(call.get("ends")), call.get("axes"), None
    else:
        starts, ends = call.integers(1), call.integers(2)
        axes = call.integers(3) if call.has(3) else None
        steps = [int(step) for step in call.integers(4)] if call.has(4) else None
    axes = [int(axis) for axis in axes] if axes is not None else list(range(len(starts)))
    steps = steps or [1] * len(starts)
    if call.on_host(0):
        place = [slice(None)] * call.host(0).ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            place[axis] = slice(start, None if step < 0 and _is_below(end) else end, step)
        return call.host(0)[tuple(place)]
    x = call.tensor(0)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step == 1 and _is_whole(start, end):
            continue
        if step > 0:
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
            continue
        size = x.shape[axis]
        if not isinstance(size, int):
            raise call.refused("the batch is turned round", "slices of other axes")
        places = range(size)[slice(start, None if _is_below(end) else end, step)]
        if places == range(size - 1, -1, -1):
            x = x.flip(axis)
        else:
            x = x.index_select(axis, torch.tensor(list(places)))
    return x


def _is_whole(start: object, end: object) -> bool:
    return isinstance(start, int) and start == 0 and isinstance(end, int) and end >= _ENDLESS


def _is_below(end: object) -> bool:
    return isinstance(end, int) and end <= -_ENDLESS + 1


@operator("Gather")
def gather(call: Call) -> Value:
    """Along one axis: one place is a selection, a table of vectors an embedding."""
    axis = call.get("axis", 0)
    if call.on_host(0, 1) and 0 not in call.constants:
        return _taken(call, axis)
    if call.on_host(0, 1) and call.host(0).ndim <= 1:
        return _taken(call, axis)
    x = call.tensor(0)
    if call.on_host(1) and call.host(1).ndim == 0:
        return x.select(axis, call.number(1))
    places = call.tensor(1)
    if 0 in call.constants and x.ndim == 2 and axis == 0 and 1 not in call.constants:
        return F.embedding(places, x)
    if call.on_host(1):
        places = torch.where(places < 0, places + x.shape[axis], places) if _any_below(call) else places
    taken = x.index_select(axis, places.reshape(-1))
    axis %= x.ndim
    return taken if places.ndim == 1 else taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1:])


def _any_below(call: Call) -> bool:
    return any(place < 0 for place in call.integers(1))


def _taken(call: Call, axis: int) -> Value:
    places = np.array([int(place) for place in call.integers(1)], dtype=int).reshape(call.host(1).shape)
    taken = np.take(call.host(0), places, axis=axis)
    if isinstance(taken, np.ndarray):
        return taken
    single = np.empty((), dtype=object)
    single[()] = taken
    return single


@operator("GatherElements")
def gather_elements(call: Call) -> Tensor:
    """An element for each place along one axis."""
    x, places, axis = call.tensor(0), call.tensor(1), call.get("axis", 0)
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


@operator("GatherND")
def gather_nd(call: Call) -> Tensor:
    """Elements or slices at places with several coordinates."""
    call.only(batch_dims=0)
    return call.tensor(0)[tuple(call.tensor(1).unbind(-1))]


@operator("ScatterND")
def scatter_nd(call: Call) -> Tensor:
    """Elements or slices replaced at places with several coordinates."""
    call.only(reduction="none")
    return torch.index_put(call.tensor(0), tuple(call.tensor(1).unbind(-1)), call.tensor(2))


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Tensor:
    """Elements replaced along one axis."""
    call.only(reduction="none")
    return torch.scatter(call.tensor(0), call.get("axis", 0), call.tensor(1), call.tensor(2))


@operator("OneHot")
def one_hot(call: Call) -> Tensor:
    """One of two values, by whether a class is meant."""
    places, depth, axis = call.tensor(0).long(), int(call.number(1)), call.get("axis", -1)
    off, on = call.integers(2)
    axis = axis + places.ndim + 1 if axis < 0 else axis
    shape = [depth if place == axis else 1 for place in range(places.ndim + 1)]
    classes = torch.arange(depth).reshape(shape)
    hit = torch.where(places < 0, places + depth, places).unsqueeze(axis) == classes
    return torch.where(hit, torch.scalar_tensor(on), torch.scalar_tensor(off))

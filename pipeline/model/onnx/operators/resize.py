"""Resize and Upsample: torch's own interpolation where it samples at the same places, else written out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, operator

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized: from `size` to `out` elements, by `scale`."""

    axis: int
    size: int
    out: int
    scale: float


@operator("Resize", "Upsample")
def resize(call: Call) -> Tensor:
    """Nearest, linear or cubic, along any axes but batch and channels."""
    x, mode = call.tensor(0), call.get("mode", "nearest")
    axes = _axes(call, x)
    if not axes:
        return x
    if any(axis.axis == 0 for axis in axes):
        raise call.refused("the batch is resized", "space")
    if call.get("antialias", 0) or call.get("exclude_outside", 0):
        raise call.refused("it smooths or leaves out borders", "antialias=0 and exclude_outside=0")
    spatial = [axis.axis for axis in axes]
    plain = x.ndim in (3, 4, 5) and min(spatial) >= 2
    size = [next((each.out for each in axes if each.axis == axis), x.shape[axis]) for axis in range(2, x.ndim)]
    if mode == "nearest":
        return _nearest(call, x, axes, size if plain else None)
    places = _places_kind(call, axes)
    if plain and places is not None:
        if mode in ("linear", "bilinear"):
            return F.interpolate(x, size=size, mode=_LINEAR[x.ndim - 2], align_corners=places)
        if mode == "cubic" and x.ndim == 4 and abs(call.get("cubic_coeff_a", -0.75) + 0.75) < _TOLERANCE:
            return F.interpolate(x, size=size, mode="bicubic", align_corners=places)
    if mode not in ("linear", "bilinear"):
        raise call.refused(f"{mode} at places that torch does not have", "nearest and linear, or half_pixel")
    for each in axes:
        x = torch.matmul(x.movedim(each.axis, -1), _weights(call, each)).movedim(-1, each.axis)
    return x


def _axes(call: Call, x: Tensor) -> list[_Axis]:
    """The axes whose size changes, or whose scale is not 1."""
    scales = _scales(call)
    chosen = call.get("axes") or range(x.ndim)
    found = []
    if scales:
        for axis, scale in zip(chosen, scales, strict=True):
            if isinstance(scale, float | int) and scale == 1:
                continue
            size = x.shape[axis]
            found.append(_Axis(axis, size, math.floor(size * scale), float(scale)))
        return found
    call.only(keep_aspect_ratio_policy="stretch")
    for axis, out in zip(chosen, call.integers(3), strict=True):
        size = x.shape[axis]
        if axis == 0 or not isinstance(size, int) or (isinstance(out, int) and out == size):
            continue  # the batch stays what it is
        found.append(_Axis(axis, size, int(out), int(out) / size))
    return found


def _scales(call: Call) -> list[float]:
    if call.node.op == "Upsample":
        return list(call.get("scales")) if call.opset < 9 else call.integers(1)
    position = 1 if call.opset < 11 else 2
    return call.integers(position) if call.has(position) else []


def _transformation(call: Call) -> str:
    """Where samples are taken; before opset 11 there was one way."""
    if call.opset < 11 or call.node.op == "Upsample":
        return "asymmetric"
    return call.get("coordinate_transformation_mode", "half_pixel")


def _places(call: Call, axis: _Axis) -> np.ndarray:
    """The place in the input of every element of the output, float64 [out]."""
    out, kind = np.arange(axis.out, dtype=np.float64), _transformation(call)
    if kind == "asymmetric":
        return out / axis.scale
    if kind == "align_corners":
        return out * (axis.size - 1) / (axis.out - 1) if axis.out > 1 else out * 0
    if kind == "tf_half_pixel_for_nn":
        return (out + 0.5) / axis.scale
    if kind == "half_pixel" or (kind == "pytorch_half_pixel" and axis.out > 1):
        return (out + 0.5) / axis.scale - 0.5
    if kind == "pytorch_half_pixel":
        return out * 0
    raise call.refused(f"coordinate_transformation_mode is '{kind}'", "half_pixel, asymmetric, align_corners")


def _places_kind(call: Call, axes: list[_Axis]) -> bool | None:
    """torch's `align_corners`, or None where torch takes other places."""
    kind = _transformation(call)
    exact = all(abs(axis.out / axis.size - axis.scale) < _TOLERANCE for axis in axes)
    if kind == "align_corners":
        return True
    several = all(axis.out > 1 for axis in axes) or kind == "half_pixel"
    return False if exact and several and kind in ("half_pixel", "pytorch_half_pixel") else None


def _nearest(call: Call, x: Tensor, axes: list[_Axis], size: list[int] | None) -> Tensor:
    rounding = call.get("nearest_mode", "round_prefer_floor") if call.opset >= 11 else "floor"
    rounded = {
        "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    if rounding not in rounded:
        raise call.refused(f"nearest_mode is '{rounding}'", ", ".join(rounded))
    # Places that are whole but for rounding: floor would take the one before.
    sources = [
        np.clip(rounded[rounding](np.round(_places(call, axis), 9)), 0, axis.size - 1).astype(int) for axis in axes
    ]
    for name, shift in (("nearest", 0.0), ("nearest-exact", 0.5)):
        usual = [
            np.clip(np.floor((np.arange(axis.out) + shift) * axis.size / axis.out + 1e-9), 0, axis.size - 1).astype(int)
            for axis in axes
        ]
        if size is not None and all(map(np.array_equal, sources, usual)):
            return F.interpolate(x, size=size, mode=name)
    for axis, places in zip(axes, sources, strict=True):
        x = x.index_select(axis.axis, torch.from_numpy(places))
    return x


def _weights(call: Call, axis: _Axis) -> Tensor:
    """How much of each input element every output element takes, float32 [size, out]."""
    places = np.clip(_places(call, axis), 0, axis.size - 1)
    low = np.floor(places).astype(int)
    share = places - low
    weights = np.zeros((axis.size, axis.out))
    columns = np.arange(axis.out)
    np.add.at(weights, (low, columns), 1 - share)
    np.add.at(weights, (np.minimum(low + 1, axis.size - 1), columns), share)
    return torch.from_numpy(weights.astype(np.float32))

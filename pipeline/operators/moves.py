"""Operators that move elements of one tensor and compute nothing: one row each, and nothing else names them.

How a row moves elements is asked of the ATen call itself (`pipeline.operators.index_map`), so a row says only what the
call cannot: which overloads it stands for, what it writes where no element comes from, and its ONNX operators.

    split, chunk, unbind, narrow, select  are written as `slice`, stack as `cat` (passes.canonicalize, passes.aliases)
    cat                                   joins tensors on grids of their own and has kernels of its own
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from isobit.pipeline.shapes import known_sizes

aten = torch.ops.aten
Value = TypeVar("Value")  # a tensor of the ONNX graph, which only its backend looks into
_INT64_MAX = np.iinfo(np.int64).max


class OnnxBuilder(Protocol[Value]):
    """Writes the ONNX operators of one call.

    Attributes:
        before, after: shapes of the tensor that the call reads and of its result; None where it varies with the batch.
    """

    @property
    def before(self) -> tuple[int | None, ...]: ...

    @property
    def after(self) -> tuple[int | None, ...]: ...

    def call(self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any] | None = None) -> Value:
        """The last operator, whose result is the call's."""
        ...

    def inner(self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any] | None = None) -> Value:
        """An operator before the last."""
        ...

    def ints(self, values: Sequence[int]) -> Value:
        """A constant int64 vector."""
        ...

    def floats(self, values: Sequence[float]) -> Value:
        """A constant float32 vector."""
        ...

    def operand(self, value: Value | float) -> Value:
        """A tensor as it is; a number as a float32 constant."""
        ...


Sizes = tuple[int | None, ...]
# (axis of the channels or None, shape before, shape after, the call's arguments) -> their axis after.
ChannelAxis = Callable[[int | None, Sizes, Sizes, Mapping[str, Any]], int | None]
# (builder, the tensor, the call's arguments by the names of its schema) -> the result.
OnnxForm = Callable[[OnnxBuilder[Any], Any, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class MoveOperator:
    """One operator of one tensor, by its canonical name (`pipeline.graph.nodes.op_name`).

    Args:
        overloads: ATen calls that the row stands for; others of the same name are other operators.
        onnx: writes it on codes or floats; None: ONNX gathers the elements by the index map.
        fill: name of the argument that holds the number written where no element comes from; empty where all do.
        own_grid: that number may be off the input's grid: the result has a grid of its own, calibrated with it.
        channels: on which axis they lie after it; None where they stay on theirs.
    """

    overloads: tuple[torch._ops.OpOverload, ...]
    onnx: OnnxForm | None = None
    fill: str = ""
    own_grid: bool = False
    channels: ChannelAxis | None = None


def is_move(name: str) -> bool:
    """Whether the operator called `name` leaves every element on the grid that it is on."""
    return name in MOVES and not MOVES[name].own_grid


# -- ONNX operators -----------------------------------------------------------------------------------------------


def _reshape(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    sizes = next(value for name, value in arguments.items() if name != "self")
    return e.call("Reshape", [x, e.ints(sizes)])


def _transpose(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    dims = arguments["dims"]
    return e.call("Transpose", [x], {"perm": [dim % len(dims) for dim in dims]})


def _slice(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    start, end = arguments["start"] or 0, arguments["end"]
    ends = _INT64_MAX if end is None else min(end, _INT64_MAX)
    return e.call("Slice", [x, *(e.ints([each]) for each in (start, ends, arguments["dim"], arguments["step"]))])


def _pad(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    """Torch lists the last axis first."""
    pads, rank = arguments["pad"], len(e.before)
    before, after = [0] * rank, [0] * rank
    for axis in range(len(pads) // 2):
        before[-1 - axis], after[-1 - axis] = pads[2 * axis], pads[2 * axis + 1]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[arguments["mode"]]
    fill = e.operand(arguments["value"] or 0.0) if mode == "constant" else None
    return e.call("Pad", [x, e.ints(before + after), fill], {"mode": mode})


def _resize(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    scales = [1, 1, *(new / old for old, new in zip(known_sizes(e.before[2:]), known_sizes(e.after[2:]), strict=True))]
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return e.call("Resize", [x, None, e.floats(scales)], attributes)


def _pixel_shuffle(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    """In parts: the operator DepthToSpace has no kernel for bytes in older runtimes."""
    factor, (height, width) = arguments["upscale_factor"], known_sizes(e.before[-2:])
    lead, channels = _lead(e, e.after[-3])
    split = e.inner("Reshape", [x, e.ints([*lead, channels, factor, factor, height, width])])
    order = [axis + len(lead) for axis in (0, 3, 1, 4, 2)]
    moved = e.inner("Transpose", [split], {"perm": [*range(len(lead)), *order]})
    return e.call("Reshape", [moved, e.ints([*lead, channels, *known_sizes(e.after[-2:])])])


def _pixel_unshuffle(e: OnnxBuilder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
    factor, (height, width) = arguments["downscale_factor"], known_sizes(e.before[-2:])
    lead, channels = _lead(e, e.before[-3])
    sizes = [channels, height // factor, factor, width // factor, factor]
    split = e.inner("Reshape", [x, e.ints([*lead, *sizes])])
    order = [axis + len(lead) for axis in (0, 2, 4, 1, 3)]
    moved = e.inner("Transpose", [split], {"perm": [*range(len(lead)), *order]})
    _, after = _lead(e, e.after[-3])
    return e.call("Reshape", [moved, e.ints([*lead, after, *known_sizes(e.after[-2:])])])


def _lead(e: OnnxBuilder[Value], channels: int | None) -> tuple[list[int], int]:
    """The sizes before the channels, and theirs; -1 for what varies with the batch."""
    return ([-1] if len(e.before) == 4 else []), -1 if channels is None else channels


# -- where channels go --------------------------------------------------------------------------------------------


def _channels_after_view(axis: int | None, before: Sizes, after: Sizes, arguments: Mapping[str, Any]) -> int | None:
    """An axis with everything before it untouched stays, and so does one with as many numbers after it as before.

    Channels that are split into groups lie within these: [N, groups, channels, ...]. Else features and maps have
    channels of their own.
    """
    if axis is not None and before[:axis + 1] == after[:axis + 1]:
        return axis
    if axis is not None and (len(before) > 2 or len(after) == 3) and (inner := _count(before[axis + 1:])):
        place = next((place for place in range(1, len(after)) if _count(after[place + 1:]) == inner), None)
        if place is not None and _divides(before[axis], after[place]):
            return place
    return 1 if len(after) in (2, 4) else None


def _count(sizes: Sizes) -> int | None:
    return None if None in sizes else math.prod(known_sizes(sizes))


def _divides(before: int | None, after: int | None) -> bool:
    """Channels were split into groups, or groups joined with what lies before them."""
    return before is not None and after is not None and (before % after == 0 or after % before == 0)


def _channels_after_permute(axis: int | None, before: Sizes, after: Sizes, arguments: Mapping[str, Any]) -> int | None:
    return None if axis is None else [dim % len(after) for dim in arguments["dims"]].index(axis)


# -- rows ---------------------------------------------------------------------------------------------------------

_PAD = (aten.pad.default,)
MOVES: dict[str, MoveOperator] = {
    "view": MoveOperator((aten.reshape.default, aten.view.default), _reshape, channels=_channels_after_view),
    "permute": MoveOperator((aten.permute.default,), _transpose, channels=_channels_after_permute),
    "slice": MoveOperator((aten.slice.Tensor,), _slice),
    "pad": MoveOperator(_PAD, _pad, fill="value"),
    "pad_with_value": MoveOperator(_PAD, _pad, fill="value", own_grid=True),
    "pad_reflect": MoveOperator(_PAD, _pad),
    "pad_replicate": MoveOperator(_PAD, _pad),
    "pad_circular": MoveOperator(_PAD, _pad),
    "upsample_nearest1d": MoveOperator((aten.upsample_nearest1d.default, aten.upsample_nearest1d.vec)),
    "upsample_nearest2d": MoveOperator((aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec), _resize),
    # Which pixel is nearest is torch's float32 rounding; ONNX Runtime's may differ.
    "upsample_nearest2d_uneven": MoveOperator((aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec)),
    "_upsample_nearest_exact1d": MoveOperator(
        (aten._upsample_nearest_exact1d.default, aten._upsample_nearest_exact1d.vec)),
    "_upsample_nearest_exact2d": MoveOperator(
        (aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact2d.vec)),
    "pixel_shuffle": MoveOperator((aten.pixel_shuffle.default,), _pixel_shuffle),
    "pixel_unshuffle": MoveOperator((aten.pixel_unshuffle.default,), _pixel_unshuffle),
    "channel_shuffle": MoveOperator((aten.channel_shuffle.default,)),
    "flip": MoveOperator((aten.flip.default,)),
    "fliplr": MoveOperator((aten.fliplr.default,)),
    "rot90": MoveOperator((aten.rot90.default,)),
    "roll": MoveOperator((aten.roll.default,)),
    "expand": MoveOperator((aten.expand.default,)),
    "repeat": MoveOperator((aten.repeat.default,)),
    "tile": MoveOperator((aten.tile.default,)),
    "repeat_interleave": MoveOperator((aten.repeat_interleave.self_int,)),
    "unfold": MoveOperator((aten.unfold.default,)),
}

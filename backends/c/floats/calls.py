"""Float operators as calls of C kernels, one function a kind; what has none is refused with a reason.

Elementwise operators compute every element by itself; softmax takes the largest value off, adds exponentials from the
first on, and divides. All is float32; `expf` and its like are the C library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from isobit.backends.fixed_point.floats.steps import FloatCall
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.operators.moves import MOVES

AXES = 4  # of the kernel's loops
_UNARY = {"sigmoid": "s", "exp": "e", "log": "l", "sqrt": "q", "tanh": "t", "relu": "r", "neg": "n"}
_BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_SCALAR_LAST = ("constant", "parameter", "")


@dataclass(frozen=True)
class Source:
    """An argument of a kernel.

    Args:
        number: which of the call's arguments; None for a constant.
        value: of the constant.
        offset: elements before the first that is read.
    """

    number: int | None
    value: float = 0.0
    offset: int = 0


@dataclass(frozen=True)
class Loop:
    """A call of `values`: sizes of the axes, steps of each tensor, the elements before the first that is written."""

    operator: str
    sizes: tuple[int, ...]
    sources: tuple[tuple[Source, tuple[int, ...]], ...]
    steps: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True)
class Softmax:
    """A call of `softmax`."""

    outer: int
    size: int
    inner: int


class _Unwritten(Exception):
    """Why a call has no kernel."""


def refusal(call: FloatCall) -> str:
    """Why C has no kernel for a call, or an empty string."""
    try:
        written(call)
    except _Unwritten as reason:
        return str(reason)
    return ""


def written(call: FloatCall) -> list[Loop | Softmax]:
    """The kernel calls of an operator; none where it gives no element.

    Raises:
        _Unwritten: there are none; `refusal` gives the reason.
    """
    *places, node, _ = call.graph.nodes
    if node.op != "call_function" or any(place.op != "placeholder" for place in places):
        raise _Unwritten("it is no single operator of tensors")
    if any(dtype is not torch.float32 for _, dtype in call.arguments):
        raise _Unwritten("C computes float operators of float32 only")
    name = op_name(node)
    base = name.partition("_")[0] if name.partition("_")[2] in _SCALAR_LAST else name
    numbers = {place: number for number, place in enumerate(places)}
    shapes = [shape for shape, _ in call.arguments]
    if name in _UNARY:
        size = math.prod(shapes[0])
        return _loop(_UNARY[name], (size,), [(Source(0), (1,))], (1,))
    if base in _BINARY and node.kwargs.get("alpha", 1) == 1 and len(node.args) == 2:
        return _binary(_BINARY[base], node, numbers, shapes)
    if name == "softmax":
        return _softmax(node, shapes[0])
    if name == "cat":
        return _joined(node, numbers, shapes)
    if name in MOVES and not MOVES[name].fill and len(places) == 1:
        return _moved(node, shapes[0])
    raise _Unwritten(f"C has no float kernel for {name}")


def _loop(
    operator: str, sizes: Sequence[int], sources: Sequence[tuple[Source, Sequence[int]]], steps: Sequence[int],
    offset: int = 0,
) -> list[Loop | Softmax]:
    """One with as many axes as the kernel has; those of one element are left out. None over no element."""
    if math.prod(sizes) == 0:
        return []
    kept = [axis for axis, size in enumerate(sizes) if size > 1]
    if len(kept) > AXES:
        raise _Unwritten(f"C's float kernels walk over {AXES} axes, and here are {len(kept)}")

    def padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
        return (*[fill] * (AXES - len(kept)), *(values[axis] for axis in kept))

    return [Loop(operator, padded(sizes, 1), tuple((source, padded(walk, 0)) for source, walk in sources),
                 padded(steps, 0), offset)]


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1:]) for axis in range(len(shape))]


def _binary(
    operator: str, node: fx.Node, numbers: Mapping[fx.Node, int], shapes: Sequence[tuple[int, ...]]
) -> list[Loop | Softmax]:
    shape = torch.broadcast_shapes(*(shapes[numbers[each]] for each in node.all_input_nodes))
    sources = []
    for argument in node.args:
        if not isinstance(argument, fx.Node):
            if not isinstance(argument, int | float):
                raise _Unwritten(f"{op_name(node)} of {argument!r}")
            sources.append((Source(None, float(argument)), [0] * len(shape)))
            continue
        own = shapes[numbers[argument]]
        walk = [0 if size == 1 else stride for size, stride in zip(own, _strides(own), strict=True)]
        sources.append((Source(numbers[argument]), [*[0] * (len(shape) - len(own)), *walk]))
    return _loop(operator, shape, sources, _strides(shape))


def _softmax(node: fx.Node, shape: Sequence[int]) -> list[Loop | Softmax]:
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(axis, int):
        raise _Unwritten("softmax along no stated axis")
    axis %= len(shape)
    call = Softmax(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1:]))
    return [call] if math.prod(shape) else []


def _joined(node: fx.Node, numbers: Mapping[fx.Node, int], shapes: Sequence[tuple[int, ...]]) -> list[Loop | Softmax]:
    parts: Any = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    axis = int(axis) % len(shapes[0])  # pyright: ignore[reportArgumentType]
    found: list[Loop | Softmax] = []
    total = list(shapes[numbers[parts[0]]])
    total[axis] = sum(shapes[numbers[part]][axis] for part in parts)
    strides, first = _strides(total), 0
    for part in parts:
        shape = shapes[numbers[part]]
        found += _loop("=", shape, [(Source(numbers[part]), _strides(shape))], strides, first * strides[axis])
        first += shape[axis]
    return found


def _moved(node: fx.Node, shape: Sequence[int]) -> list[Loop | Softmax]:
    """A move whose elements lie in lines."""
    arguments = [torch.arange(math.prod(shape)).reshape(tuple(shape)) if isinstance(value, fx.Node) else value
                 for value in node.args]
    function: Callable[..., torch.Tensor] = node.target  # pyright: ignore[reportAssignmentType]
    index = function(*arguments, **node.kwargs).numpy()
    if index.size == 0:
        return []
    first = int(index.flat[0])
    walk = [int(index.take(1, axis).flat[0]) - first if size > 1 else 0 for axis, size in enumerate(index.shape)]
    lines = first + sum(np.arange(size).reshape(-1, *[1] * (index.ndim - 1 - axis)) * step
                        for axis, (size, step) in enumerate(zip(index.shape, walk, strict=True)))
    if not np.array_equal(index, np.broadcast_to(lines, index.shape)):
        raise _Unwritten(f"{op_name(node)} whose elements lie in no lines")
    return _loop("=", index.shape, [(Source(0, offset=first), walk)], _strides(index.shape))

"""Frees the batch that a file has burnt in: constants of `Reshape`, `Expand` and `Concat` that mean it follow it.

The network is run on shapes alone, once at the batch that the file declares and once at another. Where the axis of a
value that follows the batch goes into a reshape to constant sizes, the size at the place where that axis begins is the
batch, or a multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from isobit.pipeline.errors import CompileError, InputError
from isobit.pipeline.model.onnx.call import BatchAxis, Result, Value
from isobit.pipeline.model.onnx.graph import MAX_NAME, Graph, shape_text
from isobit.pipeline.model.onnx.network import OnnxNetwork, OnnxNode, input_example
from isobit.pipeline.quiet import quiet

LARGEST_BATCH = 1 << 16
LARGEST_VALUE = 2 << 30  # bytes of one value at one sample
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """The batch inside the axis of a value: `ahead` elements of that axis stand for what lies before it.

    Args:
        size: as the file declares it.
        ahead: 1 where the batch is the outer part of its axis; 5 where an axis of 5 was joined with it.
    """

    size: int
    ahead: int


def free_batch(network: OnnxNetwork) -> None:
    """Makes the nodes of `network` follow the batch of its inputs.

    Raises:
        InputError: an operator cannot be computed, takes more memory than any network does, or keeps to its batch.
    """
    batch, shapes = network.graph.batch, {}
    _check_inputs(network.graph)
    before: dict[str, int] = {}

    def record(operator: OnnxNode, values: Sequence[Value | None]) -> Result:
        result = operator(*values)
        _check_size(operator, result, batch)
        shapes[operator] = ([_shape(value) for value in values], _shape(result))
        return result

    def follow(operator: OnnxNode, values: Sequence[Value | None]) -> Result:
        known, result = shapes[operator]
        ahead = max((before.get(name, 1) for name in operator.node.inputs), default=1)
        if operator.node.op in _RULES and (network.graph.fixed_batch or not _runs(operator, values)):
            ahead = _RULES[operator.node.op](operator, values, known, result, Batch(batch, ahead))
        before.update(dict.fromkeys(operator.node.outputs, ahead))
        return operator(*values)

    _run(network, batch, record)
    try:
        _run(network, batch + 1, follow)
    except InputError as error:
        raise InputError(
            f"the file computes with a batch of {batch} alone: {error.what}", where=error.where,
            hint="Export it with a dynamic batch (dynamic_axes, or dynamic_shapes).",
        ) from error


def _run(network: OnnxNetwork, batch: int, step: Callable[[OnnxNode, Sequence[Value | None]], Result]) -> None:
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        network.run(input_example(network.graph, batch), step)


def _runs(operator: OnnxNode, values: Sequence[Value | None]) -> bool:
    try:
        operator(*values)
    except CompileError:
        return False
    return True


def _shape(value: object) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _check_inputs(graph: Graph) -> None:
    for port in graph.inputs:
        size = math.prod(each or 1 for each in port.shape[1:]) * port.dtype.itemsize
        if size > LARGEST_VALUE or graph.batch > LARGEST_BATCH:
            raise InputError(
                f"the input '{port.name[:MAX_NAME]}' is of shape {shape_text(port.shape)}", where="the .onnx file",
                allowed=f"at most {LARGEST_VALUE >> 20:,} MiB a sample, and {LARGEST_BATCH:,} samples",
                field="input_shape",
            )


def _check_size(operator: OnnxNode, result: Result, batch: int) -> None:
    for value in result if isinstance(result, tuple) else (result,):
        if isinstance(value, Tensor) and value.numel() * value.element_size() > LARGEST_VALUE * batch:
            raise InputError(
                f"it makes a tensor of shape {list(value.shape)}", where=operator.node.where,
                allowed=f"at most {LARGEST_VALUE >> 20:,} MiB a sample",
            )


def _varying(value: Value | None, known: Shape) -> list[int]:
    """Axes whose size is another at another batch."""
    now = _shape(value)
    return [axis for axis, size in enumerate(now) if len(now) == len(known) and size != known[axis]]


def _reshape(
    operator: OnnxNode, values: Sequence[Value | None], known: list[Shape], result: Shape, batch: Batch
) -> int:
    axes = _varying(values[0], known[0])
    if len(axes) != 1 or 1 not in operator.numbers:
        return 1
    source = axes[0]
    before = math.prod(known[0][:source]) * batch.ahead
    place = _place(result, before)
    inner = known[0][source] // (batch.size * batch.ahead)
    ending = _ending(result, (*([inner] if inner > 1 else []), *known[0][source + 1:]))
    moved = place is not None and result[place] != known[0][source]
    if place is not None and before > 1 and moved and ending is not None and ending < place:
        place = ending
    if place is not None:
        size, over = result[place], known[0][source]
        shared = math.gcd(size, over)
        operator.batch_axes = (BatchAxis(place, source, size // shared, over // shared),)
        return max(before // math.prod(result[:place]), 1)
    return batch.ahead


def _place(shape: Shape, before: int) -> int | None:
    """The axis of `shape` that begins after `before` elements; else the one in which that place lies."""
    inside = None
    count = 1
    for axis, size in enumerate(shape):
        if count == before:
            return axis
        if count * size > before and inside is None:
            inside = axis
        count *= size
    return inside


def _ending(shape: Shape, rest: Shape) -> int | None:
    """The axis of `shape` after which nothing but the axes `rest` follows, as they are or joined to fewer."""
    waiting = list(rest)
    for axis in reversed(range(len(shape))):
        size = 1
        while waiting and size < shape[axis]:
            size *= waiting.pop()
        if size != shape[axis]:
            return None
        if not waiting:
            return axis - 1 if axis else None
    return None


def _expand(
    operator: OnnxNode, values: Sequence[Value | None], known: list[Shape], result: Shape, batch: Batch
) -> int:
    shift = len(result) - len(known[0])
    operator.batch_axes = tuple(
        BatchAxis(axis + shift, axis) for axis in _varying(values[0], known[0]) if 1 in operator.numbers
    )
    return batch.ahead


def _concat(
    operator: OnnxNode, values: Sequence[Value | None], known: list[Shape], result: Shape, batch: Batch
) -> int:
    """A constant beside values of the batch (a class token, repeated for the file's batch) is one for each sample."""
    joined = operator.node.attributes.get("axis", 0) % max(len(result), 1)
    axes = {axis for value, shape in zip(values, known, strict=True) for axis in _varying(value, shape)} - {joined}
    if len(axes) != 1:
        return batch.ahead
    axis = axes.pop()
    for position, name in operator.names.items():
        constant = operator.held_tensor(position)
        if constant.shape[axis] > 1:
            with unset_fake_temporarily():
                first = constant.narrow(axis, 0, 1)
                if not torch.equal(constant, first.expand_as(constant)):
                    return batch.ahead
                operator.hold(position, first.clone(), name)
    operator.batch_axes = (BatchAxis(axis, axis),)
    return batch.ahead


_RULES = {"Reshape": _reshape, "Expand": _expand, "Concat": _concat}

"""Transposed convolutions as convolutions of the same map: every place between two steps is a channel of its own.

    conv_transpose2d(stride s)  = conv2d with s * s times the channels, then those moved to their places, a slice

A transposed convolution spreads each pixel over a kernel of k; of the s places between two pixels each sees only
ceil(k / s) of the taps. So no zeros are multiplied but those that make k a multiple of s, and what remains to be done
moves codes. A batch norm and activations after it stay right after the convolution, before the move.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.nodes import (
    bound_args,
    copy_origin,
    finish,
    get_attribute,
    insert_call,
    is_constant,
    op_name,
    pair,
    set_argument,
    set_attribute,
    source_of,
    tensor_shape,
)
from isobit.pipeline.shapes import known_sizes

aten = torch.ops.aten
_NORM = ("weight", "bias", "running_mean", "running_var")


def split_transposed(graph: fx.GraphModule) -> bool:
    """Rewrite in place those without dilation whose parameters are constants; True where there was one."""
    found = [node for node in graph.graph.nodes if op_name(node) == "conv_transpose2d" and _is_split(node)]
    for node in found:
        _Split(graph, node).write()
    if found:
        finish(graph)
    return bool(found)


def _is_split(node: fx.Node) -> bool:
    args = bound_args(node)
    constant = all(each is None or each.op == "get_attr" for each in (args["weight"], args["bias"]))
    return constant and pair(args["dilation"]) == (1, 1) and len(tensor_shape(node)) == 4


class _Split:
    """One layer and what runs with it."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        self.graph, self.node, self.args = graph, node, bound_args(node)
        self.stride, self.padding = pair(self.args["stride"]), pair(self.args["padding"])
        self.kernel = known_sizes(tensor_shape(self.args["weight"])[2:])
        self.taps = [-(-size // step) for size, step in zip(self.kernel, self.stride, strict=True)]
        self.places = self.stride[0] * self.stride[1]

    def write(self) -> None:
        value, last = self._layer(), self.node
        while (after := self._follower(last)) is not None:
            value, last = self._moved_before(after, value), after
        for reader in list(last.users):
            reader.replace_input_with(last, self._spread(value, last))
        while last is not self.node:
            before = source_of(last)
            self.graph.graph.erase_node(last)
            last = before
        self.graph.graph.erase_node(self.node)

    def _layer(self) -> fx.Node:
        """The convolution, [N, K * places, rows, columns]."""
        source, groups = source_of(self.node), self.args["groups"]
        weight = self._constant(self.args["weight"], _split_weight(
            get_attribute(self.graph, self.args["weight"]).detach(), groups, self.stride, self.taps))
        bias = self.args["bias"]
        if bias is not None:
            bias = self._constant(bias, self._each(bias))
        sizes = known_sizes(tensor_shape(source)[2:])
        missing = [
            max(rows - (size + taps - 1), 0) for rows, size, taps in zip(self._rows(), sizes, self.taps, strict=True)
        ]
        if any(missing):
            source = insert_call(
                self.graph, self.node, aten.pad.default, (source, [0, missing[1], 0, missing[0]], "constant", 0.0))
            front = tensor_shape(source_of(self.node))[:2]
            source.meta["shape"] = (*front, *(size + more for size, more in zip(sizes, missing, strict=True)))
        around = [taps - 1 for taps in self.taps]
        made = insert_call(
            self.graph, self.node, aten.conv2d.default, (source, weight, bias, [1, 1], around, [1, 1], groups))
        made.meta["shape"] = (None, tensor_shape(weight)[0], *(
            size + more + taps - 1 for size, more, taps in zip(sizes, missing, self.taps, strict=True)))
        return made

    def _rows(self) -> list[int]:
        """How many rows and columns of the convolution the result needs."""
        sizes = known_sizes(tensor_shape(self.node)[2:])
        return [-(-(size + pads) // step) for size, pads, step in zip(sizes, self.padding, self.stride, strict=True)]

    def _constant(self, old: fx.Node, value: Tensor) -> fx.Node:
        """`value` as a parameter, under the old name where nothing else reads that."""
        readers = {user for node in self.graph.graph.nodes if node.target == old.target for user in node.users}
        target = str(old.target) if len(readers) == 1 else f"{old.target}_{self.node.name}"
        set_attribute(self.graph, target, value.clone())
        with self.graph.graph.inserting_before(self.node):
            made = self.graph.graph.create_node("get_attr", target)
        made.meta["shape"] = tuple(value.shape)
        return made

    def _each(self, node: fx.Node) -> Tensor:
        """A number for every channel of the convolution."""
        return get_attribute(self.graph, node).detach().repeat_interleave(self.places)

    def _follower(self, node: fx.Node) -> fx.Node | None:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if user is None or op_name(user) not in ACTIVATIONS | {"batch_norm"}:
            return None
        return user if all(source is node or source.op == "get_attr" for source in user.all_input_nodes) else None

    def _moved_before(self, after: fx.Node, value: fx.Node) -> fx.Node:
        constants = {}
        if op_name(after) == "batch_norm":
            given = bound_args(after)
            constants = {name: self._constant(given[name], self._each(given[name])) for name in _NORM if given[name]}
        with self.graph.graph.inserting_before(self.node):
            made = self.graph.graph.node_copy(after, lambda source: value if not is_constant(source) else source)
        for name, constant in constants.items():
            set_argument(made, name, constant)
        copy_origin(made, after)
        made.meta["shape"] = tensor_shape(value)
        return made

    def _spread(self, value: fx.Node, last: fx.Node) -> fx.Node:
        """The channels at their places, cut to the result's size."""
        (rows, columns), (high, wide) = known_sizes(tensor_shape(value)[2:]), self.stride
        channels = known_sizes(tensor_shape(value)[1:2])[0] // self.places
        if self.places > 1:
            value = self._call(last, aten.reshape.default, value, [-1, channels, high, wide, rows, columns])
            value = self._call(last, aten.permute.default, value, [0, 1, 4, 2, 5, 3])
            value = self._call(last, aten.reshape.default, value, [-1, channels, rows * high, columns * wide])
        for axis, (start, size) in enumerate(zip(self.padding, known_sizes(tensor_shape(last)[2:]), strict=True), 2):
            if (start, size) != (0, known_sizes(tensor_shape(value)[2:])[axis - 2]):
                value = self._call(last, aten.slice.Tensor, value, axis, start, start + size, 1)
        return value

    def _call(self, last: fx.Node, target: Any, value: fx.Node, *args: Any) -> fx.Node:
        made = insert_call(self.graph, last, target, (value, *args))
        shape = list(tensor_shape(value))
        if target is aten.slice.Tensor:
            shape[args[0]] = args[2] - args[1]
        elif target is aten.permute.default:
            shape = [shape[axis] for axis in args[0]]
        else:
            shape = [None, *args[0][1:]]
        made.meta["shape"] = tuple(shape)
        return made


def _split_weight(weight: Tensor, groups: int, stride: tuple[int, int], taps: list[int]) -> Tensor:
    """[C, K / groups, R, S] of the transposed convolution -> [K * places, C / groups, taps, taps] of the other."""
    inputs, outputs, rows, columns = weight.shape
    weight = F.pad(weight, (0, taps[1] * stride[1] - columns, 0, taps[0] * stride[0] - rows))
    weight = weight.reshape(groups, inputs // groups, outputs, taps[0], stride[0], taps[1], stride[1]).flip(3, 5)
    weight = weight.permute(0, 2, 4, 6, 1, 3, 5)
    return weight.reshape(groups * outputs * stride[0] * stride[1], inputs // groups, *taps).contiguous()

"""Repetition of pixels, said with shapes: reshape to [N, C, H, 1, W, 1], expand to [N, C, H, a, W, b], reshape."""

from __future__ import annotations

from torch import fx

from isobit.passes.recognise.rewriting import aten, call, is_call
from isobit.pipeline.graph.nodes import source_of, tensor_shape
from isobit.pipeline.shapes import known_sizes


def nearest(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The resize by whole numbers that the three are."""
    if not is_call(node, aten.reshape.default) or not is_call(node.args[0], aten.expand.default, aten.repeat.default):
        return None
    wide = source_of(node)
    spread = x = source_of(wide)
    while is_call(x, aten.reshape.default) and len(x.users) == 1:
        x = source_of(x)
    before, repeated = tensor_shape(x), tensor_shape(wide)
    if x is spread or len(wide.users) != 1 or len(before) != 4 or len(repeated) != 6:
        return None
    if None in (*before[1:], *repeated[1:]):
        return None
    batch, channels, height, width = before
    if tensor_shape(spread) != (batch, channels, height, 1, width, 1):
        return None
    if (*repeated[:3], repeated[4]) != (batch, channels, height, width):
        return None
    size = [pixels * times for pixels, times in (known_sizes(repeated[2:4]), known_sizes(repeated[4:]))]
    if tensor_shape(node) != (batch, channels, *size):
        return None
    return call(graph, node, aten.upsample_nearest2d.default, x, size)

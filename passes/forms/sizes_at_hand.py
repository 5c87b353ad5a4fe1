"""The batch's size is asked of what an operator reads, not of the network's input.

    gru(x, zeros([1, size(input, 0), 32]))        -> gru(x, zeros([1, size(x, 0), 32]))
    cat([expand(token, [size(input, 0), 1, 8]), x]) -> cat([expand(token, [size(x, 0), 1, 8]), x])

Of recurrences, sums, products and concatenations. Such a part of the network stands alone: its values are tensors, one
row for each sample, and no number of samples comes from outside, where a method draws other samples than the part
reads. Elsewhere the size stays that of the network's input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from isobit.pipeline.graph.nodes import bound_args, copy_origin, finish, insert_call, is_constant, op_name, tensor_shape
from isobit.pipeline.operators.joined import PAIRS

aten = torch.ops.aten
RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})
SIZE = "sym_size"


def sizes_at_hand(graph: fx.GraphModule) -> bool:
    """Rewrite in place what is made of the batch's size alone; True where there was something."""
    made = [node for node in graph.graph.nodes if node.op == "call_function" and _is_made(node)]
    changed = [_write(graph, node, reader) for node in made for reader in list(node.users)]
    if any(changed):
        finish(graph)
    return any(changed)


def _is_made(node: fx.Node) -> bool:
    """It reads a size, and else constants alone: zeros, a parameter that is expanded."""
    sizes = [source for source in node.all_input_nodes if op_name(source) == SIZE]
    rest = [source for source in node.all_input_nodes if source not in sizes]
    return len(sizes) == 1 and all(map(is_constant, rest)) and tensor_shape(node).count(None) == 1


def _write(graph: fx.GraphModule, made: fx.Node, reader: fx.Node) -> bool:
    found = _at_hand(made, reader)
    if found is None:
        return False
    [old] = [source for source in made.all_input_nodes if op_name(source) == SIZE]
    if old.args == found:
        return False
    size = insert_call(graph, reader, aten.sym_size.int, found)
    with graph.graph.inserting_before(reader):
        own = graph.graph.node_copy(made, lambda node: size if node is old else node)
    copy_origin(own, made)
    reader.replace_input_with(made, own)
    return True


def _at_hand(made: fx.Node, reader: fx.Node) -> tuple[fx.Node, int] | None:
    """An operand of `reader` that has the size on an axis, and the axis; None where the operator does not say so."""
    name, args = op_name(reader), bound_args(reader) if reader.op == "call_function" else {}
    if name in RECURRENT:
        read: Any = args["input"]
        axis = 0 if args["batch_first"] else 1
        return (read, axis) if tensor_shape(read)[axis:axis + 1] == (None,) and made is not read else None
    rank = len(tensor_shape(made))
    place = tensor_shape(made).index(None) - rank
    if name not in PAIRS and not (name == "cat" and args["dim"] % rank - rank != place):
        return None
    others = [source for source in reader.all_input_nodes if source is not made and not _is_made(source)]
    for other in others:
        shape = tensor_shape(other)
        if len(shape) >= -place and shape[place] is None:
            return other, len(shape) + place
    return None

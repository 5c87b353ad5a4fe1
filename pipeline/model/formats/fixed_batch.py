"""Programs that were exported for one batch size: the size becomes free again.

`torch.export.export(model, (x,))` without `dynamic_shapes` writes the batch of `x` into every shape. Each such number
is replaced by what equals it at that batch, so the rewritten program is the same there; that samples do not meet each
other at any batch is what `capture` proves of every network.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

EXAMPLE = 2  # samples that the program is traced with again: torch takes sizes of 0 and 1 for constants
_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)
# What makes a value of a shape of its own, and the place of the shape among the arguments.
_NEW = {_aten.new_zeros.default: 1, _aten.new_ones.default: 1, _aten.new_full.default: 1}
_MAKERS = {_aten.zeros.default: 0, _aten.ones.default: 0, _aten.full.default: 0, _aten.expand.default: 1, **_NEW}


def with_free_batch(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program with a free batch, or `program` itself where its batch is free or cannot be freed.

    The batch is the first size of every input. Nothing is computed: torch traces shapes.
    """
    inputs = _inputs(program)
    batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 0
    if type(batch) is not int or batch < 1 or any(not value.dim() or value.shape[0] != batch for value in inputs):
        return program
    if not all(type(size) is int for value in inputs for size in value.shape):
        return program
    examples = tuple(torch.zeros(EXAMPLE, *value.shape[1:], dtype=value.dtype) for value in inputs)
    free = torch.export.Dim("batch", min=1)
    try:
        rewritten = _rewritten(program, batch)
        return torch.export.export(rewritten, examples, dynamic_shapes=tuple({0: free} for _ in inputs))
    except Exception:  # torch raises anything where shapes do not go together: the batch stays as it is
        return program


def _inputs(program: torch.export.ExportedProgram) -> Sequence[Tensor]:
    """The example values of a program's inputs; none where one of them is no tensor."""
    names = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return values if all(isinstance(value, Tensor) for value in values) else ()


def _rewritten(program: torch.export.ExportedProgram, batch: int) -> fx.GraphModule:
    """The program's graph without its guards, whose shapes say the batch of its input in place of a number."""
    module = program.module(check_guards=False)
    graph, copies = fx.Graph(), {}
    sampled: set[fx.Node] = set()  # what depends on the batch
    size: fx.Node | None = None
    for node in module.graph.nodes:
        new = copies[node] = graph.node_copy(node, lambda source: copies[source])
        if node.op == "placeholder":
            sampled.add(node)
            size = size or graph.call_function(_aten.sym_size.int, (new, 0))
        elif node.op == "call_function":
            depends = node.target not in _NEW and not sampled.isdisjoint(node.all_input_nodes)
            place = _MAKERS.get(node.target, 1 if node.target in _VIEWS and depends else None)
            freed = size is not None and place is not None and _free(graph, new, place, size, batch)
            if freed or depends:
                sampled.add(node)
    plain = fx.GraphModule(module, graph)
    plain.graph.set_codegen(module.graph._codegen)
    return plain


def _free(graph: fx.Graph, node: fx.Node, place: int, size: fx.Node, batch: int) -> bool:
    """Write the first number of a node's shape as a multiple of the batch; False where it is none."""
    shape: Any = node.args[place]
    first = shape[0] if shape else None
    exact = node.target in _MAKERS  # what is made anew has the batch itself, or is not about samples
    if type(first) is not int or first < 1 or (first != batch if exact else first % batch):
        return False
    with graph.inserting_before(node):
        free = size if first == batch else graph.call_function(operator.mul, (size, first // batch))
    node.update_arg(place, [free, *shape[1:]])
    return True

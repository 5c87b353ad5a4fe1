"""The modules of a graph that says only where each operator stands, as its names tell them.

A graph read from a file has one module for each operator (`layer1.0.conv1`, `layer1.0.add`). The paths are those of
the network's author: a prefix is a module, and modules whose paths differ in their numbers alone are of one class.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from torch import fx

from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, module_path, module_stack, op_name

# A layer in a module of its own kind was written as one: its author's classes are all there are.
TORCH = "torch.nn.modules."


def is_flat(nodes: Sequence[fx.Node]) -> bool:
    """No module but the network itself holds two layers, and none is one of torch's: its classes tell nothing."""
    weights: dict[str, set[fx.Node]] = defaultdict(set)
    for node in nodes:
        if op_name(node) in WEIGHTED:
            for path, kind in module_stack(node):
                if kind.startswith(TORCH):
                    return False
                weights[path].add(bound_args(node)["weight"])
    return all(len(found) == 1 for path, found in weights.items() if path)


def named_stack(node: fx.Node) -> list[tuple[str, str]]:
    """(path, class) of every module around `node` by its name, outermost first; the operator itself is none."""
    parts = module_path(node).split(".")[:-1]
    paths = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return [(path, re.sub(r"\d+", "#", path)) for path in paths]

"""From the names in an ONNX file to module paths: layers are called as in the network that was exported.

The module that torch's newer exporter writes down wins; then a node's name as a path (`/layer1/layer1.0/conv1/Conv`
is `layer1.0.conv1`); then the name of its weight (`backbone.0.weight` is of `backbone.0`); then the node's own name.
"""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from isobit.pipeline.model.onnx.graph import Graph, Node

LONGEST_PART, DEEPEST = 80, 32
_INVALID = re.compile(r"\W+", re.ASCII)
_WEIGHT = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*\.weight", re.ASCII)
_RESERVED = frozenset(dir(nn.Module())) | {
    "graph", "paths", "node", "file_node", "file_node_name", "names", "numbers", "opset", "batch_axes",
}  # fmt: skip


def module_paths(graph: Graph) -> tuple[str, ...]:
    """A path for every node, in their order: unique, and none below another."""
    paths: list[str] = []
    taken: set[str] = set()
    inner: set[str] = set()  # paths that have others below them
    counts: dict[str, int] = defaultdict(int)
    wanted = [_wanted(node, graph) for node in graph.nodes]
    for parts in wanted:
        inner.update(".".join(parts[:depth]) for depth in range(1, len(parts)))
    for node, parts in zip(graph.nodes, wanted, strict=True):
        path = ".".join(parts)
        if path in inner:  # computed by a module that has modules of its own
            path = f"{path}.{_valid(node.op)}"
        base = path
        while path in taken or path in inner:
            counts[base] += 1
            path = f"{base}_{counts[base]}"
        taken.add(path)
        paths.append(path)
    return tuple(paths)


def parameter_name(node: Node, position: int, known: Mapping[int, str]) -> str:
    """What the constant input `position` of a node is called in its module."""
    return known.get(position, "constant" if position == 1 else f"constant_{position}")


def _wanted(node: Node, graph: Graph) -> list[str]:
    weight = next(iter(node.inputs[1:2]), "")
    weighted = weight in graph.constants
    if node.scope:
        parts = [_valid(part) for part in node.scope.split(".")]
        return parts[:DEEPEST] if weighted else [*parts, _valid(node.op)][:DEEPEST]
    if "/" in node.name:
        parts = _of_path(node.name.partition(";")[0], node.op)
        if parts:
            return parts
    if weighted and _WEIGHT.fullmatch(weight):
        return [_valid(part) for part in weight.split(".")[:-1]][:DEEPEST]
    name = node.name.partition(";")[0] or f"{node.op}_{next(filter(None, node.outputs), '')}"
    return [_valid(name)]


def _of_path(name: str, op: str) -> list[str]:
    """`/layer1/layer1.0/conv1/Conv` -> layer1, 0, conv1; an operator that is no module's own keeps its name."""
    parts: list[str] = []
    before = ""
    pieces = [piece for piece in name.split("/") if piece]
    for piece in pieces[:DEEPEST]:
        own = piece.removeprefix(f"{before}.") if before else piece
        parts += [_valid(part) for part in own.split(".") if part]
        before = piece
    if len(parts) > 1 and op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization") and re.fullmatch(
        rf"{op}(_\d+)?", pieces[-1]
    ):
        return parts[:-1]
    return parts


def _valid(part: str) -> str:
    """One part of a path: letters, digits and underscores; no word of Python, and no name that a module has already."""
    cleaned = _INVALID.sub("_", part).strip("_")[:LONGEST_PART] or "node"
    return f"{cleaned}_" if cleaned in _RESERVED or keyword.iskeyword(cleaned) else cleaned

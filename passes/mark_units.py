"""Find the reconstruction units from the graph's own module paths; no per-model code.

A *block* is a module (1) in whose forward branches join (add, cat, or a product of two computed branches), or (2) whose
class appears at least twice, holds two or more weighted operators and no block of kind (1). Every instance of a block's
class counts (MobileNetV2's inverted residuals without a skip are blocks because those with one are). Where blocks nest
(squeeze-excitation inside an inverted residual) the outermost wins, unless it is used once only: a class that appears
once and holds other blocks is a trunk, not a block. Everything else is reconstructed layer by layer.

A module that is used once and runs several layers itself (F.conv2d with parameters of its own) shows no blocks by its
modules; there the values do: a stretch between two points that only one value passes, in which branches join, is a
block, unless it holds more than `LARGEST` layers (a long skip).

Units are contiguous runs in execution order, hence convex: no path leaves a unit and comes back. Pools and layout
operators between units belong to the unit that follows, activations and sums to the one that precedes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from torch import fx

from isobit.pipeline.graph.dialect import POOLS, WEIGHTED, keeps_codes
from isobit.pipeline.graph.layers import layer_name
from isobit.pipeline.graph.nodes import is_constant, module_path, module_stack, op_name

JOINED = "branches join in it"
JOINS = ("add", "mul", "cat")
CONTAINERS = ("torch.nn.modules.container.", "builtins.")
# Layers of a stretch that is a block; the papers' largest have fewer.
LARGEST = 8


@dataclass
class _Segment:
    name: str
    kind: str
    why: str
    nodes: list[fx.Node] = field(default_factory=list)


def mark_units(graph: fx.GraphModule) -> bool:
    """Write `node.meta["unit"]` (index) on every operator and `graph.meta["units"]`: (name, kind, why) per unit."""
    nodes = [n for n in graph.graph.nodes if n.op == "call_function" and not is_constant(n)]
    plain = _plain_paths(nodes)
    segments = _segments(nodes, _block_paths(nodes, plain), _stretches(nodes, plain))
    names: dict[str, int] = defaultdict(int)
    described = []
    for index, segment in enumerate(segments):
        for node in segment.nodes:
            node.meta["unit"] = index
        names[segment.name] += 1
        suffix = f"#{names[segment.name]}" if names[segment.name] > 1 else ""
        described.append((segment.name + suffix, segment.kind, segment.why))
    graph.meta["units"] = tuple(described)
    return True


def _plain_paths(nodes: list[fx.Node]) -> set[str]:
    """Modules used once that run several layers themselves: their paths tell nothing about what is inside."""
    layers = [n for n in nodes if op_name(n) in WEIGHTED and layer_name(n) != module_path(n)]
    kinds = {path: kind for node in nodes for path, kind in module_stack(node)}
    paths = [module_path(n) for n in layers]
    return {path for path in paths if paths.count(path) > 1 and [*kinds.values()].count(kinds.get(path, "")) <= 1}


def _stretches(nodes: list[fx.Node], plain: set[str]) -> dict[fx.Node, str]:
    """Node -> name of the block, inside the modules of `plain`: from where one value passes to where one does again."""
    found: dict[fx.Node, str] = {}
    place = {node: index for index, node in enumerate(nodes)}
    entering = [node for node in nodes[0].graph.nodes if node.op == "placeholder"] if nodes else []
    end, run = -1, []
    names: dict[str, int] = defaultdict(int)
    for index, node in enumerate(nodes):
        end = max([end, *(place.get(user, len(nodes)) for value in entering for user in value.users)])
        entering = [node]
        run.append(node)
        if end > index:
            continue
        layers = [n for n in run if op_name(n) in WEIGHTED]
        within = 0 < len(layers) <= LARGEST and all(module_path(n) in plain for n in layers)
        if within and any(map(_is_join, run)):
            name = layer_name(layers[0])
            names[name] += 1
            found.update(dict.fromkeys(run, name if names[name] == 1 else f"{name}#{names[name]}"))
        end, run = -1, []
    return found


def _block_paths(nodes: list[fx.Node], plain: set[str]) -> dict[str, str]:
    """Module path -> why it is a block, for the outermost blocks."""
    kinds = {path: kind for node in nodes for path, kind in module_stack(node) if path}
    instances: dict[str, set[str]] = defaultdict(set)
    for path, kind in kinds.items():
        instances[kind].add(path)
    joined = {kinds[module_path(n)] for n in nodes if module_path(n) in kinds and _is_join(n)}
    why = {path: JOINED for kind in joined for path in instances[kind] if _is_proper(kind)}
    weighted: dict[str, int] = defaultdict(int)
    for node in nodes:
        if op_name(node) in WEIGHTED:
            for path, _ in module_stack(node):
                weighted[path] += 1
    for kind, paths in instances.items():
        repeated = len(paths) >= 2 and _is_proper(kind) and min(weighted[path] for path in paths) >= 2
        if repeated and not any(_inside(block, path) for block in why for path in paths if block != path):
            why.update({path: "its class repeats" for path in paths if path not in why})
    why = {p: r for p, r in why.items() if weighted[p] and p not in plain}
    trunks = {p for p in why if len(instances[kinds[p]]) == 1 and any(_inside(q, p) for q in why if q != p)}
    kept = {path: reason for path, reason in why.items() if path not in trunks}
    return {path: reason for path, reason in kept.items() if not any(_inside(path, q) for q in kept if q != path)}


def _is_proper(kind: str) -> bool:
    return not kind.startswith(CONTAINERS)


def _inside(path: str, outer: str) -> bool:
    return path.startswith(outer + ".")


def _is_join(node: fx.Node) -> bool:
    """Two computed branches meet; x * gate(x) is an activation, not a join."""
    if op_name(node) not in JOINS:
        return False
    inputs = node.all_input_nodes
    return len(inputs) >= 2 and not any(a in b.all_input_nodes for a in inputs for b in inputs)


def _segments(nodes: list[fx.Node], blocks: dict[str, str], stretches: dict[fx.Node, str]) -> list[_Segment]:
    segments: list[_Segment] = []
    waiting: list[fx.Node] = []
    for node in nodes:
        path = next((p for p, _ in module_stack(node) if p in blocks), "") or stretches.get(node, "")
        current = segments[-1] if segments else None
        if path:
            if current is None or current.name != path:
                segments.append(_Segment(path, "block", blocks.get(path, JOINED), waiting))
                waiting = []
            segments[-1].nodes.extend([*waiting, node])
            waiting = []
        elif op_name(node) in WEIGHTED:
            name = layer_name(node)
            segments.append(_Segment(name, "layer", "a layer outside any block", [*waiting, node]))
            waiting = []
        elif current is None or waiting or _leads(node):
            waiting.append(node)
        else:
            current.nodes.append(node)
    if waiting and segments:
        segments[-1].nodes.extend(waiting)
    return segments


def _leads(node: fx.Node) -> bool:
    """Glue that waits for the next weighted operator; anything else stays with the operator before it."""
    return keeps_codes(op_name(node)) or op_name(node) in POOLS

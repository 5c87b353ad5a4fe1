"""Find the reconstruction units from the graph's own module paths; no per-model code.

A *block* is a module (1) in whose forward branches join (add, cat, or a product of two computed branches), or (2) whose
class appears at least twice, holds two or more weighted operators and no block of kind (1). Every instance of a block's
class counts (MobileNetV2's inverted residuals without a skip are blocks because those with one are). Where blocks nest
(squeeze-excitation inside an inverted residual) the outermost wins, unless it is used once only: a class that appears
once and holds other blocks is a trunk, not a block. Everything else is reconstructed layer by layer.

A module that is used once and runs several layers itself (F.conv2d with parameters of its own) shows no blocks by its
modules, and neither does a graph without module classes, as it is read from a file. There names (`passes.units.names`)
and the structure of the graph (`passes.units.regions`) do.

Units are contiguous runs in execution order, hence convex: no path leaves a unit and comes back. Pools, layout
operators and concatenations between units belong to the unit that follows, activations and sums to the one that
precedes. What no layer follows belongs to the unit that computed it, and is moved to its end: a head's answer is judged
in its own unit, not in that of the head after it. What lies after the cut, or lays out the answers of several units,
belongs to none.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx

from isobit.passes.units.names import is_flat, named_stack
from isobit.passes.units.regions import JOINED, LARGEST, gather, is_join, regions
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED, keeps_codes
from isobit.pipeline.graph.ends.decoding import decodes
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import is_constant, module_path, module_stack, op_name

CONTAINERS = ("torch.nn.modules.container.", "builtins.")
# (path, class) of the modules around a node, outermost first.
Stacks = dict[fx.Node, list[tuple[str, str]]]


@dataclass
class _Segment:
    name: str
    kind: str
    why: str
    nodes: list[fx.Node] = field(default_factory=list)


def mark_units(graph: fx.GraphModule) -> bool:
    """Write `node.meta["unit"]` (index) on every operator and `graph.meta["units"]`: (name, kind, why) per unit."""
    nodes = _operators(graph)
    flat = is_flat(nodes)
    stacks = {node: named_stack(node) if flat else module_stack(node) for node in nodes}
    layers = Layers(Calls(graph))
    names = {layer.node: layers.name(layer) for layer in layers}
    plain = _plain_paths(nodes, names)
    paths = _named_blocks(stacks) if flat else _block_paths(stacks, plain)
    blocks = {node: (path, why) for node, stack in stacks.items() for path, why in _first(stack, paths)}
    allowed = [n for n in nodes if n not in blocks and (flat or module_path(n) in plain)]
    for region in regions(nodes, allowed):
        gather(region)
        name = _unused(names[region.layers[0]], blocks.values())
        blocks.update(dict.fromkeys(region.nodes, (name, region.why)))
    segments = _segments(_operators(graph), blocks, names)
    numbers: dict[str, int] = defaultdict(int)
    described = []
    for index, segment in enumerate(segments):
        for node in segment.nodes:
            node.meta["unit"] = index
        numbers[segment.name] += 1
        suffix = f"#{numbers[segment.name]}" if numbers[segment.name] > 1 else ""
        described.append((segment.name + suffix, segment.kind, segment.why))
    graph.meta["units"] = tuple(described)
    return True


def _plain_paths(nodes: list[fx.Node], names: Mapping[fx.Node, str]) -> set[str]:
    """Modules used once that run several layers themselves: their paths tell nothing about what is inside."""
    layers = [n for n in nodes if n in names and names[n] != module_path(n)]
    kinds = {path: kind for node in nodes for path, kind in module_stack(node)}
    paths = [module_path(n) for n in layers]
    return {path for path in paths if paths.count(path) > 1 and [*kinds.values()].count(kinds.get(path, "")) <= 1}


def _block_paths(stacks: Stacks, plain: set[str]) -> dict[str, str]:
    """Module path -> why it is a block, for the outermost blocks."""
    kinds, instances, weighted = _modules(stacks)
    why = {path: JOINED for kind in _joined(stacks) for path in instances[kind] if _is_proper(kind)}
    for kind, paths in instances.items():
        repeated = len(paths) >= 2 and _is_proper(kind) and min(weighted[path] for path in paths) >= 2
        if repeated and not any(_inside(block, path) for block in why for path in paths if block != path):
            why.update({path: "its class repeats" for path in paths if path not in why})
    why = {p: r for p, r in why.items() if weighted[p] and p not in plain}
    trunks = {p for p in why if len(instances[kinds[p]]) == 1 and any(_inside(q, p) for q in why if q != p)}
    return _outermost({path: reason for path, reason in why.items() if path not in trunks})


def _named_blocks(stacks: Stacks) -> dict[str, str]:
    """The same where names stand for classes: modules with two layers or more, and a trunk is known by its size too."""
    _, instances, weighted = _modules(stacks)
    why = {path: JOINED for kind in _joined(stacks) for path in instances[kind] if weighted[path] >= 2}
    trunks = {
        path for kind in _joined(stacks) for path in instances[kind]
        if weighted[path] > LARGEST and (len(instances[kind]) == 1 or any(_inside(q, path) for q in why))
    }
    return _outermost({path: reason for path, reason in why.items() if path not in trunks})


def _modules(stacks: Stacks) -> tuple[dict[str, str], dict[str, set[str]], dict[str, int]]:
    """Path -> class, class -> paths, path -> number of layers in it; the network itself is none."""
    kinds = {path: kind for stack in stacks.values() for path, kind in stack if path}
    instances: dict[str, set[str]] = defaultdict(set)
    for path, kind in kinds.items():
        instances[kind].add(path)
    weighted: dict[str, int] = defaultdict(int)
    for node, stack in stacks.items():
        if op_name(node) in WEIGHTED:
            for path, _ in stack:
                weighted[path] += 1
    return kinds, instances, weighted


def _joined(stacks: Stacks) -> set[str]:
    """Classes of the modules in whose own forward branches join."""
    return {stack[-1][1] for node, stack in stacks.items() if stack and stack[-1][0] and is_join(node)}


def _outermost(why: dict[str, str]) -> dict[str, str]:
    return {path: reason for path, reason in why.items() if not any(_inside(path, q) for q in why if q != path)}


def _first(stack: list[tuple[str, str]], paths: dict[str, str]) -> list[tuple[str, str]]:
    """The block around a node, if there is one."""
    return [(path, paths[path]) for path, _ in stack if path in paths][:1]


def _unused(name: str, taken: Collection[tuple[str, str]]) -> str:
    """`name`, or with a number where another block has it."""
    used = {other for other, _ in taken}
    numbered = (name if count == 1 else f"{name}#{count}" for count in itertools.count(1))
    return next(each for each in numbered if each not in used)


def _is_proper(kind: str) -> bool:
    return not kind.startswith(CONTAINERS)


def _inside(path: str, outer: str) -> bool:
    return path.startswith(outer + ".")


def _operators(graph: fx.GraphModule) -> list[fx.Node]:
    """What units are made of: all that depends on the input, up to the cut."""
    return [n for n in graph.graph.nodes if n.op == "call_function" and not is_constant(n) and not decodes(n)]


def _segments(
    nodes: list[fx.Node], blocks: Mapping[fx.Node, tuple[str, str]], names: Mapping[fx.Node, str]
) -> list[_Segment]:
    segments: list[_Segment] = []
    waiting: list[fx.Node] = []
    led = _before_layers(nodes)
    for node in nodes:
        path, why = blocks.get(node, ("", ""))
        current = segments[-1] if segments else None
        if path:
            if current is None or current.name != path:
                segments.append(_Segment(path, "block", why, waiting))
                waiting = []
            segments[-1].nodes.extend([*waiting, node])
            waiting = []
        elif node in names:
            segments.append(_Segment(names[node], "layer", "a layer outside any block", [*waiting, node]))
            waiting = []
        elif current is not None and node not in led and not waiting:
            home = current if _stays(node, current) else _home(node, segments)
            if home is not None:
                if home is not current:
                    home.nodes[-1].append(node)  # right after its unit, which stays a contiguous run
                home.nodes.append(node)
        elif current is None or waiting or _leads(node):
            waiting.append(node)
        else:
            current.nodes.append(node)
    if waiting and segments:
        segments[-1].nodes.extend(waiting)
    return segments


def _stays(node: fx.Node, current: _Segment) -> bool:
    """An operator that no layer follows belongs to the unit that computed what it reads; a joint of several to none."""
    mine = [source in current.nodes for source in node.all_input_nodes if not is_constant(source)]
    return all(mine) if op_name(node) == "cat" else any(mine)


def _home(node: fx.Node, segments: list[_Segment]) -> _Segment | None:
    """The earlier unit that computed what such an operator reads; None where all of it is not there at that unit's end.

    Of two heads that are computed before the activation of the first, this belongs to the first.
    """
    order = {each: place for place, each in enumerate(node.graph.nodes)}
    home = next((segment for segment in reversed(segments) if _stays(node, segment)), None)
    there = home is not None and all(order[source] <= order[home.nodes[-1]] for source in node.all_input_nodes)
    return home if there else None


def _before_layers(nodes: list[fx.Node]) -> set[fx.Node]:
    """The operators that a layer follows, and the layers themselves."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if op_name(node) in WEIGHTED or any(user in found for user in node.users):
            found.add(node)
    return found


def _leads(node: fx.Node) -> bool:
    """Glue that waits for the next weighted operator; anything else stays with the operator before it."""
    return keeps_codes(op_name(node)) or op_name(node) in POOLS or op_name(node) == "cat"

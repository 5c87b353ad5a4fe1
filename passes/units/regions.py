"""Blocks by structure alone: from the value at which branches part to the operator that joins them.

A *region* belongs to a join (add, cat, product of two computed branches): everything between the nearest value that
all paths to the join pass (its immediate dominator) and the join. It counts where only the join's own value leaves it,
where layers lie in it, and not more than `LARGEST`: a longer skip is a trunk. Of nested regions the outermost counts.

A residual block without its sum (MobileNetV2's first of each stage) has no join. It is known by its likeness to those
with one: a run of layers and activations outside every region that reads like the inside of a residual region, or like
its end from the depthwise layer on (no expansion), and like it ends without an activation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from isobit.pipeline.graph.dialect import POOLS, WEIGHTED, keeps_codes, over_features
from isobit.pipeline.graph.nodes import bound_args, is_constant, op_name, tensor_shape
from isobit.pipeline.operators.arithmetic import of_kind

JOINS = of_kind("sum", "product", "joined")
# Layers of a region that is a block; the papers' largest have fewer.
LARGEST = 8
JOINED = "branches join in it"
LIKE = "its layers are those of the blocks with a sum"


@dataclass(frozen=True)
class Region:
    """A block.

    Args:
        nodes: in execution order.
        why: it is a block.
    """

    nodes: tuple[fx.Node, ...]
    why: str

    @property
    def layers(self) -> list[fx.Node]:
        """Its layers, in execution order."""
        return [node for node in self.nodes if op_name(node) in WEIGHTED]


def is_join(node: fx.Node) -> bool:
    """Two computed branches meet; x * gate(x) is an activation, not a join."""
    if op_name(node) not in JOINS:
        return False
    inputs = node.all_input_nodes
    return len(inputs) >= 2 and not any(a in b.all_input_nodes for a in inputs for b in inputs)


def regions(nodes: Sequence[fx.Node], allowed: Iterable[fx.Node]) -> list[Region]:
    """The blocks of a graph.

    Args:
        nodes: every operator of the graph, in execution order.
        allowed: those that may be part of a block found here.
    """
    inside = set(allowed)
    found = [region for region in _joined(nodes) if inside.issuperset(region.nodes)]
    chosen = _outermost(found)
    signatures = {signature for region in found if (signature := _signature(region, found))}
    alike = [region for region in _alike(nodes, chosen, signatures) if inside.issuperset(region.nodes)]
    taken = {node for region in alike for node in region.nodes}
    return [region for region in chosen if taken.isdisjoint(region.nodes)] + alike


def gather(region: Region) -> None:
    """Move the nodes of a block next to each other, before its last; nothing between them reads them."""
    last = region.nodes[-1]
    for node in region.nodes[:-1]:
        last.prepend(node)


def _joined(nodes: Sequence[fx.Node]) -> list[Region]:
    """The regions of all joins, the largest first."""
    place = {node: index for index, node in enumerate(nodes)}
    parents = _dominators(nodes, place)
    found = []
    for join in filter(is_join, nodes):
        members, waiting = {join}, [join]
        while waiting:
            sources = [n for n in waiting.pop().all_input_nodes if n in place and n is not parents[join]]
            waiting.extend(node for node in sources if node not in members)
            members.update(sources)
        region = Region(tuple(sorted(members, key=place.__getitem__)), JOINED)
        closed = all(user in members for node in members - {join} for user in node.users)
        if closed and 0 < len(region.layers) <= LARGEST:
            found.append(region)
    return sorted(found, key=lambda region: -len(region.nodes))


def _dominators(nodes: Sequence[fx.Node], place: dict[fx.Node, int]) -> dict[fx.Node, fx.Node | None]:
    """Node -> the nearest that every path from the inputs to it passes; None where that is the inputs themselves."""
    parents: dict[fx.Node, fx.Node | None] = {}

    def meet(one: fx.Node | None, other: fx.Node | None) -> fx.Node | None:
        while one is not other:
            if one is None or other is None:
                return None
            if place[one] < place[other]:
                other = parents[other]
            else:
                one = parents[one]
        return one

    for node in nodes:
        sources = [n if n in place else None for n in node.all_input_nodes if n in place or n.op == "placeholder"]
        parent = sources[0] if sources else None
        for source in sources[1:]:
            parent = meet(parent, source)
        parents[node] = parent
    return parents


def _outermost(found: Sequence[Region]) -> list[Region]:
    """The largest of regions that overlap; `found` begins with it."""
    chosen: list[Region] = []
    taken: set[fx.Node] = set()
    for region in found:
        if taken.isdisjoint(region.nodes):
            chosen.append(region)
            taken.update(region.nodes)
    return chosen


# --- residual blocks without a sum ------------------------------------------------------------------------------------


def _signature(region: Region, found: Sequence[Region]) -> str:
    """What the inside of a residual region with an identity beside it reads like, where it ends with a layer."""
    join, inside = region.nodes[-1], set(region.nodes)
    beside = [source for source in join.all_input_nodes if source not in inside]
    if op_name(join) not in of_kind("sum") or len(beside) != 1 or len(region.layers) < 2:
        return ""
    within = [other for other in found if other is not region and inside.issuperset(other.nodes)]
    text, _ = _tokens(region.nodes[:-1], _outermost(within))
    return text if text[-1] in "PDSL" else ""


def _tokens(nodes: Sequence[fx.Node], gates: Sequence[Region]) -> tuple[str, list[list[fx.Node]]]:
    """One letter for each step, with its nodes.

    P, D, S: a convolution, pointwise, depthwise or over space; L: linear; G: a gate with layers of its own;
    B: another block; a: activations; a dot: what moves elements or pools.
    """
    owner = {node: gate for gate in gates for node in gate.nodes}
    letters: list[str] = []
    groups: list[list[fx.Node]] = []
    last: object = None
    for node in nodes:
        step: object = owner.get(node) or (node if op_name(node) in WEIGHTED else _letter(node))
        if step is last:
            groups[-1].append(node)
            continue
        last = step
        groups.append([node])
        gate = owner.get(node)
        letters.append(_letter(node) if gate is None else "G" if op_name(gate.nodes[-1]) in of_kind("product") else "B")
    return "".join(letters), groups


def _letter(node: fx.Node) -> str:
    if over_features(op_name(node)):
        return "L"
    if op_name(node) in WEIGHTED:
        weight, groups = tensor_shape(bound_args(node)["weight"]), bound_args(node)["groups"]
        if weight[1] == 1 and groups > 1:
            return "D"
        return "P" if weight[2:] == (1, 1) else "S"
    return "." if keeps_codes(op_name(node)) or op_name(node) in POOLS else "a"


def _alike(nodes: Sequence[fx.Node], chosen: Sequence[Region], signatures: set[str]) -> list[Region]:
    """Runs between the blocks that read like a signature, with the gates among them."""
    ends = {sign[sign.index("D"):] for sign in signatures if "D" in sign}
    forms = sorted({form for form in signatures | ends if sum(map(form.count, "PDSL")) > 1}, key=lambda f: (-len(f), f))
    if not forms:
        return []
    text, groups = _tokens(nodes, chosen)
    runs = [
        [node for group in groups[match.start():match.end()] for node in group]
        for match in re.finditer(f"(?:{'|'.join(map(re.escape, forms))})(?!a)", text)
    ]
    return [Region(tuple(run), LIKE) for run in runs if _is_chain(run)]


def _is_chain(run: Sequence[fx.Node]) -> bool:
    """One value enters and only the last leaves."""
    inside = set(run)
    outer = {n for node in run for n in node.all_input_nodes if n not in inside and not is_constant(n)}
    return len(outer) == 1 and all(user in inside for node in run[:-1] for user in node.users)

"""Other units than the graph's own, as views of it: each layer alone, or neighbours joined.

Layers alone are for methods that are not block-wise: sums, pools and what else stands between them belongs to no unit
and is carried along (AdaRound: "no residual inside a unit").

Joined neighbours are MRECG's (Ma, Li, Zheng, Xiao, Wang, Wen, Pan, Chao, Ji: Solving Oscillation Problem in
Post-Training Quantization Through a Theoretical Perspective, CVPR 2023, arXiv 2303.11906). The error of a unit that can
hold less than the one before it is what the one before it caused; so the neighbours whose capacity differs most are
trained as one unit:

    capacity = sum over layers of weights * bits * (1.6 where the stride is above 1, else 1)
    difference = (capacity of a unit - capacity of the next)^2
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import is_constant
from isobit.pipeline.stages import JOINT, Unit

STRIDED = 1.6


def layers(graph: fx.GraphModule) -> tuple[Unit, ...]:
    """One unit a layer, in execution order: its constants, itself, its activation, the quantizers on that path."""
    found = Layers(Calls(graph))
    units: list[Unit] = []
    for layer in found:
        calls = [*_constants(layer), layer, *_after(layer)]
        units.append(Unit(found.name(layer), "layer", "layer by layer", tuple(call.name for call in calls)))
    return tuple(units)


def _constants(layer: Call) -> list[Call]:
    """Quantizers of the layer's weight and bias."""
    return [source for source in layer.sources if source.constant and source.sources]


def _after(layer: Call) -> list[Call]:
    """Quantizer and activation right after the layer, as far as each is the only reader of the one before."""
    found: list[Call] = []
    call = layer
    while len(call.readers) == 1:
        call = call.readers[0]
        if call.quantizer is None and call.op not in ACTIVATIONS:
            break
        found.append(call)
    return found


def join_units(
    graph: fx.GraphModule, units: Sequence[Unit], count: int, apart: Collection[str] = ()
) -> tuple[Unit, ...]:
    """`units` with as many of their borders gone, those between the most different capacities.

    A border with operators in it that belong to neither unit stays: units are contiguous.

    Args:
        units: in execution order.
        count: of borders; all that can go where there are fewer.
        apart: names of units that stay alone.
    """
    if not count:
        return tuple(units)
    capacities = _capacities(graph, units)
    open_borders = [
        place for place in _touching(graph, units)
        if not {units[place].name, units[place + 1].name} & set(apart)
    ]
    chosen = {*sorted(open_borders, key=lambda place: -((capacities[place] - capacities[place + 1]) ** 2))[:count]}
    groups: list[list[Unit]] = []
    for place, unit in enumerate(units):
        if place - 1 in chosen:
            groups[-1].append(unit)
        else:
            groups.append([unit])
    return tuple(_joined(group) for group in groups)


def _joined(group: list[Unit]) -> Unit:
    if len(group) == 1:
        return group[0]
    nodes = tuple(node for unit in group for node in unit.nodes)
    return Unit(JOINT.join(unit.name for unit in group), "block", "neighbours of different capacity", nodes)


def _capacities(graph: fx.GraphModule, units: Sequence[Unit]) -> list[float]:
    """The capacity of each unit, as the module says it."""
    owner = {name: place for place, unit in enumerate(units) for name in unit.nodes}
    found = [0.0] * len(units)
    for layer in Layers(Calls(graph)):
        weight = layer.args["weight"]
        if layer.name in owner and weight is not None and weight.quantizer is not None:
            strides = layer.args.get("stride", 1)
            strided = max(strides if isinstance(strides, Sequence) else [strides]) > 1
            size = math.prod(size for size in weight.shape if size is not None)
            bits = weight.quantizer.spec.grid.nominal_bits
            found[owner[layer.name]] += size * bits * (STRIDED if strided else 1.0)
    return found


def _touching(graph: fx.GraphModule, units: Sequence[Unit]) -> list[int]:
    """Places of the units after which the next follows at once."""
    owner = {name: place for place, unit in enumerate(units) for name in unit.nodes}
    run = [
        owner.get(node.name) for node in graph.graph.nodes
        if node.op not in ("placeholder", "output") and not is_constant(node)
    ]
    borders = {(one, other) for one, other in itertools.pairwise(run) if one != other}
    return [place for place in range(len(units) - 1) if (place, place + 1) in borders]

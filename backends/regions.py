"""The integer regions between quantizers: one region produces one quantized tensor (or one network output).

Analysis only, no edit. A region is an operator with the activations that the runtime fuses after it and the
quantizer of its output. Emitters, integer arithmetic and the placement table all read this one list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import wide_operand
from isobit.pipeline.graph.grid_map import GridMap, lays_out
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.target import OpRule, Target


@dataclass(frozen=True)
class Region:
    """One step of integer execution.

    Args:
        kind: `input` (the network input's quantizer), a canonical operator name, or `float` for what the runtime
            computes in float.
        module: name of the anchor's layer or the path of its module, for tables.
        anchor: the operator (the quantizer itself for `input`); a layer whose sum enters a residual addition, too.
        inputs: the activation values that it reads, in argument order; the other operand of a residual addition last.
        absorbed: operators fused after the anchor, in order: a residual addition, activations.
        quantizer: the quantizer node of the output; None where codes or values pass unchanged (`is_layout`) or the
            value leaves in float.
        is_layout: moves what it reads without changing it: codes where all of it is on one grid, else values.
        integer: runs in integers on the target.
        reason: why it does not, else empty.
        grid: of a layout operator, the quantizer's node whose grid its codes are on; None where it moves values.
    """

    kind: str
    module: str
    anchor: fx.Node
    inputs: tuple[fx.Node, ...]
    absorbed: tuple[fx.Node, ...]
    quantizer: fx.Node | None
    is_layout: bool
    integer: bool
    reason: str
    grid: fx.Node | None = None

    @property
    def tail(self) -> fx.Node:
        """The last operator node: anchor or last absorbed activation."""
        return self.absorbed[-1] if self.absorbed else self.anchor

    @property
    def value(self) -> fx.Node:
        """The node whose value this region produces for its consumers."""
        return self.quantizer if self.quantizer is not None else self.tail


def find_regions(graph: fx.GraphModule, target: Target) -> list[Region]:
    """All regions of a quantized graph in execution order."""
    calls, values = Calls(graph), GridMap(target)
    layers = Layers(calls)
    regions: list[Region] = []
    # A layer whose sum stays wide runs with the addition: the other operand may be computed between the two.
    wide = {call: layer for call in calls if (layer := wide_operand(call, target)) is not None}
    taken = {layer.node for layer in wide.values()}
    for call in calls:
        if call.node in taken or call.constant:
            continue
        if call.op:
            layer = wide.get(call)
            region = _operator_region(values, target, call, layer, layers.name(layer or call))
        elif call.quantizer is not None:
            region = Region("input", layers.name(call), call.node, _nodes(call.sources), (), call.node, False, True, "")
        else:
            continue
        regions.append(region)
        taken.update((region.anchor, *region.absorbed, *([region.quantizer] if region.quantizer else [])))
    return regions


def _operator_region(values: GridMap, target: Target, call: Call, layer: Call | None, module: str) -> Region:
    """The region of `call`; where that is a residual addition, of the `layer` whose wide sum enters it."""
    anchor = call if layer is None else layer
    name, rule = anchor.op, target.rule_of(anchor)
    if (grid := values.quantizer_call(call)) is not None:
        return Region(name, module, call.node, _nodes(call.inputs), (), None, True, True, "", grid.node)
    fused, inputs = target.runs_with(call), anchor.inputs
    if layer is not None:
        fused = (call, *fused)
        inputs += tuple(source for source in call.inputs if source is not layer)
    off_grid = rule.inputs != "integers" and any(values.quantizer(source) is None for source in inputs)
    readers = (fused[-1] if fused else anchor).readers
    quantizer = readers[0] if len(readers) == 1 and readers[0].quantizer is not None else None
    if quantizer is None and lays_out(name) and rule.inputs != "float":
        return Region(name, module, call.node, _nodes(inputs), (), None, True, True, "")
    reason = _float_reason(target, name, rule, off_grid, quantizer, fused)
    kind, after = "float" if reason else name, None if quantizer is None else quantizer.node
    return Region(kind, module, anchor.node, _nodes(inputs), _nodes(fused), after, False, not reason, reason)


def _nodes(calls: Iterable[Call]) -> tuple[fx.Node, ...]:
    return tuple(call.node for call in calls)


def _float_reason(
    target: Target, name: str, rule: OpRule, off_grid: bool, quantizer: Call | None, fused: tuple[Call, ...],
) -> str:
    if rule.inputs == "float":
        return rule.reason
    if off_grid:
        return f"an input of {name} is not quantized"
    if quantizer is None and rule.output != "integers" and (name != "linear" or fused):
        return f"the output of {name} is not quantized"
    return ""

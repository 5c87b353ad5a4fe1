"""The integer regions between quantizers: one region produces one quantized tensor (or one network output).

Analysis only, no edit. A region is an operator with the activations that the runtime fuses after it and the
quantizer of its output. Emitters, integer arithmetic and the placement table all read this one list.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from isobit.pipeline.graph.dialect import wide_operand
from isobit.pipeline.graph.grid_map import GridMap, data_inputs, lays_out
from isobit.pipeline.graph.layers import layer_name
from isobit.pipeline.graph.nodes import is_constant, op_name, quantizer_of
from isobit.pipeline.target import OpRule, Target


@dataclass(frozen=True)
class Region:
    """One step of integer execution.

    Args:
        kind: `input` (the network input's quantizer), a canonical operator name, or `float` for what the runtime
            computes in float.
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

    @property
    def module(self) -> str:
        """Name of the anchor's layer or the path of its module, for tables."""
        return layer_name(self.anchor)


def find_regions(graph: fx.GraphModule, target: Target) -> list[Region]:
    """All regions of a quantized graph in execution order."""
    regions: list[Region] = []
    taken: set[fx.Node] = set()
    # A layer whose sum stays wide runs with the addition: the other operand may be computed between the two.
    values = GridMap(graph, target)
    wide = {node: layer for node in graph.graph.nodes if (layer := wide_operand(node, target)) is not None}
    taken.update(wide.values())
    for node in graph.graph.nodes:
        if node in taken or is_constant(node):
            continue
        if node.op == "call_function":
            region = _operator_region(values, target, node, wide.get(node))
        elif quantizer_of(graph, node) is not None:
            region = Region("input", node, (node.args[0],), (), node, False, True, "")
        else:
            continue
        regions.append(region)
        taken.update((region.anchor, *region.absorbed, *([region.quantizer] if region.quantizer else [])))
    return regions


def _operator_region(values: GridMap, target: Target, node: fx.Node, layer: fx.Node | None) -> Region:
    """The region of `node`; where that is a residual addition, of the `layer` whose wide sum enters it."""
    anchor = node if layer is None else layer
    name = op_name(anchor)
    rule = target.rule_of(anchor)
    if (grid := values.quantizer_node(node)) is not None:
        return Region(name, node, tuple(data_inputs(node)), (), None, True, True, "", grid)
    fused = target.runs_with(node)
    inputs = tuple(data_inputs(anchor))
    if layer is not None:
        fused = (node, *fused)
        inputs += tuple(source for source in data_inputs(node) if source is not layer)
    off_grid = rule.inputs != "integers" and any(values.quantizer_node(source) is None for source in inputs)
    tail = fused[-1] if fused else anchor
    users = list(tail.users)
    quantizer = users[0] if len(users) == 1 and quantizer_of(values.graph, users[0]) is not None else None
    if quantizer is None and lays_out(name) and rule.inputs != "float":
        return Region(name, node, inputs, (), None, True, True, "")
    reason = _float_reason(target, name, rule, off_grid, quantizer, fused)
    kind = "float" if reason else name
    return Region(kind, anchor, inputs, fused, quantizer, False, not reason, reason)


def _float_reason(
    target: Target, name: str, rule: OpRule, off_grid: bool, quantizer: fx.Node | None, fused: tuple[fx.Node, ...],
) -> str:
    if rule.inputs == "float":
        return rule.reason
    if off_grid:
        return f"an input of {name} is not quantized"
    if quantizer is None and rule.output != "integers" and (name != "linear" or fused):
        return f"the output of {name} is not quantized"
    return ""

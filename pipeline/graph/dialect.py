"""The closed operator set after PREPARE, and what may stand in a graph at which stage.

Passes, emitters and integer kernels know these canonical names only; whatever else a model uses stays in the graph
as it is and is computed in float, named in the placement table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import fx
from torch._ops import OpOverload

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.annotation import kept_float
from isobit.pipeline.graph.nodes import (
    TUPLE_ENTRY,
    bias_quantizer_of,
    bound_args,
    computes_size,
    is_constant,
    op_name,
    overload_of,
    quantizer_of,
    source_of,
    tensor_shape,
    where,
)
from isobit.pipeline.operators.arithmetic import ARITHMETIC, of_kind
from isobit.pipeline.operators.moves import MOVES, is_move
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer
from isobit.pipeline.target import Target

# Layers: a weight, an optional bias.
WEIGHTED = of_kind("layer")
# Averages over space.
POOLS = of_kind("average")
# Clamps: what they do to a value, the ends of a grid do to its code.
ACTIVATIONS = frozenset(name for name, row in UNARY.items() if row.fused == "clamp")
# The largest or smallest of some elements of one tensor.
EXTREMES = frozenset({"max_pool2d", "amax", "amin"})
# What integer kernels of every target compute.
COMPUTE = frozenset(ARITHMETIC) | {name for name, row in UNARY.items() if row.portable} - ACTIVATIONS
# Besides these, the rows of `pipeline.operators.moves.MOVES`.
CANONICAL = COMPUTE | ACTIVATIONS | {"max_pool2d"}

Stage = Literal["prepared", "quantized", "frozen"]
STAGES: tuple[Stage, ...] = get_args(Stage)
# What PREPARE must have removed.
FORBIDDEN = frozenset({"dropout", "batch_norm", "feature_dropout", "detach", "clone", "contiguous", "flatten", "chunk"})
# Arguments of operators that draw numbers; none are drawn where one of them is 0 or False.
_CHANCES = ("dropout", "dropout_p", "p", "train", "training")


@dataclass(frozen=True)
class Allowed:
    """One row of the whitelist.

    Args:
        what: stands in the graph.
        stages: at which it may.
        holds: whether a node is such a thing; the first row that holds counts.
        wrong: what is wrong with one at its stage, or an empty string.
    """

    what: str
    stages: tuple[Stage, ...]
    holds: Callable[[fx.GraphModule, fx.Node], bool]
    wrong: Callable[[fx.GraphModule, fx.Node], str] = lambda graph, node: ""


def verify(graph: fx.GraphModule, stage: Stage) -> None:
    """Check that `graph` holds only what the whitelist names for `stage`.

    Raises:
        CaptureError: names the node and the rule that it breaks.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage '{stage}', only {', '.join(STAGES)}")
    for node in graph.graph.nodes:
        row = next((row for row in WHITELIST if stage in row.stages and row.holds(graph, node)), None)
        problem = _why_not(graph, node) if row is None else row.wrong(graph, node)
        if problem:
            raise CaptureError(f"the graph is not legal at stage '{stage}': {problem}", where=where(node))


def whitelist_table() -> str:
    """The whitelist in Markdown: what may stand in a graph, and at which stages."""
    lines = [f"| what | {' | '.join(STAGES)} |", f"|---{'|---' * len(STAGES)}|"]
    lines += [f"| {row.what} | {' | '.join('yes' if stage in row.stages else '' for stage in STAGES)} |"
              for row in WHITELIST]
    return "\n".join(lines) + "\n"


def keeps_codes(name: str) -> bool:
    """Whether the operator called `name` gives codes of what it reads: it moves them, or takes some of them."""
    return is_move(name) or name in EXTREMES


def over_features(node: fx.Node) -> bool:
    """A layer whose channels are the last axis, as a classifier's."""
    row = ARITHMETIC.get(op_name(node))
    return row is not None and row.features


def adds_no_negatives(node: fx.Node) -> bool:
    """Whether the values of `node` are such as it reads, and at most numbers beside them that are not negative."""
    row = MOVES.get(op_name(node))
    return keeps_codes(op_name(node)) or (row is not None and bound_args(node)[row.fill] >= 0)


def gives_no_negatives(node: fx.Node) -> bool:
    """An operator of one tensor whose values cannot be negative, whatever it reads."""
    row = UNARY.get(op_name(node))
    return row is not None and row.has_no_negatives(node)


def wide_operand(node: fx.Node, target: Target) -> fx.Node | None:
    """The layer whose 32-bit sum enters the residual addition `node` as it is; None where there is none.

    Of two layers the one computed last: the other's codes are there when its sum is complete. The same answer before
    and after quantizers are inserted, because only this operand is left without one.
    """
    if node.op != "call_function" or target.rule_of(node).inputs != "residual":
        return None
    left, right = source_of(node, 0), source_of(node, 1)
    layers = [
        source for source in (left, right)
        if left is not right and op_name(source) in WEIGHTED and not kept_float(source) and len(source.users) == 1
        and tensor_shape(source) == tensor_shape(node)
    ]
    return next((source for source in reversed(node.graph.nodes) if source in layers), None)


def _why_not(graph: fx.GraphModule, node: fx.Node) -> str:
    """What a node is that no row of the whitelist holds."""
    name = op_name(node)
    if name in FORBIDDEN:
        return f"operator {name} should have been removed"
    if isinstance(node.target, OpOverload):
        return f"operator {name} {'draws random numbers' if draws_numbers(node) else 'writes in-place'}"
    if node.op == "call_module":
        return f"module {type(graph.get_submodule(str(node.target))).__name__}"
    return f"{node.op} {node.target}"


def _is_quantizer(graph: fx.GraphModule, node: fx.Node) -> bool:
    return quantizer_of(graph, node) is not None or bias_quantizer_of(graph, node) is not None


def _frozen(graph: fx.GraphModule, node: fx.Node) -> str:
    module = quantizer_of(graph, node) or bias_quantizer_of(graph, node)
    return "" if module is None else _frozen_problem(module, is_constant(node))


def _is_float(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A call without effect on anything but its result, which PREPARE leaves as it is."""
    if not isinstance(node.target, OpOverload):
        return computes_size(node) or op_name(node) == TUPLE_ENTRY
    return op_name(node) not in FORBIDDEN and not node.target._schema.is_mutable and not draws_numbers(node)


def draws_numbers(node: fx.Node) -> bool:
    """The ATen call's result depends on chance; one with a dropout of 0 or outside of training draws nothing."""
    if torch.Tag.nondeterministic_seeded not in overload_of(node).tags:
        return False
    args = bound_args(node)
    return not any(name in args and not args[name] for name in _CHANCES)


def _named(names: frozenset[str]) -> Callable[[fx.GraphModule, fx.Node], bool]:
    return lambda graph, node: op_name(node) in names


def _operators(what: str, names: frozenset[str]) -> Allowed:
    return Allowed(f"{what}: {', '.join(f'`{name}`' for name in sorted(names))}", STAGES, _named(names))


def _frozen_problem(module: Quantizer | BiasQuantizer, constant: bool) -> str:
    if module.phase is not Phase.FROZEN:
        return f"a quantizer is {module.phase.value}, not frozen"
    if isinstance(module, BiasQuantizer):
        return "" if module.codes is not None else "a bias without codes"
    if module.stand_in is not None:
        return "a quantizer still holds a training part"
    if not module.calibrated:
        return "a quantizer without numbers"
    if not constant:
        return ""
    if module.codes is None:
        return "a weight without codes"
    grid, low, high = module.spec.grid, int(module.codes.min()), int(module.codes.max())
    return "" if grid.qmin <= low and high <= grid.qmax else f"codes {low}..{high} leave the grid {grid}"


WHITELIST: tuple[Allowed, ...] = (
    Allowed("the input", STAGES, lambda graph, node: node.op == "placeholder"),
    Allowed("parameters and buffers", STAGES, lambda graph, node: node.op == "get_attr"),
    _operators("layers", WEIGHTED),
    _operators("averages over space", POOLS),
    _operators("other arithmetic and functions", COMPUTE - WEIGHTED - POOLS),
    _operators("activations that are ends of a grid", ACTIVATIONS),
    _operators("what moves codes", frozenset(MOVES)),
    _operators("what takes the largest", frozenset({"max_pool2d"})),
    Allowed("any other operator without side effects, computed in float, and arithmetic on sizes", STAGES, _is_float),
    Allowed("quantizers, in any phase", ("quantized",), _is_quantizer),
    Allowed("quantizers with their numbers and codes, in phase `frozen`", ("frozen",), _is_quantizer, _frozen),
    Allowed("the output", STAGES, lambda graph, node: node.op == "output"),
)

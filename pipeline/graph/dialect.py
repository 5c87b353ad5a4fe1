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
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.nodes import TUPLE_ENTRY, overload_of
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
        holds: whether a call is such a thing; the first row that holds counts.
        wrong: what is wrong with one at its stage, or an empty string.
    """

    what: str
    stages: tuple[Stage, ...]
    holds: Callable[[Call], bool]
    wrong: Callable[[Call], str] = lambda call: ""


def verify(graph: fx.GraphModule, stage: Stage) -> None:
    """Check that `graph` holds only what the whitelist names for `stage`.

    Raises:
        CaptureError: names the node and the rule that it breaks.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage '{stage}', only {', '.join(STAGES)}")
    for call in Calls(graph):
        row = next((row for row in WHITELIST if stage in row.stages and row.holds(call)), None)
        problem = _why_not(call) if row is None else row.wrong(call)
        if problem:
            raise CaptureError(f"the graph is not legal at stage '{stage}': {problem}", where=call.where)


def keeps_codes(name: str) -> bool:
    """Whether the operator called `name` gives codes of what it reads: it moves them, or takes some of them."""
    return is_move(name) or name in EXTREMES


def over_features(name: str) -> bool:
    """Whether operator `name` is a layer whose channels are the last axis, as a classifier's."""
    row = ARITHMETIC.get(name)
    return row is not None and row.features


def wide_operand(call: Call, target: Target) -> Call | None:
    """The layer whose 32-bit sum enters the residual addition `call` as it is; None where there is none.

    Of two layers the one computed last: the other's codes are there when its sum is complete. The same answer before
    and after quantizers are inserted, because only this operand is left without one.
    """
    if not call.op or target.rule_of(call).inputs != "residual" or len(call.sources) != 2:
        return None
    layers = [
        source for source in call.sources
        if source.op in WEIGHTED and not source.kept_float and len(source.readers) == 1 and source.shape == call.shape
    ]
    return max(layers, key=lambda layer: layer.place, default=None)


def _why_not(call: Call) -> str:
    """What a call is that no row of the whitelist holds."""
    node = call.node
    if call.op in FORBIDDEN:
        return f"operator {call.op} should have been removed"
    if isinstance(node.target, OpOverload):
        return f"operator {call.op} {'draws random numbers' if _draws_numbers(call) else 'writes in-place'}"
    if node.op == "call_module":
        return f"module {type(call.graph.get_submodule(str(node.target))).__name__}"
    return f"{node.op} {node.target}"


def _is_quantizer(call: Call) -> bool:
    return call.quantizer is not None or call.bias_quantizer is not None


def _frozen(call: Call) -> str:
    module = call.quantizer or call.bias_quantizer
    return "" if module is None else _frozen_problem(module, call.constant)


def _is_float(call: Call) -> bool:
    """A call without effect on anything but its result, which PREPARE leaves as it is."""
    node = call.node
    if not isinstance(node.target, OpOverload):
        return call.is_size or call.op == TUPLE_ENTRY
    return call.op not in FORBIDDEN and not node.target._schema.is_mutable and not _draws_numbers(call)


def _draws_numbers(call: Call) -> bool:
    """The ATen call's result depends on chance; one with a dropout of 0 or outside of training draws nothing."""
    if torch.Tag.nondeterministic_seeded not in overload_of(call.node).tags:
        return False
    return not any(name in call.args and not call.args[name] for name in _CHANCES)


def _operators(what: str, names: frozenset[str]) -> Allowed:
    return Allowed(f"{what}: {', '.join(f'`{name}`' for name in sorted(names))}", STAGES, lambda call: call.op in names)


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
    Allowed("the input", STAGES, lambda call: call.is_input),
    Allowed("parameters and buffers", STAGES, lambda call: call.node.op == "get_attr"),
    _operators("layers", WEIGHTED),
    _operators("averages over space", POOLS),
    _operators("other arithmetic and functions", COMPUTE - WEIGHTED - POOLS),
    _operators("activations that are ends of a grid", ACTIVATIONS),
    _operators("what moves codes", frozenset(MOVES)),
    _operators("what takes the largest", frozenset({"max_pool2d"})),
    Allowed("any other operator without side effects, computed in float, and arithmetic on sizes", STAGES, _is_float),
    Allowed("quantizers, in any phase", ("quantized",), _is_quantizer),
    Allowed("quantizers with their numbers and codes, in phase `frozen`", ("frozen",), _is_quantizer, _frozen),
    Allowed("the output", STAGES, lambda call: call.is_output),
)

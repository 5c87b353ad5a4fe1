"""Which operators run in integers where nothing runs in float, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from isobit.backends.fixed_point.lower import refused
from isobit.backends.fixed_point.operators.resampling import RESIZES
from isobit.backends.rules import (
    FILL_RULE,
    FUSED,
    IN_FLOAT,
    INNER_BITS,
    INTEGER,
    MOVE_RULE,
    UNARY_RULE,
    with_changes,
)
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import Grid
from isobit.pipeline.target import FloatOperators, Note, OpRule, SumLimits, Target, WeightLimits

# The kernels add a residual before they rescale, and every rescaled sum has ends.
_OWN = OpRule("quantized", "own", absorbs=FUSED)
_OF_TWO = OpRule("quantized", "own", absorbs=FUSED, inner_bits=INNER_BITS)
OPS = {
    **with_changes(INTEGER, {
        "add": {"inputs": "residual"}, **{name: {"absorbs": FUSED} for name in ("mul", "mean", "avg_pool2d")},
    }),
    **dict.fromkeys(("sum", "mean_over_dims", *RESIZES), _OWN),
    **dict.fromkeys(("sub", "maximum", "minimum"), _OF_TWO),
    **dict.fromkeys(("amax", "amin"), MOVE_RULE),
    "embedding": OpRule("integers", "own"),
    **dict.fromkeys(("argmax", "argmin"), OpRule("quantized", "integers", inner_bits=INNER_BITS)),
}


def integer_target(
    name: str, profile: str, notes: tuple[Note, ...] = (), gates: tuple[str, ...] = (),
    sums: SumLimits | None = None, float_operators: FloatOperators = "nowhere", depthwise_bits: int | None = None,
) -> Target:
    """The target of a backend that lowers to `Program`; `depthwise_bits` as of `WeightLimits`."""
    return Target(
        name=name, profile=profile, ops=OPS, tables=UNARY_RULE, moves=MOVE_RULE, fills=FILL_RULE, in_float=IN_FLOAT,
        float_operators=float_operators, float_lines=False,
        weights=WeightLimits(zero_points=False, depthwise_bits=depthwise_bits),
        sums=sums or SumLimits(),
        grids=frozenset({Grid.kind, CodebookGrid.kind}), notes=notes,
        gates=("no code and no logit differs from the target's integer arithmetic", *gates),
    )


def unsupported(graph: fx.GraphModule, target: Target) -> Iterator[tuple[fx.Node, str]]:
    """Operators of a quantized graph that have no integer kernel, with the reason; there are no float ones."""
    yield from refused(graph, target)

"""Which operators run in integers where nothing runs in float: one operator table, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from backends.fixed_point.lower import refused
from backends.regions import find_regions
from pipeline.dialect import LAYOUT
from pipeline.graph import quantizer_of
from pipeline.target import Note, OpRule, SumLimits, Target, WeightLimits

_ACTIVATIONS = ("relu", "hardtanh")
# A gate, and a branch of a residual sum that enters it as codes: 4 bits there cost points, 8 cost nothing.
_INNER = 8

OPS: Mapping[str, OpRule] = {
    "conv2d": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "linear": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "add": OpRule("residual", "own", absorbs=_ACTIVATIONS, inner_bits=_INNER),
    "mul": OpRule("quantized", "own", absorbs=_ACTIVATIONS, inner_bits=_INNER),
    "mean": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "avg_pool2d": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "cat": OpRule("quantized", "shared"),
    "hardsigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
    "sigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
    "leaky_relu": OpRule("quantized", "own", inner_bits=_INNER),
    **dict.fromkeys(_ACTIVATIONS, OpRule("quantized", "own", inner_bits=_INNER)),
    **dict.fromkeys(sorted(LAYOUT), OpRule("quantized", "as_input")),
}


def integer_target(
    name: str, profile: str, notes: tuple[Note, ...] = (), gates: tuple[str, ...] = (),
    sums: SumLimits | None = None,
) -> Target:
    """The target of a backend that lowers to `Program`."""
    return Target(
        name=name, profile=profile, ops=OPS, weights=WeightLimits(zero_points=False), sums=sums or SumLimits(),
        notes=notes,
        gates=("no code and no logit differs from the target's integer arithmetic", *gates),
    )


def unsupported(graph: fx.GraphModule, target: Target) -> Iterator[tuple[fx.Node, str]]:
    """Operators of a quantized graph that have no integer kernel, with the reason; there are no float ones."""
    for region in find_regions(graph, target):
        quantizer = quantizer_of(graph, region.quantizer) if region.quantizer is not None else None
        if quantizer is not None and quantizer.spec.levels == "nested":
            yield region.anchor, "activation levels 'nested' (multiples for each channel) have no kernel here"
    yield from refused(graph, target)

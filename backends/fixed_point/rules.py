"""Which operators run in integers where nothing runs in float: one operator table, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from backends.regions import Region, find_regions
from pipeline.dialect import LAYOUT, lays_out_output
from pipeline.graph import bound_args, op_name, quantizer_of, tensor_shape
from pipeline.target import Note, OpRule, SumLimits, Target, WeightLimits

_ACTIVATIONS = ("relu", "hardtanh")
# A gate, and a branch of a residual sum that enters it as codes: 4 bits there cost points, 8 cost nothing.
_INNER = 8

OPS: Mapping[str, OpRule] = {
    "conv2d": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "linear": OpRule("quantized", "own", absorbs=_ACTIVATIONS),
    "add": OpRule("residual", "own", absorbs=_ACTIVATIONS, inner_bits=_INNER),
    "mul": OpRule("quantized", "own", inner_bits=_INNER),
    "mean": OpRule("quantized", "own"),
    "avg_pool2d": OpRule("quantized", "own"),
    "cat": OpRule("quantized", "shared"),
    "hardsigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
    "sigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
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
    codes: set[fx.Node] = set()
    for region in find_regions(graph, target):
        reason = _off_grid(region, codes)
        codes.add(region.value)
        if not region.integer:
            yield region.anchor, region.reason
        elif reason:
            yield region.anchor, reason
        elif region.is_layout and lays_out_output(region.anchor):
            continue
        elif reason := _refusal(region.anchor) if region.kind != "input" else "":
            yield region.anchor, reason
        quantizer = quantizer_of(graph, region.quantizer) if region.quantizer is not None else None
        if quantizer is not None and quantizer.spec.levels == "nested":
            yield region.anchor, "activation levels 'nested' (multiples for each channel) have no kernel here"


def _off_grid(region: Region, codes: set[fx.Node]) -> str:
    """Why what a layout operator reads is no value of a kernel: an image that no quantizer has seen."""
    missing = region.is_layout and not codes.issuperset(region.inputs)
    return f"an input of {op_name(region.anchor)} is not quantized" if missing else ""


def _refusal(node: fx.Node) -> str:
    name, arguments = op_name(node), bound_args(node)
    if name == "avg_pool2d" and arguments["divisor_override"] is not None:
        return "avg_pool2d with a divisor of its own"
    if name == "avg_pool2d" and arguments["ceil_mode"]:
        return "avg_pool2d with ceil_mode, whose last window may be cut off"
    if name == "cat" and arguments["dim"] not in (1, 1 - len(tensor_shape(node))):
        return f"concatenation along axis {arguments['dim']}: only channels (axis 1) can be joined"
    if name not in LAYOUT and len(tensor_shape(node)) not in (2, 4):
        return f"a tensor of {len(tensor_shape(node))} axes: kernels know maps [N, C, H, W] and features [N, C]"
    return ""

"""What the target cannot store, on the nearest grid that it can; the loss is the target's, not the method's.

* A bias must fit int32 at scale input * weight. A channel whose weights are all zero has an arbitrary, tiny scale; a
  channel with tiny weights and a large bias overflows. Such a channel gets the smallest weight scale that fits: exact
  for a zero channel, a coarser grid otherwise. A channel with a codebook keeps one: its values are rounded, not the
  weights, so that it has no more values than before.
* The product of both scales must be a normal float32: a channel that is small beside the rest of its layer gets a scale
  that makes it one; where no channel has one, the layer is refused.
* Asymmetric weights on a target without weight zero points must fit int8 as `code - zero_point`.
"""

from __future__ import annotations

import torch
from torch import fx

from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.sums import BIAS_LIMIT
from isobit.pipeline.quant.grid import SCALE_FLOOR, QParams, along
from isobit.pipeline.quant.quantizer import BiasQuantizer, Quantizer
from isobit.pipeline.target import Target

INT8 = (-128, 127)


def project_grids(graph: fx.GraphModule, target: Target) -> list[str]:
    """Project in place; return one line per tensor that changed.

    Raises:
        TargetError: a tensor that has no nearest legal form.
    """
    lines: list[str] = []
    grids, layers = GridMap(target), Layers(Calls(graph))
    for layer in layers:
        quantized, bias = layer.args["weight"], layer.args["bias"]
        weight = quantized.quantizer
        if weight is None or not weight.calibrated:  # never calibrated: `freeze` says so
            continue
        _check_container(layer, weight, target)
        weights = quantized.sources[0].tensor
        raised: list[str] = []
        # Where biases stay in float nothing is computed with the product of the two scales.
        source = grids.quantizer(layer.sources[0]) if target.quantized_bias else None
        if source is not None and source.calibrated:
            raised += _fit_product(layer, source, weight, weights)
        if bias is not None and (tied := bias.bias_quantizer) is not None and tied.parents[0].calibrated:
            raised += _fit_bias(tied, weight, weights, bias.sources[0].tensor)
        lines += [f"{layers.name(layer)}: {text}" for text in raised]
    return lines


def _check_container(layer: Call, weight: Quantizer, target: Target) -> None:
    grid = weight.spec.grid
    low = grid.qmin - int(weight.zero_point.max())
    high = grid.qmax - int(weight.zero_point.min())
    if not target.weights.zero_points and (low < INT8[0] or high > INT8[1]):
        raise TargetError(
            f"weight codes {low}..{high} do not fit int8 with zero point 0", where=layer.where,
            allowed="symmetric weights, or asymmetric weights of 7 bits or fewer", field="recipe.weights.symmetric",
        )


def _fit_product(layer: Call, source: Quantizer, weight: Quantizer, weights: torch.Tensor) -> list[str]:
    steps = source.scale.detach().double() * weight.scale.detach().double()
    if not SCALE_FLOOR <= float(steps.max()) <= torch.finfo(torch.float32).max:
        raise TargetError(
            f"what one unit of the sums is worth, {float(steps.max()):.2g}, is no normal float32", where=layer.where,
            allowed=f"{SCALE_FLOOR:.2g} to {torch.finfo(torch.float32).max:.2g}",
            hint="bring the units of images and weights nearer to 1: what enters this layer, or its weights, are tiny "
            "or huge",
        )
    small = steps < SCALE_FLOOR
    if not bool(small.any()):
        return []
    return [_raised(weight, weights, small, SCALE_FLOOR / steps, "stay a normal float32")]


def _fit_bias(
    bias: BiasQuantizer, weight: Quantizer, weights: torch.Tensor, values: torch.Tensor
) -> list[str]:
    steps = values.detach().double().abs() / bias.scale.double()  # not codes: they may leave even int64
    over = steps > BIAS_LIMIT
    if not bool(over.any()):
        return []
    return [_raised(weight, weights, over, steps / BIAS_LIMIT, "fit an int32 bias")]


def _raised(
    weight: Quantizer, weights: torch.Tensor, chosen: torch.Tensor, factor: torch.Tensor, why: str
) -> str:
    """Multiply the scales of the `chosen` channels [K] by `factor` [K] and decide their codes again; says so."""
    weights = weights.detach()
    old, rounded_at = weight.quantize(weights), weight.rounded_at
    # A hair more, so that the scale still fits after it is rounded to float32.
    factor = torch.where(chosen, factor * (1 + 2.0**-20), torch.ones_like(factor))
    scale = weight.scale.detach().double() * (factor if weight.scale.dim() else factor.max())
    if weight.spec.grid.keeps_values:
        weights = weight.dequantize(old.to(weights.dtype))
    weight.set_params(QParams(scale.float(), weight.zero_point))
    # A channel whose scale stays keeps its codes: calibration may have decided them otherwise than nearest.
    raised = along(chosen, weight.spec.axis, weights.dim()) if weight.scale.dim() else chosen.any()
    new = torch.where(raised, weight.quantize(weights), old)
    if rounded_at is not None:
        rounded_at = torch.where(chosen, weight.scale.to(rounded_at), rounded_at) if weight.scale.dim() else None
    weight.harden(new, rounded_at)
    moved = int((new != old).sum())
    return f"{int(chosen.sum())} channel scale(s) raised to {why}, {moved} weight code(s) moved"

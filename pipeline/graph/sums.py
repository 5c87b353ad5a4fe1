"""How large an integer sum can get, from codes alone, and the refusal where a target cannot hold it.

A layer adds (code - zero point) * weight code over its inputs, and its bias code. For each output channel the extremes
over all codes of the input's grid are exact: every positive product at its largest and every negative one at its least.
While numbers are missing a lower bound takes their place, so that what is refused early would be refused later too:

* a symmetric weight without a scale has the codes of its widest range; every range search chooses that or a narrower
  one, whose codes are no smaller;
* a zero point that is not chosen yet makes one of the two extremes at least half of their distance; so does a bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import POOLS, WEIGHTED
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.nodes import pair
from isobit.pipeline.quant.grid import along, params_from_range, quantize
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import Target

# What a bias may take of an int32 sum: the other half is left to the products.
BIAS_LIMIT = 2**30
# Besides layers and pools, what adds codes or products of two where a target has an integer kernel for it.
_ADDING = WEIGHTED | POOLS | {"matmul", "sum", "mean_over_dims"}


def layer_sums(weight: Tensor, low: int, high: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and largest sum of each output channel, int64 [K].

    Args:
        weight: codes [K, ...] without their zero points, in any dtype.
        low, high: ends of the input's codes without their zero point: `low <= 0 <= high`.
        bias: codes [K]; None without bias.
    """
    rows = weight.detach().flatten(1).to(torch.int64)
    up, down = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1)
    start = 0 if bias is None else bias.detach().to(torch.int64)
    return low * up + high * down + start, high * up + low * down + start


def magnitude(least: Tensor, largest: Tensor) -> int:
    """Largest magnitude of sums between `least` and `largest` [K]."""
    return int(torch.maximum(-least, largest).max())


def sum_bounds(graph: fx.GraphModule, target: Target) -> Iterator[tuple[Call, int]]:
    """Every call that adds codes, with the magnitude that its sums can reach, or a lower bound before `frozen`."""
    values = GridMap(target)
    for call in Calls(graph):
        bound = _bound(values, call, target)
        if bound is not None:
            yield call, bound


def check_sums(graph: fx.GraphModule, target: Target) -> None:
    """Refuse a graph in which a sum can leave what the target's kernels add in; at any stage from `quantized` on.

    Raises:
        TargetError: names the layer, the bound of its sum, and the limit.
    """
    for call, bound in sum_bounds(graph, target):
        if bound > target.sums.largest:
            raise TargetError(
                f"the sums of this {call.op} can reach {bound:,}, and target '{target.name}' adds in integers of "
                f"up to {target.sums.largest:,}", where=call.where, allowed=f"sums up to {target.sums.largest:,}",
                hint="give the layer fewer inputs (groups, or parts that are added afterwards), or fewer bits: "
                "an override of its weights or activations",
                field="recipe.weights.bits",
            )


def _bound(values: GridMap, call: Call, target: Target) -> int | None:
    """Magnitude that the sum of `call` can reach, or a lower bound of it; None where it adds no codes."""
    if call.op not in _ADDING or target.rule_of(call).inputs == "float":
        return None
    found = [values.quantizer(read) for read in call.inputs]
    sources = [each for each in found if each is not None]
    if not sources or len(sources) < len(found):
        return None
    source = sources[0]
    if call.op not in WEIGHTED:
        return _elements(call) * math.prod(255 if target.sums.of_bytes else _largest(each) for each in sources)
    open_zero = _open(source)
    low, high = _ends(source)
    layer = _codes(call)
    if layer is None:
        return None
    weight, bias = layer
    open_bias = bias is None and call.args["bias"] is not None
    if target.sums.of_bytes:
        zero = 0 if not source.calibrated or open_bias else int(source.zero_point) - source.spec.grid.qmin
        rows = weight.flatten(1)
        start = (0 if bias is None else bias) - zero * rows.sum(1)
        return int((start.abs() + 255 * rows.abs().sum(1)).max())
    least, largest = layer_sums(weight, low, high, bias)
    return int((largest - least).max()) // 2 if open_zero or open_bias else magnitude(least, largest)


def _open(source: Quantizer) -> bool:
    """The zero point is not chosen yet, and it will not be 0."""
    return not source.calibrated and not source.spec.symmetric


def _largest(source: Quantizer) -> int:
    """Magnitude of a tensor's codes without their zero point, or a lower bound of it."""
    low, high = _ends(source)
    return max(-low, high) // (1 + _open(source))


def _ends(source: Quantizer) -> tuple[int, int]:
    """Ends of a tensor's codes without their zero point, which counts as `qmin` where it is not chosen yet."""
    grid = source.spec.grid
    if source.calibrated:
        zero = int(source.zero_point)
    else:
        zero = 0 if source.spec.symmetric else grid.qmin
    return grid.qmin - zero, grid.qmax - zero


def _codes(layer: Call) -> tuple[Tensor, Tensor | None] | None:
    """int64 codes of a layer: weight [K, ...] without zero points, bias [K] (None: no bias, or no codes yet).

    None where the weight has none. A channel whose bias leaves `BIAS_LIMIT` counts as zero: its scale is to be raised.
    """
    quantizer, stated = layer.args["weight"].quantizer, layer.args["bias"]
    weight = None if quantizer is None else _weight_codes(quantizer, layer.args["weight"].sources[0].tensor)
    if stated is None:
        return None if weight is None else (weight, None)
    bias = stated.bias_quantizer
    if weight is None or bias is None or not all(parent.calibrated for parent in bias.parents):
        return None if weight is None else (weight, None)
    if bias.codes is not None:
        return weight, bias.codes.to("cpu", torch.int64)
    steps = bias.steps(stated.sources[0].tensor).cpu()
    fits = steps.abs() <= BIAS_LIMIT
    return weight * along(fits, 0, weight.dim()), torch.where(fits, steps, 0.0).round().to(torch.int64)


def _weight_codes(quantizer: Quantizer, weight: Tensor) -> Tensor | None:
    """Codes without zero points, those of the widest range where none is chosen; None where they cannot be told."""
    spec, weight = quantizer.spec, weight.detach()
    if quantizer.calibrated:
        return (quantizer.quantize(weight) - quantizer.aligned(weight)[1]).to("cpu", torch.int64)
    # The search of asymmetric ranges also moves the zero point: no range is the one with the smallest codes. Channels
    # with bits of their own have no search.
    if not spec.symmetric or spec.grid.own_bits or not bool(torch.isfinite(weight).all()):
        return None
    rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
    low, high = torch.aminmax(rows, dim=1)
    params = params_from_range(*((low[0], high[0]) if spec.axis is None else (low, high)), spec)
    scale = along(params.scale.to(weight.dtype), spec.axis, weight.dim())
    return quantize(weight, scale, torch.zeros_like(scale), spec.grid).to("cpu", torch.int64)


def _elements(call: Call) -> int:
    """How many codes, or products of two, one sum of a pool, a reduction or a product of matrices takes in."""
    if call.op == "avg_pool2d":
        return math.prod(pair(call.args["kernel_size"]))
    if call.op == "matmul":
        return call.inputs[0].shape[-1] or 1
    # Sizes that vary are of both.
    return math.prod(size or 1 for size in call.inputs[0].shape) // math.prod(size or 1 for size in call.shape)

"""How far apart two libraries may be after several float operators: rounding, carried from one operator to the next.

A single operator's results lie a few units in the last place apart. What follows may enlarge that without end: of a
number close to nothing a logarithm tells the digits that a sum of large numbers has lost. So each value has a margin,

    of its own operator    one unit in the last place of what was rounded there: the result, what `alpha` multiplies
                           before a sum, or (two) the magnitudes that a layer adds up; where libraries approximate a
                           function, APPROXIMATED of the sample's largest result, or of what the small results are a
                           difference of
    of its operands        element by element, what the operator makes of operands that are off by their margins; of a
                           layer sqrt(m^2 * w^2), since roundings of different elements are as good as independent
                           (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci.
                           Comput. 41(5), 2019), and the worst cases of a few layers would explain anything

Margins begin at codes and at the network's inputs, which are the same in both. An operator that is not listed here
hands none on: it is judged as if its operands were exact, which refuses more and never less. So are values that are
infinite (a mask of -inf, 1 / 0): they have no margin and count in no sample's largest result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from isobit.backends.execution.ties import call
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.dialect import EXTREMES, POOLS, WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, op_name, overload_of, source_of
from isobit.pipeline.operators.index_map import run_move
from isobit.pipeline.operators.joined import PAIRS
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY

LAST_PLACE = 2.0**-23  # of float32, as a share of a number
APPROXIMATED = 2.0**-20
_TINY = torch.finfo(torch.float32).tiny
Read = Callable[[fx.Node], Any]  # what a node stands for: a tensor, a constant
Margins = Mapping[fx.Node, Tensor]  # the nodes that have none are exact
# Least and largest elements, and what lays several tensors out: monotone in each of their operands.
ORDERS = EXTREMES | {"maximum", "minimum", "clamp", "cat", "stack"}
ELEMENTWISE = PAIRS.keys() | {f"{name}_parameter" for name in PAIRS} | {
    "add_scaled", "sub_scaled", "rsub", "rsub_parameter", "rsub_scaled", "pow_of_tensors", "where",
}
# Rounded in place: a few units of each result, however small. Of all others libraries have approximations.
ROUNDED_IN_PLACE = ELEMENTWISE | {
    name for name, row in UNARY.items() if row.keeps_relative_errors or row.rounded_in_place
}
LAYERS = WEIGHTED | {f"{name}_dynamic" for name in WEIGHTED} | {"conv_transpose2d", "conv1d"}
PRODUCTS = {"matmul", "matmul_of_parameter", "matmul_of_vector", "bmm"}
AVERAGES = POOLS | {"mean_over_dims", "adaptive_avg_pool2d", "sum", "cumsum"}
SOFTMAXES = {"softmax", "log_softmax"}
WAVES = {"cos", "sin"}
# Libraries have these next to 0 as a difference of numbers near 1.
DIFFERENCES = {"celu", "elu", "log_sigmoid", "selu", "sigmoid", "softplus"}
# Where these are next to 0 they are a product with the difference of two numbers near 1: what it multiplies.
GATED = {"gelu", "mish", "silu"}
# Next to a jump the two libraries may be on its two sides.
JUMPS = {"ceil", "floor", "hardshrink", "sign", "threshold"}


def margin_of(node: fx.Node, read: Read, margins: Margins, result: Any) -> Tensor | None:
    """How far another library's value of `node` may be from `result`, in its shape; None where it is as good as exact.

    It is finite, and 0 where the value is not; the largest number where anything may come of its operands.

    Args:
        read: the values of its operands, float32 as they are here.
        margins: of its operands.
    """
    if not (isinstance(result, Tensor) and result.is_floating_point()):
        return None
    found = _margin_of(node, read, margins, result)
    if found is None:
        return None
    # What float32 does not hold is as far off as it can say.
    found = torch.nan_to_num(found.to(result), nan=0.0, posinf=torch.finfo(result.dtype).max)
    return torch.where(result.isfinite(), found, 0.0)


def largest_of_samples(values: Tensor) -> Tensor:
    """The largest finite magnitude of each sample, in the shape of `values` [N, ...]; 0 where a sample has none."""
    sizes = torch.where(values.isfinite(), values.abs(), 0.0)
    if sizes.dim() < 2:
        return sizes
    return sizes.flatten(1).amax(1).reshape(-1, *[1] * (sizes.dim() - 1)).expand_as(sizes)


def _margin_of(node: fx.Node, read: Read, margins: Margins, result: Tensor) -> Tensor | None:
    name, known = op_name(node), [source for source in node.all_input_nodes if source in margins]
    if name in MOVES and known == node.all_input_nodes:
        return run_move(node, margins[known[0]], 0.0)
    if name in MOVES or name in ORDERS:
        return _probed(node, read, margins) if known else None
    if name in LAYERS | PRODUCTS:
        return _of_layer(node, read, margins)
    if name in AVERAGES:
        own = LAST_PLACE * call(node, lambda n: read(n).abs())
        return own + call(node, margins.__getitem__) if known else own
    own = _of_operator(node, read, result)
    if name == "layer_norm":
        own = torch.maximum(own, _of_norm(node, read).expand_as(own))
    if not known:
        return own
    if name in SOFTMAXES:
        return own + _of_softmax(node, margins[known[0]], result)
    if name == "layer_norm" and source_of(node) in margins:
        return own + _carried_by_norm(node, read, margins[source_of(node)])
    if name in WAVES:  # no slope is above 1, and far ends may be next to the middle
        return own + margins[known[0]].clamp(max=2.0)
    return own + _probed(node, read, margins) if name in ELEMENTWISE or name in UNARY else own


def _of_operator(node: fx.Node, read: Read, result: Tensor) -> Tensor:
    """What an operator that works number by number rounds itself, or a library's approximation of it is off."""
    name = op_name(node)
    if name not in ROUNDED_IN_PLACE:
        samples = samples_of(node)
        size = largest_of_samples(samples.gather(result))
        if name in DIFFERENCES:
            size = size.clamp(min=1.0)
        if name in GATED:
            size = torch.maximum(size, largest_of_samples(samples.gather(read(source_of(node)))))
        return APPROXIMATED * samples.scatter(size)
    alpha = bound_args(node).get("alpha", 1)
    if alpha == 1:
        return LAST_PLACE * result.abs()
    operand: Any = node.args[0 if name.startswith("rsub") else 1]  # what a sum or a difference multiplies first
    return LAST_PLACE * (result.abs() + abs(alpha * (read(operand) if isinstance(operand, fx.Node) else operand)))


def _of_norm(node: fx.Node, read: Read) -> Tensor:
    """What is left of a mean that was rounded: of equal numbers not 0, and divided by the root of `eps` alone.

    Equal numbers that are added one after the other are all rounded in one direction while the sum's exponent stays:
    up to an eighth of a unit for each was seen.
    """
    x, axes, factor = _norm(node, read)
    units = max(4.0, math.prod(x.shape[axis] for axis in axes) / 6)
    return units * LAST_PLACE * x.abs().amax(axes, keepdim=True) * factor


def _carried_by_norm(node: fx.Node, read: Read, margin: Tensor) -> Tensor:
    """The first derivative: of y = (x - mean) / deviation it is (m_i + mean of m + |y_i| mean of |y| m) / deviation."""
    x, axes, factor = _norm(node, read)
    margin = margin.to(x)
    y = (x - x.mean(axes, keepdim=True)).abs()
    y = y / y.square().mean(axes, keepdim=True).sqrt().clamp(min=torch.finfo(y.dtype).tiny)
    means = margin.mean(axes, keepdim=True) + y * (y * margin).mean(axes, keepdim=True)
    return (margin + means) * factor


def _norm(node: fx.Node, read: Read) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """What a layer norm reads, its axes, what it multiplies differences by."""
    given = bound_args(node)
    x, weight = read(source_of(node)), given["weight"]
    axes = tuple(range(-len(given["normalized_shape"]), 0))
    factor = (x.var(axes, correction=0, keepdim=True) + given["eps"]).rsqrt()
    return x, axes, factor if weight is None else factor * read(weight).abs()


def _probed(node: fx.Node, read: Read, margins: Margins) -> Tensor:
    """What a node makes of each operand that is off by its margin, up or down, one operand after the other; float64.

    An end at which the function has no finite value does not count: there the operand has no value beyond it either.
    An operand that may be 0 may be next to it: what a logarithm makes of it there is further off than at either end.
    """
    exact = _given(node, read, {})
    total = torch.zeros_like(exact)
    for source in dict.fromkeys(source for source in node.all_input_nodes if source in margins):
        x, margin = read(source).double(), margins[source].double()
        next_to_0 = torch.where((margin == 0) | (margin < x.abs()), x, torch.copysign(x.new_tensor(_TINY), x))
        ends = [_given(node, read, {source: end}) for end in (x + margin, x - margin, next_to_0)]
        changes = [torch.nan_to_num((end - exact).abs(), posinf=0.0) for end in ends]
        total += functools.reduce(torch.maximum, changes)
    return total


def _given(node: fx.Node, read: Read, others: Mapping[fx.Node, Tensor]) -> Tensor:
    """The call in float64, on operands of which some are others."""
    def value(n: fx.Node) -> Any:
        found = others.get(n, read(n))
        return found.double() if isinstance(found, Tensor) and found.is_floating_point() else found

    return call(node, value)


def _of_layer(node: fx.Node, read: Read, margins: Margins) -> Tensor:
    """The root of the sum of squares: of two units of the sum of magnitudes, one for the sum of either library, and of
    the margins of what is multiplied.
    """
    a, b = (source_of(node, place) for place in (0, 1))
    given = bound_args(node)
    bias: Any = given.get("bias")

    def total(first: Tensor, second: Tensor, added: Tensor | None = None) -> Tensor:
        """The call on other operands, by their place: both may be one node."""
        arguments = {**given, **({"bias": added} if "bias" in given else {})}
        return overload_of(node)(first, second, *list(arguments.values())[2:])

    x, weight = read(a), read(b)
    squares = []
    if a in margins:
        squares.append(total(margins[a].to(x) ** 2, weight**2))
    if b in margins:
        squares.append(total(x**2, margins[b].to(x) ** 2))
    if bias is not None and bias in margins:
        squares.append(total(torch.zeros_like(x), weight, margins[bias].to(x) ** 2))
    own = 2 * LAST_PLACE * total(x.abs(), weight.abs(), None if bias is None else read(bias).abs())
    return torch.hypot(own, torch.stack(squares).sum(0).sqrt()) if squares else own


def _of_softmax(node: fx.Node, margin: Tensor, result: Tensor) -> Tensor:
    """The first derivative: of a softmax s it is s_i (m_i + sum of s_j m_j), of its logarithm what is in brackets."""
    dim, is_logarithm = bound_args(node)["dim"], op_name(node) == "log_softmax"
    shares = result.exp() if is_logarithm else result
    relative = margin + (shares * margin).sum(dim, keepdim=True)
    return relative if is_logarithm else shares * relative

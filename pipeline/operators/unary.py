"""Operators that make one number of each number of one tensor: one row each, and nothing else names them.

A row stands under the name that `pipeline.graph.nodes.op_name` gives a call. With it alone the operator runs on every
target: as a table of all codes (one a channel where parameters differ by channel), in float between two quantizers on
ONNX Runtime. Below `least` an argument counts as `least` (`passes.decompose`); a pole takes the last code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from isobit.pipeline.graph.nodes import (
    bound_args,
    differs_by_channel,
    get_attribute,
    is_constant,
    op_name,
    tensor_shape,
)

Array = NDArray[np.float64]
Value = TypeVar("Value")
# The least positive normal number of float32: square roots and logarithms of less count as those of this.
TINY = float(torch.finfo(torch.float32).tiny)
_ABOVE_MINUS_ONE = -1.0 + 2.0**-24
_BYTE = (1 / 255, 0)  # the grid of values 0 ... 1
Ends = tuple[float, float]


class Builder(Protocol[Value]):
    """What an ONNX form may ask for; see `backends/onnx/emitters.py`."""

    @property
    def rank(self) -> int: ...

    def call(
        self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any] | None = None
    ) -> Value: ...

    def inner(
        self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any] | None = None
    ) -> Value: ...

    def scalar(self, value: float) -> Value: ...

    def operand(self, value: Value | float) -> Value: ...

    def ints(self, values: Sequence[int]) -> Value: ...


@dataclass(frozen=True)
class UnaryOperator:
    """One operator.

    Args:
        formula: float64 values -> float64 values, of any shape; `parameters` come as keywords, as numbers, as arrays
            [channels, 1], or as the string that the call holds.
        onnx: name of the ONNX operator that takes no attribute, or a function of (builder, value) and the parameters.
            The node that gives the result is written by `call`, those before it by `inner`.
        parameters: arguments of the ATen call by the names of its schema; `other` is the operand that is constant.
        by_channel: a tensor among the parameters lists channels; otherwise it broadcasts against the operand.
        fixed: scale and zero point of the result where its range is known; else its grid is calibrated.
        no_negatives: no value is negative, whatever the operator reads; may depend on the parameters.
        least: an argument below it counts as it; may depend on the parameters. None where all arguments are allowed.
        portable: every runtime has an integer kernel for it: what stands after it finds codes.
        ends: arguments below the first give what the first gives, above the second what the second gives; may depend
            on the parameters.
        code_ends: the same of the nearest code on the grid of `fixed`; None where that is no different.
        fused: with the operator before it: a `clamp` is the ends of that one's codes; `float` where that is in float.
        homogeneous: f(s x) = s f(x) for s > 0, and channels may be equalized through it.
        logarithm: what it reads needs the same relative error everywhere.
        keeps_relative_errors: it hands them on as they are, as powers do; an end below which values count as one, too.
        rounded_in_place: libraries are a few units in the last place of each result apart, however small it is, though
            relative errors of operands are not handed on; others approximate, to a share of the largest result.
    """

    formula: Callable[..., Array]
    onnx: str | Callable[..., Any]
    parameters: tuple[str, ...] = ()
    by_channel: bool = False
    fixed: tuple[float, int] | None = None
    no_negatives: bool | Callable[..., bool] = False
    least: float | Callable[..., float | None] | None = None
    portable: bool = False
    ends: Ends | Callable[..., Ends] = (-math.inf, math.inf)
    code_ends: Ends | None = None
    fused: Literal["", "clamp", "float"] = ""
    homogeneous: bool = False
    logarithm: bool = False
    keeps_relative_errors: bool = False
    rounded_in_place: bool = False

    def arguments(self, node: fx.Node) -> dict[str, Any]:
        """The parameters of a call as it holds them: numbers, strings, nodes."""
        given, source = bound_args(node), operand(node)
        return {
            name: given["self"] if given[name] is source and name != "self" else given[name]
            for name in self.parameters
        }

    def values(self, graph: fx.GraphModule, node: fx.Node, x: Array) -> Array:
        """float64 [n] or [channels, n]: what the call makes of `x`, which is one or the other."""
        parameters = {
            name: _along_channels(get_attribute(graph, value)) if isinstance(value, fx.Node) else value
            for name, value in self.arguments(node).items()
        }
        with np.errstate(all="ignore"):
            return self.formula(x, **parameters)

    def write(self, builder: Builder[Value], x: Value, arguments: Mapping[str, Any]) -> Value:
        """The operator in ONNX, of a value `x`."""
        return builder.call(self.onnx, [x]) if isinstance(self.onnx, str) else self.onnx(builder, x, **arguments)

    def refusal(self, node: fx.Node) -> str:
        """Why a call is no function of one number for each channel, or an empty string."""
        name, source = str(node.target), operand(node)
        if [other for other in node.all_input_nodes if other is not source and not is_constant(other)]:
            return f"{name} with parameters that are computed from the input"
        if tensor_shape(node) != tensor_shape(source):
            return f"{name} with parameters that repeat its operand"
        for value in self.arguments(node).values():
            shape = tensor_shape(value) if isinstance(value, fx.Node) else ()
            if not self.by_channel and not differs_by_channel(shape, len(tensor_shape(source))):
                return f"{name} with a parameter of shape {list(shape)}, which differs within a channel"
        return ""

    def has_no_negatives(self, node: fx.Node) -> bool:
        """No value of the call is negative, whatever it reads."""
        known = self.no_negatives
        return known if isinstance(known, bool) else known(**self.arguments(node))

    def ends_of(self, node: fx.Node, coded: bool) -> Ends:
        """Beyond which arguments the call tells none from another.

        Args:
            coded: its results are codes on the grid of `fixed`.
        """
        if coded and self.code_ends is not None:
            return self.code_ends
        return self.ends(**self.arguments(node)) if callable(self.ends) else self.ends

    @property
    def is_gate(self) -> bool:
        """It goes from 0 to 1: where it is 0 whatever it is multiplied by is gone."""
        return self.fixed == _BYTE

    def least_of(self, node: fx.Node) -> float | None:
        """The least argument that the call tells from lower ones."""
        return self.least(**self.arguments(node)) if callable(self.least) else self.least


def operand(node: fx.Node) -> fx.Node:
    """The tensor that an operator of one tensor reads."""
    return next(source for source in node.all_input_nodes if not is_constant(source))


def _along_channels(value: torch.Tensor) -> Array | float:
    """A constant as a number, or as [channels, 1]."""
    flat = value.detach().cpu().double().numpy().reshape(-1)
    return float(flat[0]) if flat.size == 1 else flat.reshape(-1, 1)


# --- formulas of more than one expression, and their forms in ONNX ----------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # without overflow at either end


def _elu(x: Array, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) * input_scale))


def _gelu(x: Array, approximate: str) -> Array:
    if approximate == "none":
        return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return np.where(x * beta > threshold, x, np.logaddexp(0.0, x * beta) / beta)


def _clip(e: Builder[Value], x: Value, min_val: float, max_val: float) -> Value:
    return e.call("Clip", [x, e.scalar(min_val), e.scalar(max_val)])


def _threshold_form(e: Builder[Value], x: Value, threshold: float, value: float) -> Value:
    if threshold == value:
        return e.call("Max", [x, e.scalar(value)])
    return e.call("Where", [e.inner("Greater", [x, e.scalar(threshold)]), x, e.scalar(value)])


def _leaky_form(e: Builder[Value], x: Value, negative_slope: float) -> Value:
    return e.call("LeakyRelu", [x], {"alpha": float(negative_slope)})


def _prelu_form(e: Builder[Value], x: Value, weight: Value) -> Value:
    return e.call("PRelu", [x, e.inner("Reshape", [weight, e.ints([-1] + [1] * (e.rank - 2))])])


def _elu_form(e: Builder[Value], x: Value, alpha: float, scale: float, input_scale: float) -> Value:
    if (scale, input_scale) == (1, 1):
        return e.call("Elu", [x], {"alpha": float(alpha)})
    below = e.inner("Mul", [e.inner("Min", [x, e.scalar(0.0)]), e.scalar(input_scale)])
    both = e.inner("Add", [e.inner("Max", [x, e.scalar(0.0)]), e.inner("Elu", [below], {"alpha": float(alpha)})])
    return e.call("Mul", [both, e.scalar(scale)])


def _celu_form(e: Builder[Value], x: Value, alpha: float) -> Value:
    if alpha > 0:
        return e.call("Mul", [e.inner("Elu", [e.inner("Div", [x, e.scalar(alpha)])]), e.scalar(alpha)])
    power = e.inner("Exp", [e.inner("Div", [x, e.scalar(alpha)])])  # Elu would take the other branch
    curve = e.inner("Mul", [e.inner("Sub", [power, e.scalar(1.0)]), e.scalar(alpha)])
    return e.call("Add", [e.inner("Relu", [x]), e.inner("Min", [curve, e.scalar(0.0)])])


def _gelu_form(e: Builder[Value], x: Value, approximate: str) -> Value:
    """By its formula: the operator of this name is younger than the opset."""
    half = e.inner("Mul", [x, e.scalar(0.5)])
    if approximate == "none":
        inside = e.inner("Erf", [e.inner("Mul", [x, e.scalar(1 / math.sqrt(2))])])
    else:
        cube = e.inner("Mul", [e.inner("Pow", [x, e.scalar(3.0)]), e.scalar(0.044715)])
        inside = e.inner("Tanh", [e.inner("Mul", [e.inner("Add", [x, cube]), e.scalar(math.sqrt(2 / math.pi))])])
    return e.call("Mul", [half, e.inner("Add", [inside, e.scalar(1.0)])])


def _softplus_form(e: Builder[Value], x: Value, beta: float, threshold: float) -> Value:
    if (beta, threshold) == (1, 20):
        return e.call("Softplus", [x])
    wide = e.inner("Mul", [x, e.scalar(beta)])
    soft = e.inner("Div", [e.inner("Softplus", [wide]), e.scalar(beta)])
    return e.call("Where", [e.inner("Greater", [wide, e.scalar(threshold)]), x, soft])


def _silu_form(e: Builder[Value], x: Value) -> Value:
    return e.call("Mul", [x, e.inner("Sigmoid", [x])])


def _hardsigmoid_form(e: Builder[Value], x: Value) -> Value:
    return e.call("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})


def _log_sigmoid_form(e: Builder[Value], x: Value) -> Value:
    return e.call("Neg", [e.inner("Softplus", [e.inner("Neg", [x])])])


def _hard_shrink_form(e: Builder[Value], x: Value, lambd: float) -> Value:
    return e.call("Shrink", [x], {"lambd": float(lambd), "bias": 0.0})


def _soft_shrink_form(e: Builder[Value], x: Value, lambd: float) -> Value:
    return e.call("Shrink", [x], {"lambd": float(lambd), "bias": float(lambd)})


def _log_form(base: float) -> Callable[[Builder[Value], Value], Value]:
    return lambda e, x: e.call("Mul", [e.inner("Log", [x]), e.scalar(1 / math.log(base))])


def _log1p_form(e: Builder[Value], x: Value) -> Value:
    """log(u) of the float32 u nearest to 1 + x, less what the rounding of u changed, which matters where x is small."""
    small = e.inner("Clip", [x, e.scalar(-0.5), e.scalar(0.5)])  # nothing is changed at these ends
    above = e.inner("Add", [small, e.scalar(1.0)])
    lost = e.inner("Div", [e.inner("Sub", [e.inner("Sub", [above, e.scalar(1.0)]), small]), above])
    return e.call("Sub", [e.inner("Log", [e.inner("Add", [x, e.scalar(1.0)])]), lost])


def _expm1_form(e: Builder[Value], x: Value) -> Value:
    """tanh(x / 2) (exp(x) + 1): no digits are lost where x is small."""
    above = e.inner("Add", [e.inner("Exp", [x]), e.scalar(1.0)])
    return e.call("Mul", [e.inner("Tanh", [e.inner("Mul", [x, e.scalar(0.5)])]), above])


def _pow_form(e: Builder[Value], x: Value, exponent: float) -> Value:
    return e.call("Pow", [x, e.scalar(exponent)])


def _pow_base_form(e: Builder[Any], x: Any, self: float) -> Any:
    return e.call("Pow", [e.scalar(self), x])


def _with_other(op: str) -> Callable[..., Any]:
    """`op(x, other)`."""
    return lambda e, x, other: e.call(op, [x, e.operand(other)])


def _from_other(e: Builder[Value], x: Value, other: Value | float) -> Value:
    return e.call("Sub", [e.operand(other), x])


_SATURATED = math.log(509)  # where a sigmoid is half a step of that grid from 1
UNARY: dict[str, UnaryOperator] = {
    # activations
    "relu": UnaryOperator(
        lambda x: np.maximum(x, 0.0), "Relu", no_negatives=True, portable=True, fused="clamp",
        ends=(0.0, math.inf), homogeneous=True, keeps_relative_errors=True,
    ),
    "hardtanh": UnaryOperator(
        lambda x, min_val, max_val: np.minimum(np.maximum(x, min_val), max_val), _clip, ("min_val", "max_val"),
        no_negatives=lambda min_val, max_val: min(min_val, max_val) >= 0, portable=True, fused="clamp",
        ends=lambda min_val, max_val: (float(min_val), float(max_val)), keeps_relative_errors=True,
    ),
    "threshold": UnaryOperator(
        lambda x, threshold, value: np.where(x > threshold, x, value), _threshold_form, ("threshold", "value"),
        no_negatives=lambda threshold, value: min(threshold, value) >= 0, keeps_relative_errors=True,
    ),
    "leaky_relu": UnaryOperator(
        lambda x, negative_slope: np.where(x >= 0, x, negative_slope * x), _leaky_form, ("negative_slope",),
        portable=True, fused="float", homogeneous=True,
    ),
    "prelu": UnaryOperator(
        lambda x, weight: np.where(x >= 0, x, weight * x), _prelu_form, ("weight",), by_channel=True,
    ),
    "elu": UnaryOperator(_elu, _elu_form, ("alpha", "scale", "input_scale")),
    "celu": UnaryOperator(lambda x, alpha: _elu(x, alpha, 1.0, 1.0 / alpha), _celu_form, ("alpha",)),
    "selu": UnaryOperator(lambda x: _elu(x, 1.6732632423543772, 1.0507009873554805), "Selu"),
    "gelu": UnaryOperator(_gelu, _gelu_form, ("approximate",)),
    "mish": UnaryOperator(lambda x: x * np.tanh(_softplus(x)), "Mish"),
    "softplus": UnaryOperator(
        _softplus, _softplus_form, ("beta", "threshold"),
        no_negatives=lambda beta, threshold: min(beta, threshold) > 0),
    "silu": UnaryOperator(lambda x: x * _sigmoid(x), _silu_form),
    "sigmoid": UnaryOperator(
        _sigmoid, "Sigmoid", fixed=_BYTE, no_negatives=True, portable=True,
        code_ends=(-_SATURATED, _SATURATED),
    ),
    "log_sigmoid": UnaryOperator(lambda x: -np.logaddexp(0.0, -x), _log_sigmoid_form),
    "hardsigmoid": UnaryOperator(
        lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0, _hardsigmoid_form, fixed=_BYTE, no_negatives=True, portable=True,
        ends=(-3.0, 3.0),
    ),
    "hardswish": UnaryOperator(
        lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0, "HardSwish", ends=(-3.0, math.inf),
    ),
    "hardshrink": UnaryOperator(lambda x, lambd: np.where(np.abs(x) > lambd, x, 0.0), _hard_shrink_form, ("lambd",)),
    "softshrink": UnaryOperator(
        lambda x, lambd: np.sign(x) * np.maximum(np.abs(x) - lambd, 0.0), _soft_shrink_form, ("lambd",),
    ),
    "tanh": UnaryOperator(lambda x: np.tanh(x), "Tanh"),
    # functions
    "abs": UnaryOperator(lambda x: np.abs(x), "Abs", no_negatives=True, keeps_relative_errors=True),
    "neg": UnaryOperator(lambda x: -x, "Neg", rounded_in_place=True),
    "erf": UnaryOperator(lambda x: _erf(x), "Erf"),
    "sin": UnaryOperator(lambda x: np.sin(x), "Sin"),
    "cos": UnaryOperator(lambda x: np.cos(x), "Cos"),
    "atan": UnaryOperator(lambda x: np.arctan(x), "Atan"),
    "sign": UnaryOperator(lambda x: np.sign(x), "Sign"),
    "floor": UnaryOperator(lambda x: np.floor(x), "Floor"),
    "ceil": UnaryOperator(lambda x: np.ceil(x), "Ceil"),
    "exp": UnaryOperator(lambda x: np.exp(x), "Exp", no_negatives=True, rounded_in_place=True),
    "exp2": UnaryOperator(lambda x: np.exp2(x), lambda e, x: _pow_base_form(e, x, 2.0), no_negatives=True),
    "expm1": UnaryOperator(lambda x: np.expm1(x), _expm1_form),
    "log": UnaryOperator(lambda x: np.log(x), "Log", least=TINY, logarithm=True),
    "log2": UnaryOperator(lambda x: np.log2(x), _log_form(2.0), least=TINY, logarithm=True),
    "log10": UnaryOperator(lambda x: np.log10(x), _log_form(10.0), least=TINY, logarithm=True),
    "log1p": UnaryOperator(lambda x: np.log1p(x), _log1p_form, least=_ABOVE_MINUS_ONE),
    "sqrt": UnaryOperator(lambda x: np.sqrt(x), "Sqrt", no_negatives=True, least=TINY, keeps_relative_errors=True),
    "rsqrt": UnaryOperator(
        lambda x: 1.0 / np.sqrt(x), lambda e, x: e.call("Reciprocal", [e.inner("Sqrt", [x])]), no_negatives=True,
        least=TINY, rounded_in_place=True,
    ),
    "reciprocal": UnaryOperator(lambda x: 1.0 / x, "Reciprocal", rounded_in_place=True),
    # arithmetic with a constant: a number, or a parameter that has one number for each channel
    "pow": UnaryOperator(
        lambda x, exponent: np.power(x, float(exponent)), _pow_form, ("exponent",),
        no_negatives=lambda exponent: exponent % 2 != 1,
        least=lambda exponent: None if float(exponent).is_integer() else TINY, keeps_relative_errors=True,
    ),
    "pow_of_number": UnaryOperator(
        lambda x, self: np.power(float(self), x), _pow_base_form, ("self",), no_negatives=True,
    ),
    "add_constant": UnaryOperator(
        lambda x, other: x + other, _with_other("Add"), ("other",), keeps_relative_errors=True,
    ),
    "sub_constant": UnaryOperator(lambda x, other: x - other, _with_other("Sub"), ("other",), rounded_in_place=True),
    "rsub_constant": UnaryOperator(lambda x, other: other - x, _from_other, ("other",), rounded_in_place=True),
    "mul_constant": UnaryOperator(
        lambda x, other: x * other, _with_other("Mul"), ("other",), keeps_relative_errors=True,
    ),
    "div_constant": UnaryOperator(
        lambda x, other: x / other, _with_other("Div"), ("other",), keeps_relative_errors=True,
    ),
}


def gives_no_negatives(node: fx.Node) -> bool:
    """An operator of one tensor whose values cannot be negative, whatever it reads."""
    row = UNARY.get(op_name(node))
    return row is not None and row.has_no_negatives(node)

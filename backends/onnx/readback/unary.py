"""What must stand in an ONNX file for an operator of one tensor, written down a second time.

The rows of `pipeline.operators.unary` write the file; these say what its nodes must be. Keywords are the arguments of
the ATen call: numbers, or calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from isobit.backends.readback.description import Term

Form = Callable[..., Term]


class Writer(Protocol):
    """What a form says its operators by."""

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> Term:
        """An operator of terms, and of numbers, which are float32 constants."""
        ...

    def column(self, weight: Any, rank: int) -> Term:
        """Numbers of channels, shaped to broadcast against a tensor of `rank`."""
        ...

    @property
    def rank(self) -> int:
        """Axes of what the operator reads."""
        ...


def _named(op: str) -> Form:
    return lambda f, x: f(op, x)


def _threshold(f: Writer, x: Term, threshold: float, value: float) -> Term:
    return f("Max", x, value) if threshold == value else f("Where", f("Greater", x, threshold), x, value)


def _elu(f: Writer, x: Term, alpha: float, scale: float, input_scale: float) -> Term:
    if scale == 1 and input_scale == 1:
        return f("Elu", x, alpha=float(alpha))
    negative = f("Elu", f("Mul", f("Min", x, 0.0), input_scale), alpha=float(alpha))
    return f("Mul", f("Add", f("Max", x, 0.0), negative), scale)


def _celu(f: Writer, x: Term, alpha: float) -> Term:
    steps = f("Div", x, alpha)
    if alpha > 0:
        return f("Mul", f("Elu", steps, alpha=1.0), alpha)
    return f("Add", f("Relu", x), f("Min", f("Mul", f("Sub", f("Exp", steps), 1.0), alpha), 0.0))


def _gelu(f: Writer, x: Term, approximate: str) -> Term:
    if approximate == "none":
        inside = f("Erf", f("Mul", x, 1 / math.sqrt(2)))
    else:
        cube = f("Mul", f("Pow", x, 3.0), 0.044715)
        inside = f("Tanh", f("Mul", f("Add", x, cube), math.sqrt(2 / math.pi)))
    return f("Mul", f("Mul", x, 0.5), f("Add", inside, 1.0))


def _softplus(f: Writer, x: Term, beta: float, threshold: float) -> Term:
    if beta == 1 and threshold == 20:
        return f("Softplus", x)
    scaled = f("Mul", x, beta)
    return f("Where", f("Greater", scaled, threshold), x, f("Div", f("Softplus", scaled), beta))


def _log1p(f: Writer, x: Term) -> Term:
    near = f("Clip", x, -0.5, 0.5)
    above = f("Add", near, 1.0)
    return f("Sub", f("Log", f("Add", x, 1.0)), f("Div", f("Sub", f("Sub", above, 1.0), near), above))


def _logarithm(base: float) -> Form:
    return lambda f, x: f("Mul", f("Log", x), 1 / math.log(base))


UNARY: Mapping[str, Form] = {
    **{name: _named(op) for name, op in {
        "relu": "Relu", "selu": "Selu", "mish": "Mish", "sigmoid": "Sigmoid", "hardswish": "HardSwish", "tanh": "Tanh",
        "abs": "Abs", "neg": "Neg", "erf": "Erf", "sin": "Sin", "cos": "Cos", "atan": "Atan", "sign": "Sign",
        "floor": "Floor", "ceil": "Ceil", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal",
    }.items()},
    "hardtanh": lambda f, x, min_val, max_val: f("Clip", x, min_val, max_val),
    "threshold": _threshold,
    "leaky_relu": lambda f, x, negative_slope: f("LeakyRelu", x, alpha=float(negative_slope)),
    "prelu": lambda f, x, weight: f("PRelu", x, f.column(weight, f.rank)),
    "elu": _elu,
    "celu": _celu,
    "gelu": _gelu,
    "softplus": _softplus,
    "silu": lambda f, x: f("Mul", x, f("Sigmoid", x)),
    "log_sigmoid": lambda f, x: f("Neg", f("Softplus", f("Neg", x))),
    "hardsigmoid": lambda f, x: f("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hardshrink": lambda f, x, lambd: f("Shrink", x, bias=0.0, lambd=float(lambd)),
    "softshrink": lambda f, x, lambd: f("Shrink", x, bias=float(lambd), lambd=float(lambd)),
    "exp2": lambda f, x: f("Pow", 2.0, x),
    "expm1": lambda f, x: f("Mul", f("Tanh", f("Mul", x, 0.5)), f("Add", f("Exp", x), 1.0)),
    "log1p": _log1p,
    "log2": _logarithm(2.0),
    "log10": _logarithm(10.0),
    "rsqrt": lambda f, x: f("Reciprocal", f("Sqrt", x)),
    "pow": lambda f, x, exponent: f("Pow", x, exponent),
    "pow_of_number": lambda f, x, self: f("Pow", self, x),
    "add_constant": lambda f, x, other: f("Add", x, other),
    "sub_constant": lambda f, x, other: f("Sub", x, other),
    "rsub_constant": lambda f, x, other: f("Sub", other, x),
    "mul_constant": lambda f, x, other: f("Mul", x, other),
    "div_constant": lambda f, x, other: f("Div", x, other),
}

"""Functions of one tensor, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, Value, operator

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log,
    "Erf": torch.erf, "Softsign": F.softsign, "Softplus": F.softplus, "Mish": F.mish, "HardSwish": F.hardswish,
    "Reciprocal": torch.reciprocal, "Sign": torch.sign, "Round": torch.round, "Sin": torch.sin, "Cos": torch.cos,
    "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh,
    "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh, "IsNaN": torch.isnan,
}
# These are computed of sizes too.
_OF_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Any], Any]]] = {
    "Floor": (torch.floor, math.floor), "Ceil": (torch.ceil, math.ceil), "Sqrt": (torch.sqrt, math.sqrt),
    "Neg": (torch.neg, lambda value: -value), "Abs": (torch.abs, abs),
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call.tensor(0))


def _of_numbers(function: Callable[[Tensor], Tensor], single: Callable[[Any], Any]) -> Callable[[Call], Value]:
    def compute(call: Call) -> Value:
        if call.on_host(0):
            values = call.host(0)
            result = np.empty(values.shape, dtype=object)
            for place in np.ndindex(values.shape):
                result[place] = type(values[place])(single(values[place]))
            return result
        return function(call.tensor(0))

    return compute


for _name, _function in _UNARY.items():
    operator(_name)(_unary(_function))
for _name, (_function, _single) in _OF_NUMBERS.items():
    operator(_name)(_of_numbers(_function, _single))


@operator("Clip")
def clip(call: Call) -> Value:
    """Bounds are attributes before opset 11 and inputs since."""
    low, high = call.get("min"), call.get("max")
    if call.has(1) or call.has(2):
        if (call.has(1) and not call.on_host(1)) or (call.has(2) and not call.on_host(2)):
            return torch.clamp(call.tensor(0), call.optional(1), call.optional(2))
        low, high = call.number(1), call.number(2)
    if low is None and high is None:
        return call.tensor(0)
    return torch.clamp(call.tensor(0), min=low, max=high)


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Tensor:
    """alpha * x below zero."""
    return F.leaky_relu(call.tensor(0), call.get("alpha", 0.01))


@operator("PRelu", parameters={1: "weight"})
def prelu(call: Call) -> Tensor:
    """A slope for all, or for every channel; of another shape written out."""
    x, slope = call.tensor(0), call.tensor(1)
    channels = x.shape[1] if x.ndim > 1 else 1
    shape = (*[1] * (x.ndim - slope.ndim), *slope.shape)
    if slope.numel() == 1 or (x.ndim > 1 and slope.numel() == channels == shape[1]):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(call: Call) -> Tensor:
    """alpha * (exp(x) - 1) below zero."""
    return F.elu(call.tensor(0), call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call) -> Tensor:
    """gamma * elu(x, alpha)."""
    alpha, gamma = call.get("alpha", 1.6732632), call.get("gamma", 1.0507010)
    if abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.0507010) < 1e-5:
        return F.selu(call.tensor(0))
    return gamma * F.elu(call.tensor(0), alpha)


@operator("Celu")
def celu(call: Call) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return F.celu(call.tensor(0), call.get("alpha", 1.0))


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Tensor:
    """x above alpha, 0 below."""
    return F.threshold(call.tensor(0), call.get("alpha", 1.0), 0.0)


@operator("Gelu")
def gelu(call: Call) -> Tensor:
    """By the error function, or by tanh."""
    return F.gelu(call.tensor(0), approximate=call.get("approximate", "none"))


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Tensor:
    """clamp(alpha * x + beta, 0, 1); torch's own where alpha is 1/6."""
    alpha, beta, x = call.get("alpha", 0.2), call.get("beta", 0.5), call.tensor(0)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, min=0.0, max=1.0)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call) -> Tensor:
    """Over one axis since opset 13; before, over all axes from `axis` on."""
    x = call.tensor(0)
    function = F.softmax if call.node.op == "Softmax" else F.log_softmax
    axis = call.get("axis", -1 if call.opset >= 13 else 1)
    last = axis in (-1, x.ndim - 1)
    if call.opset >= 13 or last:
        return function(x, dim=-1 if last else axis)
    return function(x.flatten(axis % x.ndim), dim=-1).reshape(x.shape)

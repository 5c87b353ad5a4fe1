"""Arithmetic, comparison and logic, on tensors and on sizes."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.model.onnx.call import Call, Host, Value, host, operator


def _binary(on_tensors: Callable[[Any, Any], Tensor], on_numbers: Callable[[Any, Any], Any]) -> Callable[[Call], Value]:
    def compute(call: Call) -> Value:
        if call.on_host(0, 1):
            return _elementwise(on_numbers, call.host(0), call.host(1))
        return on_tensors(call.operand(0, 1), call.operand(1, 0))

    return compute


def _elementwise(function: Callable[[Any, Any], Any], a: Host, b: Host) -> Host:
    result = np.frompyfunc(function, 2, 1)(a, b)
    if isinstance(result, np.ndarray):
        return result
    single = np.empty((), dtype=object)
    single[()] = result
    return single


def _add(a: Any, b: Any) -> Tensor:
    """The tensor first: a number before it would become a tensor."""
    return torch.add(a, b) if isinstance(a, Tensor) else torch.add(b, a)


def _mul(a: Any, b: Any) -> Tensor:
    return torch.mul(a, b) if isinstance(a, Tensor) else torch.mul(b, a)


def _sub(a: Any, b: Any) -> Tensor:
    return torch.sub(a, b) if isinstance(a, Tensor) else torch.rsub(b, a)


def _div(a: Any, b: Any) -> Tensor:
    whole = not (isinstance(a, float) or isinstance(b, float)) and not any(
        isinstance(value, Tensor) and value.is_floating_point() for value in (a, b)
    )
    if whole:
        return torch.div(a, b, rounding_mode="trunc")
    return torch.reciprocal(b) if isinstance(b, Tensor) and not isinstance(a, Tensor) and a == 1 else torch.div(a, b)


def _divided(a: Any, b: Any) -> Any:
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    return a // b


def _compared(function: Callable[[Any, Any], Tensor], turned: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    return lambda a, b: function(a, b) if isinstance(a, Tensor) else turned(b, a)


operator("Add")(_binary(_add, python.add))
operator("Sub")(_binary(_sub, python.sub))
operator("Mul")(_binary(_mul, python.mul))
operator("Div")(_binary(_div, _divided))
operator("Equal")(_binary(_compared(torch.eq, torch.eq), python.eq))
operator("Less")(_binary(_compared(torch.lt, torch.gt), python.lt))
operator("Greater")(_binary(_compared(torch.gt, torch.lt), python.gt))
operator("LessOrEqual")(_binary(_compared(torch.le, torch.ge), python.le))
operator("GreaterOrEqual")(_binary(_compared(torch.ge, torch.le), python.ge))


@operator("And", "Or", "Xor")
def logic(call: Call) -> Tensor:
    """And, or, and exclusive or of booleans."""
    functions = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
    return functions[call.node.op](call.tensor(0), call.tensor(1))


@operator("Not")
def logical_not(call: Call) -> Value:
    """Not."""
    if call.on_host(0):
        return host([not value for value in call.integers(0)]).reshape(call.host(0).shape)
    return torch.logical_not(call.tensor(0))


@operator("Pow")
def power(call: Call) -> Value:
    """A whole exponent as an integer, as `x ** 2` is written in torch."""
    if call.on_host(0, 1):
        return _elementwise(python.pow, call.host(0), call.host(1))
    exponent = call.operand(1, 0)
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)
    return torch.pow(call.tensor(0), exponent)


@operator("Mod")
def modulo(call: Call) -> Value:
    """The remainder, with the sign of the divisor, or with `fmod` of the dividend."""
    if call.on_host(0, 1):
        return _elementwise(math.fmod if call.get("fmod", 0) else python.mod, call.host(0), call.host(1))
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return function(call.tensor(0), call.operand(1, 0))


@operator("Min", "Max")
def extreme(call: Call) -> Value:
    """The least or the largest of any number of tensors; of one and a number a clamp."""
    lowest = call.node.op == "Min"
    count = len(call.node.inputs)
    if call.on_host(*range(count)):
        found = call.host(0)
        for position in range(1, count):
            found = _elementwise(min if lowest else max, found, call.host(position))
        return found
    if count == 2:
        for tensor, bound in ((0, 1), (1, 0)):
            number = call.operand(bound, tensor)
            if not isinstance(number, Tensor):
                value = call.tensor(tensor)
                return torch.clamp(value, max=number) if lowest else torch.clamp(value, min=number)
    result = call.tensor(0)
    for position in range(1, count):
        result = (torch.minimum if lowest else torch.maximum)(result, call.tensor(position))
    return result


@operator("Sum", "Mean")
def total(call: Call) -> Tensor:
    """The sum or the mean of any number of tensors."""
    result = call.tensor(0)
    for position in range(1, len(call.node.inputs)):
        result = torch.add(result, call.tensor(position))
    return result / len(call.node.inputs) if call.node.op == "Mean" else result


@operator("Where")
def where(call: Call) -> Value:
    """Either, by a condition."""
    if call.on_host(0, 1, 2):
        chosen, a, b = np.broadcast_arrays(call.host(0), call.host(1), call.host(2))
        result = np.empty(chosen.shape, dtype=object)
        for place in np.ndindex(chosen.shape):
            result[place] = a[place] if chosen[place] else b[place]
        return result
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))

"""One call of an ONNX operator, and the registry of the functions that compute them.

Values are tensors, or arrays on the host: sizes (`Shape`), and what is computed from them, are Python numbers, which
may stand for the free batch. A small constant is both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.graph import Node

Host = np.ndarray[Any, np.dtype[np.object_]]
Value = Tensor | Host
Result = Value | tuple[Value, ...]
Prepare = Callable[[Node, dict[int, Tensor]], dict[int, Tensor]]


@dataclass(frozen=True)
class Call:
    """What an operator's function sees.

    Args:
        node: with its attributes.
        opset: version of the standard operators in the file.
        values: inputs that are computed, and small constants as numbers; None where one is left out.
        constants: all constant inputs as tensors, by position.
        batch_axes: axes of the result that follow the batch, as `batch.free_batch` found them.
    """

    node: Node
    opset: int
    values: Sequence[Value | None]
    constants: Mapping[int, Tensor]
    batch_axes: Sequence[BatchAxis] = field(default=())

    def has(self, position: int) -> bool:
        """The input is given."""
        return position in self.constants or (position < len(self.values) and self.values[position] is not None)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)

    def tensor(self, position: int) -> Tensor:
        """An input as a tensor."""
        if position in self.constants:
            return self.constants[position]
        return as_tensor(self._value(position))

    def optional(self, position: int) -> Tensor | None:
        """The same, or None where it is left out."""
        return self.tensor(position) if self.has(position) else None

    def on_host(self, *positions: int) -> bool:
        """Whether these inputs are numbers on the host."""
        return all(isinstance(self._value(position), np.ndarray) for position in positions)

    def host(self, position: int) -> Host:
        """An input as numbers; raises InputError where it is computed from values of the network's input."""
        value = self._value(position)
        if isinstance(value, np.ndarray):
            return value
        raise self.refused("a size or an index depends on the values of the input", "sizes that the shapes tell")

    def integers(self, position: int) -> list[Any]:
        """An input as a list of sizes."""
        return list(self.host(position).reshape(-1))

    def operand(self, position: int, other: int) -> Tensor | float | int:
        """An input of arithmetic: a number where it has one element and adds no axis to the tensor `other`."""
        value, partner = self._value(position), self._value(other)
        if isinstance(value, np.ndarray) and value.size == 1 and isinstance(partner, Tensor):
            number = value.reshape(-1)[0]
            if value.ndim <= partner.ndim and (partner.is_floating_point() or not isinstance(number, float)):
                return number
        return self.tensor(position)

    def number(self, position: int, default: Any = None) -> Any:
        """An input with one element, known before the network runs; `default` where it is left out."""
        return self.host(position).reshape(-1)[0] if self.has(position) else default

    def axes(self, position: int, attribute: str = "axes") -> list[int] | None:
        """Axes, which older opsets have as an attribute and newer ones as an input; None where neither is given."""
        if attribute in self.node.attributes:
            return list(self.node.attributes[attribute])
        return [int(axis) for axis in self.integers(position)] if self.has(position) else None

    def refused(self, what: str, allowed: str = "") -> InputError:
        """An error that names the node."""
        return InputError(what, where=self.node.where, allowed=allowed)

    def only(self, **defaults: Any) -> None:
        """Refuse attributes that have another value than these."""
        for name, default in defaults.items():
            if self.get(name, default) != default:
                raise self.refused(f"{name} is {self.get(name)!r}", f"{name}={default!r}")

    def _value(self, position: int) -> Value:
        value = self.values[position] if position < len(self.values) else None
        if value is None:
            if position in self.constants:
                return self.constants[position]
            raise self.refused(f"input {position} is left out")
        return value


@dataclass(frozen=True)
class BatchAxis:
    """Size of axis `result` = size of axis `source` of the first input x `times` / `over`."""

    result: int
    source: int
    times: int = 1
    over: int = 1

    def size(self, tensor: Tensor) -> Any:
        """The size for this input."""
        size = tensor.shape[self.source]
        return size if self.times == self.over else size * self.times // self.over


@dataclass(frozen=True)
class Operator:
    """How an operator type is computed.

    Args:
        function: from a call to its value, or to one for each output.
        parameters: names of constant inputs, by position, as torch's modules have them.
        prepare: changes constants once, before the network is run: a transposed weight, another order of gates.
    """

    function: Callable[[Call], Result]
    parameters: Mapping[int, str] = field(default_factory=dict)
    prepare: Prepare | None = None


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str, parameters: Mapping[int, str] | None = None, prepare: Prepare | None = None
) -> Callable[[Callable[[Call], Result]], Callable[[Call], Result]]:
    """Registers a function for ONNX operators of these types."""

    def register(function: Callable[[Call], Result]) -> Callable[[Call], Result]:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"the ONNX operator {name} is registered twice")
            OPERATORS[name] = Operator(function, parameters or {}, prepare)
        return function

    return register


def as_host(tensor: Tensor) -> Host:
    """A tensor of known numbers as an array of Python numbers."""
    array = np.empty(tuple(tensor.shape), dtype=object)
    array.reshape(-1)[:] = tensor.reshape(-1).tolist()
    return array


def host(values: Sequence[Any]) -> Host:
    """A list of numbers, free sizes among them, as an array [n]."""
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def as_tensor(value: Value) -> Tensor:
    """Numbers on the host as a tensor: int64, float32 or bool."""
    if isinstance(value, Tensor):
        return value
    numbers = list(value.reshape(-1))
    free = [number for number in numbers if not isinstance(number, bool | int | float)]
    if not free:
        kind = torch.bool if any(isinstance(n, bool) for n in numbers) else (
            torch.float32 if any(isinstance(n, float) for n in numbers) else torch.int64
        )
        return torch.tensor(numbers, dtype=kind).reshape(value.shape)
    kind = torch.float32 if any(isinstance(n, float | torch.SymFloat) for n in numbers) else torch.int64
    return torch.stack([torch.scalar_tensor(number, dtype=kind) for number in numbers]).reshape(value.shape)

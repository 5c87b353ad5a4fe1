"""Bounds and thresholds of a model file's layers, from the file alone: numpy and onnx, and nothing of Isobit.

A second way to what a build says of every input (`backends.execution.reachable`), for whoever does not trust the
machine that built: weights, biases and scales are read from the file, the least and largest sum of each channel follow
from them, and from ONNX Runtime's formula the least sum that reaches each code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

_LARGEST_FLOAT = 0x7F7FFFFF  # as an integer the largest finite float32
_SAME_CODES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Identity"})

# Where scale and zero point of an operator's result stand among its inputs.
_RESULT = {
    "QuantizeLinear": (1, 2), "QGemm": (7, 8), "QLinearConcat": (0, 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), (6, 7)),
    **dict.fromkeys(("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"), (3, 4)),
}


@dataclass(frozen=True)
class _Grid:
    """Where the codes of a tensor lie, between `low` and `high`."""

    scale: np.ndarray
    zero: int
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Sums:
    """What is known of a layer's sums.

    Args:
        bound: the largest magnitude, over all codes that it can read.
        digest: SHA-256 of the ends of each channel's sums and of their thresholds.
    """

    bound: int | None
    digest: str


def rederive(path: Path) -> dict[str, Sums]:
    """By the name of its tensor, what can be said of a layer, a product of matrices, a global average, an input.

    Raises:
        ValueError: that is no model file.
    """
    file = _File(path)
    try:
        with np.errstate(all="ignore"):
            found = {name: file.sums_of(name) for node in file.nodes for name in node.output}
    except Exception as error:  # constants of other shapes than their operators take, loops, what else a file may hold
        raise ValueError(f"{path.name} is no model of Isobit's ({type(error).__name__}: {error})") from error
    return {name: sums for name, sums in found.items() if sums is not None}


def _check_functions(model: Any) -> None:
    """Refuse functions that grow where they are called as none of ours does; n of them could be 2**n nodes."""
    sizes = {(each.domain, each.name): len(each.node) for each in model.functions}
    if any(each.domain != "b" for each in model.functions):
        raise ValueError("functions that may bear the name of an operator of ONNX Runtime's, which it would run")
    if any((node.domain, node.op_type) in sizes or any(part.HasField("g") or part.graphs for part in node.attribute)
           for each in model.functions for node in each.node):
        raise ValueError("functions that call functions or hold graphs: a build writes none")
    if sum(sizes.get((node.domain, node.op_type), 0) for node in model.graph.node) > 1 << 16:
        raise ValueError("functions that are called too often")


class _File:
    """A model file, its functions taken apart."""

    def __init__(self, path: Path) -> None:
        import onnx
        from onnx import inliner, numpy_helper, shape_inference

        try:
            model = onnx.load(str(path))
            _check_functions(model)
            model = shape_inference.infer_shapes(inliner.inline_local_functions(model))
        except Exception as error:  # whatever a parser says of a damaged file
            raise ValueError(f"{path.name} is no ONNX model of Isobit's: {error}") from error
        graph = model.graph
        self.nodes = list(graph.node)
        self._made = {name: node for node in self.nodes for name in node.output}
        self._constants: dict[str, Any] = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._inputs = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
        self._shapes = {each.name: [size.dim_value for size in each.type.tensor_type.shape.dim]
                        for each in (*graph.value_info, *graph.input)}

    # -- constants and grids --

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant, computed from constants or not; None where it is none."""
        if name in self._constants or name not in self._made:
            return self._constants.get(name)
        node = self._made[name]
        self._constants[name] = None  # what is none is asked once: branches that meet again double the ways to it
        compute: dict[str, Callable[..., np.ndarray]] = {
            "Cast": lambda x: x.astype(np.int64), "Reshape": lambda x, shape: x.reshape(shape),
            "Gather": lambda x, places: x[places], "Mul": lambda x, y: x * y,
            "Add": lambda x, y: x + y, "Sub": lambda x, y: x - y, "Identity": lambda x: x, "Expand": np.broadcast_to,
            "Slice": lambda x, first, end: x[first[0]:end[0]], "Concat": lambda *parts: np.concatenate(parts),
        }
        values = [self.constant(each) for each in node.input] if node.op_type in compute else [None]
        if all(value is not None for value in values):
            self._constants[name] = compute[node.op_type](*values)
        return self._constants[name]

    def grid(self, name: str) -> _Grid | None:
        """Where the codes of a uint8 tensor lie; None where that cannot be told."""
        node = self._made.get(name)
        if node is None:
            return None
        if node.op_type in _SAME_CODES:
            return self.grid(node.input[0])
        if node.op_type == "Pad":
            padded = self.grid(node.input[0])
            return padded and replace(
                padded, low=min(padded.low, padded.zero), high=max(padded.high, padded.zero))
        if node.op_type == "Clip":
            below = self.grid(node.input[0])
            low, high = self._ends_of_clip(node)
            if below is None:
                return None
            least = below.low if low is None else max(below.low, int(low))
            most = 255 if high is None else int(high)
            return replace(below, low=min(least, most), high=min(below.high, most))
        places = _RESULT.get(node.op_type)
        if places is None or len(node.input) <= places[1]:
            return None
        scale, zero = (self.constant(node.input[place]) for place in places)
        if scale is None or zero is None or scale.size != 1:
            return None
        found = _Grid(scale.reshape(()), int(zero.reshape(())))
        return self._narrowed(found, node.input[0]) if node.op_type == "QuantizeLinear" else found

    def _narrowed(self, grid: _Grid, name: str) -> _Grid:
        """The grid without codes that the activations before it leave out."""
        for node in self._clamps(name)[::-1]:
            low, high = 0.0, np.inf
            if node.op_type == "Clip":
                least, most = self._ends_of_clip(node)
                low, high = -np.inf if least is None else float(least), np.inf if most is None else float(most)
            first, last = (int(np.clip(np.rint(np.float32(end) / grid.scale) + grid.zero, 0, 255))
                           for end in (low, high))
            grid = replace(grid, low=min(max(grid.low, first), last), high=min(max(grid.high, first), last))
        return grid

    def _ends_of_clip(self, node: Any) -> list[np.ndarray | None]:
        """Its least and its largest value; None for an end that it leaves open."""
        return [self.constant(each) if each else None for each in (*node.input[1:], "", "")][:2]

    def _clamps(self, name: str) -> list[Any]:
        found: list[Any] = []
        while (node := self._made.get(name)) is not None and node.op_type in ("Relu", "Clip"):
            if node in found:
                raise ValueError(f"{name} is computed from itself")
            found.append(node)
            name = node.input[0]
        return found

    # -- layers --

    def sums_of(self, name: str) -> Sums | None:
        """What is known of the sums that a uint8 tensor is made of; None where it is not."""
        grid, node = self.grid(name), self._made[name]
        if grid is None or node.op_type in (*_SAME_CODES, "Pad"):
            return None
        while node.op_type == "Clip":
            node = self._made[node.input[0]]
        if node.op_type == "QuantizeLinear":
            if node.input[0] in self._inputs:
                return _of_numbers(grid, self._inputs[node.input[0]])
            clamps = self._clamps(node.input[0])
            source = self._made.get(clamps[-1].input[0] if clamps else node.input[0])
            parts = None if source is None else self._dequantized(source)
        else:
            parts = self._quantized(node)
            source = node
        return None if parts is None or source is None else self._of(source, parts, grid)

    def _dequantized(self, node: Any) -> list[Any] | None:
        """What an operator reads: (codes, scale, zero point, name) of each operand."""
        found = []
        for name in node.input:
            read = self._made.get(name)
            if read is None or read.op_type != "DequantizeLinear":
                return None
            found.append((self.constant(read.input[0]), self.constant(read.input[1]), self.constant(read.input[2]),
                          read.input[0]))
        return found

    def _quantized(self, node: Any) -> list[Any] | None:
        starts = {"QLinearConv": (0, 3), "QGemm": (0, 3), "QLinearMatMul": (0, 3),
                  "QLinearGlobalAveragePool": (0,)}.get(node.op_type)
        if starts is None:
            return None
        found = [(*(self.constant(node.input[start + more]) for more in range(3)), node.input[start])
                 for start in starts]
        place = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place]:
            found.append((self.constant(node.input[place]), None, None, node.input[place]))
        return found

    def _of(self, node: Any, parts: list[Any], grid: _Grid) -> Sums | None:
        x = self.grid(parts[0][3])
        kind = node.op_type.replace("QLinear", "").replace("QGemm", "Gemm")
        if x is None or parts[0][1:3] != (x.scale, x.zero) or (kind in ("Conv", "Gemm") and parts[1][0] is None):
            return None  # codes that are read on another grid than they are made on: nested levels
        if kind in ("Conv", "Gemm"):
            codes, scale, zero = parts[1][:3]
            if zero is None or zero.any():
                return None
            transposed = kind == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute)
            rows = (codes.T if transposed else codes).astype(np.int64).reshape(
                codes.shape[1] if transposed else codes.shape[0], -1)
            bias = parts[2][0].astype(np.int64) if len(parts) > 2 else np.zeros(len(rows), np.int64)
            shape = (-1, 1, 1) if kind == "Conv" else (-1,)
            factor = (x.scale * np.broadcast_to(scale.reshape(-1), len(rows)).astype(np.float32)) / grid.scale
            least, largest = (end.reshape(shape) for end in _ends(rows, bias, *_centered(x)))
            return _made(grid, factor.reshape(shape), least, largest, int(np.maximum(-least, largest).max()))
        other = self.grid(parts[1][3]) if kind == "MatMul" and len(parts) == 2 else None
        if other is not None and parts[1][1:3] == (other.scale, other.zero):
            rank, depth = len(self._shapes.get(node.output[0], ())), (self._shapes.get(node.input[0]) or [0])[-1]
            products = [a * b for a in _centered(x) for b in _centered(other)]
            return self._one(grid, x.scale * other.scale / grid.scale, depth * min(products), depth * max(products),
                             rank - 1) if rank and depth else None
        if kind == "GlobalAveragePool" and (shape := self._shapes.get(node.input[0])):
            count, (low, high) = int(np.prod(shape[2:])), _centered(x)
            return self._one(grid, x.scale / (grid.scale * np.float32(count)), count * low, count * high, 3)
        return None

    @staticmethod
    def _one(grid: _Grid, factor: np.ndarray, least: int, largest: int, rank: int) -> Sums:
        lowest, highest = (np.full((1,) * rank, end, np.int64) for end in (least, largest))
        return _made(grid, factor.reshape((1,) * rank), lowest, highest, None)


# -- thresholds --


def _centered(grid: _Grid) -> tuple[int, int]:
    """Ends of codes without their zero point, which padding always brings in."""
    return min(grid.low - grid.zero, 0), max(grid.high - grid.zero, 0)


def _ends(rows: np.ndarray, bias: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    up, down = rows.clip(min=0).sum(1), rows.clip(max=0).sum(1)
    return low * up + high * down + bias, high * up + low * down + bias


def _made(
    grid: _Grid, factor: np.ndarray, least: np.ndarray, largest: np.ndarray, bound: int | None
) -> Sums:
    def code(totals: np.ndarray) -> np.ndarray:
        steps = np.rint((totals.astype(np.float32) * factor).clip(-grid.zero, 255 - grid.zero)) + grid.zero
        return steps.clip(grid.low, grid.high)

    return Sums(bound, _digest(code, least, largest))


def _of_numbers(grid: _Grid, rank: int) -> Sums:
    """What an input makes of all finite float32 numbers, in their order."""
    def code(numbers: np.ndarray) -> np.ndarray:
        size = np.abs(numbers).astype(np.int32).view(np.float32)
        steps = np.rint(np.where(numbers < 0, -size, size) / grid.scale) + grid.zero
        return steps.clip(0, 255).clip(grid.low, grid.high)

    ends = (np.full((1,) * (rank - 1), sign * _LARGEST_FLOAT, np.int64) for sign in (-1, 1))
    return Sums(None, _digest(code, *ends))


def _digest(code: Callable[[np.ndarray], np.ndarray], least: np.ndarray, largest: np.ndarray) -> str:
    """SHA-256 of the ends of ranges, and for each code that is stepped up to of the least number that reaches it."""
    first, last = int(code(least).min()) + 1, int(code(largest).max())
    table = np.array([*_thresholds(code, least, largest, first, last)], np.int64).reshape(-1, *least.shape)
    head = np.array([first, *table.shape], "<i8").tobytes()
    return hashlib.sha256(head + b"".join(each.astype("<i8").tobytes() for each in (least, largest, table))).hexdigest()


def _thresholds(
    code: Callable[[np.ndarray], np.ndarray], least: np.ndarray, largest: np.ndarray, first: int, last: int
) -> Iterator[np.ndarray]:
    for level in range(first, last + 1):
        below, reached = least - 1, largest + 1
        while (wide := reached - below > 1).any():
            middle = (below + reached) // 2
            there = code(np.clip(middle, least, largest)) >= level
            below, reached = np.where(wide & ~there, middle, below), np.where(wide & there, middle, reached)
        yield reached

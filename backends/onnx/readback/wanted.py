"""What must stand in an ONNX file, worked out of the frozen reference: its nodes, quantizers, weights and ports.

The same for both forms of a file, but for the mark of an integer kernel, which only the operators of `onnx-qoperator`
bear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from isobit.backends.onnx.readback.forms import arguments, form_of, parameter
from isobit.backends.onnx.readback.vocabulary import CONTRIB, INTEGER, OPSET, dequantize, onnx_operator
from isobit.backends.readback.description import Constant, Network, Operator, Port, Term, Terms, Undescribed
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS
from isobit.pipeline.graph.grid_map import GridMap, lays_out
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import TUPLE_ENTRY
from isobit.pipeline.graph.ports import input_names, output_names
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY as ROWS
from isobit.pipeline.quant.nested import NESTED_CODES
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.shapes import known_sizes
from isobit.pipeline.stages import Reference

IR_VERSION = 9  # of the format that the oldest supported runtime reads
PRODUCER = "isobit 1"
# Sessions round float weights of these to int8 where they stand between codes, or make an integer product of them.
_ROUNDED = frozenset({"conv_transpose2d", "matmul", "matmul_of_parameter", "matmul_of_vector"})


@dataclass(frozen=True)
class Codes:
    """A tensor of codes, uint8.

    Args:
        term: what they are.
        scale, zero_point: rank 0.
        high: largest code; the least is 0.
    """

    term: Term
    scale: Constant
    zero_point: Constant
    high: int


class Wanted:
    """What must stand for one reference.

    Attributes:
        network: the description.

    Args:
        integer_operators: the file has operators of integer kernels (`onnx-qoperator`).
        facts: texts for programs by name.

    Raises:
        Undescribed: something in the reference that no form is known of.
    """

    def __init__(
        self, reference: Reference, terms: Terms, integer_operators: bool, facts: Mapping[str, str]
    ) -> None:
        self.graph, self.target, self.terms = reference.graph, reference.quantized.target, terms
        self.calls, self.grids = Calls(self.graph), GridMap(self.target)
        self._mark = INTEGER if integer_operators else ""
        self._values: dict[Call, Codes | Term] = {}
        self._tensors: dict[str, Term] = {}
        self._layers: dict[str, str] = {}
        self._names = Layers(self.calls)
        self._ports(reference)
        taken: set[Call] = set()
        for call in self.calls:
            if call in taken or call.constant or call.is_output or call.is_size or call.is_input:
                continue
            taken.update(self._quantizer(call) if call.quantizer is not None else self._operator(call))
        self.network = Network(
            self._inputs, self._outputs, {**self._tensors, **self._returned()}, self._facts(facts), self._layers
        )

    # -- ends of the network -----------------------------------------------------------------------------------------

    def _ports(self, reference: Reference) -> None:
        inputs = [call for call in self.calls if call.is_input]
        names = input_names(self.graph)
        for call, name in zip(inputs, names, strict=True):
            self._values[call] = self.terms.edge(name)
        self._inputs = tuple(_port(call, name) for call, name in zip(inputs, names, strict=True))
        self._outputs = tuple(
            _port(call, name) for call, name in zip(self.calls.outputs, output_names(self.graph), strict=True)
        )

    def _returned(self) -> dict[str, Term]:
        found = {}
        for call, name in zip(self.calls.outputs, output_names(self.graph), strict=True):
            found[name] = self._float(call)
            self._layers.setdefault(name, self._names.name(call) or f"output {name}")
        return found

    def _facts(self, texts: Mapping[str, str]) -> dict[str, Any]:
        facts = {"ir_version": IR_VERSION, "producer": PRODUCER, "opset of ONNX": OPSET}
        if any(_is_contrib(term) for term in self.terms.operators()):
            facts[f"opset of {CONTRIB}"] = 1
        return facts | {f"metadata {key}": value for key, value in texts.items()}

    # -- values ------------------------------------------------------------------------------------------------------

    def _float(self, call: Call) -> Term:
        """The value in float, through DequantizeLinear where it is of codes."""
        if call.constant:
            return self._constant(call)
        value = self._values[call]
        return value if isinstance(value, Term) else dequantize(self.terms, value.term, value.scale, value.zero_point)

    def _plain(self, call: Call) -> Term:
        """The same in other operators: no session takes them for the input of a kernel."""
        value = None if call.constant else self._values[call]
        if not isinstance(value, Codes):
            return self._float(call)
        numbers = onnx_operator(self.terms, "Cast", [value.term], {"to": _float_type()})
        if int(value.zero_point.array):
            zero = self.terms.constant(value.zero_point.array, np.float32)
            numbers = onnx_operator(self.terms, "Sub", [numbers, zero], {})
        return onnx_operator(self.terms, "Mul", [numbers, value.scale], {})

    def _codes(self, call: Call) -> Codes:
        value = self._values[call]
        if not isinstance(value, Codes):
            raise TypeError(f"{call.where} gives no codes")
        return value

    def _constant(self, call: Call) -> Term:
        """A parameter, or the integers of one and what they are worth."""
        if call.node.op == "get_attr":
            return parameter(self.terms, call.tensor)
        if (bias := call.bias_quantizer) is not None:
            source, weight = bias.parents
            codes = bias.decided.detach().cpu().numpy()
            scale = _numbers(source.scale) * _by_channel(weight, codes.shape[0])
            return self._worth(codes.astype(np.int32), scale)
        quantizer = call.quantizer
        if quantizer is None:
            raise Undescribed(f"{call.where} is no constant of a kind that is known")
        codes = quantizer.decided.detach().cpu().numpy().astype(np.int64)
        zeros = quantizer.zero_point.detach().cpu().numpy().reshape(-1, *[1] * (codes.ndim - 1))
        return self._worth((codes - zeros).astype(np.int8), _by_channel(quantizer, codes.shape[0]))

    def _worth(self, codes: np.ndarray, scale: np.ndarray) -> Term:
        zeros = self.terms.constant(np.zeros(scale.shape, codes.dtype))
        return dequantize(self.terms, self.terms.constant(codes), self.terms.constant(scale, np.float32), zeros, axis=0)

    def _grid(self, quantizer: Quantizer, term: Term) -> Codes:
        """Codes on a quantizer's grid: they start at 0 in their byte."""
        grid = quantizer.spec.grid
        zero_point = int(quantizer.zero_point) - grid.qmin
        return Codes(term, self.terms.constant(_numbers(quantizer.scale).reshape(())),
                     self.terms.constant(zero_point, np.uint8), grid.qmax - grid.qmin)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _quantizer(self, call: Call) -> list[Call]:
        """A quantizer after no operator of its own: of the input, or of codes that get another grid."""
        self._made(call, self._float(call.sources[0]))
        return [call]

    def _operator(self, call: Call) -> list[Call]:
        """An operator, with those that are computed with it and the quantizer after them."""
        quantizer = self.grids.quantizer_call(call)
        if quantizer is not None:
            self._values[call] = self._moved(call, quantizer)
            return [call]
        rule = self.target.rule_of(call)
        fused = self.target.runs_with(call)
        tail = fused[-1] if fused else call
        after = tail.readers[0] if len(tail.readers) == 1 and tail.readers[0].quantizer is not None else None
        if after is None and lays_out(call.op) and rule.inputs != "float":
            fused, tail = (), call
        on_grids = rule.inputs == "integers" or all(self._on_grid(source) for source in call.inputs)
        integer = rule.inputs != "float" and on_grids and (after is not None or (call.op == "linear" and not fused))
        if not integer or (after is None and call.op != "linear"):
            value = self._in_float((call, *fused))
        else:
            value = self._in_integers(call, after)
        if after is None:
            self._values[tail] = value
            return [call, *fused]
        self._made(after, value, call, fused if integer else ())
        return [call, *fused, after]

    def _on_grid(self, call: Call) -> bool:
        return isinstance(self._values.get(call), Codes)

    def _moved(self, call: Call, quantizer: Call) -> Codes:
        """Elements moved as codes, zero among them as the code of zero."""
        fill = None
        if call.op in MOVES and MOVES[call.op].fill:
            fill = self._codes(call.inputs[0]).zero_point
        term = form_of(self.terms, call, lambda source: self._codes(source).term, fill=fill)
        source = quantizer.quantizer
        if term is None or source is None:
            codes = tuple(self._codes(each).term for each in call.inputs)
            return replace(self._codes(call.inputs[0]), term=self.terms.unread(call.op, codes, call.name))
        return self._grid(source, term)

    def _in_float(self, calls: Iterable[Call]) -> Term:
        """Operators one after the other, each written out."""
        local: dict[Call, Term] = {}
        value: Term | None = None
        for call in calls:

            def read(source: Call, plain: bool = False) -> Term:
                return local[source] if source in local else self._plain(source) if plain else self._float(source)

            apart = call.op in _ROUNDED or bool(call.kept_float)
            value = None if call.op == TUPLE_ENTRY else form_of(
                self.terms, call, lambda source, apart=apart, read=read: read(source, apart))
            if value is None:
                plain = apart or call.op not in ROWS  # a row writes itself; what torch writes reads plain numbers
                inputs, measured = ([read(source, plain) for source in each] for each in arguments(call))
                value = self.terms.unread(call.op, tuple(inputs), call.name, tuple(measured))
            local[call] = value
        if value is None:
            raise ValueError("a region without operators")
        return value

    def _in_integers(self, call: Call, after: Call | None) -> Term:
        """The value that an integer kernel puts on a grid."""
        slope = {"leaky_relu": lambda: float(call.args["negative_slope"]), **dict.fromkeys(ACTIVATIONS, lambda: 1.0)}
        if call.op in slope:
            return self._kernel("LeakyRelu", self._float(call.inputs[0]), alpha=slope[call.op]())
        if call.op == "hardsigmoid":  # clip(x + 3, 0, 6) / 6: the sum on a grid of six times the scale
            three = dequantize(self.terms, self.terms.constant(1, np.uint8), self.terms.constant(3.0, np.float32),
                               self.terms.constant(0, np.uint8))
            return self._kernel("Add", three, self._float(call.inputs[0]))  # a number in first place is added first
        if call.op == "add":
            return self._sum(call)
        if call.op == "linear" and len(call.shape) > 2:
            return self._rows(call, after)
        value = form_of(self.terms, call, self._float, self._mark)
        if value is None:
            raise Undescribed(f"no form of {call.op} is known, and {call.where} runs in integers")
        return value

    def _kernel(self, op: str, *inputs: Term, **attributes: Any) -> Term:
        return onnx_operator(self.terms, op, inputs, attributes, self._mark)

    def _sum(self, call: Call) -> Term:
        """The operand of the sum's own shape comes first: a kernel rounds each by its place."""
        left, right = call.inputs
        whole = [max(a or 0, b or 0) if a is not None and b is not None else None
                 for a, b in zip(left.shape, right.shape, strict=True)]
        if whole != list(left.shape) and whole == list(right.shape):
            left, right = right, left
        first = self._codes(left)
        if whole != list(left.shape):
            sizes = self.terms.constant([1 if size is None else size for size in call.shape], np.int64)
            first = replace(first, term=onnx_operator(self.terms, "Expand", [first.term, sizes], {}))
        value = dequantize(self.terms, first.term, first.scale, first.zero_point)
        return self._kernel("Add", value, self._float(right))

    def _rows(self, call: Call, after: Call | None) -> Term:
        """A linear layer over the last of several axes: a kernel takes the others as the rows of a matrix."""
        codes = self._codes(call.inputs[0])
        features = known_sizes(call.inputs[0].shape[-1:])
        rows = onnx_operator(self.terms, "Reshape", [codes.term, self._ints([-1, *features])], {})
        x = dequantize(self.terms, rows, codes.scale, codes.zero_point)
        weight, bias = (each and self._constant(each) for each in (call.args["weight"], call.args["bias"]))
        value = self._kernel("Gemm", x, weight, bias, transB=1)
        return value if after is not None else self._whole(call, value)

    def _whole(self, call: Call, value: Term) -> Term:
        sizes = [-1 if size is None else size for size in call.shape]
        return onnx_operator(self.terms, "Reshape", [value, self._ints(sizes)], {})

    def _ints(self, values: Sequence[int]) -> Term:
        return self.terms.constant(values, np.int64)

    # -- codes -------------------------------------------------------------------------------------------------------

    def _made(self, call: Call, value: Term, anchor: Call | None = None, fused: tuple[Call, ...] = ()) -> None:
        """The codes of quantizer `call`: of `value`, which integer operator `anchor` gives, or of a value in float."""
        quantizer = call.quantizer
        if quantizer is None:
            raise TypeError(f"{call.where} is no quantizer")
        integer = anchor is not None and self._is_integer(anchor)
        codes = self._grid(quantizer, value)
        low, high = 0, codes.high
        for clamp in _clamps((anchor, *fused)) if integer and anchor is not None else ():
            ends = [_code_of(end, codes) for end in _ends(clamp)]
            low, high = (min(max(each, ends[0]), ends[1]) for each in (low, high))
        scale = codes.scale
        if integer and anchor is not None and anchor.op == "hardsigmoid":
            scale = self.terms.constant(codes.scale.array * np.float32(6), np.float32)
        term = onnx_operator(self.terms, "QuantizeLinear", [value, scale, codes.zero_point], {})
        if isinstance(term, Operator):
            term = self.terms.changed(term, low=min(low, codes.high), high=min(high, codes.high))
        if quantizer.multiples is not None:
            term = self._regrid(term, quantizer.multiples.detach().cpu().numpy(), len(call.shape))
        if anchor is not None and integer and anchor.op == "linear" and len(anchor.shape) > 2:
            term = self._whole(anchor, term)
        self._named(call, anchor, replace(codes, term=term))

    def _is_integer(self, anchor: Call) -> bool:
        rule = self.target.rule_of(anchor)
        return rule.inputs != "float" and (rule.inputs == "integers" or all(map(self._on_grid, anchor.inputs)))

    def _regrid(self, codes: Term, multiples: np.ndarray, rank: int) -> Term:
        """To the multiples of each channel: times levels / 105, rounded, times 105 / levels."""
        column = multiples.reshape(-1, *[1] * (rank - 2))
        levels = np.where(column <= NESTED_CODES, NESTED_CODES // column, 0)
        back = np.where(levels > 0, column, 0)
        for factors, step in ((levels, np.float32(1 / NESTED_CODES)), (back, np.float32(1))):
            codes = self._times(codes, factors.astype(np.uint8), step)
        return codes

    def _times(self, codes: Term, factors: np.ndarray, step: np.float32) -> Term:
        zero, one = self.terms.constant(0, np.uint8), self.terms.constant(1, np.float32)
        numbers = dequantize(self.terms, codes, one, zero)
        factor = dequantize(self.terms, self.terms.constant(factors), self.terms.constant(step), zero)
        return onnx_operator(self.terms, "QuantizeLinear", [self._kernel("Mul", numbers, factor), one, zero], {})

    def _named(self, call: Call, anchor: Call | None, codes: Codes) -> None:
        """Codes bear their quantizer's name where samples lie on the first axis; others are moved there and back."""
        layer = self._names.name(call if anchor is None else anchor)
        self._layers[call.name] = layer
        samples, edge = samples_of(call.node), self.terms.edge(call.name)
        if samples.is_first:
            self._tensors[call.name], self._values[call] = codes.term, replace(codes, term=edge)
            return
        merged = [-1 if axis == samples.axis else size for axis, size in enumerate(call.shape)]
        sizes = [*merged[:samples.axis], samples.outer, -1, samples.inner, *merged[samples.axis + 1:]]
        front = [samples.axis + 1, *(axis for axis in range(len(sizes)) if axis != samples.axis + 1)]
        back = [front.index(axis) for axis in range(len(front))]
        split = onnx_operator(self.terms, "Reshape", [codes.term, self._ints(known_sizes(sizes))], {})
        self._tensors[call.name] = onnx_operator(self.terms, "Transpose", [split], {"perm": front})
        again = onnx_operator(self.terms, "Transpose", [edge], {"perm": back})
        term = onnx_operator(self.terms, "Reshape", [again, self._ints(known_sizes(merged))], {})
        self._values[call] = replace(codes, term=term)


def _port(call: Call, name: str) -> Port:
    kind = "FLOAT" if call.dtype.is_floating_point else str(call.dtype).removeprefix("torch.").upper()
    return Port(name, kind, (None, *call.shape[1:]))


def _float_type() -> int:
    import onnx

    return int(onnx.TensorProto.FLOAT)


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _by_channel(weight: Quantizer, channels: int) -> np.ndarray:
    scale = _numbers(weight.scale).reshape(-1)
    return scale if len(scale) == channels else np.repeat(scale, channels)


def _clamps(calls: tuple[Call | None, ...]) -> list[Call]:
    """The activations at the end of a run of operators."""
    found: list[Call] = []
    for call in reversed(calls):
        if call is None or call.op not in ACTIVATIONS:
            break
        found.insert(0, call)
    return found


def _ends(clamp: Call) -> tuple[float, float]:
    if clamp.op == "relu":
        return 0.0, float("inf")
    return float(clamp.args["min_val"]), float(clamp.args["max_val"])


def _code_of(value: float, grid: Codes) -> int:
    """The code of one number, in float32 with halves to even."""
    steps = np.rint(np.float32(value) / grid.scale.array) + np.float32(int(grid.zero_point.array))
    return int(np.clip(steps, 0, 255))


def _is_contrib(operator: Operator) -> bool:
    return operator.get("kernel") == INTEGER and operator.kind not in ("Conv", "MatMul")

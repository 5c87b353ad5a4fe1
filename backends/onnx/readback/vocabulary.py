"""ONNX operators as terms in one form: defaults filled in by the operator's schema, kernels in their parts.

`QLinearConv` computes what `QuantizeLinear(Conv(DequantizeLinear(...)))` does: both become the same terms, the first
with the mark of an integer kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from isobit.backends.onnx.readback.folding import folded
from isobit.backends.readback.description import Constant, Float32, Operator, Term, Terms

OPSET = 19  # the newest that the oldest supported runtime knows
CONTRIB = "com.microsoft"
LOCAL = "b"  # domain of a file's own functions
Attributes = Mapping[str, Any]
# Attributes whose neutral value says the same as none: of steps, and of borders.
_STEPS, _BORDERS = ("strides", "dilations"), ("pads", "output_padding")
INTEGER = "integer"  # mark of what a kernel of integers computes, in `kernel`


class Unknown(Exception):
    """Something in a file that has no meaning here; the message says what."""


def onnx_operator(
    terms: Terms, op: str, inputs: Sequence[Term | None], attributes: Attributes, kernel: str = ""
) -> Term:
    """One standard operator.

    Args:
        attributes: integers, floats, texts, or lists of them; those left out have their defaults.
        kernel: mark of the kernel that computes it; empty for that of the operator's own name.

    Raises:
        Unknown: the operator, or one of its attributes or operands.
    """
    if op == "Identity":
        return _only(inputs, attributes)
    found = _of_constants(op, inputs, attributes)
    if found is not None:
        return terms.constant(found)
    names, defaults = _schema(op)
    unknown = sorted(set(attributes) - set(defaults))
    if unknown:
        raise Unknown(f"attribute {unknown[0]} of {op}")
    fields = {**_operands(op, names, inputs), **{
        name: _plain(name, attributes.get(name, default)) for name, default in defaults.items()
    }}
    if kernel:
        fields["kernel"] = kernel
    if op == "QuantizeLinear":
        return _quantize(terms, fields)
    if op == "DequantizeLinear":
        return terms.operator("dequantize", input=fields["x"], scale=fields["x_scale"],
                              zero_point=fields["x_zero_point"], axis=fields["axis"])
    if op == "Clip":
        return _clip(terms, fields)
    return terms.operator(op, **fields)


def _of_constants(op: str, inputs: Sequence[Term | None], attributes: Attributes) -> np.ndarray | None:
    """What is computed while a session loads; None where it depends on the network's input."""
    if not inputs or not all(each is None or isinstance(each, Constant) for each in inputs):
        return None
    return folded(op, [each.array if isinstance(each, Constant) else None for each in inputs], attributes)


def _only(inputs: Sequence[Term | None], attributes: Attributes) -> Term:
    if attributes:
        raise Unknown(f"attribute {min(attributes)} of Identity")
    if len(inputs) != 1 or inputs[0] is None:
        raise Unknown("Identity with other than one operand")
    return inputs[0]


@cache
def _schema(op: str) -> tuple[tuple[tuple[str, ...], bool], dict[str, Any]]:
    """Names of a standard operator's operands, whether the last stands for several, and its attributes' defaults."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op, OPSET, "")
    except onnx.defs.SchemaError:
        raise Unknown(f"operator {op}") from None
    several = bool(schema.inputs) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    defaults = {
        name: onnx.helper.get_attribute_value(each.default_value) if each.default_value.type else None
        for name, each in schema.attributes.items()
    }
    return (tuple(each.name for each in schema.inputs), several), defaults


def _operands(op: str, known: tuple[tuple[str, ...], bool], inputs: Sequence[Term | None]) -> dict[str, Term | None]:
    names, several = known
    if several:
        names = (*names[:-1], *(f"{names[-1]}[{place}]" for place in range(len(inputs) - len(names) + 1)))
    if len(inputs) > len(names):
        raise Unknown(f"operand {len(inputs)} of {op}")
    return dict(zip(names, [*inputs, *[None] * (len(names) - len(inputs))], strict=True))


def _plain(name: str, value: Any) -> Any:
    """An attribute's value that can be compared: floats by their bits, lists as tuples, neutral lists as none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, float):
        return Float32.of(value)
    if isinstance(value, list | tuple):
        entries = tuple(_plain("", each) for each in value)
        neutral = 1 if name in _STEPS else 0 if name in _BORDERS else None
        return None if neutral is not None and all(each == neutral for each in entries) else entries
    return value


def _quantize(terms: Terms, fields: Mapping[str, Any]) -> Term:
    if fields["saturate"] != 1:
        raise Unknown(f"QuantizeLinear with saturate {fields['saturate']}")
    return terms.operator("quantize", input=fields["x"], scale=fields["y_scale"], zero_point=fields["y_zero_point"],
                          axis=fields["axis"], low=0, high=255)


def _clip(terms: Terms, fields: Mapping[str, Any]) -> Term:
    """Ends of codes right after they were made belong to their grid; any other clip is an operator."""
    codes, low, high = (fields[name] for name in ("input", "min", "max"))
    ends = [_byte(each, other) for each, other in ((low, 0), (high, 255))]
    if isinstance(codes, Operator) and codes.kind == "quantize" and None not in ends and _is_open(codes):
        return terms.changed(codes, low=ends[0], high=ends[1])
    return terms.operator("Clip", **fields)


def _is_open(codes: Operator) -> bool:
    """No ends were given to these codes yet."""
    return (codes.get("low"), codes.get("high")) == (0, 255)


def _byte(value: Term | None, default: int) -> int | None:
    """A constant code; None for anything else."""
    if value is None:
        return default
    if not isinstance(value, Constant) or value.array.dtype != np.uint8 or value.array.shape != ():
        return None
    return int(value.array)


def quantize(terms: Terms, value: Term, scale: Term | None, zero_point: Term | None) -> Term:
    """uint8 codes of a value, by what a kernel says of its result."""
    return onnx_operator(terms, "QuantizeLinear", [value, scale, zero_point], {})


def dequantize(
    terms: Terms, codes: Term | None, scale: Term | None, zero_point: Term | None, axis: int = 1
) -> Term:
    """Values of codes."""
    return onnx_operator(terms, "DequantizeLinear", [codes, scale, zero_point], {"axis": axis})


# -- integer kernels --------------------------------------------------------------------------------------------------


def kernel_operator(terms: Terms, op: str, inputs: Sequence[Term | None], attributes: Attributes) -> Term:
    """One of ONNX Runtime's operators on codes, in its parts; also those of them that are standard.

    Raises:
        Unknown: the operator, or one of its attributes or operands.
    """
    if op not in KERNELS:
        raise Unknown(f"operator {CONTRIB}.{op}")
    return KERNELS[op](terms, list(inputs), dict(attributes))


def _of_codes(count: int, op: str) -> Callable[..., Term]:
    """(codes, scale, zero point) of `count` operands, then scale and zero point of the result."""

    def read(terms: Terms, inputs: list[Term | None], attributes: dict[str, Any]) -> Term:
        if len(inputs) != 3 * count + 2:
            raise Unknown(f"{len(inputs)} operands of a kernel of {op}")
        if attributes.pop("channels_last", 0):
            raise Unknown(f"a kernel of {op} on channels that lie last")
        operands = [_values(terms, inputs, 3 * place) for place in range(count)]
        return quantize(terms, onnx_operator(terms, op, operands, attributes, INTEGER), *inputs[-2:])

    return read


def _concat(terms: Terms, inputs: list[Term | None], attributes: dict[str, Any]) -> Term:
    if len(inputs) < 5 or len(inputs) % 3 != 2:
        raise Unknown(f"{len(inputs)} operands of QLinearConcat")
    operands = [_values(terms, inputs, place) for place in range(2, len(inputs), 3)]
    return quantize(terms, onnx_operator(terms, "Concat", operands, attributes, INTEGER), *inputs[:2])


def _values(terms: Terms, inputs: list[Term | None], place: int) -> Term:
    """The operand whose codes, scale and zero point stand from `place` on."""
    codes, scale, zero_point = inputs[place:place + 3]
    return dequantize(terms, codes, scale, zero_point)


def _convolution(terms: Terms, inputs: list[Term | None], attributes: dict[str, Any]) -> Term:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = [*inputs, None][:9]
    if not 8 <= len(inputs) <= 9:
        raise Unknown(f"{len(inputs)} operands of QLinearConv")
    operands = [dequantize(terms, x, x_scale, x_zero), dequantize(terms, w, w_scale, w_zero, axis=_rows(w_scale)),
                _bias(terms, bias, x_scale, w_scale)]
    return quantize(terms, onnx_operator(terms, "Conv", operands, attributes, INTEGER), y_scale, y_zero)


def _gemm(terms: Terms, inputs: list[Term | None], attributes: dict[str, Any]) -> Term:
    """QGemm; without a grid of its result it gives values."""
    x, x_scale, x_zero, w, w_scale, w_zero, bias, y_scale, y_zero = [*inputs, *[None] * 9][:9]
    if not 6 <= len(inputs) <= 9:
        raise Unknown(f"{len(inputs)} operands of QGemm")
    axis = _rows(w_scale) if attributes.get("transB") else 1
    operands = [dequantize(terms, x, x_scale, x_zero), dequantize(terms, w, w_scale, w_zero, axis=axis),
                _bias(terms, bias, x_scale, w_scale)]
    value = onnx_operator(terms, "Gemm", operands, attributes, INTEGER)
    return value if y_scale is None and y_zero is None else quantize(terms, value, y_scale, y_zero)


def _rows(scale: Term | None) -> int:
    """The axis of output channels where each has a scale."""
    return 0 if isinstance(scale, Constant) and scale.array.ndim else 1


def _bias(terms: Terms, codes: Term | None, x_scale: Term | None, w_scale: Term | None) -> Term | None:
    """A bias of 32 bits is worth the product of both scales, with zero point 0: so these kernels define it."""
    if codes is None:
        return None
    if not (isinstance(codes, Constant) and isinstance(x_scale, Constant) and isinstance(w_scale, Constant)):
        raise Unknown("a bias, or a scale of it, that is no constant")
    if x_scale.array.ndim or w_scale.array.ndim > 1:
        raise Unknown("a bias whose scales are no number, and one or one a channel")
    scale = terms.constant(x_scale.array * w_scale.array, np.float32)
    return dequantize(terms, codes, scale, terms.constant(np.zeros(scale.array.shape, np.int32)), axis=_rows(scale))


KERNELS: Mapping[str, Callable[..., Term]] = {
    "QLinearConv": _convolution,
    "QGemm": _gemm,
    "QLinearConcat": _concat,
    "QLinearMatMul": _of_codes(2, "MatMul"),
    "QLinearAdd": _of_codes(2, "Add"),
    "QLinearMul": _of_codes(2, "Mul"),
    "QLinearGlobalAveragePool": _of_codes(1, "GlobalAveragePool"),
    "QLinearAveragePool": _of_codes(1, "AveragePool"),
    "QLinearLeakyRelu": _of_codes(1, "LeakyRelu"),
    "QLinearSigmoid": _of_codes(1, "Sigmoid"),
}
STANDARD_KERNELS = frozenset({"QLinearConv", "QLinearMatMul"})

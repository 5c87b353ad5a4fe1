"""Numbers as C text: arrays of constants, structures, packed weight codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from isobit.backends.fixed_point.program import Weights

WIDTH = 116
INDENT = "    "
_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}


def array(name: str, values: np.ndarray) -> str:
    """`static const` definition of a one-dimensional array of integers or float32."""
    kind = _TYPES[values.dtype.name]
    numbers = list(map(float_text if kind == "float" else integer_text, values.reshape(-1).tolist()))
    body = "\n".join(number_lines(numbers))
    return f"static const {kind} {name}[{len(numbers)}] = {{\n{body}\n}};"


def number_lines(numbers: Sequence[str], indent: str = INDENT) -> list[str]:
    """Lines of numbers with commas after them, as many on each as fit if all were as long as the longest."""
    each = (WIDTH - len(indent)) // (max(map(len, numbers), default=0) + 2)
    return [f"{indent}{', '.join(numbers[start:start + each])}," for start in range(0, len(numbers), each)]


def integer_text(value: int) -> str:
    """A C expression of the value; -2^31 and wide ones need a little help."""
    if value == -(1 << 31):
        return "(-2147483647 - 1)"
    if -(1 << 31) < value < 1 << 31:
        return str(value)
    return f"INT64_C({value})"


def float_text(value: float) -> str:
    """Exactly this float32: hexadecimal digits, which no compiler rounds."""
    mantissa, _, exponent = float(np.float32(value)).hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def structure(kind: str, name: str, fields: Mapping[str, str]) -> str:
    """`static const` definition with named members."""
    body = "\n".join(f"{INDENT}.{field} = {value}," for field, value in fields.items())
    return f"static const struct {kind} {name} = {{\n{body}\n}};"


def braces(*values: int | str) -> str:
    """Initializer of a member: `{1, 2, 3}`."""
    return "{" + ", ".join(value if isinstance(value, str) else integer_text(value) for value in values) + "}"


def pack(weights: Weights) -> np.ndarray:
    """Codes plus offset as a stream of bits, lowest first, each channel from a byte of its own: uint8 [K * bytes]."""
    codes = weights.codes.reshape(len(weights.codes), -1).astype(np.int16) + weights.offset[:, None]
    bits = codes[..., None] >> np.arange(weights.bits) & 1
    return np.packbits(bits.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little").reshape(-1)

"""Numbers and names as C text: arrays of constants, structures, packed weight codes, arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isobit.backends.fixed_point.program import Weights

ALONE = "codes"  # the argument of a network with one input
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
    """Exactly this float32: hexadecimal digits, which no compiler rounds; what is not finite as in math.h."""
    if math.isnan(value):
        return "NAN"
    if np.isinf(np.float32(value)):
        return "INFINITY" if value > 0 else "(-INFINITY)"
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


def identifier(name: str) -> str:
    """A C identifier for the network: lower case, digits and underscores, a letter first."""
    found = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
    return found if found and found[0].isalpha() else f"model_{found}".rstrip("_")


def argument_names(names: Sequence[str]) -> list[str]:
    """C arguments of the inputs: `codes` of a network with one, else `in_` and their names made into identifiers."""
    return [ALONE] if len(names) == 1 else [f"in_{name}" for name in _distinct(names)]


def _distinct(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """An identifier for each name, no two alike and none that is `taken`."""
    wanted = [identifier(name) for name in names]
    found: list[str] = []
    for place, name in enumerate(wanted):
        free = name
        while free in found or free in taken or (wanted.count(free) > 1 if free == name else free in wanted):
            free = f"{free}_{place}"
        found.append(free)
    return found


def describe_inputs(
    network: str, names: Sequence[str], tensors: Sequence[tuple[Sequence[int], bool]]
) -> list[dict[str, Any]]:
    """What templates print of each input: its argument, its type, what its macros and its function begin with.

    Args:
        network: the identifier of the network.
        names: of the inputs.
        tensors: (height, width, channels) of each, and whether it holds integers.
    """
    found = []
    arguments = zip(argument_names(names), _distinct(names), tensors, strict=True)
    for place, (argument, name, (shape, integers)) in enumerate(arguments):
        end = "" if len(names) == 1 else f"_{name}"
        height, width, channels = shape
        found.append({
            "place": place, "argument": argument, "integers": integers, "size": math.prod(shape),
            "type": "int32_t" if integers else "uint8_t", "guard": network.upper() + end.upper(),
            "quantize": f"{network}_quantize{end}", "height": height, "width": width, "channels": channels,
        })
    return found


def describe_outputs(
    network: str, inputs: Sequence[str], outputs: Sequence[tuple[str, Sequence[int]]]
) -> list[dict[str, Any]]:
    """What the header prints of each of several outputs: what its macros begin with, where it lies; none of one output.

    Args:
        network: the identifier of the network.
        inputs: their names, of whose macros these must differ.
        outputs: name and shape of each, in the order in which they lie among the logits.
    """
    if len(outputs) < 2:
        return []
    found, offset = [], 0
    names = _distinct([name for name, _ in outputs], _distinct(inputs) if len(inputs) > 1 else ())
    for name, (said, shape) in zip(names, outputs, strict=True):
        count = math.prod(shape)
        found.append({
            "guard": f"{network}_{name}".upper(), "offset": offset, "count": count,
            "comment": comment(f"{said}: {''.join(f'[{size}]' for size in shape) or 'one number'}"),
        })
        offset += count
    return found


def comment(text: str) -> str:
    """The text on one line, without what would begin or end a comment: what cannot be printed is escaped."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
    return shown.replace("*/", "* /").replace("/*", "/ *").replace("??/", "? ?/")


def string(text: str) -> str:
    """A C string of the text in UTF-8: bytes that C may read as anything else are written in octal digits."""
    written = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\?' else f"\\{byte:03o}"
                      for byte in text.encode("utf-8", "backslashreplace"))
    return f'"{written}"'

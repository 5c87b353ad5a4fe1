"""Checks of which grammars for untrusted descriptions are made: each takes a value and its place, and returns a copy.

What does not fit is an `Unsafe` with the field's place.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from isobit.pipeline.model.exported_expressions import is_expression, is_guard
from isobit.pipeline.model.exported_operators import is_known

Check = Callable[[Any, str], Any]

MAX_NAME, MAX_TEXT, MAX_ITEMS = 300, 2000, 200_000
INT_LIMIT = 2**63
ENUM_LIMIT = 64
# Names that the code which torch writes for a graph uses itself.
_TAKEN = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree", "operator", "math"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PATH = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_MODULE_ATTRIBUTES = frozenset(dir(nn.Module())) | {"forward"}
_INFINITIES = ("Infinity", "-Infinity", "NaN")


class Unsafe(Exception):
    """A field that does not fit its grammar.

    Args:
        field: its place: `graph_module.graph.nodes[3].target`.
        found: what stands there, shortened.
        allowed: what may stand there.
    """

    def __init__(self, field: str, found: Any, allowed: str) -> None:
        super().__init__(field)
        self.field, self.allowed = field, allowed
        text = repr(found) if isinstance(found, str | int | float | bool | None) else f"a {type(found).__name__}"
        self.found = text if len(text) <= 80 else text[:77] + "..."


# --- values ---


def matching(pattern: re.Pattern[str], limit: int, allowed: str) -> Check:
    """Text that `pattern` describes as a whole."""

    def check(value: Any, field: str) -> str:
        if not isinstance(value, str) or len(value) > limit or not pattern.fullmatch(value):
            raise Unsafe(field, value, allowed)
        return value

    return check


def name(value: Any, field: str) -> str:
    """A name of a value in the graph: it becomes a variable in code."""
    allowed = "a plain name (letters, digits, underscores)"
    if not isinstance(value, str) or len(value) > MAX_NAME or not _NAME.fullmatch(value):
        raise Unsafe(field, value, allowed)
    if keyword.iskeyword(value) or value in _TAKEN or value.startswith("__"):
        raise Unsafe(field, value, f"{allowed} that Python and torch do not use themselves")
    return value


def path(value: Any, field: str) -> str:
    """A name of a parameter or buffer: its parts become attributes of modules."""
    allowed = "names joined by dots"
    if not isinstance(value, str) or len(value) > MAX_NAME or not PATH.fullmatch(value):
        raise Unsafe(field, value, allowed)
    if any(part.startswith("__") or part in _MODULE_ATTRIBUTES for part in value.split(".")):
        raise Unsafe(field, value, f"{allowed} that are not attributes of every torch module")
    return value


def printable(value: Any, field: str) -> str:
    """Printable text of bounded length."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise Unsafe(field, value, f"at most {MAX_TEXT} printable characters")
    return value


def expression(value: Any, field: str) -> str:
    """Arithmetic on the symbols of sizes."""
    if not isinstance(value, str) or not is_expression(value):
        raise Unsafe(field, value, "whole numbers, symbols (s0) and arithmetic")
    return value


def guard(value: Any, field: str) -> str:
    """A condition on the sizes of inputs."""
    if not isinstance(value, str) or not is_guard(value):
        raise Unsafe(field, value, "a condition on the sizes of inputs")
    return value


def operator(value: Any, field: str) -> str:
    """The full name of an operator that computes and nothing else."""
    if not isinstance(value, str) or not is_known(value):
        raise Unsafe(field, value, "a functional operator of torch.ops.aten, or arithmetic on sizes")
    return value


def integer(value: Any, field: str) -> int:
    """A whole number of 64 bits; True and False are none."""
    if type(value) is not int or not -INT_LIMIT <= value < INT_LIMIT:
        raise Unsafe(field, value, "a whole number of 64 bits")
    return value


def enumeration(value: Any, field: str) -> int:
    """A member of one of the enumerations of torch, by number."""
    if type(value) is not int or not 0 <= value < ENUM_LIMIT:
        raise Unsafe(field, value, f"a number from 0 to {ENUM_LIMIT - 1}")
    return value


def boolean(value: Any, field: str) -> bool:
    """True or false, nothing that only counts as one."""
    if not isinstance(value, bool):
        raise Unsafe(field, value, "true or false")
    return value


def number(value: Any, field: str) -> Any:
    """A float, an infinity by its name, or a whole number."""
    if value in _INFINITIES if isinstance(value, str) else isinstance(value, float):
        return value
    return integer(value, field)


def on_cpu(value: Any, field: str) -> dict[str, Any]:
    """A device, which becomes the processor: where the program was exported is not where it will run."""
    record({"type": matching(re.compile("[a-z]{1,20}"), 20, "a device's name")})(value, field)
    return {"type": "cpu", "index": None}


def one_of(*choices: str) -> Check:
    """One of a few words."""

    def check(value: Any, field: str) -> str:
        if value not in choices:
            raise Unsafe(field, value, ", ".join(choices))
        return value

    return check


def unused(check: Check, result: Any) -> Check:
    """A field that must fit `check`, and of which `result` is kept: nobody here needs it."""

    def checked(value: Any, field: str) -> Any:
        check(value, field)
        return result

    return checked


# --- containers ---


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields, copied; others are left out."""

    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unsafe(field, value, "an object")
        missing = next((key for key in required if key not in value), None)
        if missing is not None:
            raise Unsafe(f"{field}.{missing}".lstrip("."), None, "a value: it is missing")
        known = {**required, **(optional or {})}
        return {key: known[key](value[key], f"{field}.{key}".lstrip(".")) for key in known if key in value}

    return check


def union(choices: Mapping[str, Check]) -> Check:
    """An object with one field, which names its kind."""

    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1:
            raise Unsafe(field, value, "an object with one field")
        (kind, content), = value.items()
        if kind not in choices:
            raise Unsafe(field, kind, ", ".join(choices))
        return {kind: choices[kind](content, f"{field}.{kind}")}

    return check


def list_of(item: Check) -> Check:
    """A list, copied."""

    def check(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise Unsafe(field, value, f"a list of at most {MAX_ITEMS:,}")
        return [item(content, f"{field}[{index}]") for index, content in enumerate(value)]

    return check


def map_of(key: Check, item: Check) -> Check:
    """An object with any keys, copied."""

    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise Unsafe(field, value, f"an object of at most {MAX_ITEMS:,} fields")
        return {key(text, field): item(content, f"{field}[{text}]") for text, content in value.items()}

    return check


def or_none(check: Check) -> Check:
    """What fits `check`, or null."""
    return lambda value, field: None if value is None else check(value, field)

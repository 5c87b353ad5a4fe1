"""The kernels' own text: byte by byte that of the package, none missing, none more, and what their structures hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from isobit.backends.c.readback.scanner import NotUnderstood, Scanner, integer

FOLDER = Path(__file__).parents[1] / "kernels"
ALWAYS = ("common", "quantize")  # of every artifact: the input's quantization is no call of a layer
_RANGES = {"uint8_t": (0, 255), "int32_t": (-(1 << 31), (1 << 31) - 1), "int64_t": (-(1 << 63), (1 << 63) - 1)}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STRUCTURE = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
_FUNCTION = re.compile(r"^static (?:inline |[A-Z]+ )?(?:struct )?\w+ (\w+)\(", re.MULTILINE)
_MEMBERS = re.compile(r"(?:const )?((?:struct )?\w+) ([^;]+);")


@dataclass(frozen=True)
class Member:
    """One member of a structure.

    Args:
        name: of the member.
        kind: its type, or what it points to.
        pointer: it is the address of an array.
        count: of an array's elements; None where it is none.
    """

    name: str
    kind: str
    pointer: bool
    count: int | None


@cache
def texts() -> Mapping[str, str]:
    """Text of every kernel of the package."""
    return {path.stem: path.read_text(encoding="utf-8").rstrip() for path in sorted(FOLDER.glob("*.c"))}


@cache
def _plain() -> Mapping[str, str]:
    return {name: _COMMENT.sub(" ", text) for name, text in texts().items()}


@cache
def structures() -> Mapping[str, tuple[Member, ...]]:
    """Members of every structure, by its name."""
    found = {}
    for text in _plain().values():
        for name, body in _STRUCTURE.findall(text):
            found[name] = tuple(member for kind, names in _MEMBERS.findall(body) for member in _members(kind, names))
    return found


def _members(kind: str, names: str) -> Iterable[Member]:
    for text in names.split(","):
        star, name, count = re.fullmatch(r"\s*(\*?)(\w+)(?:\[(\d+)\])?\s*", text).groups()  # pyright: ignore
        yield Member(name, kind, bool(star), int(count) if count else None)


@cache
def _home() -> Mapping[str, str]:
    """The kernel that defines a function or a structure, by its name; `struct x` of a structure."""
    found: dict[str, str] = {}
    for kernel, text in _plain().items():
        found |= dict.fromkeys(_FUNCTION.findall(text), kernel)
        found |= {f"struct {name}": kernel for name, _ in _STRUCTURE.findall(text)}
    return found


@cache
def needed(kernel: str) -> frozenset[str]:
    """Kernels whose functions or structures one uses, itself included."""
    found, waiting = set[str](), [kernel]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            words = re.findall(r"struct \w+|\b\w+(?=\()", _plain()[name])
            waiting += [_home()[word] for word in words if word in _home()]
    return frozenset(found)


def kernel_of(function: str) -> str | None:
    """The kernel that defines a function; None where none does."""
    return _home().get(function)


def taken(scanner: Scanner) -> tuple[str, ...]:
    """The kernels that stand next, in their order, each with the text of the package and after all that it uses."""
    found: list[str] = []
    while True:
        while scanner.text[scanner.place:scanner.place + 1].isspace():
            scanner.place += 1  # kernels begin with a comment, which `skip` would pass
        longest = max((name for name, text in texts().items() if scanner.text.startswith(text, scanner.place)),
                      key=lambda name: len(texts()[name]), default=None)
        if longest is None:
            return tuple(found)
        missing = needed(longest) - {*found, longest}
        if missing or longest in found:
            scanner.fail(f"kernel {', '.join(sorted(missing)) or 'another than ' + longest}")
        found.append(longest)
        scanner.place += len(texts()[longest])


def members_of(kind: str, given: Any) -> dict[str, Any]:
    """The members of a structure by name: numbers, names of arrays (None of no address), structures, lists.

    Args:
        kind: name of the structure.
        given: its initializer as `Scanner.initializer` reads it; what it does not name is 0, as in C.
    """
    members = structures().get(kind)
    if members is None or isinstance(given, str):
        raise NotUnderstood(f"`{given}` initializes no structure of a kernel ({kind})")
    if isinstance(given, list):
        given = dict(zip((member.name for member in members), given, strict=False)) if len(given) <= len(
            members) else {"": given}
    unknown = set(given) - {member.name for member in members}
    if unknown:
        raise NotUnderstood(f"struct {kind} has no member {', '.join(sorted(unknown)) or 'so many'}")
    return {member.name: _value(member, given.get(member.name)) for member in members}


def _value(member: Member, given: Any) -> Any:
    if member.kind.startswith("struct ") and not member.pointer:
        return members_of(member.kind.removeprefix("struct "), [] if given is None else given)
    if member.count is not None:
        values = [number(each, member.kind) for each in (given or [])] if not isinstance(given, str) else []
        if len(values) != member.count:
            raise NotUnderstood(f"{member.name} takes {member.count} numbers, not {given}")
        return tuple(values)
    text = "0" if given is None else given
    if not isinstance(text, str):
        raise NotUnderstood(f"{member.name} takes one value, not {given}")
    if member.pointer:
        return None if text == "0" else text
    return number(text, member.kind)


def number(text: str, kind: str = "int32_t") -> int:
    """An integer that fits a type."""
    value = integer(text)
    least, most = _RANGES[kind]
    if not least <= value <= most:
        raise NotUnderstood(f"{text} does not fit {kind}")
    return value

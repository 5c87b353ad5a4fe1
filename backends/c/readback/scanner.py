"""The subset of C that an artifact is written in, as text: what is outside of it is an error that says where."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np

_SPACE = re.compile(r"(?:\s+|/\*.*?\*/)*", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_LAST = r"[ \t]*(?:/\*(?:(?!\*/).)*\*/[ \t]*)?\n"  # one comment at most, and the end of the line
_SPLICED = re.compile(r"(?:\\|\?\?/)\s*\n")  # a line that goes on in the next may hide the end of a comment
_WORD = re.compile(r"\w+|[^\w\s]")
_INTEGER = r"-?(?:0|[1-9]\d*)"
_INTEGERS = re.compile(rf"\s*(?:{_INTEGER}\s*,\s*)*(?:{_INTEGER}\s*)?")
_FLOAT = r"-?0x[01](?:\.[0-9a-f]+)?p[+-]?\d+f"
_NUMBER = rf"{_FLOAT}|{_INTEGER}"
_LEAST = "(-2147483647 - 1)"
_FLOATS = {"NAN": np.nan, "INFINITY": np.inf, "(-INFINITY)": -np.inf}
_SHOWN = 40  # characters of what was not understood
KINDS = {"int8_t": np.int8, "uint8_t": np.uint8, "int16_t": np.int16, "int32_t": np.int32, "int64_t": np.int64,
         "float": np.float32}


class NotUnderstood(Exception):
    """Text that this reader knows no meaning of; the message says what and where."""


class Scanner:
    """Reads a text from its begin; spaces and comments between words say nothing.

    Args:
        text: of the file.
        file: its name, for errors.
    """

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.place = text, file, 0
        if _SPLICED.search(text):
            raise NotUnderstood(f"{file} has a line that goes on in the next")

    def skip(self) -> None:
        """Go to the next word."""
        self.place = found.end() if (found := _SPACE.match(self.text, self.place)) else self.place

    def look(self, pattern: str) -> re.Match[str] | None:
        """What stands next, where it is of that form; it is not passed."""
        self.skip()
        return re.compile(pattern).match(self.text, self.place)

    def take(self, pattern: str) -> re.Match[str]:
        """What stands next; raises NotUnderstood where it is not of that form."""
        found = self.look(pattern)
        if found is None:
            self.fail(f"what fits {pattern}")
        self.place = found.end()
        return found

    def passes(self, pattern: str) -> bool:
        """Whether what stands next is of that form, and is passed."""
        found = self.look(pattern)
        self.place = found.end() if found else self.place
        return found is not None

    def words(self, text: str) -> None:
        """Pass these words; raises NotUnderstood where others stand there."""
        for word in _WORD.findall(text):
            self.skip()
            end = self.place + len(word)
            more = re.match(r"\w\w", word[-1] + self.text[end:end + 1])
            if not self.text.startswith(word, self.place) or more:
                self.fail(f"`{word}` of `{text}`")
            self.place = end

    def line(self, text: str) -> None:
        """Pass a line for the preprocessor, which is this and nothing else but a comment."""
        self.take(rf"{re.escape(text)}(?={_LAST})")

    def macro(self) -> tuple[str, str]:
        """Name and text of a macro that is one number, and nothing else but a comment."""
        found = self.look(rf"#define +(\w+) +({_NUMBER})(?={_LAST})")
        if found is None:
            self.fail("a macro of one number, with one comment behind it at most,")
        self.place = found.end()
        return found[1], found[2]

    def end(self) -> None:
        """Nothing more may stand there."""
        self.skip()
        if self.place < len(self.text):
            self.fail("the end of the file")

    def fail(self, wanted: str) -> NoReturn:
        """Raise NotUnderstood for what stands here."""
        line = self.text.count("\n", 0, self.place) + 1
        found = self.text[self.place:self.place + _SHOWN].partition("\n")[0]
        raise NotUnderstood(f"{self.file}, line {line}: `{found}` stands where {wanted} must")

    def initializer(self) -> Any:
        """Members in braces as a list, or a dict where they are named; else the text of an expression."""
        if not self.passes(r"\{"):
            return " ".join(self.take(r"[^,{};]+?(?=\s*[,}])")[0].split())
        named: dict[str, Any] = {}
        unnamed: list[Any] = []
        while not self.passes(r"\}"):
            name = self.look(r"\.(\w+)\s*=")
            if name:
                self.take(r"\.\w+\s*=")
                if name[1] in named:
                    self.fail("a member that was not given")
                named[name[1]] = self.initializer()
            else:
                unnamed.append(self.initializer())
            if not self.passes(",") and not self.look(r"\}"):
                self.fail("a comma or a brace")
        if named and unnamed:
            self.fail("members that are all named, or none")
        return named or unnamed

    def array(self) -> tuple[str, np.ndarray]:
        """Name and numbers of the definition of an array."""
        found = self.take(r"static const (\w+) (\w+)\[(\d+)\]\s*=\s*\{([^{};]*)\};")
        kind, name, count, body = found.groups()
        if kind not in KINDS:
            self.fail(f"a type of {', '.join(KINDS)} of {name}")
        values = numbers(body, kind)
        if len(values) != int(count):
            self.fail(f"{count} numbers in {name}, not {len(values)},")
        return name, values


def numbers(body: str, kind: str) -> np.ndarray:
    """Numbers between commas, as an array of a C type."""
    body = _COMMENT.sub(" ", body).strip().removesuffix(",")
    if kind != "float" and _INTEGERS.fullmatch(body):
        values = np.fromstring(body, np.int64, sep=",") if body.strip() else np.zeros(0, np.int64)
    else:
        each = [" ".join(text.split()) for text in body.split(",")]
        values = np.array([float_of(text) if kind == "float" else integer(text) for text in each])
    typed = values.astype(KINDS[kind])
    if kind != "float" and not np.array_equal(typed, values):
        raise NotUnderstood(f"a number does not fit {kind}")
    return typed


def integer(text: str) -> int:
    """The value of an integer constant."""
    if re.fullmatch(_INTEGER, text):
        return int(text)
    if text == _LEAST:
        return -(1 << 31)
    found = re.fullmatch(rf"INT64_C\(({_INTEGER})\)", text)
    if found is None or not -(1 << 63) <= int(found[1]) < 1 << 63:
        raise NotUnderstood(f"`{text}` is no integer constant")
    return int(found[1])


def float_of(text: str) -> float:
    """The value of a float constant, which float32 holds."""
    if text in _FLOATS:
        return _FLOATS[text]
    if not re.fullmatch(_FLOAT, text):
        raise NotUnderstood(f"`{text}` is no float constant in hexadecimal digits")
    value = float.fromhex(text[:-1])
    if float(np.float32(value)) != value:
        raise NotUnderstood(f"`{text}` is no float32")
    return value

"""Damage of C artifacts: one number, operand, call or character of `model.c`, `model.h` or `model.json` changed."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isobit.backends.c.device_runner import DESCRIPTION, HEADER, SOURCE, compiler
from isobit.pipeline.stages import Reference
from tools.mutants.variants import Variant

_NUMBER = re.compile(r"(?<![\w.])-?(?:0x[0-9a-f.]+p[+-]?\d+f|\d+)(?![\w.])|(?<=INT64_C\()-?\d+")
_ARRAY = re.compile(r"^static const (\w+) (\w+?)_(\d\w*)\[(\d+)\] = \{\n(.*?)\n\};", re.DOTALL | re.MULTILINE)
_STRUCTURE = re.compile(r"^static const struct \w+ \w+(?:\[\d+\])? = \{\n?(.*?)\};$", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^ *\.?(\w*)(?: = )?(.*)$", re.MULTILINE)
_CALL = re.compile(r"^    (\w+)\((.*)\);$", re.MULTILINE)
_KERNEL = re.compile(r"[<>+*-](?=[ =])|\b[01]\b")
_MACRO = re.compile(r"^#define (\w+) ([^\s]+)", re.MULTILINE)
_SCRATCH_TYPE = "(int8_t *)"
_SCRATCH = re.compile(r"\(int8_t \*\)\(a \+ \d+\)\)(?=;)")
_NAME = re.compile(r"^static const (?:struct )?\w+ (\w+)", re.MULTILINE)
_BEGIN, _CONSTANTS, _NETWORK = "/* --- kernels", "/* --- constants", "/* --- the network"
_COMMENTS, _SPACES, _NAMES = ("comments say nothing to a compiler", "spaces between words say nothing",
                              "the names of constants are the file's own")


def changed(text: str) -> Iterator[str]:
    """Other numbers than this one: by a unit or a bit to either side, and by 1 %."""
    if text.endswith("f"):
        value = np.float32(float.fromhex(text[:-1]))
        for other in (np.nextafter(value, np.float32(np.inf)), np.float32(value * np.float32(1.01))):
            yield f"{float(other).hex()}f"
        return
    value = int(text)
    yield from (str(other) for other in dict.fromkeys((value + 1, value - 1, value + value // 100)) if other != value)


class CDamage:
    """`Damage` of the C target."""

    own_process = False  # its sessions are compiled programs

    def variants(self, reference: Reference, folder: Path) -> Iterator[Variant]:
        text, header, said = ((folder / file).read_text(encoding="utf-8") for file in (SOURCE, HEADER, DESCRIPTION))
        for kind, name, start, end, new in _edits(text):
            yield _variant(SOURCE, text, kind, name, start, end, new)
        for macro in _MACRO.finditer(header):
            for found in _NUMBER.finditer(header, *macro.span(2)):
                for new in changed(found[0]):
                    yield _variant(HEADER, header, "macro", f"{macro[1]} {new}", *found.span(), new)
        yield from _described(said)
        yield from _harmless(text, header)

    def loaded(self, folder: Path) -> object:
        """What a compiler makes of the source, and what the header and model.json state; scratch may lie wherever the
        reader finds no tensor that is needed.
        """
        with tempfile.TemporaryDirectory() as name:
            text = _SCRATCH.sub(f"{_SCRATCH_TYPE}(a))", (folder / SOURCE).read_text(encoding="utf-8"))
            (Path(name) / SOURCE).write_text(text, encoding="utf-8")
            command = [*compiler(), "-std=c99", "-O1", "-I", str(folder.resolve()), "-c", SOURCE, "-o", "model.o"]
            subprocess.run(command, cwd=name, check=True, capture_output=True)
            stated = _MACRO.findall((folder / HEADER).read_text(encoding="utf-8"))
            described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            return (Path(name) / "model.o").read_bytes(), stated, described


def _variant(file: str, text: str, kind: str, name: str, start: int, end: int, new: str, rule: str = "") -> Variant:
    return Variant(kind, name, lambda: {file: (text[:start] + new + text[end:]).encode()}, rule)


def _edits(text: str) -> Iterator[tuple[str, str, int, int, str]]:
    """Kind, name, begin, end and the new text of each edit of `model.c`."""
    kernels, constants, network = (text.index(mark) for mark in (_BEGIN, _CONSTANTS, _NETWORK))
    yield from _of_kernels(text, kernels, constants)
    for array in _ARRAY.finditer(text, constants, network):
        yield from _of_array(array)
    for structure in _STRUCTURE.finditer(text, constants, network):
        for field in _FIELD.finditer(text, *structure.span(1)):
            for place, found in enumerate(_NUMBER.finditer(text, *field.span(2))):
                for new in changed(found[0]):
                    yield field[1] or "scales", f"{field[0].strip()}, number {place} {new}", *found.span(), new
            if field[1]:
                yield "field dropped", field[0].strip(), *field.span(), ""
    yield from _of_calls(text, network)


def _of_kernels(text: str, begin: int, end: int) -> Iterator[tuple[str, str, int, int, str]]:
    """A character of the kernels' text here and there, and one kernel less."""
    found = [each for each in _KERNEL.finditer(text, text.index("typedef", begin), end)
             if "/*" not in text[text.rindex("\n", 0, each.start()):each.start()]]
    for each in found[::7]:
        new = {"<": "<=", ">": ">=", "+": "-", "-": "+", "*": "/", "0": "1", "1": "0"}[each[0]]
        yield "kernel", f"character {each.start()}: {new} for {each[0]}", *each.span(), new
    for each in re.finditer(r"^static .*?^\}\n", text[:end], re.DOTALL | re.MULTILINE):
        yield "kernel dropped", each[0].split("(")[0], *each.span(), ""
    packed = text.index("PACKED_WEIGHTS ") + len("PACKED_WEIGHTS ")
    yield "packed", "PACKED_WEIGHTS", packed, packed + 1, str(1 - int(text[packed]))


def _of_array(array: re.Match[str]) -> Iterator[tuple[str, str, int, int, str]]:
    """Some elements, the count and the type."""
    kind, step = array[2], array[3]
    found = list(_NUMBER.finditer(array[5]))
    for place in sorted({0, len(found) // 3, 2 * len(found) // 3, len(found) - 1} if found else ()):
        start = array.start(5)
        for new in changed(found[place][0]):
            yield (kind.rstrip("_0123456789"), f"element {place} of {kind}_{step} {new}",
                   start + found[place].start(), start + found[place].end(), new)
    yield "size of an array", f"{kind}_{step}", *array.span(4), str(int(array[4]) + 1)
    others = {"int8_t": "uint8_t", "uint8_t": "int8_t", "int16_t": "int32_t", "int32_t": "int16_t", "float": "int32_t"}
    yield "type of an array", f"{kind}_{step}", *array.span(1), others[array[1]]
    if len(found) > 1:
        swapped = re.sub(r"(-?[\w.+-]+), (-?[\w.+-]+)", r"\2, \1", array[5], count=1)
        yield "elements swapped", f"{kind}_{step}", *array.span(5), swapped


def _of_calls(text: str, network: int) -> Iterator[tuple[str, str, int, int, str]]:
    """Arguments, operands, order and number of the calls."""
    calls = list(_CALL.finditer(text, network, text.index("\n}\n", network)))
    for number, call in enumerate(calls):
        yield "call dropped", call[0].strip(), *call.span(), ""
        yield "call repeated", call[0].strip(), *call.span(), f"{call[0]}\n{call[0]}"
        if number + 1 < len(calls):
            other = calls[number + 1]
            between = text[call.end():other.start()]
            yield ("calls swapped", f"{call[0].strip()} {other[0].strip()}", call.start(), other.end(),
                   f"{other[0]}{between}{call[0]}")
        for place, found in enumerate(_NUMBER.finditer(text, *call.span(2))):
            offset = text[:found.start()].endswith("+ ")
            news = [str(int(found[0]) + 4), *changed(found[0])] if offset else changed(found[0])
            for new in news:
                yield "offset" if offset else "argument", f"{call[0].strip()}, {place} {new}", *found.span(), new
        parts = call[2].split(", ")
        for first in range(len(parts) - 1):
            swapped = [*parts[:first], parts[first + 1], parts[first], *parts[first + 2:]]
            yield "operands swapped", f"{call[0].strip()}, {first}", *call.span(2), ", ".join(swapped)


def _described(said: str) -> Iterator[Variant]:
    """One value of `model.json` changed, added or taken away."""
    whole = json.loads(said)

    def walk(value: object, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], object]]:
        if isinstance(value, dict | list):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(each, (*path, key))
        else:
            yield path, value

    for path, value in walk(whole, ()):
        changed_whole = json.loads(said)
        owner = changed_whole
        for key in path[:-1]:
            owner = owner[key]
        owner[path[-1]] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}x"
        content = json.dumps(changed_whole, indent=1).encode()
        yield Variant("description", f"{list(path)}", lambda content=content: {DESCRIPTION: content})


def _harmless(text: str, header: str) -> Iterator[Variant]:
    """Edits that change nothing."""
    network = text.index(_NETWORK)
    for comment in list(re.finditer(r"/\*[^\n]*\*/", text[text.index(_CONSTANTS):]))[:3]:
        start = text.index(_CONSTANTS) + comment.start()
        yield _variant(SOURCE, text, "comment", comment[0], start, start + len(comment[0]), "/* another */", _COMMENTS)
    start, end = header.index("/*"), header.index("*/")
    yield _variant(HEADER, header, "comment", "header", start, end, "/* another ", _COMMENTS)
    for place in (text.index(";\n", network) + 1, text.rindex("}")):
        yield _variant(SOURCE, text, "space", str(place), place, place, "\n\n   \n", _SPACES)
    for name in _NAME.findall(text, text.index(_CONSTANTS))[:4]:
        new = re.sub(rf"\b{name}\b", f"other_{name}", text)
        yield Variant("name", name, lambda new=new: {SOURCE: new.encode()}, _NAMES)

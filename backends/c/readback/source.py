"""`model.c` and `model.h` taken apart: macros, kernels, constants, the calls of a run, what its inputs are made by."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isobit.backends.c.readback import kernels
from isobit.backends.c.readback.scanner import NotUnderstood, Scanner

# Of macros that are others in plain C.
WITH_DSP = "#if defined(__ARM_FEATURE_DSP) || defined(__ARM_FEATURE_MVE)"
_QUANTIZED = """
{{ for (int32_t c = 0; c < {0}_CHANNELS; c++) {{
    for (int32_t pixel = 0; pixel < {0}_HEIGHT * {0}_WIDTH; pixel++) {{
        codes[pixel * {0}_CHANNELS + c] = quantized(*input++, {0}_INPUT_SCALE, {0}_INPUT_ZERO_POINT); }} }} }}"""


@dataclass(frozen=True)
class Argument:
    """An input of a run.

    Args:
        name: of the argument.
        integers: it is int32, not codes.
        suffix: what the names of its macros and its function end with; empty where there is one input.
    """

    name: str
    integers: bool
    suffix: str


@dataclass(frozen=True)
class Call:
    """A statement of a run.

    Args:
        function: that is called.
        arguments: their texts.
        line: where it stands.
    """

    function: str
    arguments: tuple[str, ...]
    line: int


@dataclass
class Source:
    """All that both files hold.

    Attributes:
        macros: text of each of the header's.
        plain: the same of those that are others in plain C.
        arrays, structures: constants by name; of a structure its kind and members, of an array of them a list.
        values: how many floats values of a run take; None where there are none.
        quantizes: suffix of each function that quantizes an input, in their order.
    """

    name: str
    macros: dict[str, str] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)
    packed: bool = False
    mathematics: bool = False
    kernels: tuple[str, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    structures: dict[str, tuple[str, Any]] = field(default_factory=dict)
    arena: bool = False
    values: int | None = None
    inputs: tuple[Argument, ...] = ()
    calls: list[Call] = field(default_factory=list)


def read_source(text: str, header: str, name: str) -> Source:
    """Take the files apart.

    Args:
        name: of the network, which all names begin with.

    Raises:
        NotUnderstood: something else stands there.
    """
    found = Source(name)
    _header(found, Scanner(header, "model.h"))
    scanner = Scanner(text, "model.c")
    _begin(found, scanner)
    found.kernels = kernels.taken(scanner)
    _constants(found, scanner)
    _memory(found, scanner)
    _run(found, scanner)
    for each in found.inputs:
        if not each.integers:
            scanner.words(f"void {name}_quantize{each.suffix}(const float *input, uint8_t *codes)")
            scanner.words(_QUANTIZED.format(name.upper() + each.suffix.upper()))
    scanner.end()
    return found


def _header(found: Source, scanner: Scanner) -> None:
    guard = f"{found.name.upper()}_H"
    for line in (f"#ifndef {guard}", f"#define {guard}", "#include <stdint.h>", "#ifdef __cplusplus"):
        scanner.line(line)
    scanner.words('extern "C" {')
    scanner.line("#endif")
    while scanner.look(r"#define |#if "):
        by_processor = scanner.look("#if ") is not None
        if by_processor:
            scanner.line(WITH_DSP)
        key, value = scanner.macro()
        if key in found.macros:
            scanner.fail(f"another macro than {key}")
        found.macros[key] = value
        if by_processor:
            scanner.line("#else")
            same, found.plain[key] = scanner.macro()
            if same != key:
                scanner.fail(f"the macro {key}")
            scanner.line("#endif")
    found.inputs = _arguments(found, scanner)
    scanner.words(";")
    for each in found.inputs:
        if not each.integers:
            scanner.words(f"void {found.name}_quantize{each.suffix}(const float *input, uint8_t *codes);")
    scanner.line("#ifdef __cplusplus")
    scanner.words("}")
    scanner.line("#endif")
    scanner.line("#endif")
    scanner.end()


def _arguments(found: Source, scanner: Scanner) -> tuple[Argument, ...]:
    """The head of the function that runs."""
    scanner.words(f"void {found.name}_run(")
    given = []
    while scanner.look("const"):
        kind, name = scanner.take(r"const (uint8_t|int32_t) \*(\w+),").groups()
        given.append((name, kind == "int32_t"))
    scanner.words("float *logits)")
    if len(given) == 1:
        return (Argument(given[0][0], given[0][1], ""),)
    return tuple(Argument(name, integers, name.removeprefix("in")) for name, integers in given)


def _begin(found: Source, scanner: Scanner) -> None:
    scanner.line('#include "model.h"')
    found.mathematics = scanner.look("#include <math.h>") is not None
    lines = (*(["#include <math.h>"] if found.mathematics else []), "#include <string.h>", "#ifndef ISOBIT_TRACE",
             "#define ISOBIT_TRACE(tensor, codes, count)", "#endif", "#ifndef ISOBIT_ARENA", "#define ISOBIT_ARENA",
             "#endif")
    for line in lines:
        scanner.line(line)
    found.packed = scanner.take(r"#define PACKED_WEIGHTS ([01])(?=\n)")[1] == "1"


def _constants(found: Source, scanner: Scanner) -> None:
    while scanner.look("static const "):
        if not scanner.look("static const struct "):
            name, values = scanner.array()
            found.arrays[_new(found, scanner, name)] = values
            continue
        kind, name, _, count = scanner.take(r"static const struct (\w+) (\w+)(\[(\d+)\])?\s*=").groups()
        given = scanner.initializer()
        scanner.words(";")
        if count is None:
            found.structures[_new(found, scanner, name)] = kind, kernels.members_of(kind, given)
        elif isinstance(given, list) and len(given) == int(count):
            found.structures[_new(found, scanner, name)] = kind, [kernels.members_of(kind, each) for each in given]
        else:
            scanner.fail(f"{count} structures in {name}")


def _new(found: Source, scanner: Scanner, name: str) -> str:
    of_a_run = ("a", "v", "arena", "logits", *(each.name for each in found.inputs))  # hide a constant of their name
    if name in found.arrays or name in found.structures or name in of_a_run:
        scanner.fail(f"a constant with another name than {name}")
    return name


def _memory(found: Source, scanner: Scanner) -> None:
    found.arena = scanner.look("ISOBIT_ARENA static union") is not None
    if found.arena:
        scanner.words(f"ISOBIT_ARENA static union {{ uint32_t word; uint8_t bytes[{found.name.upper()}_ARENA_BYTES]; "
                      "} arena;")
    if scanner.look("ISOBIT_ARENA static float"):
        found.values = int(scanner.take(r"ISOBIT_ARENA static float values_of_run\[(\d+)\];")[1])


def _run(found: Source, scanner: Scanner) -> None:
    if _arguments(found, scanner) != found.inputs:
        scanner.fail("the head that the header declares")
    scanner.words("{")
    if found.arena:
        scanner.words("uint8_t *const a = arena.bytes;")
    if found.values is not None:
        scanner.words("float *const v = values_of_run;")
    line, place = 1, 0
    while not scanner.passes(r"\}"):
        line, place = line + scanner.text.count("\n", place, scanner.place), scanner.place
        function, given = scanner.take(r"(\w+)\(([^;]*)\);").groups()
        found.calls.append(Call(function, tuple(_split(given)), line))


def _split(given: str) -> list[str]:
    """Arguments of a call, parted at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in re.sub(r"/\*.*?\*/", " ", given, flags=re.DOTALL):
        depth += (character in "({") - (character in ")}")
        if depth < 0:
            raise NotUnderstood(f"`{given}` are no arguments")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [" ".join(part.split()) for part in parts]

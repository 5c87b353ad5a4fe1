"""Damage of TVM artifacts: constants, arguments and calls of `model.so`, and what sessions read of `device.json`.

The file keeps its length: values are changed where they lie. Machine code is left as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.tvm.device.device_runner import DEVICE, MODEL
from isobit.backends.tvm.readback.executable import Executable, Function, Instruction, Register, read_executable
from isobit.backends.tvm.readback.flow import MACHINE, VOID
from isobit.pipeline.stages import Reference
from tools.mutants.variants import Variant

# What a session reads; the rest are facts for people, for the build of `loader`, for checks of the processor and of
# stored samples, and for callers of the function `codes`.
_READ = ("profile", "input", "inputs", "trace", "follow", "logits", "outputs")
_OF_INPUTS = ("input", "dtype")  # of an input, a session reads only the type
WORD, CALLEE = 8, -16  # bytes of a word; from the first argument of an instruction to what it calls
_PARTS = 3  # of a constant, in each of which elements are changed


class TvmDamage:
    """`Damage` of the TVM target."""

    own_process = True  # exchanged arguments may end one; constants and texts do not

    def variants(self, reference: Reference, folder: Path) -> Iterator[Variant]:
        content = (folder / MODEL).read_bytes()
        executable = read_executable(content)
        yield from _of_constants(content, executable)
        for name, function in executable.functions.items():
            for number, instruction in enumerate(function.instructions):
                yield from _of_arguments(content, f"{name}, {number}", instruction)
                yield from _of_numbers(content, f"{name}, {number}", instruction)
            yield from _of_calls(content, name, function)
        yield from _described((folder / DEVICE).read_text(encoding="utf-8"))

    def loaded(self, folder: Path) -> object:
        """The functions with the values of what they are given, the machine code, and what is read of `device.json`.

        The order of the constants and one that no instruction is given say nothing.
        """
        content = (folder / MODEL).read_bytes()
        executable = read_executable(content)
        start, end = executable.span
        said = json.loads((folder / DEVICE).read_text(encoding="utf-8"))
        functions = {
            name: (function.parameters, function.registers,
                   [(each.callee, [_shown(value) for value in each.arguments], each.result)
                    for each in function.instructions])
            for name, function in executable.functions.items()
        }
        return functions, hashlib.sha256(content[:start] + content[end:]).digest(), \
            {key: said.get(key) for key in _READ}


def _shown(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _at(content: bytes, changes: list[tuple[int, bytes]], kind: str, name: str) -> Variant:
    def files() -> dict[str, bytes]:
        new = bytearray(content)
        for place, value in changes:
            new[place:place + len(value)] = value
        return {MODEL: bytes(new)}

    return Variant(kind, name, files)


def _of_constants(content: bytes, executable: Executable) -> Iterator[Variant]:
    found = [(number, array, place) for number, (array, place) in
             enumerate(zip(executable.constants, executable.places, strict=True)) if place is not None and array.size]
    readers = _readers(executable)
    for number, array, place in found:
        flat, size = array.reshape(-1), array.dtype.itemsize
        name = f"constant {number}, {array.dtype.name} {list(array.shape)} of {', '.join(readers.get(number, []))}"
        for element in sorted({part * (flat.size - 1) // _PARTS for part in range(_PARTS + 1)}):
            for how, new in _others(flat[element]):
                yield _at(content, [(place + element * size, new.tobytes())], f"{array.dtype.name} element",
                          f"{name}: element {element}: {how}: {new} for {flat[element]}")
        apart = np.nonzero(flat[1:] != flat[:-1])[0]
        for first in apart[[0, len(apart) // 2, -1]] if len(apart) else ():
            pair = np.ascontiguousarray(flat[[first + 1, first]])
            yield _at(content, [(place + int(first) * size, pair.tobytes())], "elements swapped",
                      f"{name}: elements {first}, {first + 1}")
    for (one, first, here), (other, second, there) in combinations(found, 2):
        if (first.dtype, first.shape) == (second.dtype, second.shape):
            yield _at(content, [(here, second.tobytes()), (there, first.tobytes())], "constants swapped",
                      f"constants {one}, {other}, {first.dtype.name} {list(first.shape)}")


def _readers(executable: Executable) -> dict[int, list[str]]:
    """What `main` gives each constant to, by the constant's number."""
    numbers = {id(value): number for number, value in enumerate(executable.constants)}
    found: dict[int, list[str]] = {}
    for instruction in executable.functions["main"].instructions:
        for value in instruction.arguments:
            if isinstance(value, np.ndarray):
                found.setdefault(numbers[id(value)], []).append(instruction.callee)
    return found


def _others(value: Any) -> Iterator[tuple[str, Any]]:
    """Other values of one element: a unit more and less, the other sign, the lowest and the highest bit."""
    kind, width = value.dtype, 8 * value.dtype.itemsize
    held = int(value.view(f"u{kind.itemsize}"))

    def of(bits: int) -> Any:
        return np.array(bits % (1 << width), f"u{kind.itemsize}").view(kind)[()]

    if kind.kind == "f":
        yield from (("up", np.nextafter(value, kind.type(np.inf))), ("down", np.nextafter(value, kind.type(-np.inf))))
    else:
        yield from (("+1", of(held + 1)), ("-1", of(held - 1)), ("sign", of(-held)))
    yield from (("lowest bit", of(held ^ 1)), ("highest bit", of(held ^ 1 << width - 1)))


def _of_arguments(content: bytes, name: str, instruction: Instruction) -> Iterator[Variant]:
    """Two neighbouring arguments exchanged."""
    places = instruction.places
    for number, (here, there) in enumerate(pairwise(places)):
        words = content[there:there + 8] + content[here:here + 8]
        yield _at(content, [(here, words)], "arguments swapped",
                  f"{name}: arguments {number}, {number + 1} of {instruction.callee}")


def _of_numbers(content: bytes, name: str, instruction: Instruction) -> Iterator[Variant]:
    """A register or a number is the next one: another tensor, another size."""
    for number, (place, value) in enumerate(zip(instruction.places, instruction.arguments, strict=False)):
        if isinstance(value, Register | int) and value not in (VOID, MACHINE):
            word = int.from_bytes(content[place:place + WORD], "little") + 1
            kind = "another register" if isinstance(value, Register) else "another number"
            yield _at(content, [(place, word.to_bytes(WORD, "little"))], kind,
                      f"{name}: argument {number} of {instruction.callee}")


def _of_calls(content: bytes, name: str, function: Function) -> Iterator[Variant]:
    """Two calls of kernels that follow each other call each other's."""
    calls = [each for each in function.instructions if each.callee and "." not in each.callee and each.places]
    for one, other in pairwise(calls):
        here, there = (each.places[0] + CALLEE for each in (one, other))
        yield _at(content, [(here, content[there:there + WORD]), (there, content[here:here + WORD])],
                  "kernels swapped", f"{name}: {one.callee}, {other.callee}")


def _is_read(path: tuple[Any, ...]) -> bool:
    """Whether a session reads what stands at a place of `device.json`, or something in it."""
    of_input = path[0] in ("input", "inputs")
    return path[0] in _READ and (not of_input or all(
        key in _OF_INPUTS for key in path if isinstance(key, str) and key != "inputs"))


def _described(text: str) -> Iterator[Variant]:
    """One value of `device.json` that a session reads is another, and two neighbours of a list are exchanged."""

    def walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                if _is_read((*path, key)):
                    yield from walk(value[key], (*path, key))
        else:
            yield path

    for path in walk(json.loads(text), ()):
        whole = json.loads(text)
        owner = whole
        for key in path[:-1]:
            owner = owner[key]
        value = owner[path[-1]]
        owner[path[-1]] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}x"
        changed = json.dumps(whole, indent=1).encode()
        yield Variant("device.json", f"{list(path)}", lambda changed=changed: {DEVICE: changed})
    whole = json.loads(text)
    for first in range(len(whole["trace"]) - 1):
        rows = [*whole["trace"]]
        rows[first], rows[first + 1] = rows[first + 1], rows[first]
        changed = json.dumps({**whole, "trace": rows}, indent=1).encode()
        yield Variant("device.json", f"trace {first}, {first + 1} swapped", lambda changed=changed: {DEVICE: changed})

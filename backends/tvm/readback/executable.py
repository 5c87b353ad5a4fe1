"""What a finished `model.so` holds beside machine code: functions, their instructions and all constants.

An ELF library has the symbol `__tvm_ffi__library_bin`: a tree of modules, of which one is the virtual machine's
executable and the other the library itself. Every byte of it is read, and what is not known is an error: a field that
is passed over could say anything. Where each constant and each argument lies in the file is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SYMBOL = b"__tvm_ffi__library_bin"
_ELF = b"\x7fELF\x02\x01"  # 64 bits, little end first
_DYNSYM, _LOAD = 11, 1
_KIND, _LIBRARY = "relax.VMExecutable", "_lib"
_MAGIC, _TENSOR_MAGIC, _VERSION = 0xD225DE2F4214151E, 0xDD5E40F096B4A13F, "0.14"
_DATA_TYPE, _TEXT, _SHAPE, _TENSOR = 5, 65, 69, 70  # constants, by the runtime's own numbers
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}
_PACKED, _FUNCTION = 0, 1
_ANY_NUMBER = -2  # of arguments: what the machine code takes is not said
_CALL, _RETURN = 1, 2
_REGISTER, _INTEGER, _CONSTANT, _CALLEE = range(4)
_VALUE_BITS = 56


class NoModule(Exception):
    """The file is not a module that the target writes; the message says what it is instead."""


@dataclass(frozen=True)
class Register:
    """A place of a function's values; its parameters are the first."""

    number: int


@dataclass(frozen=True)
class Instruction:
    """A call, or where `callee` is empty the return of `arguments[0]`.

    Args:
        callee: a kernel's name, a function of the runtime or one of the module.
        arguments: registers, integers, constants: arrays, texts, tuples of sizes; names of data types are texts.
        result: where the value goes.
        places: of the arguments in the file, eight bytes each.
    """

    callee: str
    arguments: tuple[Any, ...]
    result: Register | None = None
    places: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Function:
    """A function of the module: names of its parameters, how many registers it has, its instructions in their order."""

    parameters: tuple[str, ...]
    registers: int
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Executable:
    """The functions of a module by name, and all its constants in the order of the file.

    Args:
        places: of each constant's values in the file; None where it is no array.
        span: where in the file the executable begins and ends: the rest is machine code and what loads it.
    """

    functions: dict[str, Function]
    constants: tuple[Any, ...]
    places: tuple[int | None, ...]
    span: tuple[int, int]


def read_executable(content: bytes) -> Executable:
    """Read the bytes of a `model.so`.

    Raises:
        NoModule: it holds anything else than what is known of such a file.
    """
    try:
        return _executable(*_blob(*_symbol(content)))
    except (struct.error, IndexError, UnicodeDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise NoModule(f"it ends or breaks off where more was announced ({error})") from error


def read_file(path: Path) -> Executable:
    """`read_executable` of a file's bytes."""
    return read_executable(path.read_bytes())


class _Stream:
    """Bytes of a file from `start` on, read from the front."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content, self._place, self._start = content, 0, start

    @property
    def place(self) -> int:
        """In the file, of what is read next."""
        return self._start + self._place

    def bytes(self, count: int) -> bytes:
        found = self._content[self._place:self._place + count]
        if count < 0 or len(found) < count:
            raise NoModule(f"{count} bytes are announced at {self._place} where {len(found)} are left")
        self._place += count
        return found

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))

    def size(self) -> int:
        return self.numbers("Q")[0]

    def text(self) -> str:
        return self.bytes(self.size()).decode()

    def words(self) -> list[int]:
        """64-bit integers that their count stands before."""
        return np.frombuffer(self.bytes(8 * self.size()), "<i8").tolist()

    def many(self, read: Callable[[], Any]) -> list[Any]:
        return [read() for _ in range(self.size())]

    def close(self) -> None:
        """Nothing is left."""
        if self._place != len(self._content):
            raise NoModule(f"{len(self._content) - self._place} bytes that nobody reads stand after its end")


def _symbol(content: bytes) -> tuple[bytes, int]:
    """The bytes of the symbol that holds modules, found as a loader of programs finds it, and their place."""
    if not content.startswith(_ELF):
        raise NoModule("no ELF library of 64 bits")
    segments, sections = struct.unpack_from("<QQ", content, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from("<HHHH", content, 54)
    headers = [struct.unpack_from("<IIQQQQIIQQ", content, sections + i * section_size) for i in range(section_count)]
    for _, kind, _, _, start, size, link, _, _, step in headers:
        if kind != _DYNSYM:
            continue
        for place in range(start, start + size, step):
            name, _, _, _, address, length = struct.unpack_from("<IBBHQQ", content, place)
            first = headers[link][4] + name
            if content[first:content.index(b"\0", first)] != SYMBOL:
                continue
            for i in range(segment_count):
                place = segments + i * segment_size
                kind, _, offset, virtual, _, stored = struct.unpack_from("<IIQQQQ", content, place)
                if kind == _LOAD and virtual <= address and address + length <= virtual + stored:
                    return content[offset + address - virtual:][:length], offset + address - virtual
    raise NoModule(f"no symbol {SYMBOL.decode()}")


def _blob(content: bytes, start: int) -> tuple[bytes, int]:
    """The executable among the modules, and its place: the root, whose only import is the library."""
    stream = _Stream(content, start)
    if stream.size() != len(content) - 8:
        raise NoModule("its modules are longer or shorter than they say")
    starts, children, kind = stream.words(), stream.words(), stream.text()
    size, place = stream.size(), stream.place
    blob = stream.bytes(size)
    library = stream.text()
    stream.close()
    if (starts, children, kind, library) != ([0, 1, 1], [1], _KIND, _LIBRARY):
        raise NoModule(f"other modules than {_KIND} and its library: {kind}, {library}")
    return blob, place


def _executable(blob: bytes, start: int) -> Executable:
    stream = _Stream(blob, start)
    magic, version = stream.size(), stream.text()
    if (magic, version) != (_MAGIC, _VERSION):
        raise NoModule(f"an executable {magic:#x} of version {version}; {_MAGIC:#x} of version {_VERSION} is known")
    globals_ = stream.many(lambda: _global(stream))
    if stream.size():
        raise NoModule("constants that lie in other memory than the processor's")
    found = stream.many(lambda: _constant(stream))
    constants, places = tuple(value for value, _ in found), tuple(place for _, place in found)
    offsets, words = stream.words(), stream.words()
    code_start = stream.place - 8 * len(words)
    stream.close()
    names = [name for name, *_ in globals_]
    if len(set(names)) != len(names):
        raise NoModule("two functions of one name")
    code = _Code(offsets, words, names, constants, code_start)
    functions, reached = {}, 0
    for name, kind, first, end, registers, parameters in sorted(globals_, key=lambda each: each[2:4]):
        if kind == _FUNCTION:
            if first != reached:
                raise NoModule(f"instructions {reached} to {first} belong to no function")
            functions[name], reached = Function(parameters, registers, code.instructions(first, end)), end
    if reached != len(offsets):
        raise NoModule(f"{len(offsets) - reached} instructions belong to no function")
    return Executable(functions, constants, places, (start, start + len(blob)))


def _global(stream: _Stream) -> tuple[str, int, int, int, int, tuple[str, ...]]:
    """Name, kind, first instruction, the one after the last, number of registers, names of parameters."""
    (kind,), name = stream.numbers("i"), stream.text()
    start, end, count, registers = stream.numbers("qqqq")
    parameters = tuple(stream.many(stream.text))
    known = count == len(parameters) if kind == _FUNCTION else \
        (kind, start, end, count, registers, parameters) == (_PACKED, 0, 0, _ANY_NUMBER, 0, ())
    if not known:
        raise NoModule(f"function {name} is of kind {kind}, with {count} arguments and {registers} registers")
    return name, kind, start, end, registers, parameters


def _constant(stream: _Stream) -> tuple[Any, int | None]:
    """A constant, and where its values lie."""
    (tag,) = stream.numbers("i")
    if tag == _DATA_TYPE:
        return _data_type(stream), None
    if tag == _TEXT:
        return stream.text(), None
    if tag == _SHAPE:
        return tuple(stream.words()), None
    if tag != _TENSOR:
        raise NoModule(f"a constant of kind {tag}")
    magic, reserved, device, device_number, rank = stream.numbers("QQiii")
    kind = _data_type(stream)
    shape, size = stream.numbers(f"{rank}q"), stream.size()
    if (magic, reserved, device, device_number) != (_TENSOR_MAGIC, 0, 1, 0):
        raise NoModule("a constant tensor that does not lie in the processor's memory")
    place = stream.place
    return np.frombuffer(stream.bytes(size), np.dtype(kind).newbyteorder("<")).reshape(shape), place


def _data_type(stream: _Stream) -> str:
    code, bits, lanes = stream.numbers("BBH")
    if lanes != 1 or code not in _KINDS:
        raise NoModule(f"a data type of code {code}, {bits} bits, {lanes} lanes")
    return "bool" if code == 6 else f"{_KINDS[code]}{bits}"


@dataclass(frozen=True)
class _Code:
    """Instructions as words, and what their numbers mean.

    Args:
        offsets: of each instruction among the words.
        names: of functions.
        start: of the words in the file.
    """

    offsets: list[int]
    words: list[int]
    names: list[str]
    constants: tuple[Any, ...]
    start: int

    def instructions(self, start: int, end: int) -> tuple[Instruction, ...]:
        """Those from number `start` on, before `end`."""
        if not 0 <= start <= end <= len(self.offsets):
            raise NoModule(f"instructions {start} to {end} of {len(self.offsets)}")
        return tuple(self._instruction(number) for number in range(start, end))

    def _instruction(self, number: int) -> Instruction:
        after = [*self.offsets, len(self.words)]
        code, *rest = self.words[after[number]:after[number + 1]]
        if code == _RETURN and len(rest) == 1:
            return Instruction("", (Register(rest[0]),))
        if code != _CALL or len(rest) != 3 + rest[2]:
            raise NoModule(f"instruction {number} is neither a call nor a return")
        first = self.start + 8 * (self.offsets[number] + 4)
        return Instruction(self._at(self.names, rest[1]), tuple(map(self._argument, rest[3:])), Register(rest[0]),
                           tuple(first + 8 * place for place in range(rest[2])))

    def _argument(self, word: int) -> Any:
        kind = word >> _VALUE_BITS & 0xFF
        value = word & (1 << _VALUE_BITS) - 1
        value -= (value >> _VALUE_BITS - 1) << _VALUE_BITS
        if kind == _REGISTER:
            return Register(value)
        if kind == _INTEGER:
            return value
        if kind in (_CONSTANT, _CALLEE):
            return self._at(self.constants if kind == _CONSTANT else self.names, value)
        raise NoModule(f"an argument of kind {kind}")

    @staticmethod
    def _at(table: Any, place: int) -> Any:
        if not 0 <= place < len(table):
            raise NoModule(f"number {place} of a table of {len(table)}")
        return table[place]

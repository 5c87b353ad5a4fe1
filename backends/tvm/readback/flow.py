"""What a function of a module does: which kernels it calls, where each argument comes from, what it returns.

Memory is followed: a tensor lies in a storage, which later tensors may take over. Whoever reads a tensor that was
written over reads nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from isobit.backends.tvm.readback.executable import Executable, Function, Instruction, Register

VOID, MACHINE = Register(1 << 54), Register((1 << 54) + 1)
_BUILTIN = "vm.builtin."
_CHECKS = (f"{_BUILTIN}check_tensor_info", f"{_BUILTIN}match_shape")
_CPU, _FIXED = 0, 0  # memory of the processor; a size that is stated, not looked up
_NAMES = {np.dtype(kind).name for kind in ("u1", "i1", "i4", "i8", "f4", "f8", "?")}


class NotUnderstood(Exception):
    """An instruction that the target does not write; the message says which, and what is known there."""


@dataclass(frozen=True)
class Given:
    """A parameter of the function, by its number."""

    number: int

    def __str__(self) -> str:
        return f"parameter {self.number}"


@dataclass(frozen=True)
class Made:
    """What a call gives, by its number."""

    number: int

    def __str__(self) -> str:
        return f"what call {self.number} gives"


@dataclass(frozen=True)
class Parameter:
    """A parameter, its type as the function checks it."""

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class Call:
    """A call of a kernel, or of a function of the module.

    Args:
        arguments: `Given`, `Made`, constants as arrays, None for memory that holds nothing that can be read.
        shape, kind: of the result; None of a function, which says them itself.
    """

    callee: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...] | None
    kind: str | None


@dataclass(frozen=True)
class Flow:
    """A function.

    Args:
        returned: as arguments; several for a tuple.
        several: it returns a tuple.
    """

    parameters: tuple[Parameter, ...]
    calls: tuple[Call, ...]
    returned: tuple[Any, ...]
    several: bool


def computed_from(executable: Executable, name: str) -> tuple[int, ...]:
    """The parameters that the value of a function is computed from, whatever it computes of them.

    Raises:
        NotUnderstood: it reads a register that holds nothing.
    """
    function = executable.functions[name]
    # Tensors of one storage share one set.
    held: dict[int, set[int]] = {number: {number} for number in range(len(function.parameters))}
    for each in function.instructions:
        read = [each_ for each_ in each.arguments if isinstance(each_, Register) and each_ not in (VOID, MACHINE)]
        if any(register.number not in held for register in read):
            raise NotUnderstood(f"function {name}: {each.callee or 'return'} reads a register that holds nothing")
        sets = [held[register.number] for register in read]
        if not each.callee:
            return tuple(sorted(sets[0]))
        result = -1 if each.result in (None, VOID) else each.result.number
        if each.callee == f"{_BUILTIN}null_value":
            held.pop(result, None)
        elif each.callee == f"{_BUILTIN}alloc_tensor":
            held[result] = sets[0]
        elif result >= 0:
            held[result] = set().union(*sets)
        elif each.callee not in _CHECKS and sets:
            found = set().union(*sets[:-1])
            sets[-1].clear()
            sets[-1].update(found)
    raise NotUnderstood(f"function {name} returns nothing")


class _Storage:
    """Memory; `tensor` is what was last written there."""

    def __init__(self, size: int) -> None:
        self.size, self.needed = size, 0
        self.tensor: _Tensor | None = None


class _Tensor:
    """Elements in a storage, and what wrote them."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...], kind: str) -> None:
        self.storage, self.shape, self.kind = storage, shape, kind
        self.value: Made | None = None


@dataclass(frozen=True)
class _Several:
    values: tuple[Any, ...]


def follow(executable: Executable, name: str) -> Flow:
    """What the function of a name does.

    Raises:
        NotUnderstood: it holds an instruction of another form than the target writes.
    """
    run = _Run(executable, name, executable.functions[name])
    for number, instruction in enumerate(run.function.instructions):
        try:
            run.one(instruction)
        except NotUnderstood as error:
            raise NotUnderstood(f"function {name}, instruction {number} ({instruction.callee or 'return'}): {error}"
                                ) from None
    try:
        return run.flow()
    except NotUnderstood as error:
        raise NotUnderstood(f"function {name}: {error}") from None


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise NotUnderstood(what)


class _Run:
    """Goes over the instructions; registers hold parameters, storages, tensors, values of functions and tuples."""

    def __init__(self, executable: Executable, name: str, function: Function) -> None:
        self.executable, self.name, self.function = executable, name, function
        self.registers: dict[int, Any] = {number: Given(number) for number in range(len(function.parameters))}
        self.used = set(self.registers)
        self.kinds: dict[int, str] = {}
        self.ranks: dict[int, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.texts: list[tuple[int, str]] = []
        self.calls: list[Call] = []
        self.storages: list[_Storage] = []
        self.returned: Any = None

    def one(self, instruction: Instruction) -> None:
        """Do an instruction."""
        _must(self.returned is None, "stands after the return")
        if not instruction.callee:
            self.returned = self._at(instruction.arguments[0])
            return
        builtin = instruction.callee.removeprefix(_BUILTIN)
        if builtin == instruction.callee:
            self._call(instruction)
            return
        read = {"check_tensor_info": self._type, "match_shape": self._shape, "alloc_storage": self._storage,
                "alloc_tensor": self._tensor, "null_value": self._nothing, "make_tuple": self._tuple}.get(builtin)
        if read is None:
            raise NotUnderstood("no function of the runtime that is called here")
        read(instruction.arguments, instruction.result)

    def _at(self, argument: Any) -> Any:
        _must(isinstance(argument, Register), f"{argument} is no register")
        found = self.registers.get(argument.number)
        _must(found is not None, f"register {argument.number} holds nothing")
        return found

    def _keep(self, result: Register | None, value: Any) -> None:
        number = -1 if result is None else result.number
        _must(0 <= number < self.function.registers, f"register {number} of {self.function.registers}")
        _must(number >= len(self.function.parameters) or value is None, f"parameter {number} is written over")
        self.registers[number] = value
        self.used.add(number)

    def _parameter(self, argument: Any) -> int:
        found = self._at(argument)
        _must(isinstance(found, Given) and not self.calls, "what is checked is no parameter before the first call")
        return found.number

    def _type(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        _must(len(arguments) == 4 and result == VOID and isinstance(arguments[1], int)
              and isinstance(arguments[2], str) and arguments[2] in _NAMES, "checks no type")
        parameter = self._parameter(arguments[0])
        _must(parameter not in self.kinds, f"parameter {parameter} is checked twice")
        self.kinds[parameter], self.ranks[parameter] = arguments[2], arguments[1]
        self.texts.append((parameter, arguments[3]))

    def _shape(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        _must(len(arguments) >= 4, "checks no fixed shape")
        first, heap, count, *pairs, text = arguments
        _must(heap == VOID and result == VOID and len(pairs) % 2 == 0 and count == len(pairs) // 2
              and all(isinstance(each, int) for each in pairs) and set(pairs[::2]) <= {_FIXED}, "checks no fixed shape")
        parameter = self._parameter(first)
        _must(parameter not in self.shapes, f"the shape of parameter {parameter} is checked twice")
        self.shapes[parameter] = tuple(pairs[1::2])
        self.texts.append((parameter, text))

    def _storage(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        _must(len(arguments) > 1, "allocates nothing")
        machine, size, *rest = arguments
        _must(machine == MACHINE and isinstance(size, tuple) and len(size) == 1 and rest == [_CPU, "uint8", "global"],
              "allocates other memory than bytes of the processor")
        self.storages.append(_Storage(size[0]))
        self._keep(result, self.storages[-1])

    def _tensor(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        _must(len(arguments) == 4, "takes four arguments")
        storage, (_, start, shape, kind) = self._at(arguments[0]), arguments
        _must(isinstance(storage, _Storage) and start == 0 and isinstance(start, int) and isinstance(shape, tuple)
              and isinstance(kind, str) and kind in _NAMES, "makes no tensor from the first byte of a storage on")
        size = math.prod(shape) * np.dtype(kind).itemsize
        _must(size <= storage.size, f"{size} bytes in a storage of {storage.size}")
        storage.needed = max(storage.needed, size)
        self._keep(result, _Tensor(storage, shape, kind))

    def _nothing(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        _must(not arguments, "takes no argument")
        self._keep(result, None)

    def _tuple(self, arguments: tuple[Any, ...], result: Register | None) -> None:
        self._keep(result, _Several(tuple(self._value(self._at(each)) for each in arguments)))

    def _value(self, held: Any) -> Any:
        """What a reader of a register reads."""
        if isinstance(held, _Tensor):
            return held.value if held.storage.tensor is held else None
        _must(isinstance(held, Given | Made), "it holds no tensor")
        return held

    def _call(self, instruction: Instruction) -> None:
        made = Made(len(self.calls))
        if instruction.callee in self.executable.functions:
            arguments = tuple(map(self._argument, instruction.arguments))
            self.calls.append(Call(instruction.callee, arguments, None, None))
            self._keep(instruction.result, made)
            return
        _must(instruction.result == VOID and bool(instruction.arguments), "a kernel returns nothing")
        *given, last = instruction.arguments
        output = self._at(last)
        _must(isinstance(output, _Tensor), "its last argument is no tensor that it can write")
        arguments = tuple(map(self._argument, given))
        for each in given:
            held = self.registers.get(each.number) if isinstance(each, Register) else None
            _must(not isinstance(held, _Tensor) or held.storage is not output.storage, "it writes over what it reads")
        self.calls.append(Call(instruction.callee, arguments, output.shape, output.kind))
        output.value, output.storage.tensor = made, output

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, np.ndarray):
            return argument
        return self._value(self._at(argument))

    def flow(self) -> Flow:
        """The whole, when all instructions were done."""
        _must(self.returned is not None, "it returns nothing")
        registers = self.function.registers
        _must(registers == max(self.used, default=-1) + 1, f"{registers} registers, of which {len(self.used)} are used")
        wasted = [storage for storage in self.storages if storage.size != storage.needed]
        _must(not wasted, "a storage is larger than what lies in it")
        parameters = tuple(self._checked(number, name) for number, name in enumerate(self.function.parameters))
        several = isinstance(self.returned, _Several)
        values = self.returned.values if several else (self._value(self.returned),)
        return Flow(parameters, tuple(self.calls), values, several)

    def _checked(self, number: int, name: str) -> Parameter:
        shape, kind = self.shapes.get(number), self.kinds.get(number)
        if shape is None or kind is None or self.ranks[number] != len(shape):
            raise NotUnderstood(f"the type of parameter {number} is not checked")
        text = (f"ErrorContext(fn={self.name}, loc=param[{number}], param={name}, "
                f'annotation=R.Tensor({shape}, dtype="{kind}")) ')
        for parameter, found in self.texts:
            _must(parameter != number or found == text, f"the check of parameter {number} says {found!r}")
        return Parameter(name, shape, kind)

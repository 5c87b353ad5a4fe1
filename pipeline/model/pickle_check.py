"""The pickles of a file of torch.save, looked through before they are loaded.

`weights_only=True` decides what may be called. It does not look at how long that takes: a key of nested tuples, each
holding the one before twice, takes no space and years to hash.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from isobit.pipeline.model.archive import corrupt, read_members

MAX_NESTING = 20  # of tuples; sizes and strides of tensors are nested twice
MAX_OPCODES = 1_000_000  # a thousand tensors with their optimizer's take a tenth of it
_LEGACY_PICKLES = 5  # the older format: two numbers, the machine, the content, the names of its storages
_MARK = object()


def check_pickles(path: Path) -> None:
    """Raises InputError where a pickle in the file could keep its reader busy for good, or is none."""
    members = read_members(path)
    if not members:
        with path.open("rb") as file:
            for _ in range(_LEGACY_PICKLES):
                _check(path, file)
        return
    with zipfile.ZipFile(path) as archive:
        for name in members:
            if name.endswith(".pkl"):
                _check(path, io.BytesIO(archive.read(name)))


def _check(path: Path, stream: IO[bytes]) -> None:
    try:
        _walk(path, stream)
    except (ValueError, IndexError, KeyError, MemoryError, OverflowError) as error:
        raise corrupt(path, f"its pickle is damaged: {type(error).__name__}") from error


def _walk(path: Path, stream: IO[bytes]) -> None:
    """Follows the stack of the pickle's machine, with how deep tuples are nested in place of values."""
    stack: list[Any] = []
    memo: dict[int, int] = {}
    text = ""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        named = str(argument) if name == "GLOBAL" else f" {text}" if name == "STACK_GLOBAL" else ""
        text = argument if isinstance(argument, str) else text
        if named.endswith(" bytearray"):
            raise corrupt(path, "its pickle asks for memory by a number: bytearray")
        if count > MAX_OPCODES:
            raise corrupt(path, "its pickle has no end")
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET") and argument is not None:
            stack.append(memo[int(argument)])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(stack, opcode.stack_before)
            nested = 1 + max(taken, default=0) if "TUPLE" in name else 0
            stack.extend(nested for _ in opcode.stack_after)
            if nested > MAX_NESTING:
                raise corrupt(path, "its pickle nests tuples without end")


def _take(stack: list[Any], before: list[Any]) -> list[int]:
    """Removes what an opcode takes from the stack, down to the last mark where it takes any number."""
    taken = []
    fixed = len(before)
    if pickletools.markobject in before:
        fixed = before.index(pickletools.markobject)
        while (top := stack.pop()) is not _MARK:
            taken.append(top)
    for _ in range(fixed):
        taken.append(stack.pop())
    return taken

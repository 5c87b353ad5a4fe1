"""Where methods, sources and backends put their names: loud, because a silent registry hides a broken program.

A duplicate raises, an unknown name answers with the sorted list and the nearest spelling, and `discover` lets
every import error through: a file that cannot be imported is a defect, not a missing feature.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

from pipeline.errors import CompileError, nearest_spelling

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing.

    Args:
        kind: the word that messages use for an entry, for example `method` or `target`.
        error: what `get` raises for an unknown name, so that the message carries the right stage.
    """

    def __init__(self, kind: str, error: type[CompileError]) -> None:
        self.kind = kind
        self._error = error
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters the decorated object as `name`; raises ValueError where the name is taken."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name]!r} and {entry!r}")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The entry called `name`; raises the registry's error type where there is none."""
        if name not in self._entries:
            raise self._error(
                f"there is no {self.kind} '{name}'",
                allowed=", ".join(self.names()) or f"nothing: no {self.kind} is registered",
                hint=nearest_spelling(name, self._entries),
            )
        return self._entries[name]


def discover(package: ModuleType) -> list[str]:
    """Imports every module directly inside `package` and returns their full names; any exception propagates."""
    names = sorted(f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    for name in names:
        importlib.import_module(name)
    return names

"""Where methods, sources, metrics and backends put their names: loud, because a silent registry hides a broken program.

A duplicate raises, an unknown name answers with the sorted list and the nearest spelling, and `discover` lets
every import error through: a file that cannot be imported is a defect, not a missing feature.

Other distributions add entries by entry points. The point is named as the entry, and names the module that registers
it, which is imported when somebody asks for that name:

    [project.entry-points."isobit.methods"]
    my_method = "my_package.my_method"
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

from isobit.pipeline.errors import CompileError, first_line, nearest_spelling

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing.

    Args:
        kind: the word that messages use for an entry, for example `method` or `target`.
        error: what `get` raises for an unknown name, so that the message carries the right stage.
        group: of the entry points by which other distributions add theirs, `isobit.methods`; None where they cannot.
        field: where a name of this kind is given, for errors: `recipe.method.name`.
    """

    def __init__(self, kind: str, error: type[CompileError], group: str | None = None, field: str = "") -> None:
        self.kind, self.group, self.field = kind, group, field
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

    def loaded(self) -> dict[str, T]:
        """The entries that are imported already, by name, sorted: no plug-in is looked for."""
        return dict(sorted(self._entries.items()))

    def names(self) -> list[str]:
        """All names, sorted; those of plug-ins too, which are not imported for this. Raises as `get` for a clash."""
        return sorted({*self._entries, *self._points()})

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            CompileError: of the registry's type: there is none; a plug-in takes a name that is taken, or the one that
                is asked for does not import. Which distribution it came with is said.
        """
        points = self._points()
        if name not in self._entries and name in points:
            self._load(points[name])
        if name not in self._entries:
            raise self._error(
                f"there is no {self.kind} '{name}'",
                allowed=", ".join(self.names()) or f"nothing: no {self.kind} is registered",
                hint=nearest_spelling(name, self.names()), field=self.field,
            )
        return self._entries[name]

    def broken(self) -> list[CompileError]:
        """What is wrong with plug-ins, which are imported for this; empty where every one of them can be used."""
        found = []
        try:
            names = sorted(self._points())
        except CompileError as clash:
            return [clash]
        for name in names:
            try:
                self.get(name)
            except CompileError as error:
                found.append(error)
        return found

    def _points(self) -> dict[str, EntryPoint]:
        """The entry points of the group by name; nothing is imported."""
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group) if self.group is not None else ():
            other = found.setdefault(point.name, point)
            if other is not point and other.value != point.value:
                raise self._clash(point, f"that of {_distribution(other)}")
            # Where its module is loaded, the entry is its own: `register` raises for the second of two.
            if point.name in self._entries and point.module not in sys.modules:
                raise self._clash(point, "one that is there")
        return found

    def _clash(self, point: EntryPoint, other: str) -> CompileError:
        return self._error(
            f"the {self.kind} '{point.name}' of {_distribution(point)} has the same name as {other}",
            where=f"entry point {self.group}: {point.name} = {point.value}", hint="Uninstall one of the two.",
            field=self.field,
        )

    def _load(self, point: EntryPoint) -> None:
        what, where = f"the {self.kind} '{point.name}' of {_distribution(point)}", f"{self.group}: {point.name}"
        try:
            point.load()
        except (Exception, SystemExit) as error:  # not the network's code, which `exits` would name, ended the program
            raise self._error(
                f"{what} does not import: {first_line(error)}", where=f"entry point {where} = {point.value}",
                hint="Install a version of it that fits this one, or uninstall it.", field=self.field,
            ) from error
        if point.name not in self._entries:
            raise self._error(
                f"{what} is not registered by its module", where=f"entry point {where} = {point.value}",
                hint=f"The module must register '{point.name}' when it is imported.", field=self.field,
            )


def _distribution(point: EntryPoint) -> str:
    """`my-package 1.2`, the distribution that an entry point came with."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"


def discover(package: ModuleType) -> list[str]:
    """Imports every module directly inside `package` and returns their full names; any exception propagates."""
    names = sorted(f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    for name in names:
        importlib.import_module(name)
    return names

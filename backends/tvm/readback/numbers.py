"""What must stand in the constants of a kernel, field by field.

The numbers of a kernel lie in one int32 constant, each field from a multiple of 16 on, the rest of it 0. A single
number stands there 16 times.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isobit.backends.fixed_point.rescale import Rescale
from isobit.backends.readback.description import Terms

LINE = 16  # int32
WORD, UPPER = 32, 0xFFFFFFFF
NUMBERS = "numbers"  # of which fields cannot be told, for its length is another


class Wanted:
    """Constants that must stand among the arguments of a call, `count` of them."""

    count = 1

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        """By name what stands there, and what must.

        Args:
            found: None for one that the call does not have.
        """
        raise NotImplementedError

    def read(
        self, found: Sequence[np.ndarray | None], terms: Terms
    ) -> tuple[dict[str, Any], dict[str, Any], Hashable]:
        """The same, and in which of several ways they stand there: machine code knows one of them."""
        return *self.fields(found, terms), None


def nearest(read: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> int:
    """Which of several ways fits best what stands there: the first with the fewest fields that differ."""
    apart = [(NUMBERS in must, sum(is_.get(name) is not must.get(name) for name in {*is_, *must}))
             for is_, must in read]
    return apart.index(min(apart))


@dataclass(frozen=True, eq=False)
class Either(Wanted):
    """Constants in one of several ways; of files that hold none of them the nearest must stand there.

    Args:
        marks: what of each way machine code knows.
    """

    ways: Sequence[Sequence[Wanted]]
    marks: Sequence[Hashable]

    @property
    def count(self) -> int:  # type: ignore[override]
        return sum(each.count for each in self.ways[0])

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        is_, must, _ = self.read(found, terms)
        return is_, must

    def read(
        self, found: Sequence[np.ndarray | None], terms: Terms
    ) -> tuple[dict[str, Any], dict[str, Any], Hashable]:
        read = [self._fields(way, found, terms) for way in self.ways]
        number = nearest(read)
        return *read[number], self.marks[number]

    @staticmethod
    def _fields(
        way: Sequence[Wanted], found: Sequence[np.ndarray | None], terms: Terms
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        place = 0
        for each in way:
            for side, fields in zip(sides, each.fields(found[place:place + each.count], terms), strict=True):
                side.update(fields)
            place += each.count
        return sides


@dataclass(frozen=True, eq=False)
class Whole(Wanted):
    """A constant without fields."""

    name: str
    array: np.ndarray

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        is_ = None if found[0] is None else terms.constant(found[0])
        return {self.name: is_}, {self.name: terms.constant(self.array)}


@dataclass(frozen=True, eq=False)
class Numbers(Wanted):
    """Fields of int32 one after the other, by name in their order."""

    parts: Mapping[str, np.ndarray]

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        (array,), lengths = found, [len(part) for part in self.parts.values()]
        if array is None or array.dtype != np.int32 or array.shape != (sum(lengths),):
            return Whole(NUMBERS, np.concatenate(list(self.parts.values()))).fields(found, terms)
        split = np.split(array, np.cumsum(lengths)[:-1])
        return ({name: terms.constant(part) for name, part in zip(self.parts, split, strict=True)},
                {name: terms.constant(part) for name, part in self.parts.items()})


@dataclass(frozen=True, eq=False)
class Reals(Numbers):
    """Numbers with a field that takes long to work out.

    Args:
        name: of the field.
        value: what must stand there, None where nothing would do; asked where at most one other field is not as it
            must be.
    """

    name: str
    value: Callable[[], np.ndarray | None]

    def fields(self, found: Sequence[np.ndarray | None], terms: Terms) -> tuple[dict[str, Any], dict[str, Any]]:
        is_, must = super().fields(found, terms)
        if self.name in is_:
            others = sum(is_[name] is not must[name] for name in is_ if name != self.name)
            value = self.value() if others <= 1 else None
            must[self.name] = None if value is None else terms.constant(value)
        return is_, must


class Fields:
    """Collects the fields of a `Numbers`."""

    def __init__(self) -> None:
        self._parts: dict[str, np.ndarray] = {}
        self._later = ""
        self._value: Callable[[], np.ndarray | None] | None = None

    def add(self, name: str, values: Any) -> None:
        """A field of many numbers."""
        values = np.asarray(values, np.int64).reshape(-1)
        whole = np.concatenate([values, np.zeros(-len(values) % LINE, np.int64)])
        if name in self._parts:
            raise ValueError(f"two fields called {name}")
        self._parts[name] = (whole & UPPER).astype(np.uint32).view(np.int32)

    def one(self, name: str, value: int) -> None:
        """A field of one number."""
        self.add(name, [value] * LINE)

    def real(self, name: str, value: float) -> None:
        """A field of one float32."""
        self.one(name, int(np.float32(value).view(np.int32)))

    def ends(self, low: int, high: int) -> None:
        """The ends of codes as bytes of words, where they are not those of a byte."""
        if low > 0 or high < 255:
            self.one("low", int.from_bytes([low] * 4, "little"))
            self.one("high", int.from_bytes([high] * 4, "little"))

    def rescale(self, rescale: Rescale, places: Iterable[int | None], name: str = "") -> None:
        """How sums become codes.

        Args:
            places: the channel of each lane of the output, None or beyond the last for padding.
            name: begins the names of the fields.
        """
        for number, term in enumerate(rescale.terms):
            count = len(term.multiplier)
            if count == 1:
                self.one(f"{name}multiplier_{number}", int(term.multiplier[0]))
            else:
                self.add(f"{name}multiplier_{number}", [
                    int(term.multiplier[place]) if place is not None and place < count else 0 for place in places])
            if term.lift:
                self.one(f"{name}lift_{number}", term.lift)
        self.one(f"{name}offset", rescale.offset // (1 << WORD))
        self.one(f"{name}shift", rescale.shift - WORD)

    def later(self, name: str, length: int, value: Callable[[], np.ndarray | None]) -> None:
        """A field that is worked out when it is asked for, int32."""
        self.add(name, np.zeros(length))
        self._later, self._value = name, value

    @property
    def wanted(self) -> Numbers:
        """The constant."""
        if self._value is None:
            return Numbers(dict(self._parts))
        return Reals(dict(self._parts), self._later, self._value)


def form_of(rescale: Rescale) -> tuple[Any, ...]:
    """What of a rescale is in the machine code: which fields there are, and whether the offset has a lower half."""
    return (*((len(term.multiplier) > 1, term.lift > 0) for term in rescale.terms), rescale.offset % (1 << WORD) > 0)



"""The names of a network's classes, in the order of its outputs: what `--classes names.txt` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isobit.pipeline.errors import InputError, nearest_spelling

MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Classes:
    """Classes by their number.

    Args:
        names: for people.
        ids: what a folder of one class may be called besides; empty where the file has none.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """Id and name, where there are both."""
        return tuple(map(" ".join, zip(self.ids, self.names, strict=True))) if self.ids else self.names

    def number(self, folder: str) -> int | None:
        """The class that a folder of this name holds; None where there is none."""
        for known in (self.ids, self.names, self.lines):
            if folder in known:
                return known.index(folder)
        return None


def read_classes(path: Path) -> Classes:
    """The classes in a text file, one a line: `name`, or `id name` where every line begins with another id.

    An id is one word with a digit in it, as `n01440764 tench` has. Empty lines at the end do not count.

    Raises:
        InputError: the file cannot be read, has no lines, an empty one or the same one twice.
    """
    where = str(path)
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise InputError("there is no such text file", where=where, field="classes", allowed="one class a line")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the file of classes cannot be read as text", where=where, field="classes") from error
    if not lines or "" in lines or len(set(lines)) < len(lines):
        raise InputError(
            "the file of classes has no lines, an empty one, or one twice", where=where, field="classes",
            allowed="one class a line, in the order of the network's outputs",
        )
    words = [line.split(maxsplit=1) for line in lines]
    ids = [first for first, *_ in words]
    if all(len(parts) == 2 for parts in words) and len(set(ids)) == len(ids) and all(map(_has_digit, ids)):
        return Classes(tuple(rest for _, rest in words), tuple(ids))
    return Classes(tuple(lines))


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def numbers_of(folders: Sequence[str], classes: Classes, where: str, what: str = "class folder") -> list[int]:
    """The class of each folder, or of what else has such a name; raises InputError for the first that the file of
    classes does not have.
    """
    numbers = []
    for folder in folders:
        number = classes.number(folder)
        if number is None:
            raise InputError(
                f"the {what} '{folder}' is not in the file of `classes`", where=where, field="classes",
                allowed=f"one of {len(classes.names):,} names or ids, as {classes.lines[0]!r}",
                hint=nearest_spelling(folder, (*classes.ids, *classes.names)),
            )
        numbers.append(number)
    return numbers

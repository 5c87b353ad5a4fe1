"""What lies where in memory from call to call: no reader may find another tensor, or a part of one, at its place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from isobit.backends.readback.description import Term, Terms

NOBODY = -1


@dataclass(frozen=True)
class Stored:
    """What a call wrote.

    Args:
        term: what was computed.
        places: of its elements, as they lie in memory.
    """

    term: Term
    places: np.ndarray


@dataclass
class Memory:
    """Bytes of the arena, or values of a run, or logits.

    Args:
        terms: that make what is read of it.
        name: for what is told.
        size: how many elements there are.

    Attributes:
        stored: all that was written, in its order.
        reached: one more than the last place that was written.
        seen: numbers among `stored` of what was read.
        lost: the same of what the last write lies over.
    """

    terms: Terms
    name: str
    size: int
    stored: list[Stored] = field(default_factory=list)
    reached: int = 0
    seen: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.owner = np.full(self.size, NOBODY, np.int64)
        self.lost: tuple[int, ...] = ()

    def write(self, places: np.ndarray, term: Term) -> bool:
        """Put a term there, over what was there; False where that is no part of the memory."""
        if not len(places) or places.min() < 0 or places.max() >= self.size:
            return False
        self.lost = tuple(owner for owner in np.unique(self.owner[places]) if owner != NOBODY)
        self.owner[places] = len(self.stored)
        self.reached = max(self.reached, int(places.max()) + 1)
        self.stored.append(Stored(term, places))
        return True

    def read(self, places: np.ndarray) -> Term:
        """What lies there: one whole term, or several that fill the places whole; else an operator that says not."""
        if not len(places) or places.min() < 0 or places.max() >= self.size:
            return self.terms.operator(f"what lies outside of {self.name}")
        owners = np.unique(self.owner[places])
        if owners[0] == NOBODY:
            return self.terms.operator(f"what was not written in {self.name}")
        self.seen.update(owners.tolist())
        parts = [self.stored[owner] for owner in owners]
        if sum(len(part.places) for part in parts) != len(places) or any(
                (self.owner[part.places] != owner).any() for owner, part in zip(owners, parts, strict=True)):
            return self.terms.operator(f"a part of what lies in {self.name}", first=int(places.min()))
        if len(parts) == 1:
            whole = np.array_equal(parts[0].places, places)
            return parts[0].term if whole else self.terms.operator("elements in another order", of=parts[0].term)
        first = places.min()
        parts = sorted(parts, key=lambda part: int(part.places[0]))
        fields = {}
        for number, part in enumerate(parts):
            where = self.terms.constant(part.places - first, np.int32)
            fields |= {f"part_{number}": part.term, f"places_{number}": where}
        return self.terms.operator("joined", **fields)

    def size_at(self, place: int) -> int:
        """How many elements the term has that begins there; 0 where none does."""
        if not 0 <= place < self.size or self.owner[place] == NOBODY:
            return 0
        found = self.stored[self.owner[place]].places
        return len(found) if found[0] == place and found[-1] - place == len(found) - 1 else 0


def line(first: int, count: int) -> np.ndarray:
    """Places one after the other."""
    return np.arange(first, first + max(count, 0))

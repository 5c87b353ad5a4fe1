"""What the calls of a run compute, one after the other, from constants and from what lies in memory at each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.c.readback import kernels
from isobit.backends.c.readback.forms import Forms
from isobit.backends.c.readback.memory import Memory, line
from isobit.backends.c.readback.scanner import NotUnderstood, float_of
from isobit.backends.c.readback.source import Call, Source
from isobit.backends.readback.description import Edge, Term, Terms
from isobit.pipeline.proof.findings import Difference

_POINTER = re.compile(r"(?:\((?P<cast>\w+) \*\))?\(?(?P<base>\w+)(?P<plus>(?: \+ \d+)*)\)?")
WORD = 4  # bytes of an int32


class Run:
    """Follows the calls; a call hands itself to the reader of its kernel, which reads and writes through this.

    Args:
        source: the files.
        sizes: elements of each input.
        terms: shared with what must stand there.

    Attributes:
        tensors: what computes each tensor that is traced, by `tensor N`.
        problems: what no tensor tells.
        order: numbers of the tensors as they are traced.
        plain: one more than the last byte of the arena that plain C uses.
    """

    def __init__(self, source: Source, sizes: Mapping[str, int], terms: Terms) -> None:
        self.source, self.terms, self.forms = source, terms, Forms(terms)
        self.sizes, self.places = sizes, {each.name: place for place, each in enumerate(source.inputs)}
        self.arena = Memory(terms, "the arena", int(source.macros[f"{source.name.upper()}_ARENA_BYTES"]))
        self.values = Memory(terms, "the values", source.values or 0)
        self.logits = Memory(terms, "the logits", int(source.macros[f"{source.name.upper()}_LOGITS"]))
        self.tensors: dict[str, Term] = {}
        self.problems: list[Difference] = []
        self.order: list[int] = []
        self.plain = 0
        self.used: set[str] = set()
        self.functions: set[str] = set()
        self._of_no_reader = (terms.operator("scratch"), terms.operator("zero"))
        self._at: Call
        # Operands of the present call in its order; of an input of the network, which is never written, no places.
        self._reads: list[tuple[Memory | None, np.ndarray]] = []

    def follow(self, readers: Mapping[str, Callable[[Run, tuple[str, ...]], None]]) -> None:
        """Go over all calls; `readers` by the name of the function that they read."""
        for call in self.source.calls:
            self._at, self._reads = call, []
            name = call.function
            if name not in readers:
                raise NotUnderstood(f"no kernel is called {name}")
            self.functions.add(name)
            try:
                readers[name](self, call.arguments)
            except ValueError as error:
                raise NotUnderstood(f"call {name}({', '.join(call.arguments)}): {error}") from None

    def wrong(self, field: str, found: Any, must: Any) -> None:
        """Tell what of the present call is wrong."""
        self.problems.append(Difference("", f"call {self._at.function}({', '.join(self._at.arguments)}): {field}",
                                        str(found), str(must)))

    # --- constants ---

    def array(self, name: str | None, kind: Any) -> np.ndarray:
        """The constant array of a name and type."""
        values = self.source.arrays.get(name or "")
        if values is None or values.dtype != kind:
            raise NotUnderstood(f"{name} is no array of {np.dtype(kind).name}")
        self.used.add(str(name))
        return values

    def structure(self, argument: str, kind: str) -> Any:
        """Members of the structure that an argument is the address of."""
        name = argument.removeprefix("&")
        found = self.source.structures.get(name, ("", None))
        if found[0] != kind or argument.startswith("&") == isinstance(found[1], list):
            raise NotUnderstood(f"{argument} is the address of no struct {kind}")
        self.used.add(name)
        return found[1]

    def number(self, text: str) -> int:
        """An argument that is an int32."""
        return kernels.number(text)

    def real(self, text: str) -> float:
        """An argument that is a float."""
        return float_of(text)

    def shape(self, text: str) -> dict[str, int]:
        """An argument that is a shape, or the steps between its neighbours, which go back where a map is mirrored."""
        found = re.fullmatch(r"\(struct shape\)\{(-?\d+), (-?\d+), (-?\d+)\}", text)
        if found is None:
            raise NotUnderstood(f"{text} is no shape")
        return dict(zip(("height", "width", "channels"), map(int, found.groups()), strict=True))

    def factor(self, term: Mapping[str, Any], channels: int) -> dict[str, Any]:
        """A `struct term` by channel; all numbers of its array must count."""
        multiplier, step = self.array(term["multiplier"], np.int32), term["step"]
        if len(multiplier) != (channels - 1) * step + 1 or step not in (0, 1):
            self.wrong("multipliers", f"{len(multiplier)} with step {step}", f"one, or {channels} with step 1")
            return self.forms.factor(multiplier, term["lift"])
        return self.forms.factor(np.broadcast_to(multiplier, channels), term["lift"])

    def rescale(self, rescale: Mapping[str, int]) -> dict[str, Any]:
        """A `struct rescale`."""
        return self.forms.rescale(rescale["offset"], rescale["shift"] + 32, rescale["low"], rescale["high"])

    # --- memory ---

    def pointer(self, text: str, cast: str | None = None) -> tuple[Memory | str, int]:
        """The memory (or the input's name, or the constant's) that an argument points into, and the element there."""
        found = _POINTER.fullmatch(text)
        if found is None or (found["cast"] or None) != cast:
            raise NotUnderstood(f"{text} points to nothing that the call takes")
        plus = sum(int(each) for each in re.findall(r"\d+", found["plus"]))
        memory = {"a": self.arena, "v": self.values, "logits": self.logits}.get(found["base"], found["base"])
        if (memory is self.arena and not self.source.arena) or (memory is self.values and self.source.values is None):
            raise NotUnderstood(f"{text} points into memory that is not there")
        return memory, plus

    def read(self, text: str, count: int, cast: str | None = None, first: int = 0) -> Term:
        """The tensor of `count` elements that an argument points to."""
        memory, place = self.pointer(text, cast)
        size = WORD if cast else 1
        if isinstance(memory, Memory):
            if cast and place % WORD:
                self.wrong("alignment", text, f"a multiple of {WORD}")
            places = line(place + first, count * size)
            self.reads(memory, places)
            return memory.read(places)
        self._reads.append((None, np.zeros(0, np.int64)))
        return self._given(memory, place, count, cast)

    def read_words(self, text: str, count: int) -> Term:
        """The same of integers."""
        return self.read(text, count, "int32_t" if text.startswith("(") else None)

    def _given(self, name: str, place: int, count: int, cast: str | None) -> Term:
        if name not in self.places or place or cast:
            raise NotUnderstood(f"{name} + {place} is no input")
        if count != self.sizes[name]:
            return self.terms.operator("another count of the input's elements", count=count)
        return self.terms.edge(str(self.places[name]))

    def size_at(self, text: str) -> int:
        """How many codes the tensor has that an argument points to."""
        memory, place = self.pointer(text)
        return memory.size_at(place) if isinstance(memory, Memory) else self.sizes.get(memory, 0)

    def words_at(self, text: str) -> int:
        """How many integers the tensor has that an argument points to."""
        memory, place = self.pointer(text, "int32_t" if text.startswith("(") else None)
        return memory.size_at(place) // WORD if isinstance(memory, Memory) else self.sizes.get(memory, 0)

    def reads(self, memory: Memory, places: np.ndarray) -> None:
        """Say that the present call reads these places."""
        self._reads.append((memory, places))

    def write(self, text: str, count: int, term: Term, cast: str | None = None) -> None:
        """Put what was computed where an argument points to."""
        memory, place = self.pointer(text, cast)
        size = WORD if cast else 1
        if cast and place % WORD:
            self.wrong("alignment", text, f"a multiple of {WORD}")
        self.put(memory, line(place, count * size), term)

    def put(self, memory: Memory | str, places: np.ndarray, term: Term, over: tuple[int, ...] = ()) -> None:
        """Put a term there; of what the call reads only the tensors numbered `over` may lie at the same places."""
        if not isinstance(memory, Memory):
            self.wrong("output", memory, "memory that may be written")
            return
        for number, (other, read) in enumerate(self._reads):
            if other is not memory or (number in over and np.array_equal(read, places)):
                continue
            if _meet(read, places):
                self.wrong("output", "lies over what the call reads", "places of its own")
        if not memory.write(places, term):
            self.wrong("output", f"{len(places)} elements", f"within the {memory.size} of {memory.name}")
        elif any(memory.stored[owner].term not in self._of_no_reader for owner in {*memory.lost} - memory.seen):
            self.wrong("output", "lies over what nobody has read", "over what is read no more")
        if memory is self.arena and len(places):
            self.plain = max(self.plain, int(places.max()) + 1)

    def write_over(self, text: str, count: int, term: Term, over: tuple[int, ...]) -> None:
        """As `write`, of a kernel that reads each code of the tensors numbered `over` before it writes over it."""
        memory, place = self.pointer(text)
        self.put(memory, line(place, count), term, over)

    def scratch(self, text: str, count: int, plain: int = 0) -> None:
        """Bytes that the kernel unpacks weights into, which are nobody's while it runs; `plain` of them in plain C."""
        if not count:
            if text != "0":
                self.wrong("scratch", text, "none, where no weights are packed")
            return
        memory, place = self.pointer(text, "int8_t")
        if not isinstance(memory, Memory) or memory is not self.arena:
            raise NotUnderstood(f"{text} is no scratch in the arena")
        if place % WORD:
            self.wrong("alignment", text, f"a multiple of {WORD}")
        places, used = line(place, count), max(self.plain, place + plain)
        self.put(memory, places, self.terms.operator("scratch"))
        self.reads(memory, places)
        self.plain = used

    @property
    def outputs(self) -> dict[str, Term]:
        """What stands at each of the logits when the run is over, by `logits N`."""
        return logits_of(self.logits)

    def trace(self, number: int, text: str, count: int) -> None:
        """A tensor gets its name: who reads these places from now on reads it."""
        memory, place = self.pointer(text)
        self.order.append(number)
        name = f"tensor {number}"
        if not isinstance(memory, Memory):
            if self.read(text, count) is not self.terms.edge(str(number)):
                self.wrong("tensor", number, f"{self.places.get(memory)} with all its codes")
            return
        term, edge = memory.read(line(place, count)), self.terms.edge(str(number))
        if isinstance(term, Edge):  # another name for the same bytes
            term = self.forms.moved(term, np.arange(count), 0)
        if name in self.tensors or number < len(self.source.inputs):
            self.wrong("tensor", number, "one that was not written before")
        self.tensors[name] = term
        memory.write(line(place, count), edge)
        memory.seen.add(len(memory.stored) - 1)  # one that nobody reads may still be read out


def _meet(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sets of places share one."""
    if not len(one) or not len(other) or one.max() < other.min() or other.max() < one.min():
        return False
    return bool(np.isin(one, other).any())


def logits_of(memory: Memory) -> dict[str, Term]:
    """The terms that lie among the logits, in their order; what was written over, or not at all, is told as such."""
    owners, first = np.unique(memory.owner, return_index=True)
    found: dict[str, Term] = {}
    zero = memory.terms.operator("zero")
    for number, owner in enumerate(owners[np.argsort(first)]):
        places = np.flatnonzero(memory.owner == owner)
        stored = memory.stored[owner] if owner >= 0 else None
        term = memory.terms.operator("nothing") if stored is None else stored.term
        whole = stored is not None and term is not zero and np.array_equal(np.sort(stored.places), places)
        found[f"logits {number}"] = term if whole else memory.terms.operator(
            "some logits", of=term, places=memory.terms.constant(places, np.int32))
    return found

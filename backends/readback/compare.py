"""Two descriptions of a network compared field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from isobit.backends.readback.description import Constant, Edge, Network, Operator, Port, Term, Unread, shown
from isobit.pipeline.proof.findings import Difference


class Comparison:
    """What stands in the files against what must.

    Attributes:
        differences: none where both say the same.
        unread: kinds of operators of which only the edges were compared.

    Args:
        found, wanted: made by one `Terms`.
    """

    def __init__(self, found: Network, wanted: Network) -> None:
        self.differences: list[Difference] = []
        self._unread: set[str] = set()
        self._seen: set[tuple[int, int]] = set()
        self._layers = wanted.layers
        self._facts(found.facts, wanted.facts)
        for what in ("inputs", "outputs"):
            self._ports(what.removesuffix("s"), getattr(found, what), getattr(wanted, what))
        for name in dict.fromkeys((*wanted.tensors, *found.tensors)):
            self._compare(self._layers.get(name) or name, name, found.tensors.get(name), wanted.tensors.get(name))

    @property
    def unread(self) -> tuple[str, ...]:
        return tuple(sorted(self._unread))

    def _add(self, layer: str, field: str, found: Any, wanted: Any) -> None:
        self.differences.append(Difference(layer, field, shown(found), shown(wanted)))

    def _facts(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name in dict.fromkeys((*wanted, *found)):
            if found.get(name) != wanted.get(name):
                self._add("", name, found.get(name), wanted.get(name))

    def _ports(self, what: str, found: Sequence[Port], wanted: Sequence[Port]) -> None:
        for place in range(max(len(found), len(wanted))):
            got, must = (ports[place] if place < len(ports) else None for ports in (found, wanted))
            if got is None or must is None:
                self._add("", f"{what} {place}", got and got.name, must and must.name)
                continue
            for name in ("name", "dtype", "shape"):
                if getattr(got, name) != getattr(must, name):
                    self._add("", f"{name} of {what} {place}", getattr(got, name), getattr(must, name))

    def _compare(self, layer: str, path: str, found: Any, wanted: Any) -> None:
        """Walk two terms side by side as long as they are of one kind."""
        waiting = [(path, found, wanted)]
        while waiting:
            path, got, must = waiting.pop()
            if got is must or (id(got), id(must)) in self._seen:
                continue
            if isinstance(got, Term) and isinstance(must, Term):
                self._seen.add((id(got), id(must)))
            if isinstance(must, Unread) and isinstance(got, Term):
                self._edges(layer, path, got, must)
            elif isinstance(got, Operator) and isinstance(must, Operator) and got.kind == must.kind:
                names = dict.fromkeys(name for each in (must, got) for name, _ in each.fields)
                # Last in, first out: fields are told in their order.
                waiting += [(f"{path} {must.kind}.{name}", got.get(name), must.get(name)) for name in reversed(names)]
            elif isinstance(got, Constant) and isinstance(must, Constant):
                self._add(layer, path, *_apart(got.array, must.array))
            elif isinstance(got, Term) or isinstance(must, Term) or got != must or type(got) is not type(must):
                self._add(layer, path, got, must)

    def _edges(self, layer: str, path: str, found: Term, wanted: Unread) -> None:
        """An operator that is not described reads all that it must and nothing else, whatever it computes of that."""
        self._unread.update(str(term) for term in _within(wanted) if term.unread)
        must = {id(term): term for term in _within(wanted) if not term.unread}
        may = {id(term) for term in _within(wanted, measured=True) if not term.unread}
        where, waiting, seen = f"{path} {wanted.kind}", [found], set[int]()
        while waiting:
            term = waiting.pop()
            if id(term) in seen:
                continue
            seen.add(id(term))
            if id(term) in may:
                continue
            if isinstance(term, Edge):
                self._add(layer, where, f"computed from {term}", "computed from what it reads")
            elif isinstance(term, Operator):
                waiting += term.operands
        for key, term in reversed(must.items()):  # the walk pops the last first
            if key not in seen and (edges := _edges_of(term)):
                self._add(layer, where, f"not computed from {term} of {', '.join(edges)}", "computed from all it reads")


def _within(term: Term, measured: bool = False) -> Iterator[Term]:
    """The term, and what it reads down to what is described; with what only its sizes are read of, where asked."""
    waiting, seen = [term], set[int]()
    while waiting:
        term = waiting.pop()
        if id(term) in seen:
            continue
        seen.add(id(term))
        yield term
        if term.unread:
            if isinstance(term, Unread):
                waiting += [*term.inputs, *(term.measured if measured else ())]
            elif isinstance(term, Operator):
                waiting += term.operands


def _edges_of(term: Term) -> list[str]:
    """The tensors that a term is computed from; none of constants, which a writer may fold into others."""
    waiting, seen, found = [term], set[int](), list[str]()
    while waiting:
        term = waiting.pop()
        if id(term) not in seen:
            seen.add(id(term))
            found += [str(term)] if isinstance(term, Edge) else []
            waiting += term.operands if isinstance(term, Operator) else ()
    return found


def _apart(found: np.ndarray, wanted: np.ndarray) -> tuple[str, str]:
    """Where two constants part: their types and shapes, or the first element."""
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return f"{found.dtype} {list(found.shape)}", f"{wanted.dtype} {list(wanted.shape)}"
    bits = [np.ascontiguousarray(each).reshape(-1).view(np.uint8).reshape(each.size, -1) for each in (found, wanted)]
    places = np.flatnonzero((bits[0] != bits[1]).any(1))
    place = [int(each) for each in np.unravel_index(places[0], found.shape)]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{found.reshape(-1)[places[0]]!s} at {place}{more}", f"{wanted.reshape(-1)[places[0]]!s}"

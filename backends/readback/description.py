"""A network in words of no target: tensors, and what each is computed by from constants and other tensors.

Every value is a term: a constant, an edge to a named tensor, or an operator with named fields, which are terms again,
integers, texts or float32 bits. Equal terms are one object, so two descriptions that share a `Terms` are equal where
their objects are.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, order=True)
class Float32:
    """A float attribute, by its bits: nothing is rounded away where two are compared.

    Args:
        bits: of the float32, as an unsigned integer.
    """

    bits: int

    @classmethod
    def of(cls, value: float) -> Float32:
        with np.errstate(over="ignore"):
            return cls(int(np.asarray(value, np.float32).view(np.uint32)))

    def __str__(self) -> str:
        return f"{np.uint32(self.bits).view(np.float32)!s} (bits {self.bits:#010x})"


class Undescribed(Exception):
    """What stands in the reference has no description here; the message says what and where."""


class Term:
    """A value of a network; equal ones that one `Terms` made are the same object."""

    unread: bool = False  # something in it is not described


@dataclass(frozen=True, eq=False)
class Constant(Term):
    """Numbers that stand in the file; their type, shape and bits count."""

    array: np.ndarray

    def __str__(self) -> str:
        kind = f"{self.array.dtype} {list(self.array.shape)}"
        shown = f"{kind} of {self.array.reshape(-1)[:4].tolist()}".replace("]", " ...]", 1)
        return f"{kind} {self.array.reshape(-1).tolist()}" if self.array.size <= 4 else shown


@dataclass(frozen=True, eq=False)
class Edge(Term):
    """A tensor that bears a name: an input of the network, codes of a quantizer."""

    name: str

    def __str__(self) -> str:
        return f"tensor {self.name}"


@dataclass(frozen=True, eq=False)
class Operator(Term):
    """One operator.

    Args:
        kind: what it computes.
        fields: operands and attributes, in an order that its kind gives.
        unread: what it reads holds something that is not described.
    """

    kind: str
    fields: tuple[tuple[str, Any], ...]
    unread: bool = False

    def get(self, name: str) -> Any:
        """A field's value; None where it has no such field."""
        return next((value for key, value in self.fields if key == name), None)

    @property
    def operands(self) -> Iterator[Term]:
        """What it reads."""
        return (value for _, value in self.fields if isinstance(value, Term))

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, eq=False)
class Unread(Term):
    """An operator that no form is known of: only what it reads is compared.

    Args:
        kind: of operator.
        inputs: all that it must read.
        node: that calls it, so that no two calls are the same.
        measured: what it may read besides, because its sizes count.
    """

    kind: str
    inputs: tuple[Term, ...]
    node: str
    measured: tuple[Term, ...] = ()
    unread: bool = True

    def __str__(self) -> str:
        return self.kind


class Terms:
    """Makes terms; equal ones once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Term] = {}

    def constant(self, array: Any, dtype: Any = None) -> Constant:
        """Numbers of an array's own type, or of `dtype`."""
        array = np.asarray(array, dtype, order="C")
        return self._one(("constant", array.dtype.str, array.shape, array.tobytes()), lambda: Constant(array))

    def edge(self, name: str) -> Edge:
        """The tensor called `name`."""
        return self._one(("edge", name), lambda: Edge(name))

    def operator(self, kind: str, **fields: Any) -> Operator:
        """An operator with its fields; texts, integers and tuples of them, `Float32`, terms, None for what is absent.
        """
        key = tuple((name, id(value) if isinstance(value, Term) else value) for name, value in fields.items())
        types = tuple(type(value) for value in fields.values())
        unread = any(isinstance(value, Term) and value.unread for value in fields.values())
        return self._one(("operator", kind, key, types), lambda: Operator(kind, tuple(fields.items()), unread))

    def unread(self, kind: str, inputs: tuple[Term, ...], node: str, measured: tuple[Term, ...] = ()) -> Unread:
        """The operator of a node that no form is known of."""
        key = ("unread", node, tuple(map(id, inputs)), tuple(map(id, measured)))
        return self._one(key, lambda: Unread(kind, inputs, node, measured))

    def changed(self, term: Operator, **fields: Any) -> Operator:
        """The operator with some of its fields changed."""
        return self.operator(term.kind, **{**dict(term.fields), **fields})

    def operators(self) -> Iterator[Operator]:
        """All operators that were made."""
        return (term for term in self._known.values() if isinstance(term, Operator))

    def _one(self, key: Hashable, make: Any) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@dataclass(frozen=True)
class Port:
    """An input or output of the network.

    Args:
        name: as a user knows it.
        dtype: of its elements.
        shape: None for what varies with the batch.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Network:
    """All that stands in the files of an artifact, or must.

    Args:
        inputs, outputs: in their order.
        tensors: every named tensor and output, and what computes it.
        facts: what else the files state: versions, texts for programs.
        layers: the layer or module that computes a tensor, by its name; for messages.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tensors: Mapping[str, Term]
    facts: Mapping[str, Any]
    layers: Mapping[str, str] = field(default_factory=dict)


def shown(value: Any) -> str:
    """A field's value in a message."""
    text = "nothing" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

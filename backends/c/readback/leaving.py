"""Calls that lead out of codes and back: logits, values of operators in float, copies; and the names of tensors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from isobit.backends.c.readback.calls import Run
from isobit.backends.c.readback.layers import leave, size_of
from isobit.backends.c.readback.memory import line
from isobit.backends.c.readback.scanner import NotUnderstood
from isobit.backends.readback.description import Term

OPERATORS = "+-*/=seltqrn"
FLOAT = "sizeof(float)"


def dequantize(run: Run, arguments: tuple[str, ...]) -> None:
    """Logits from codes, channels first."""
    text, zero_point, scale, x, y = arguments
    shape = run.shape(text)
    elements = np.arange(size_of(shape)).reshape(tuple(shape.values())).transpose(2, 0, 1).reshape(-1)
    term = run.forms.decoded(run.read(x, size_of(shape)), run.number(zero_point), run.real(scale))
    leave(run, y, term, elements, np.arange(len(elements)))


def dequantize_part(run: Run, arguments: tuple[str, ...]) -> None:
    """Logits or values from codes, steps apart."""
    text, steps, zero_point, scale, x, y = arguments
    shape = run.shape(text)
    places = spread(tuple(shape.values()), tuple(run.shape(steps).values()))
    term = run.forms.decoded(run.read(x, size_of(shape)), run.number(zero_point), run.real(scale))
    memory, first = run.pointer(y)
    if memory is run.logits:
        leave(run, y, term, np.arange(len(places)), places)
    elif memory is run.values:
        term = run.terms.operator("values of codes", of=term, places=run.terms.constant(places, np.int32))
        run.put(memory, np.sort(first + places), term)
    else:
        run.wrong("output", y, "logits or values")


def spread(shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """Where the elements of a shape go, in their order, by steps along each axis."""
    axes = np.ix_(*(np.arange(size) * step for size, step in zip(shape, steps, strict=True)))
    places: Any = sum(axes)
    return np.asarray(places).reshape(-1)


def _tables(run: Run, arguments: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    elements, places = (run.array(name, np.int32).astype(np.int64) for name in arguments[:2])
    count = run.number(arguments[2])
    if not len(elements) == len(places) == count:
        run.wrong("count", count, f"{len(elements)} elements and {len(places)} logits")
    return elements, places


def dequantize_indexed(run: Run, arguments: tuple[str, ...]) -> None:
    """Logits from codes by their index."""
    *_, zero_point, scale, x, y = arguments
    elements, places = _tables(run, arguments)
    size = run.size_at(x)
    if elements.min(initial=0) < 0 or elements.max(initial=0) >= size:
        run.wrong("elements", int(elements.max(initial=0)), f"less than {size}")
    leave(run, y, run.forms.decoded(run.read(x, size), run.number(zero_point), run.real(scale)), elements, places)


def dequantize_integers(run: Run, arguments: tuple[str, ...]) -> None:
    """Logits from integers."""
    x, y = arguments[3:]
    elements, places = _tables(run, arguments)
    size = run.words_at(x)
    if elements.min(initial=0) < 0 or elements.max(initial=0) >= size:
        run.wrong("elements", int(elements.max(initial=0)), f"less than {size}")
    term = run.terms.operator("number", x=run.read_words(x, size))
    leave(run, y, term, elements, places)


def encode(run: Run, arguments: tuple[str, ...]) -> None:
    """Codes from values."""
    text, steps, zero_point, scale, low, high, x, y = arguments
    shape = run.shape(text)
    memory, first = run.pointer(x)
    places = spread(tuple(shape.values()), tuple(run.shape(steps).values()))
    if memory is not run.values:
        raise NotUnderstood(f"{x} points to no values")
    fields = {"zero_point": run.number(zero_point), "low": run.number(low), "high": run.number(high)}
    scaled = run.terms.operator("encode", x=run.values.read(first + np.sort(places)),
                                elements=run.terms.constant(places, np.int32),
                                scale=_real(run, scale), **fields)
    run.write(y, size_of(shape), scaled)


def _real(run: Run, text: str) -> Any:
    return run.terms.constant(run.real(text), np.float32)


def values(run: Run, arguments: tuple[str, ...]) -> None:
    """An operator on values, element by element."""
    name, operator, *texts, y = arguments
    found = re.fullmatch(r"'(.)'", operator)
    if found is None or found[1] not in OPERATORS:
        raise NotUnderstood(f"{operator} is no operator on values")
    grid = run.structure(name, "grid")
    sizes, terms = grid["sizes"], []
    for side, text in zip("ab", texts, strict=True):
        terms.append(_values_at(run, text, spread(sizes, grid[side])))
    steps = {f"{side}_steps": grid[side] for side in "aby"}
    term = run.terms.operator("values", operator=found[1], a=terms[0], b=terms[1], sizes=sizes, **steps)
    memory, first = run.pointer(y)
    run.put(memory, np.unique(first + spread(sizes, grid["y"])), term)


def _values_at(run: Run, text: str, places: np.ndarray) -> Term:
    """What a kernel reads of values, or of a constant."""
    memory, first = run.pointer(text)
    places = np.unique(first + places)
    if memory is run.values:
        return _owned(run, places)
    constant = run.array(str(memory), np.float32)
    if places.min() < 0 or places.max() >= len(constant):
        run.wrong("constant", f"elements up to {places.max()}", f"{len(constant)} of them")
    return run.terms.constant(constant)


def _owned(run: Run, places: np.ndarray) -> Term:
    """The values that any of the places are of, where only some of them are read."""
    if places.min() < 0 or places.max() >= run.values.size:
        return run.terms.operator("what lies outside of the values")
    run.reads(run.values, places)
    owners = np.unique(run.values.owner[places])
    if owners[0] < 0:
        return run.terms.operator("what was not written in the values")
    run.values.seen.update(owners.tolist())
    terms = [run.values.stored[owner].term for owner in owners]
    return terms[0] if len(terms) == 1 else run.terms.operator(
        "joined", **{f"part_{number}": term for number, term in enumerate(terms)})


def softmax(run: Run, arguments: tuple[str, ...]) -> None:
    """Softmax of values."""
    outer, size, inner = map(run.number, arguments[:3])
    memory, first = run.pointer(arguments[3])
    places = line(first, outer * size * inner)
    if memory is not run.values:
        raise NotUnderstood(f"{arguments[3]} points to no values")
    term = run.terms.operator("softmax", x=_owned(run, places), sizes=(outer, size, inner))
    memory, first = run.pointer(arguments[4])
    run.put(memory, line(first, len(places)), term)


def memcpy(run: Run, arguments: tuple[str, ...]) -> None:
    """Codes copied as they are, or values that leave."""
    y, x, text = arguments
    count = text.removesuffix(f" * {FLOAT}")
    size = run.number(count)
    if count == text:
        run.write(y, size, run.forms.moved(run.read(x, size), np.arange(size), 0))
        return
    memory, first = run.pointer(x)
    if memory is not run.values:
        raise NotUnderstood(f"{x} points to no values")
    leave(run, y, run.values.read(line(first, size)), np.arange(size), np.arange(size))


def memset(run: Run, arguments: tuple[str, ...]) -> None:
    """Logits that nothing computes."""
    y, zero, text = arguments
    memory, first = run.pointer(y)
    if zero != "0" or memory is not run.logits:
        run.wrong("output", f"{y} = {zero}", "logits that are 0")
    count = run.number(text.removesuffix(" * sizeof *logits"))
    if text != f"{count} * sizeof *logits":
        raise NotUnderstood(f"{text} is no count of logits")
    run.put(run.logits, line(first, count), run.terms.operator("zero"))


def trace(run: Run, arguments: tuple[str, ...]) -> None:
    """The name of a tensor."""
    number, text, count = arguments
    macro = run.source.macros.get(count, count)
    run.trace(run.number(number), text, run.number(macro))


LEAVING = {"dequantize": dequantize, "dequantize_part": dequantize_part, "dequantize_indexed": dequantize_indexed,
           "dequantize_integers": dequantize_integers, "encode": encode, "values": values, "softmax": softmax,
           "memcpy": memcpy, "memset": memset, "ISOBIT_TRACE": trace}

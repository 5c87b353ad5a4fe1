"""Calls of kernels that go over maps: pools, reductions, maps of another size, tables, moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isobit.backends.c.readback.calls import Run
from isobit.backends.c.readback.layers import size_of, window_of
from isobit.backends.c.readback.scanner import NotUnderstood

CODES = 256
OUTSIDE = -1


def global_average(run: Run, arguments: tuple[str, ...]) -> None:
    """A mean over the map."""
    members = run.structure(arguments[0], "global_average")
    shape = members["in"]
    fields = {"in": tuple(shape.values()), "sum_of_zeros": members["sum_of_zeros"]} | run.rescale(members["rescale"])
    fields |= run.factor(members["term"], shape["channels"])
    term = run.read(arguments[1], size_of(shape))
    run.write(arguments[2], shape["channels"], run.terms.operator("global average", x=term, **fields))


def _shapes(run: Run, members: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What all kernels from map to map have: the tensor and both shapes; their channels are the same."""
    if members["in"]["channels"] != members["out"]["channels"]:
        run.wrong("channels", members["out"]["channels"], members["in"]["channels"])
    return {"x": run.read(text, size_of(members["in"])), "in": tuple(members["in"].values()),
            "out": tuple(members["out"].values())}


def _scales(run: Run, members: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The rescaling of each pixel: which of several, and these."""
    scales, out, found = run.structure(str(members["scales"]), kind), members["out"], {}
    pixels = out["height"] * out["width"]
    choice = np.zeros(pixels, np.uint8) if members["choice"] is None else run.array(members["choice"], np.uint8)
    if set(choice.tolist()) != set(range(len(scales))) or len(choice) != pixels:
        run.wrong("choice", f"{sorted(set(choice.tolist()))} of {len(choice)}", f"all {len(scales)} of {pixels}")
    for number, scale in enumerate(scales):
        found |= run.forms.scaled(f"scale_{number}", run.rescale(scale["rescale"]) | run.factor(
            scale["term"], out["channels"]))
    return {"choice": run.terms.constant(choice), **found}


def average_pool(run: Run, arguments: tuple[str, ...]) -> None:
    """A mean over windows."""
    members = run.structure(arguments[0], "average_pool")
    fields = _shapes(run, members, arguments[1]) | window_of(run, members["window"])
    fields |= {"zero_point": members["zero_point"]} | _scales(run, members, "average_scale")
    run.write(arguments[2], size_of(members["out"]), run.terms.operator("average pool", **fields))


def max_pool(run: Run, arguments: tuple[str, ...]) -> None:
    """The largest code of windows."""
    members = run.structure(arguments[0], "max_pool")
    fields = _shapes(run, members, arguments[1]) | window_of(run, members["window"])
    run.write(arguments[2], size_of(members["out"]), run.terms.operator("max pool", **fields))


def resample(run: Run, arguments: tuple[str, ...]) -> None:
    """A map of another size."""
    members = run.structure(arguments[0], "resample")
    fields = _shapes(run, members, arguments[1]) | {"zero_point": members["zero_point"]}
    for name, size in (("row", members["out"]["height"]), ("column", members["out"]["width"])):
        first = run.array(members[f"first_{name}s"], np.int32)
        weights = run.array(members[f"{name}_weights"], np.int32).reshape(size, members[f"{name}_taps"])
        fields |= {f"first_{name}s": run.terms.constant(first), f"{name}_weights": run.terms.constant(weights)}
    fields |= _scales(run, members, "resample_scale")
    run.write(arguments[2], size_of(members["out"]), run.terms.operator("resample", **fields))


def walked(walk: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """int64 [elements of the output, elements that each goes over] into the input, in the order of the kernels."""
    steps = np.array([*walk["out_steps"], *walk["in_steps"]])
    sizes = (*walk["out"], *walk["in"])
    if min(sizes) < 1 or np.prod(sizes, dtype=np.float64) > 1 << 31:
        raise NotUnderstood(f"a walk over {list(sizes)}")
    places = sum(np.arange(size).reshape(-1, *[1] * (5 - axis)) * step
                 for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)))
    return np.broadcast_to(places, sizes).reshape(int(np.prod(walk["out"])), -1)


def _walk(run: Run, members: Mapping[str, Any], text: str) -> tuple[dict[str, Any], int]:
    """What all reductions have, and how many elements they give."""
    places = walked(members["walk"])
    fields = {"x": run.read(text, int(places.max()) + 1), "elements": run.terms.constant(places, np.int32)}
    return fields, len(places)


def _flip(run: Run, members: Mapping[str, Any]) -> dict[str, Any]:
    if members["flip"] not in (0, 255):
        run.wrong("flip", members["flip"], "0 or 255")
    return {"largest": int(members["flip"] == 0)}


def reduce_sum(run: Run, arguments: tuple[str, ...]) -> None:
    """A sum along axes."""
    members = run.structure(arguments[0], "reduce_sum")
    fields, count = _walk(run, members, arguments[1])
    fields |= {"sum_of_zeros": members["sum_of_zeros"]} | run.rescale(members["rescale"])
    fields |= run.factor(members["term"], 1)
    run.write(arguments[2], count, run.terms.operator("sum along axes", **fields))


def reduce_extreme(run: Run, arguments: tuple[str, ...]) -> None:
    """The largest or smallest code along axes."""
    members = run.structure(arguments[0], "reduce_extreme")
    fields, count = _walk(run, members, arguments[1])
    run.write(arguments[2], count, run.terms.operator("extreme along axes", **fields, **_flip(run, members)))


def arg_max(run: Run, arguments: tuple[str, ...]) -> None:
    """Where the largest or smallest code stands; the kernel walks along the last of three axes only."""
    members = run.structure(arguments[0], "arg_max")
    if members["walk"]["in"][:2] != (1, 1):
        run.wrong("axes", members["walk"]["in"], "one")
    fields, count = _walk(run, members, arguments[1])
    term = run.terms.operator("place of the extreme", **fields, **_flip(run, members))
    cast = "int32_t" if arguments[2].startswith("(") else None
    run.write(arguments[2], count, term, cast)


def gather(run: Run, arguments: tuple[str, ...]) -> None:
    """Rows of a table."""
    name, rows, length, numbers, count, y = arguments
    table = run.array(name, np.uint8).reshape(run.number(rows), run.number(length))
    term = run.read_words(numbers, run.number(count))
    run.write(y, run.number(count) * run.number(length),
              run.terms.operator("rows", x=term, table=run.terms.constant(table)))


def _table(run: Run, name: str, channels: int) -> np.ndarray:
    return run.array(name, np.uint8).reshape(channels, CODES)


def lookup(run: Run, arguments: tuple[str, ...]) -> None:
    """A function of a code."""
    name, x, y, count = arguments
    term = run.forms.table(run.read(x, run.number(count)), _table(run, name, 1))
    run.write_over(y, run.number(count), term, (0,))


def lookup_channels(run: Run, arguments: tuple[str, ...]) -> None:
    """A function of a code for each channel."""
    name, x, y, pixels, channels = arguments
    count = run.number(pixels) * run.number(channels)
    term = run.forms.table(run.read(x, count), _table(run, name, run.number(channels)))
    run.write_over(y, count, term, (0,))


def concat_part(run: Run, arguments: tuple[str, ...]) -> None:
    """Channels of one input of a concatenation: they lie a pixel of the output apart."""
    name, x, *numbers, y, last = arguments
    pixels, channels, width = map(run.number, (*numbers, last))
    table = np.arange(CODES, dtype=np.uint8).reshape(1, -1) if name == "0" else _table(run, name, 1)
    term = run.forms.table(run.read(x, pixels * channels), table)
    memory, first = run.pointer(y)
    places = first + (np.arange(pixels)[:, None] * width + np.arange(channels)).reshape(-1)
    run.put(memory, places, term)


def move(run: Run, arguments: tuple[str, ...]) -> None:
    """Codes by rows, columns and channels."""
    members = run.structure(arguments[0], "move")
    shape, out = members["in"], members["out"]
    channels = run.array(members["channels"], np.int16).astype(np.int64)
    if len(channels) != out["channels"]:
        run.wrong("channels", len(channels), out["channels"])
    rows = np.arange(out["height"]) * members["row_stride"] + members["row_origin"]
    columns = np.arange(out["width"]) * members["column_stride"] + members["column_origin"]
    row, column, channel = np.ix_(rows, columns, channels)
    inside = (row >= 0) & (row < shape["height"]) & (column >= 0) & (column < shape["width"]) & (channel >= 0)
    if channels.max(initial=0) >= shape["channels"]:
        run.wrong("channels", int(channels.max()), f"less than {shape['channels']}")
    index = np.where(inside, (row * shape["width"] + column) * shape["channels"] + channel, OUTSIDE)
    term = run.forms.moved(run.read(arguments[1], size_of(shape)), index, members["zero_point"])
    run.write(arguments[2], size_of(out), term)


def move_indexed(run: Run, arguments: tuple[str, ...]) -> None:
    """Codes by their index."""
    name, fill, x, y, count = arguments
    index, size = run.array(name, np.int32), run.size_at(x)
    if len(index) != run.number(count) or index.min(initial=0) < OUTSIDE or index.max(initial=0) >= size:
        run.wrong("index", f"{len(index)} from {index.min(initial=0)} to {index.max(initial=0)}",
                  f"{count} within {size}")
    term = run.forms.moved(run.read(x, size), index, run.number(fill))
    run.write(y, run.number(count), term)


MAPS = {"global_average": global_average, "average_pool": average_pool, "max_pool": max_pool, "resample": resample,
        "reduce_sum": reduce_sum, "reduce_extreme": reduce_extreme, "arg_max": arg_max, "gather": gather,
        "lookup": lookup, "lookup_channels": lookup_channels, "concat_part": concat_part, "move": move,
        "move_indexed": move_indexed}

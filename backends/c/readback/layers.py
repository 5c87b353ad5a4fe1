"""Calls of kernels that compute with sums: layers, sums, products and extremes of two tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isobit.backends.c.readback.calls import WORD, Run
from isobit.backends.readback.description import Term

TILE = 4  # output channels that the kernels hold weights of


def size_of(shape: Mapping[str, int]) -> int:
    """Elements of a `struct shape`."""
    return shape["height"] * shape["width"] * shape["channels"]


def window_of(run: Run, window: Mapping[str, int]) -> dict[str, Any]:
    """A `struct window`."""
    return run.forms.window(
        (window["rows"], window["columns"]), (window["row_stride"], window["column_stride"]),
        (window["top"], window["left"]), (window["row_dilation"], window["column_dilation"]))


def _weights(run: Run, given: Mapping[str, Any], channels: int, taps: int, by_tap: bool) -> np.ndarray:
    """int8 [channels, taps], unpacked. `by_tap`: weights of 8 bits lie tap by tap."""
    bits = given["bits"]
    if given["size"] != taps:
        run.wrong("size of a channel's weights", given["size"], taps)
    if bits == 8:
        codes = run.array(given["codes"], np.int8)
        if given["offset"] is not None:
            run.wrong("offset of weights of 8 bits", given["offset"], 0)
        return codes.reshape((taps, channels)).T if by_tap else codes.reshape(channels, taps)
    if not 1 <= bits < 8 or not run.source.packed:
        run.wrong("bits of a weight", bits, "1 to 7, and PACKED_WEIGHTS 1")
    packed = run.array(given["codes"], np.uint8).reshape(channels, (taps * bits + 7) // 8)
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    if stream[:, taps * bits:].any():
        run.wrong("bits behind a channel's last weight", 1, 0)
    values = stream[:, :taps * bits].reshape(channels, taps, bits) @ (1 << np.arange(bits))
    return (values - run.array(given["offset"], np.int16).reshape(channels, 1)).astype(np.int8)


def _layer(run: Run, members: Mapping[str, Any], depthwise: bool) -> dict[str, Any]:
    """What all layers have; raises NotUnderstood or ValueError where sizes do not fit."""
    channels, window, zero_point = members["out"]["channels"], members["window"], members["zero_point"]
    group_in, group_out = (1, 1) if depthwise else (members["group_in"], members["group_out"])
    shape = (channels, window["rows"], window["columns"], group_in)
    weights = _weights(run, members["weights"], channels, int(np.prod(shape[1:])), depthwise)
    folded = run.array(members["bias"], np.int32)
    if len(folded) != channels or members["in"]["channels"] * group_out != channels * group_in:
        run.wrong("channels", f"{len(folded)} biases for {members['in']}, groups of {group_in} and {group_out}",
                  f"those of {members['out']}")
    bias = folded.astype(np.int64) + zero_point * weights.astype(np.int64).sum(1)
    fields = {"in": tuple(members["in"].values()), "out": tuple(members["out"].values()),
              **window_of(run, window), "group": (group_in, group_out), "zero_point": zero_point}
    return run.forms.layer(fields, weights.reshape(shape), bias)


def _scratch(run: Run, members: Mapping[str, Any], text: str, kind: str) -> None:
    """Weights of a tile as bytes, or of a map as halves of words and beside them a window, if it is ever copied."""
    weights, out, window = members["weights"], members["out"], members["window"]
    size, words = TILE * weights["size"], -(-weights["size"] // WORD) * WORD
    plain = size if weights["bits"] < 8 else 0
    if kind == "depthwise":
        run.scratch(text, 2 * size, plain)
    elif kind == "conv_logits" or out["height"] == out["width"] == 1:
        run.scratch(text, plain, plain)
    else:
        channels = members["in"]["channels"]
        copied = (members["zero_point"] or channels % WORD or members["group_in"] < channels
                  or window["column_dilation"] > 1)
        run.scratch(text, 2 * TILE * words + (words if copied else 0), plain)


def conv(run: Run, arguments: tuple[str, ...], kind: str = "conv") -> None:
    """A layer whose sums become codes."""
    layer, x, residual, y, scratch = arguments
    members = run.structure(layer, kind)
    term = run.read(x, size_of(members["in"]))
    channels, size = members["out"]["channels"], size_of(members["out"])
    fields = _layer(run, members, kind == "depthwise") | run.rescale(members["rescale"])
    fields |= run.forms.scaled("sum", run.factor(members["sum"], channels))
    other = None
    if residual != "0":
        other = run.read(residual, size)
        fields |= run.forms.scaled("residual", run.factor(members["residual"], channels))
        fields |= {"residual_zero": members["residual_zero"]}
    elif any(members["residual"].values()) or members["residual_zero"]:
        run.wrong("residual", members["residual"], "none, without a tensor")
    _scratch(run, members, scratch, kind)
    run.write_over(y, size, run.terms.operator("layer", x=term, residual=other, **fields), (1,) if other else ())


def depthwise(run: Run, arguments: tuple[str, ...]) -> None:
    """A layer of one filter for every channel."""
    conv(run, arguments, "depthwise")


def conv_logits(run: Run, arguments: tuple[str, ...]) -> None:
    """A layer whose sums leave."""
    layer, x, scale, y, scratch = arguments
    members = run.structure(layer, "conv")
    term = run.read(x, size_of(members["in"]))
    fields = _layer(run, members, False)
    if any((*members["rescale"].values(), *members["sum"].values(), *members["residual"].values())):
        run.wrong("rescale", members["rescale"], "none: sums leave")
    scales = run.array(scale, np.float32)
    if len(scales) != members["out"]["channels"]:
        run.wrong("scales", len(scales), members["out"]["channels"])
    _scratch(run, members, scratch, "conv_logits")
    term = run.terms.operator("layer", x=term, **fields, scale=run.terms.constant(scales))
    leave(run, y, term, np.arange(size_of(members["out"])), np.arange(size_of(members["out"])))


def leave(run: Run, y: str, term: Term, elements: np.ndarray, places: np.ndarray) -> None:
    """Put elements of a term among the logits, `places` behind where an argument points to."""
    memory, first = run.pointer(y)
    if memory is run.logits and len(places):
        order = np.argsort(places, kind="stable")
        run.put(memory, places[order] + first, run.forms.leaves(term, elements[order], places[order] + first))
    else:
        run.wrong("output", y, "logits")


def _pair(run: Run, arguments: tuple[str, ...], kind: str) -> tuple[Mapping[str, Any], dict[str, Any], str, int]:
    """Members, the fields that all kernels of two tensors have, the output and its size."""
    layer, *texts, y = arguments
    members = run.structure(layer, kind)
    out, terms = members["out"], []
    for name, text in zip("ab", texts, strict=True):
        pixel = members[f"{name}_pixel"]
        if pixel not in (0, out["channels"]):
            run.wrong(f"{name}_pixel", pixel, f"0 or {out['channels']}")
        terms.append(run.read(text, size_of(out) if pixel else out["channels"]))
    fields = {"a": terms[0], "b": terms[1], "out": tuple(out.values())}
    fields |= {name: members[name] for name in ("a_pixel", "b_pixel", "a_zero", "b_zero")}
    return members, fields, y, size_of(out)


def _write_pair(run: Run, kind: str, fields: dict[str, Any], y: str, size: int) -> None:
    # Over a pixel that is broadcast nothing may be written: it has other places than the output.
    run.write_over(y, size, run.terms.operator(kind, **fields), tuple(
        number for number, name in enumerate(("a_pixel", "b_pixel")) if fields[name]))


def sum_of_two(run: Run, arguments: tuple[str, ...]) -> None:
    """A sum of two tensors."""
    members, fields, y, size = _pair(run, arguments, "sum")
    channels = members["out"]["channels"]
    for name in "ab":
        fields |= run.forms.scaled(name, run.factor(members[f"{name}_term"], channels))
    _write_pair(run, "sum", fields | run.rescale(members["rescale"]), y, size)


def product(run: Run, arguments: tuple[str, ...]) -> None:
    """A product of two tensors."""
    members, fields, y, size = _pair(run, arguments, "product")
    fields |= run.factor(members["term"], members["out"]["channels"]) | run.rescale(members["rescale"])
    _write_pair(run, "product", fields, y, size)


def extreme(run: Run, arguments: tuple[str, ...]) -> None:
    """The larger or smaller of two codes."""
    members, fields, y, size = _pair(run, arguments, "extreme")
    for name in "ab":
        fields |= run.forms.scaled(name, run.rescale(members[f"{name}_rescale"]) | run.factor(
            members[f"{name}_term"], members["out"]["channels"]))
    _write_pair(run, "extreme", fields | {"largest": int(members["largest"] != 0)}, y, size)


LAYERS = {"conv": conv, "depthwise": depthwise, "conv_logits": conv_logits, "sum": sum_of_two, "product": product,
          "extreme": extreme}

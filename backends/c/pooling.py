"""Averages, maxima and sums over windows and axes, tables of rows, maps of another size: the calls of their kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isobit.backends.c.constants import braces
from isobit.backends.c.writer import Code, Writer, rescale_of, shape_of, window_of
from isobit.backends.fixed_point.operators.steps import ArgMax, Gather, Reduce, Resample
from isobit.backends.fixed_point.program import (
    AveragePool,
    Buffer,
    GlobalAverage,
    MaxPool,
    Step,
)


def _global_average(writer: Writer, step: GlobalAverage) -> Code:
    source = writer.inputs[0]
    height, width, _ = source.shape
    parameters = writer.structure("global_average", {
        "in": shape_of(source), "sum_of_zeros": str(source.zero_point * height * width),
        "rescale": rescale_of(step.rescale, step.low, step.high),
        "term": writer.term(step.rescale.terms[0], "multiplier"),
    })
    return writer.code(("global_average",), f"global_average({parameters}, {writer.x[0]}, {writer.y});")


def _average_pool(writer: Writer, step: AveragePool) -> Code:
    scales, choice = _scales(writer, "average_scale", step)
    parameters = writer.structure("average_pool", {
        "in": shape_of(writer.inputs[0]), "out": shape_of(writer.output), "window": window_of(step.window),
        "zero_point": str(writer.inputs[0].zero_point), "scales": scales, "choice": choice,
    })
    return writer.code(("window", "average_pool"), f"average_pool({parameters}, {writer.x[0]}, {writer.y});")


def _max_pool(writer: Writer, step: MaxPool) -> Code:
    parameters = writer.structure("max_pool", {
        "in": shape_of(writer.inputs[0]), "out": shape_of(writer.output), "window": window_of(step.window),
    })
    return writer.code(("window", "max_pool"), f"max_pool({parameters}, {writer.x[0]}, {writer.y});")


def _scales(writer: Writer, kind: str, step: AveragePool | Resample) -> tuple[str, str]:
    """The rescales by divisor, and which one each pixel takes."""
    divisors = sorted(step.rescales)
    scales = [
        braces(rescale_of(rescale, step.low, step.high), writer.term(rescale.terms[0], f"multiplier_by_{divisor}"))
        for divisor, rescale in sorted(step.rescales.items())
    ]
    name, body = f"scales_{writer.number}", ",\n".join(f"    {scale}" for scale in scales)
    writer.constants.append(f"static const struct {kind} {name}[{len(scales)}] = {{\n{body},\n}};")
    if len(divisors) == 1:
        return name, "0"
    return name, writer.array("choice", np.searchsorted(divisors, step.divisor).astype(np.uint8))


def _resample(writer: Writer, step: Resample) -> Code:
    scales, choice = _scales(writer, "resample_scale", step)
    fields = {
        "in": shape_of(writer.inputs[0]), "out": shape_of(writer.output),
        "zero_point": str(writer.inputs[0].zero_point),
    }
    for name, taps in (("row", step.rows), ("column", step.columns)):
        fields[f"first_{name}s"] = writer.array(f"first_{name}s", taps.first.astype(np.int32))
        fields[f"{name}_weights"] = writer.array(f"{name}_weights", taps.weights.astype(np.int32).reshape(-1))
        fields[f"{name}_taps"] = str(taps.weights.shape[1])
    parameters = writer.structure("resample", {**fields, "scales": scales, "choice": choice})
    return writer.code(("resample",), f"resample({parameters}, {writer.x[0]}, {writer.y});")


def _walk(source: Buffer, follows: tuple[int, int, int], out: tuple[int, ...], inner: list[int]) -> str:
    """Initializer of `struct walk`.

    Args:
        out: sizes of the output along its axes.
        inner: axes of the input over which each of its elements goes.
    """
    _, width, channels = source.shape
    steps = (width * channels, channels, 1)
    inner = [axis for axis in inner if source.shape[axis] > 1]
    sizes = [*[1] * (3 - len(inner)), *(source.shape[axis] for axis in inner)]
    walked = [*[0] * (3 - len(inner)), *(steps[axis] for axis in inner)]
    outer = [0 if axis < 0 else steps[axis] for axis in follows]
    return braces(braces(*out), braces(*outer), braces(*sizes), braces(*walked))


def _reduce(writer: Writer, step: Reduce) -> Code:
    source = writer.inputs[0]
    inner = [axis for axis in range(3) if axis not in step.follows]
    walk = _walk(source, step.follows, writer.output.shape, inner)
    if step.rescale is None:
        parameters = writer.structure("reduce_extreme", {"walk": walk, "flip": "0" if step.largest else "255"})
        return writer.code(("walk", "reduce_extreme"), f"reduce_extreme({parameters}, {writer.x[0]}, {writer.y});")
    count = int(np.prod([source.shape[axis] for axis in inner]))
    parameters = writer.structure("reduce_sum", {
        "walk": walk, "sum_of_zeros": str(source.zero_point * count),
        "rescale": rescale_of(step.rescale, step.low, step.high),
        "term": writer.term(step.rescale.terms[0], "multiplier"),
    })
    return writer.code(("walk", "reduce_sum"), f"reduce_sum({parameters}, {writer.x[0]}, {writer.y});")


def _arg_max(writer: Writer, step: ArgMax) -> Code:
    source = writer.inputs[0]
    out = [1 if axis < 0 else source.shape[axis] for axis in step.follows]
    walk = _walk(source, step.follows, tuple(out), [step.axis])
    parameters = writer.structure("arg_max", {"walk": walk, "flip": "0" if step.largest else "255"})
    return writer.code(("walk", "arg_max"), f"arg_max({parameters}, {writer.x[0]}, {writer.y});")


def _gather(writer: Writer, step: Gather) -> Code:
    rows, length = step.table.shape
    table = writer.array("table", step.table.astype(np.uint8).reshape(-1))
    count = writer.inputs[0].size
    return writer.code(("gather",), f"gather({table}, {rows}, {length}, {writer.x[0]}, {count}, {writer.y});")


POOLING: Mapping[type[Step], Callable[[Writer, Any], Code]] = {
    GlobalAverage: _global_average, AveragePool: _average_pool, MaxPool: _max_pool, Reduce: _reduce, ArgMax: _arg_max,
    Gather: _gather, Resample: _resample,
}

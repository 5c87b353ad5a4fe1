"""An ONNX file becomes a network: read, simplified, built node by node, its batch freed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.batch import free_batch
from isobit.pipeline.model.onnx.call import OPERATORS
from isobit.pipeline.model.onnx.ends import ended_at, wants_less
from isobit.pipeline.model.onnx.file import open_file, read_graph
from isobit.pipeline.model.onnx.graph import Graph, shape_text, with_shapes
from isobit.pipeline.model.onnx.network import OnnxNetwork, build_network
from isobit.pipeline.model.onnx.proof import OnnxOrigin
from isobit.pipeline.model.onnx.simplify import simplified

_SIZES = re.compile(r"\d{1,9}(?:[x,]\d{1,9})*", re.ASCII)


def is_onnx(path: Path) -> bool:
    """Whether the file is an ONNX model, by its suffix."""
    return path.suffix.lower() == ".onnx"


def load_onnx(
    path: Path, input_shapes: Sequence[str] = (), simplify: bool = True, outputs: Sequence[str] = ()
) -> tuple[OnnxNetwork, OnnxOrigin, tuple[str, ...]]:
    """The network in eval mode, the file that its answers are compared with, and what a user should know.

    Args:
        input_shapes: `name=1x3x240x320`, or without the name where there is one input; needed where a size after the
            batch is free, and wins over a size that the file declares.
        simplify: let onnxsim fold constants first.
        outputs: the outputs to keep, none for all; other values of the file as well, where the network is to end there.

    Raises:
        InputError: the file cannot be taken; names the node or the tensor.
    """
    proto = open_file(path)
    ends = tuple(outputs) if wants_less(proto, outputs, OPERATORS) else ()
    proto = ended_at(proto, ends) if ends else proto
    declared = read_graph(proto, path)
    given = parse_shapes(input_shapes, declared)
    graph = with_shapes(declared, given)
    shapes = {port.name: tuple(size or graph.batch for size in port.shape) for port in graph.inputs}
    notes = _notes(declared, graph)
    if simplify:
        proto, note = simplified(proto, shapes)
        read = read_graph(proto, path)
        graph = replace(read, inputs=graph.inputs)
        notes += [note] if note else []
    network = build_network(graph)
    free_batch(network)
    origin = OnnxOrigin(path, graph.inputs, graph.outputs, declared.fixed_batch, declared.inputs != graph.inputs,
                        ends)
    return network, origin, tuple(notes)


def parse_shapes(texts: Sequence[str], graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of inputs; raises InputError where a text is no shape."""
    found: dict[str, tuple[int, ...]] = {}
    names = [port.name for port in graph.inputs]
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not _SIZES.fullmatch(sizes) or 0 in (shape := tuple(map(int, re.split("[x,]", sizes)))):
            raise InputError(
                f"'{text}' is no shape", field="input_shape", allowed="name=1x3x240x320, the batch first",
            )
        if not name and len(graph.inputs) > 1:
            raise InputError(
                "the model has several inputs, and the shape does not say of which it is", field="input_shape",
                allowed=", ".join(f"{port.name}={sizes}" for port in graph.inputs),
            )
        found[name or names[0]] = shape
    return found


def _notes(declared: Graph, graph: Graph) -> list[str]:
    return [
        f"the input '{now.name}' is declared {shape_text(then.shape)} and compiled for {shape_text(now.shape)}"
        for then, now in zip(declared.inputs, graph.inputs, strict=True)
        if any(a is not None and a != b for a, b in zip(then.shape, now.shape, strict=True))
    ]

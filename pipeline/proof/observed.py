"""What samples look like, and which tensors of a calibrated network they leave constant: what calibration could see."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.graph.nodes import module_path, op_name, quantizer_of, source_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.images import Images
from isobit.pipeline.samples.network_inputs import Inputs, copied, part, sample_count, tensors

LOOKED_AT = 64  # samples whose values are looked at, spread over a set
FOLLOWED = 16  # of which the network is run on
POINTS = 2**20  # values from which quantiles are taken


@dataclass(frozen=True)
class InputLook:
    """Inputs of a network in numbers, from at most `LOOKED_AT` of them.

    Args:
        samples: looked at.
        low, high: 1 % and 99 % quantile.
        constant: share of samples without any contrast: every channel has one value.
        identical: all are the same sample; False of a single one.
    """

    samples: int
    mean: float
    std: float
    min: float
    max: float
    low: float
    high: float
    constant: float
    identical: bool

    def to_json(self) -> dict[str, Any]:
        """Rounded to six digits, which do not depend on the order of a sum."""
        return {key: float(f"{value:.6g}") if isinstance(value, float) else value
                for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Seen:
    """What calibration saw, beside what the artifact is judged on.

    Args:
        calibration, evaluation: their inputs; None where there are none.
        outside: share of the evaluation's values that lie outside all values of the calibration.
        tensors: how many quantized activations depend on the input.
        constant: (name, module path) of those that have one code for everything in calibration, though the float
            network's values vary in evaluation, where there is one; in execution order.
    """

    calibration: InputLook | None
    evaluation: InputLook | None = None
    outside: float = 0.0
    tensors: int = 0
    constant: tuple[tuple[str, str], ...] = ()


def spread(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly spread, the first among them."""
    return [index * count // min(count, most) for index in range(min(count, most))]


def seen_twice(calibration: Batches, evaluation: Batches | None) -> list[str]:
    """A sentence where the artifact is judged on samples that it was calibrated with."""
    if evaluation is None:
        return []
    told = _origins if all(os.path.exists(batches.path) for batches in (calibration, evaluation)) else _contents
    known = set(told(calibration))
    shared = sum(sample in known for sample in told(evaluation))
    return [f"{shared:,} of the {len(evaluation):,} evaluation samples are those of calibration: others may lose "
            "more than is measured here"] if shared else []


def _contents(batches: Batches) -> list[str]:
    """What each sample is, without its target: a hash of numbers in memory, the file of a picture."""
    if isinstance(batches.samples, Images):
        return _origins(batches)
    return [hashlib.sha256(batches.samples.content(index)[1]).hexdigest() for index in batches.order]


def _origins(batches: Batches) -> list[str]:
    """Where each sample is from: its file, or its place in the file that holds several."""
    samples = batches.samples
    root, names = (samples.root, samples.files) if isinstance(samples, Images) else (batches.path, range(len(samples)))
    place = os.path.realpath(root)
    return [f"{place}/{names[index]}" for index in batches.order]


def look(graph: fx.GraphModule, calibration: Inputs, evaluation: Inputs | None) -> Seen:
    """Compare what calibration saw with what the artifact is judged on.

    Args:
        graph: calibrated, on the CPU.
        calibration: [N, ...] of every input; N may be 0. In numbers the first input of floats is told.
        evaluation: the same, or None where the calibration set takes its place.
    """
    if not sample_count(calibration):
        return Seen(None, None if evaluation is None else look_at(_numbers(evaluation)))
    calibration = part(calibration, spread(sample_count(calibration), LOOKED_AT))
    known, quantized = look_at(_numbers(calibration)), _tensors(graph)
    constant = _constant(graph, quantized, calibration)
    outside, other = 0.0, None
    if evaluation is not None:
        other, values = look_at(_numbers(evaluation)), _numbers(evaluation)
        margin = 0.05 * (known.max - known.min)
        beyond = (values < known.min - margin) | (values > known.max + margin)
        outside = float(beyond.float().mean())
        if constant:  # of the float network: the grids of bad calibration would make everything constant here as well
            constant -= _constant(graph, constant, evaluation, quantized=False)
    named = tuple((node.name, module_path(node)) for node in quantized if node in constant)
    return Seen(known, other, outside, len(quantized), named)


def _numbers(inputs: Inputs) -> Tensor:
    """The first input of floats; the first of all where there is none."""
    found = tensors(inputs)
    return next((values for values in found if values.is_floating_point()), found[0])


def look_at(images: Tensor) -> InputLook:
    """The numbers of images [N, C, ...], N >= 1."""
    values = images.flatten()
    points = values[:: -(-len(values) // POINTS)].sort().values
    first, last = (float(points[round(share * (len(points) - 1))]) for share in (0.01, 0.99))
    places = images.flatten(2) if images.dim() > 2 else images[:, None]
    flat = (places.amax(-1) == places.amin(-1)).all(1) if places.shape[-1] > 1 else torch.zeros(len(images)).bool()
    return InputLook(
        len(images), float(images.double().mean()), float(images.double().std(correction=0)), float(images.min()),
        float(images.max()), first, last, float(flat.float().mean()),
        len(images) > 1 and bool((images == images[:1]).all()),
    )


def _tensors(graph: fx.GraphModule) -> list[fx.Node]:
    """Quantizers of activations whose values depend on the input, not on its batch size alone; in execution order."""
    reached: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or (op_name(node) != "sym_size" and reached.intersection(node.all_input_nodes)):
            reached.add(node)
    return [tensor.node for tensor in quantized_tensors(graph) if tensor.node in reached]


def _constant(
    graph: fx.GraphModule, nodes: Iterable[fx.Node], images: Inputs, *, quantized: bool = True
) -> set[fx.Node]:
    """Those that have the same value everywhere, for all of these images."""
    ends = _Ends(graph, set(nodes), quantized)
    for index in spread(sample_count(images), FOLLOWED):
        with torch.no_grad():
            ends.run(*tensors(copied(part(images, slice(index, index + 1)))))
    return {node for node, (low, high) in ends.ends.items() if low == high}


class _Ends(fx.Interpreter):
    """Least and largest value of each of the nodes, over all runs; `quantized=False` skips the quantizers."""

    def __init__(self, graph: fx.GraphModule, nodes: set[fx.Node], quantized: bool) -> None:
        super().__init__(graph)
        self.graph_module, self.nodes, self.quantized = graph, nodes, quantized
        self.ends: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        skipped = not self.quantized and quantizer_of(self.graph_module, n) is not None
        value = self.env[source_of(n)] if skipped else super().run_node(n)
        if n in self.nodes:
            low, high = (float(end) for end in torch.aminmax(value))
            known = self.ends.get(n, (low, high))
            self.ends[n] = min(low, known[0]), max(high, known[1])
        return value

"""A walk through the float network that stops at chosen places: what the answers become when a value changes there.

A batch of samples at a time passes through the network once; at each place the rest of the network runs as often as the
caller asks. Memory holds the live values of one batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isobit.calib.reconstruction.boundary import Boundary, batches, segments
from isobit.calib.reconstruction.predictions import FloatPredictions, answers_loss
from isobit.pipeline.graph.ends.predictions import Prediction, find_predictions
from isobit.pipeline.graph.ports import output_nodes
from isobit.pipeline.graph.subgraphs import SubGraph, extract, float_network
from isobit.pipeline.samples.batching import BUDGET, evaluation_batch
from isobit.pipeline.samples.network_inputs import Inputs, on_device, part, run_graph, sample_count


@dataclass(frozen=True)
class Visit:
    """One batch before one place of the float network.

    Args:
        place: which of the places, counted from 0.
        rows: the batch, of all samples.
        share: of all samples that are in it.
        values: what the place reads, by the names of the nodes.
        answered: the float network's outputs and predictions for the batch, by the names of the nodes.
        predictions: which of them are compared.
        scale: what losses are counted in, the same for all batches.
        boundary: every value that is alive before the place.
        node: the operator at the place, with the quantizers of its constants.
        rest: what lies after it; None where nothing does.
    """

    place: int
    rows: slice
    share: float
    values: Mapping[str, Tensor]
    answered: Mapping[str, Tensor]
    predictions: tuple[Prediction, ...]
    scale: FloatPredictions
    boundary: Boundary
    node: SubGraph
    rest: SubGraph | None

    def run(self, changed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What the place gives, as the quantizers stand; with other values than the network's where some are given."""
        read = {**self.values, **(changed or {})}
        given = self.node(*(read[name] for name in self.node.input_names))
        return dict(zip(self.node.output_names, given, strict=True))

    def answers(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs and predictions of the network, by node, that depend on what the place gives."""
        known = {name: value for name, value in given.items() if name in self.answered}
        if self.rest is None:
            return known
        inputs = [given[name] if name in given else self.boundary.teacher[name].rows(slice(None))
                  for name in self.rest.input_names]
        found = dict(zip(self.rest.output_names, self.rest(*inputs), strict=True))
        return known | {name: value for name, value in found.items() if name in self.answered}

    def loss(self, changed: Mapping[str, Tensor]) -> float:
        """How far changed answers are from the float network's, times the batch's share of all samples."""
        return float(answers_loss(changed, self.answered, self.predictions, self.scale)) * self.share


@torch.no_grad()
def visits(
    graph: fx.GraphModule, places: Sequence[str], images: Inputs, device: torch.device, memory: float = BUDGET
) -> Iterator[Visit]:
    """Every batch at every place, batch by batch, in execution order.

    Args:
        graph: on `device`, every quantizer OFF whenever the walk goes on.
        places: names of nodes, in execution order, none of them constant.
        images: [N, ...] of every input.
        memory: bytes that a batch keeps to.
    """
    path = segments(graph, [[name] for name in places])
    predictions = find_predictions(graph)
    answers = {*(node.name for node in output_nodes(graph)), *(each.node for each in predictions)}
    network = float_network(graph, answers)
    rest: dict[int, SubGraph | None] = {}
    for place, segment in enumerate(path):
        if segment.unit is not None:
            later = list(itertools.chain.from_iterable(after.nodes for after in path[place + 1:]))
            rest[segment.unit] = extract(graph, later, answers=answers) if later else None
    size, count = evaluation_batch(graph, memory), sample_count(images)
    scale = _scale(network, predictions, images, device, size, memory)
    for rows in batches(count, size):
        batch = part(images, rows)
        boundary = Boundary(graph, batch, device, size)
        answered = dict(zip(network.output_names, run_graph(network, on_device(batch, device)), strict=True))
        for segment in path:
            if segment.unit is not None:
                values = {name: boundary.teacher[name].rows(slice(None)) for name in segment.inputs}
                yield Visit(segment.unit, rows, sample_count(batch) / count, values, answered, predictions,
                            scale, boundary, segment.student, rest[segment.unit])
            boundary.run_teacher(segment)
            boundary.follow_teacher(segment)
            boundary.cross(segment)


def _scale(
    network: SubGraph, predictions: tuple[Prediction, ...], images: Inputs, device: torch.device, size: int,
    memory: float,
) -> FloatPredictions:
    """The float network's predictions for all images; where they do not fit into memory, for as many as do."""
    names, found, kept = {each.node for each in predictions}, dict[str, list[Tensor]](), 0
    for rows in batches(sample_count(images), size):
        values = dict(zip(network.output_names, run_graph(network, on_device(part(images, rows), device)), strict=True))
        for name in names:
            found.setdefault(name, []).append(values[name])
            kept += values[name].numel() * values[name].element_size()
        # Classes and scores of a whole sample are on one scale whatever their values.
        alike = all(each.kind != "numbers" and values[each.node].dim() <= 2 for each in predictions)
        if alike or kept > memory / 4:
            break
    return FloatPredictions(predictions, {name: torch.cat(of).double() for name, of in found.items()})

"""The live values between units, for the quantized prefix and for the teacher; a prefix is never run twice.

A value that a quantizer produced is stored as its codes (uint8, exact); anything else as float32. Images lie in
memory channels last, so that a gathered batch is in the layout which convolution kernels want. A value is dropped
after its last reader.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isobit.calib.reconstruction.losses import reconstruction_loss
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.nodes import is_constant, nodes_by_name, quantizer_of, where
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.graph.subgraphs import SubGraph, extract, float_network
from isobit.pipeline.quant.quantizer import Phase, Quantizer
from isobit.pipeline.samples.batching import LARGEST_BATCH
from isobit.pipeline.samples.network_inputs import Inputs, run_graph, sample_count, tensors

EVALUATION_BATCH = LARGEST_BATCH


class CachedValue:
    """One boundary value of all images: codes of `quantizer`, or float32 where that is None."""

    def __init__(self, count: int, device: torch.device, quantizer: Quantizer | None = None) -> None:
        self._count, self._device, self._quantizer = count, device, quantizer
        self._data: Tensor | None = None
        self._filled = 0
        if quantizer is not None:
            self._scale = quantizer.scale.detach().clone()
            self._shift = (quantizer.spec.grid.qmin - quantizer.zero_point).float()

    @property
    def nbytes(self) -> int:
        return 0 if self._data is None else self._data.nbytes

    def append(self, value: Tensor) -> None:
        """Add the next images' values [n, ...]."""
        if self._quantizer is not None:
            value = (self._quantizer.quantize(value) - self._quantizer.spec.grid.qmin).to(torch.uint8)
        value = _rows_first(value)
        if self._data is None:
            self._data = torch.empty(self._count, *value.shape[1:], dtype=value.dtype, device=self._device)
        self._data[self._filled : self._filled + value.shape[0]] = value
        self._filled += value.shape[0]

    def rows(self, index: Tensor | slice) -> Tensor:
        """Float values of the images `index`; a tensor of its own where `index` is a tensor."""
        if self._data is None:
            raise RuntimeError("nothing was stored")
        part = self._data[index] if isinstance(index, slice) else self._data.index_select(0, index)
        if self._quantizer is not None:
            part = part.float().add_(self._shift).mul_(self._scale)
        return part.permute(0, 3, 1, 2) if part.dim() == 4 else part


def _rows_first(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.dim() == 4 else value


def batches(count: int, size: int = EVALUATION_BATCH) -> Iterator[slice]:
    """Slices that walk over `count` images."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@dataclass(frozen=True)
class Segment:
    """A run of nodes with its sub-graphs: a unit, or nodes that belong to none (`unit` is None).

    Args:
        nodes: names of its nodes.
        student: shares parameters and quantizers with the graph.
        teacher: the same nodes without quantizers.
        forget: names of boundary values that nobody reads afterwards.
    """

    unit: int | None
    nodes: tuple[str, ...]
    student: SubGraph
    teacher: SubGraph
    forget: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.student.input_names

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.student.output_names


def _in_order(graph: fx.GraphModule, units: Sequence[Sequence[str]]) -> Iterator[tuple[int | None, list[str]]]:
    """Units, and nodes of none by themselves, each after what it reads, else in execution order.

    A unit may read what is computed between two of its own nodes: that comes before it.
    """
    owner = {name: index for index, names in enumerate(units) for name in names}
    groups: dict[int | str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if not (node.op in ("placeholder", "output") or is_constant(node)):
            unit = owner.get(node.name)
            groups.setdefault(node.name if unit is None else unit, []).append(node)
    group_of = {node: key for key, nodes in groups.items() for node in nodes}
    reads = {key: {group_of[source] for node in nodes for source in node.all_input_nodes if source in group_of} - {key}
             for key, nodes in groups.items()}
    while reads:
        ready = next((key for key, sources in reads.items() if not sources & reads.keys()), None)
        if ready is None:
            raise RuntimeError(f"units that read each other: {[key for key in reads if isinstance(key, int)]}")
        del reads[ready]
        yield (ready, []) if isinstance(ready, int) else (None, [ready])


def segments(graph: fx.GraphModule, units: Sequence[Sequence[str]]) -> list[Segment]:
    """The whole graph in execution order, cut into units (given by their node names) and what lies between them."""
    runs: list[tuple[int | None, list[str]]] = []
    for unit, names in _in_order(graph, units):
        if unit is not None:
            runs.append((unit, list(units[unit])))
        elif runs and runs[-1][0] is None:
            runs[-1][1].extend(names)
        else:
            runs.append((None, names))
    pairs = [(extract(graph, names), extract(graph, names, quantized=False)) for _, names in runs]
    last = {name: step for step, (student, _) in enumerate(pairs) for name in student.input_names}
    return [
        Segment(unit, tuple(names), *pair, tuple(name for name, final in last.items() if final == step))
        for step, ((unit, names), pair) in enumerate(zip(runs, pairs, strict=True))
    ]


@torch.no_grad()
def check_rows(
    graph: fx.GraphModule, names: Collection[str], sample: Inputs, learner: str, field: str, hint: str
) -> None:
    """Refuse values that have not one row for each sample: samples could not be drawn from them one by one.

    Args:
        names: nodes whose values are kept by sample.
        sample: one, on the graph's device.
        learner: who draws them, for the message.
        field, hint: of the recipe, and what to do without it.

    Raises:
        RecipeError: the first such value.
    """
    nodes, network = nodes_by_name(graph), float_network(graph, names)
    for name, value in zip(network.output_names, run_graph(network, sample), strict=True):
        if not samples_of(nodes[name]).is_first or value.shape[:1] != (sample_count(sample),):
            raise RecipeError(
                f"{learner} draws samples one by one, and in the value '{name}' they do not lie one after the other on "
                "the first axis", where=where(nodes[name]), field=field,
                hint=f"{hint}, or let the model keep the batch on the first axis.",
            )


class Boundary:
    """Values at the present cut of the graph.

    Attributes:
        student, teacher: node name -> value in the quantized prefix and in the float network.
        raw: names that are a network input itself or its quantizer: never mixed with the teacher's.
        batch: images of one forward pass.
    """

    def __init__(
        self, graph: fx.GraphModule, images: Inputs, device: torch.device, batch: int = EVALUATION_BATCH
    ) -> None:
        self.graph, self.device, self.count, self.batch = graph, device, sample_count(images), batch
        stored: dict[str, CachedValue] = {}
        for node, values in zip(input_nodes(graph), tensors(images), strict=True):
            stored[node.name] = self.empty(None)
            for part in batches(self.count, self.batch):
                stored[node.name].append(values[part].to(device))
        self.student, self.teacher = dict(stored), dict(stored)
        self.raw = set(stored)

    def empty(self, quantizer: Quantizer | None) -> CachedValue:
        return CachedValue(self.count, self.device, quantizer)

    @torch.no_grad()
    def run_teacher(self, segment: Segment) -> None:
        """Compute the teacher's outputs of `segment`: the targets now, the next unit's float input later."""
        stored = {name: self.empty(None) for name in segment.outputs}
        for part in batches(self.count, self.batch):
            outputs = segment.teacher(*(self.teacher[name].rows(part) for name in segment.inputs))
            for name, value in zip(segment.outputs, outputs, strict=True):
                stored[name].append(value)
        self.teacher.update(stored)

    @torch.no_grad()
    def run_student(self, segment: Segment, keep: bool = False, exponent: float = 2.0) -> float:
        """Run the student as its quantizers stand.

        Args:
            keep: store the outputs as the quantized prefix of what follows.

        Returns:
            `losses.reconstruction_loss` over all images, summed over outputs.
        """
        stored = {name: self.empty(self._quantizer(name)) for name in segment.outputs} if keep else {}
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in batches(self.count, self.batch):
            outputs = segment.student(*(self.student[name].rows(part) for name in segment.inputs))
            for name, value in zip(segment.outputs, outputs, strict=True):
                total += reconstruction_loss(value, self.teacher[name].rows(part), exponent).double() * value.shape[0]
                if keep:
                    stored[name].append(value)
        self.student.update(stored)
        return float(total) / self.count

    def follow_teacher(self, segment: Segment) -> None:
        """What follows starts from the float network's values, not from the quantized prefix's."""
        self.student.update({name: self.teacher[name] for name in segment.outputs})

    def _quantizer(self, name: str) -> Quantizer | None:
        """The quantizer that makes the value `name`, as far as it does anything yet."""
        quantizer = quantizer_of(self.graph, nodes_by_name(self.graph)[name])
        return quantizer if quantizer is not None and quantizer.phase is Phase.ON else None

    def cross(self, segment: Segment) -> None:
        """Leave `segment` behind: note what is still the raw input, drop what nobody reads any more."""
        if segment.unit is None and set(segment.inputs) <= self.raw:
            self.raw.update(segment.outputs)
        for name in segment.forget:
            del self.student[name], self.teacher[name]

"""The typed chain: captured -> quantized -> calibrated -> reference; a stage function takes one and yields the next."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.ends.cut import Cut, find_cut
from isobit.pipeline.graph.nodes import tensor_shape
from isobit.pipeline.graph.ports import input_names, input_nodes, output_names, output_nodes
from isobit.pipeline.samples.network_inputs import Inputs, in_floats, tensors
from isobit.pipeline.shapes import known_sizes
from isobit.pipeline.target import Target

if TYPE_CHECKING:
    from isobit.pipeline.recipe.schema import Recipe


@dataclass(frozen=True)
class Captured:
    """The float model as one ATen graph with batch norm intact: the teacher of every later stage.

    Args:
        graph: ATen operators as traced (in-place ones included); inputs and outputs [N, ...] with their names
            (`pipeline.graph.ports`).
        name, sha256: of the model file.
        cut: names of places at which integers end; none where they are found (`pipeline.graph.ends.decoding`).
        without: names of the outputs of the model that are not there, because the graph ends at the cut.
    """

    graph: fx.GraphModule
    name: str = "model"
    sha256: str = ""
    cut: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one sample, by the input's name: (C, H, W) of images, (T,) of tokens."""
        nodes = input_nodes(self.graph)
        sizes = [known_sizes(tensor_shape(node)[1:]) for node in nodes]
        return dict(zip(input_names(self.graph), sizes, strict=True))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W), of the first input."""
        return next(iter(self.input_shapes.values()))

    @property
    def output_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """[N, classes, ...] by the output's name; None for N."""
        return dict(zip(output_names(self.graph), map(tensor_shape, output_nodes(self.graph)), strict=True))

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """[N, classes, ...] of the first output; None for N."""
        return next(iter(self.output_shapes.values()))

    @property
    def num_classes(self) -> int:
        """Width of the first output; 1 where that is one number a sample."""
        shape = self.output_shape
        return 1 if len(shape) < 2 or shape[1] is None else shape[1]


JOINT = " + "  # between the names of units that are reconstructed as one


@dataclass(frozen=True)
class Unit:
    """What one reconstruction run optimises: a contiguous run of graph nodes, hence convex.

    Args:
        name: module path of the block, or name of the layer (`pipeline.graph.layers`).
        kind: `block` or `layer`.
        why: how the partition found it.
        nodes: names of its nodes in the quantized graph, quantizers included, in execution order.
    """

    name: str
    kind: str
    why: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Quantized:
    """The graph with its quantizers (all OFF); topology is final from here.

    Args:
        graph: canonical operators, batch norm folded, `Quantizer` nodes in place.
        teacher: the same float graph before quantizers were inserted (batch norm folded), for targets and comparisons.
        captured: the un-folded original.
        units: in execution order; every operator node belongs to exactly one, except input quantizers.
    """

    graph: fx.GraphModule
    teacher: fx.GraphModule
    captured: Captured
    units: tuple[Unit, ...]
    recipe: Recipe
    target: Target

    @cached_property
    def calls(self) -> Calls:
        """The graph for those who only read it."""
        return Calls(self.graph)

    @cached_property
    def cut(self) -> Cut | None:
        """Where integers end; None where nothing decodes what they give."""
        return find_cut(self.graph, self.captured.without)


@dataclass(frozen=True)
class UnitLog:
    """What happened to one unit: losses on the calibration set, rounding left undecided, time.

    Args:
        kept_nearest: the guard found the hardened unit worse than nearest rounding and kept nearest.
        stage: which of a method's passes over the network; empty where there is one.
    """

    name: str
    steps: int
    loss_nearest: float
    loss_soft: float
    loss_hard: float
    undecided: float
    flipped: float
    seconds: float
    kept_nearest: bool = False
    stage: str = ""

    @property
    def title(self) -> str:
        """Name and, where there are several, pass."""
        return f"{self.name} ({self.stage})" if self.stage else self.name


@dataclass(frozen=True)
class EpochLog:
    """What happened in one epoch of a method that trains the whole network.

    Args:
        number: from 1.
        steps: of this epoch.
        measured: losses and shares by name, in the order in which they are shown.
    """

    number: int
    steps: int
    measured: dict[str, float]
    seconds: float


@dataclass
class Findings:
    """What a method has to tell beside the numbers that it chose; filled while it runs.

    Args:
        epochs: of methods that train the whole network.
        notes: sentences for the report and the terminal.
        images: float32 [N, C, H, W] that no camera took: what a generator made, for people to look at.
    """

    epochs: list[EpochLog] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: Tensor | None = None


@dataclass(frozen=True)
class Calibrated:
    """Same graph; numbers chosen, weight codes hardened, nothing frozen yet."""

    graph: fx.GraphModule
    quantized: Quantized
    log: tuple[UnitLog, ...] = field(default=())
    findings: Findings = field(default_factory=Findings)


@dataclass(frozen=True)
class Reference:
    """The frozen, target-legal graph: by definition the truth for parity."""

    graph: fx.GraphModule
    quantized: Quantized

    def evaluate(self, x: Inputs, dtype: torch.dtype = torch.float64) -> Inputs:
        """Outputs [N, ...] of the fake-quantized graph; codes in float64 do not depend on the order of summation."""
        graph = copy.deepcopy(self.graph).to(dtype)
        with torch.no_grad():
            return graph(*tensors(in_floats(x, dtype)))

"""Networks annotated without an image, and what was decided for them in short."""

from __future__ import annotations

from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare
from isobit.passes.annotate import annotate
from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets

GENERIC = TARGETS["generic"]


class Call(nn.Module):
    """A function of three convolutions (3 channels) and a classifier."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.function(self, x)


def plan(model, *settings, target=GENERIC, recipe="qdrop_w4a4", overrides=None):
    """The annotated float graph of a net's name, a module or a function."""
    if isinstance(model, str):
        captured, _ = nets.captured_net(model)
    else:
        captured, _ = nets.captured_of(model if isinstance(model, nn.Module) else Call(model), 3, 6, 6)
    chosen = load_recipe(recipe, settings)
    if overrides is not None:
        chosen = chosen.model_copy(update={"overrides": tuple(overrides), "policy": "none"})
    graph = prepare(captured.graph)
    annotate(graph, chosen, target)
    return graph


def annotations(graph):
    return {node: annotation_of(node) for node in graph.graph.nodes if annotation_of(node) is not None}


def weights(graph):
    """(bits, signed, limit) of the weights, in execution order."""
    specs = [annotation.weight for annotation in annotations(graph).values() if annotation.weight is not None]
    return [(spec.grid.bits, spec.grid.signed, spec.grid.limit) for spec in specs]


def outputs(graph):
    """(operator or `placeholder`, bits, signed, symmetric) of the activation grids, in execution order."""
    found = [(node, a.output) for node, a in annotations(graph).items() if a.output is not None]
    return [(op_name(node) or node.op, s.grid.bits, s.grid.signed, s.symmetric) for node, s in found]


def out(function, *settings, **options):
    return outputs(plan(function, *settings, **options))

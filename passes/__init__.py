"""Passes edit the graph and never see data.

The order is data: each line says why the pass stands where it stands. `quantize` and `legalize` are the two stage
functions; they copy the graph they are about to change, so every earlier stage stays runnable.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import fx

from isobit.passes.annotate import annotate
from isobit.passes.canonicalize import canonicalize
from isobit.passes.decompose import decompose
from isobit.passes.fold_affine import fold_affine
from isobit.passes.fold_batchnorm import fold_batchnorm
from isobit.passes.forms.end_at_cut import end_at_cut
from isobit.passes.forms.lines_as_maps import lines_as_maps
from isobit.passes.forms.sizes_at_hand import sizes_at_hand
from isobit.passes.forms.split_transposed import split_transposed
from isobit.passes.freeze import freeze
from isobit.passes.insert_quantizers import insert_quantizers
from isobit.passes.mark_samples import mark_samples
from isobit.passes.mark_units import mark_units
from isobit.passes.project_grids import project_grids
from isobit.passes.recognise import recognise
from isobit.passes.share_grids import share_grids
from isobit.passes.tie_biases import tie_biases
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.dialect import verify
from isobit.pipeline.graph.ends.decoding import mark_decoding
from isobit.pipeline.graph.sums import check_sums
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Calibrated, Captured, Quantized, Reference, Unit
from isobit.pipeline.target import Target

PREPARE = (
    canonicalize,    # first: every later pass knows one name and one form per operator
    recognise,       # before anything is folded: a shift that goes into a layer is missing in its hard-swish
    lines_as_maps,   # before layers are looked for: those of one axis become such as kernels know
    split_transposed,  # before batch norms: one after a transposed convolution moves before its channels are spread
    fold_affine,     # before batch norms: a factor between a layer and its norm would hide the one from the other
    fold_batchnorm,  # before decompose: it looks for a batch norm right after its layer
    fold_affine,     # factors after batch norms
    decompose,       # needs the literal shapes that canonicalize wrote
    canonicalize,    # decompose may leave a slice or reshape in a non-canonical form
    sizes_at_hand,   # last: what is made of a size stands where it is read
)


def prepare(graph: fx.GraphModule, cut: Collection[str] = ()) -> fx.GraphModule:
    """A copy of `graph` in canonical form, batch norm folded, what decodes and units marked; float.

    Args:
        cut: where integers end; see `pipeline.graph.ends.decoding.mark_decoding`.
    """
    graph = copy.deepcopy(graph)
    for graph_pass in PREPARE:
        graph_pass(graph)
    mark_decoding(graph, cut)  # on canonical operators, no batch norm between a layer and its activation
    mark_units(graph)  # on the float graph, where a block's operators are still adjacent; meta travels from here
    verify(graph, "prepared")
    return graph


def quantize(captured: Captured, recipe: Recipe, target: Target) -> Quantized:
    """PREPARE and QUANTIZE: the graph with every quantizer in place and OFF; topology is final from here.

    Raises:
        TargetError: the target cannot honour the recipe on this graph; a sum that it cannot hold.
        RecipeError: an override selects nothing, or the recipe names an optional pass (there is none yet).
    """
    if recipe.passes:
        raise RecipeError(
            f"there is no optional pass '{recipe.passes[0]}'", where=f"recipe '{recipe.name}'", allowed="passes: []",
            field="recipe.passes",
        )
    teacher = prepare(captured.graph, captured.cut)
    graph = copy.deepcopy(teacher)
    annotate(graph, recipe, target)  # decides, from structure alone
    insert_quantizers(graph)         # does what annotate decided
    share_grids(graph, target)       # after insertion: sharing is about modules
    tie_biases(graph, target)        # last: reads which quantizers ended up before and on the layer
    mark_samples(graph)              # only tells where values lie; every quantizer is there and off
    verify(graph, "quantized")
    check_sums(graph, target)        # as far as weights tell; again when ranges are known, and of the final codes
    return Quantized(graph, teacher, captured, _units(graph), recipe, target)


def without_decoding(captured: Captured) -> Captured:
    """The network that ends where its integers end; see `passes.forms.end_at_cut`."""
    return end_at_cut(captured, prepare(captured.graph, captured.cut))


def legalize(calibrated: Calibrated) -> tuple[Reference, list[str]]:
    """Project what the target cannot store, freeze; return the reference and a line per projected tensor.

    Raises:
        TargetError: a tensor that has no legal form, or a sum that the target cannot hold.
    """
    graph = copy.deepcopy(calibrated.graph).cpu()
    lines = project_grids(graph, calibrated.quantized.target)  # before freeze: biases follow the projected scales
    freeze(graph)
    verify(graph, "frozen")
    check_sums(graph, calibrated.quantized.target)
    return Reference(graph, calibrated.quantized), lines


def _units(graph: fx.GraphModule) -> tuple[Unit, ...]:
    described = graph.meta["units"]
    members: list[list[str]] = [[] for _ in described]
    for node in graph.graph.nodes:
        if node.op in ("call_function", "call_module") and "unit" in node.meta:
            members[node.meta["unit"]].append(node.name)
    return tuple(
        Unit(name, kind, why, tuple(nodes)) for (name, kind, why), nodes in zip(described, members, strict=True)
    )

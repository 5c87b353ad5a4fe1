"""The placement table: what runs in integers, at how many bits, and why not where it does not; one row per region."""

from __future__ import annotations

from torch import fx

from isobit.backends.regions import find_regions
from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, computes_size, op_name, quantizer_of, source_line
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import Target


def placement_table(graph: fx.GraphModule, target: Target) -> list[PlacementRow]:
    """Rows in execution order for a quantized (or frozen) graph."""
    rows = []
    for region in find_regions(graph, target):
        if computes_size(region.anchor):
            continue
        quantizer = quantizer_of(graph, region.quantizer) if region.quantizer is not None else None
        annotation = annotation_of(region.tail if region.kind != "input" else region.inputs[0])
        notes = [region.reason, annotation.note if annotation is not None else "", _limit_note(graph, region.anchor)]
        operator = "quantize" if region.kind == "input" else op_name(region.anchor)
        rows.append(PlacementRow(
            name=region.value.name,
            module=region.module,
            op="+".join([operator, *map(op_name, region.absorbed)]),
            runs="layout" if region.is_layout else "integer" if region.integer else "float",
            weight=_weight_bits(graph, region.anchor),
            output=quantizer.spec.bits if quantizer is not None else None,
            grid=_grid_kind(quantizer),
            note="; ".join(note for note in notes if note),
            source=source_line(region.anchor),
        ))
    return rows


def _weight_quantizer(graph: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    if op_name(node) not in WEIGHTED:
        return None
    return quantizer_of(graph, bound_args(node)["weight"])


def _weight_bits(graph: fx.GraphModule, node: fx.Node) -> str | None:
    quantizer = _weight_quantizer(graph, node)
    if quantizer is None:
        return None
    return f"{quantizer.spec.bits}{quantizer.spec.grid.suffix}{'' if quantizer.spec.symmetric else ' asym'}"


def _limit_note(graph: fx.GraphModule, node: fx.Node) -> str:
    quantizer = _weight_quantizer(graph, node)
    limit = quantizer.spec.grid.limit if quantizer is not None else None
    return f"weight codes keep to +-{limit}" if limit is not None else ""


def _grid_kind(quantizer: Quantizer | None) -> str | None:
    return None if quantizer is None else quantizer.spec.grid.describe(quantizer.spec.symmetric)

"""The placement table: what runs in integers, at how many bits, and why not where it does not; one row per region."""

from __future__ import annotations

from torch import fx

from isobit.backends.regions import find_regions
from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import source_line
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import Target


def placement_table(graph: fx.GraphModule, target: Target) -> list[PlacementRow]:
    """Rows in execution order for a quantized (or frozen) graph."""
    rows, calls = [], Calls(graph)
    for region in find_regions(graph, target):
        anchor, value = calls[region.anchor], calls[region.value]
        if anchor.is_size:
            continue
        quantizer = value.quantizer
        weight = anchor.args["weight"].quantizer if anchor.op in WEIGHTED else None
        annotation = annotation_of(region.tail if region.kind != "input" else region.inputs[0])
        notes = [region.reason, annotation.note if annotation is not None else "", _limit_note(weight)]
        operators = [anchor.op or "quantize", *(calls[node].op for node in region.absorbed)]
        rows.append(PlacementRow(
            name=value.name,
            module=region.module,
            op="+".join(operators),
            runs="layout" if region.is_layout else "integer" if region.integer else "float",
            weight=None if weight is None else _weight_bits(weight),
            output=None if quantizer is None else quantizer.spec.bits,
            grid=None if quantizer is None else quantizer.spec.grid.describe(quantizer.spec.symmetric),
            note="; ".join(note for note in notes if note),
            source=source_line(region.anchor),
        ))
    return rows


def _weight_bits(weight: Quantizer) -> str:
    return f"{weight.spec.bits}{weight.spec.grid.suffix}{'' if weight.spec.symmetric else ' asym'}"


def _limit_note(weight: Quantizer | None) -> str:
    limit = None if weight is None else weight.spec.grid.limit
    return "" if limit is None else f"weight codes keep to +-{limit}"

"""The placement table: what runs in integers, at how many bits, and why not where it does not; one row per region."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import fx

from backends.regions import find_regions
from pipeline.dialect import WEIGHTED
from pipeline.graph import bound_args, op_name, quantizer_of, source_line
from pipeline.target import Target


@dataclass(frozen=True)
class PlacementRow:
    """One region.

    Args:
        name: node name of its value, also the tensor's name in the artifact.
        op: operator with its fused activations, `conv2d+relu`.
        runs: `integer`, `layout` (codes move unchanged) or `float`.
        weight, output: bits, None where there is none; of levels that are not uniform the recipe's, an average.
        grid: `unsigned`, `signed`, `asymmetric` or `nested` output.
        note: the reason of a decision that is not simply the recipe's rule.
        source: `file.py:58` of the operator.
    """

    name: str
    module: str
    op: str
    runs: str
    weight: str | None
    output: int | None
    grid: str | None
    note: str
    source: str

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def placement_table(graph: fx.GraphModule, target: Target) -> list[PlacementRow]:
    """Rows in execution order for a quantized (or frozen) graph."""
    rows = []
    for region in find_regions(graph, target):
        quantizer = quantizer_of(graph, region.quantizer) if region.quantizer is not None else None
        annotation = region.tail.meta.get("quant") if region.kind != "input" else region.inputs[0].meta.get("quant")
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


def _weight_quantizer(graph: fx.GraphModule, node: fx.Node) -> object:
    if op_name(node) not in WEIGHTED:
        return None
    return quantizer_of(graph, bound_args(node)["weight"])


def _weight_bits(graph: fx.GraphModule, node: fx.Node) -> str | None:
    quantizer = _weight_quantizer(graph, node)
    if quantizer is None:
        return None
    levels = "" if quantizer.spec.levels == "uniform" else f" {quantizer.spec.levels}"
    return f"{quantizer.spec.bits}{levels}{'' if quantizer.spec.symmetric else ' asym'}"


def _limit_note(graph: fx.GraphModule, node: fx.Node) -> str:
    quantizer = _weight_quantizer(graph, node)
    limit = quantizer.spec.grid.limit if quantizer is not None else None
    return f"weight codes keep to +-{limit}" if limit is not None else ""


def _grid_kind(quantizer: object) -> str | None:
    if quantizer is None:
        return None
    if quantizer.spec.levels != "uniform":
        return quantizer.spec.levels
    if not quantizer.spec.symmetric:
        return "asymmetric"
    return "signed" if quantizer.spec.grid.signed else "unsigned"

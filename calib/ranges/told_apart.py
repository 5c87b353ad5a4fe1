"""Which values of a quantized tensor its readers tell apart: a grid need not reach beyond.

A hard-swish is 0 for all that is below -3, a gate 0 or 1 outside of its slope. Codes for such values would be lost to
those that matter: in PP-OCR's detector that is half of them.
"""

from __future__ import annotations

import math

from torch import fx

from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import keeps_codes
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.quantizer import Quantizer

Ends = tuple[float, float]
EVERYTHING: Ends = (-math.inf, math.inf)


def ends_told_apart(graph: fx.GraphModule) -> dict[Quantizer, Ends]:
    """For each quantizer of an activation the ends beyond which no reader of its tensor gives anything else."""
    found: dict[Quantizer, Ends] = {}
    for value in Calls(graph):
        quantizer = value.quantizer
        if quantizer is None or value.constant:
            continue
        known = [found[quantizer]] if quantizer in found else []  # one grid of several tensors
        found[quantizer] = _widest([*known, _of_readers(value)])
    return found


def _of_readers(value: Call) -> Ends:
    return _widest([_ends(reader, value) for reader in value.readers])


def _widest(ends: list[Ends]) -> Ends:
    """What any of them tells apart; everything where there is none."""
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else EVERYTHING


def _ends(reader: Call, value: Call) -> Ends:
    """The same for one operator that reads `value`; what only lays it out tells apart what its own readers do."""
    if keeps_codes(reader.op):
        return _of_readers(reader)
    if reader.op in UNARY:
        return _function_ends(reader)
    if reader.op == "mul":
        gates = [_unquantized(each) for each in reader.sources if each is not value]
        if len(gates) == 1 and gates[0].op in UNARY and UNARY[gates[0].op].is_gate:
            low, _ = _function_ends(gates[0])
            # Where the gate is 0 so is the product; where it is 1 that is the value itself.
            return (low, math.inf) if value in gates[0].sources else EVERYTHING
    return EVERYTHING


def _function_ends(call: Call) -> Ends:
    coded = all(reader.quantizer is not None for reader in call.readers)
    return UNARY[call.op].ends_of(call.node, coded)


def _unquantized(call: Call) -> Call:
    """The value that a quantizer reads; `call` itself where it is none."""
    return call.sources[0] if call.quantizer is not None else call

"""Store codes, make phases final: the last edit of the graph. What comes out is the reference."""

from __future__ import annotations

import torch
from torch import fx

from pipeline.errors import CalibrationError
from pipeline.graph import bias_quantizer_of, get_attribute, is_constant, quantizer_of, tensor_shape, where
from pipeline.grid import QParams
from pipeline.quantizer import Phase, Quantizer

INT32_MAX = 2**31 - 1


def freeze(graph: fx.GraphModule) -> None:
    """Freeze every quantizer in place; weights first, because biases read the final scales.

    Raises:
        CalibrationError: a quantizer without numbers (a tensor that calibration never saw) or with learned rounding
            that was not hardened; levels that are not what their bits say; a bias that does not fit int32
            (`project_grids` prevents it).
    """
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node)
        if quantizer is None:
            continue
        if quantizer.scale is None:
            raise CalibrationError("a tensor was never calibrated", where=where(node), hint="report this defect")
        if quantizer.rounding is not None:
            raise CalibrationError("learned rounding was not hardened", where=where(node), hint="report this defect")
        codes = quantizer.codes
        if is_constant(node) and codes is None:
            codes = quantizer.quantize(get_attribute(graph, node.args[0]).detach())
        quantizer.set_params(QParams(quantizer.scale.detach().float(), quantizer.zero_point))
        if codes is not None:
            quantizer.harden(codes)
        if quantizer.spec.levels != "uniform":
            _check_levels(node, quantizer)
        quantizer.phase = Phase.FROZEN
    for node in graph.graph.nodes:
        bias = bias_quantizer_of(graph, node)
        if bias is not None:
            codes = bias.quantize(get_attribute(graph, node.args[0]))
            if int(codes.min()) < -INT32_MAX or int(codes.max()) > INT32_MAX:
                raise CalibrationError("a bias does not fit int32", where=where(node), hint="report this defect")
            bias.codes = codes.to(torch.int32)
            bias.phase = Phase.FROZEN


def _check_levels(node: fx.Node, quantizer: Quantizer) -> None:
    """Every channel has bits, and a weight's channel of K bits takes at most 2^K values (0 bits: only 0)."""
    bits = quantizer.channel_bits
    channels = tensor_shape(node)[0 if is_constant(node) else 1]
    if bits is None or bits.numel() != channels:
        given = "no" if bits is None else bits.numel()
        raise CalibrationError(
            f"{given} bits for {channels} channels of {quantizer.spec.levels} levels", where=where(node),
            hint="report this defect",
        )
    if quantizer.codes is None:
        return
    for channel, (row, allowed) in enumerate(zip(quantizer.codes.flatten(1), bits.tolist(), strict=True)):
        values = row.unique()
        if len(values) > 1 << allowed or (allowed == 0 and bool(values.any())):
            raise CalibrationError(
                f"channel {channel} has {allowed} bits and {len(values)} values", where=where(node),
                hint="report this defect",
            )

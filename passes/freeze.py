"""Store codes, make phases final: the last edit of the graph. What comes out is the reference."""

from __future__ import annotations

import torch
from torch import fx

from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.nodes import bias_quantizer_of, get_attribute, is_constant, source_of, tensor_shape, where
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Phase, Quantizer

INT32_MAX = 2**31 - 1


def freeze(graph: fx.GraphModule) -> None:
    """Freeze every quantizer in place; weights first, because biases read the final scales.

    Raises:
        CalibrationError: a quantizer without numbers (a tensor that calibration never saw) or with a stand-in that was
            not detached; levels that are not what their bits say; a bias that does not fit int32 (`project_grids`
            prevents it).
    """
    for tensor in quantized_tensors(graph):
        node, quantizer = tensor.node, tensor.quantizer
        if not quantizer.calibrated:
            raise CalibrationError("a tensor was never calibrated", where=where(node), hint="report this defect")
        if quantizer.stand_in is not None:
            raise CalibrationError("a stand-in was not detached", where=where(node), hint="report this defect")
        codes, rounded_at = quantizer.codes, quantizer.rounded_at
        if is_constant(node) and codes is None:
            codes = quantizer.quantize(get_attribute(graph, source_of(node)).detach())
        quantizer.set_params(QParams(quantizer.scale.detach().float(), quantizer.zero_point))
        if codes is not None:
            quantizer.harden(codes, rounded_at)
        _check_grid(node, quantizer)
        quantizer.phase = Phase.FROZEN
    for node in graph.graph.nodes:
        bias = bias_quantizer_of(graph, node)
        if bias is not None:
            codes = bias.quantize(get_attribute(graph, source_of(node)))
            if int(codes.min()) < -INT32_MAX or int(codes.max()) > INT32_MAX:
                raise CalibrationError("a bias does not fit int32", where=where(node), hint="report this defect")
            bias.codes = codes.to(torch.int32)
            bias.phase = Phase.FROZEN


def _check_grid(node: fx.Node, quantizer: Quantizer) -> None:
    """What was chosen for the channels is what the grid allows."""
    shape, axis = tensor_shape(node), 0 if is_constant(node) else 1
    channels = shape[axis] if len(shape) > axis else None
    try:
        quantizer.spec.grid.check_decided(quantizer.codes, quantizer.channel_bits, channels)
    except ValueError as error:
        raise CalibrationError(str(error), where=where(node), hint="report this defect") from None

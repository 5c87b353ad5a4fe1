"""int8 weights in a graph: an initializer, or the operators that unpack one while the session loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isobit.backends.onnx.graph_writer import GraphWriter, onnx_dtype
from isobit.backends.onnx.pack import PackedWeight
from isobit.pipeline.quant.quantizer import Quantizer

if TYPE_CHECKING:
    import onnx_ir as ir


def weight_codes(writer: GraphWriter, weight: PackedWeight) -> ir.Value:
    """int8 codes of a weight: an initializer, or the operators that unpack it while the session loads."""
    if weight.groups:
        return _rows(writer, weight)
    if not weight.planes:
        return writer.constant(weight.codes)
    planes = [_plane(writer, plane.data, plane.table, weight.shape) for plane in weight.planes]
    if len(planes) == 1 and weight.offset is None:
        return planes[0]
    return _summed(writer, planes, weight.offset)


def _plane(writer: GraphWriter, data: np.ndarray, table: np.ndarray, shape: tuple[int, ...]) -> ir.Value:
    index = writer.call("Cast", [writer.constant(data)], {"to": onnx_dtype("INT32")})
    codes = writer.call("Gather", [writer.constant(table), index], {"axis": 0})
    count = int(np.prod(shape))
    if count != data.size * table.shape[1]:  # the last byte is not full
        flat = writer.call("Reshape", [codes, writer.integers([-1])])
        codes = writer.call("Slice", [flat, writer.integers([0]), writer.integers([count])])
    return writer.call("Reshape", [codes, writer.integers(shape)])


def _rows(writer: GraphWriter, weight: PackedWeight) -> ir.Value:
    """Codebooks: the rows of each number of bits from their palette, put in the order of the channels."""
    parts: list[ir.Value] = []
    for group in weight.groups:
        if not group.planes:
            parts.append(writer.call("Expand", [writer.constant(group.palette), writer.integers(group.shape)]))
            continue
        planes = [_plane(writer, plane.data, plane.table, group.shape) for plane in group.planes]
        number = planes[0] if len(planes) == 1 else _summed(writer, planes, None)
        index = writer.call("Cast", [number], {"to": onnx_dtype("INT32")})
        parts.append(writer.call("Gather", [writer.constant(group.palette), index], {"axis": 0}))
    if len(parts) == 1:
        return parts[0]
    order = writer.call("Cast", [writer.constant(weight.order)], {"to": onnx_dtype("INT32")})
    return writer.call("Gather", [writer.call("Concat", parts, {"axis": 0}), order], {"axis": 0})


def _summed(writer: GraphWriter, planes: list[ir.Value], offset: np.ndarray | None) -> ir.Value:
    """Sum of planes minus the zero points; in int32, because runtimes have no int8 Add."""
    wide = [writer.call("Cast", [plane], {"to": onnx_dtype("INT32")}) for plane in planes]
    total = wide[0] if len(wide) == 1 else writer.call("Add", wide)
    if offset is not None:
        shift = writer.call("Cast", [writer.constant(offset)], {"to": onnx_dtype("INT32")})
        total = writer.call("Sub", [total, shift])
    return writer.call("Cast", [total], {"to": onnx_dtype("INT8")})


def channel_scale(quantizer: Quantizer, channels: int) -> np.ndarray:
    """float32 [channels]: the scale of each, or the common one."""
    scale = quantizer.scale.detach().cpu().float().numpy().reshape(-1)
    return np.ascontiguousarray(np.broadcast_to(scale, (channels,)))

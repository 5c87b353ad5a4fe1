"""The frozen graph in `qoperator` form: what runs in integers is written as the integer kernels themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.layer_sums import layer_of
from isobit.backends.onnx.arithmetic import UNARY_KERNELS
from isobit.backends.onnx.emitters import (
    average_attributes,
    conv_attributes,
)
from isobit.backends.onnx.forms.qdq import CodesValue, Emission, attributes_of, settles
from isobit.backends.onnx.graph_writer import CONTRIB
from isobit.backends.onnx.pack import pack_weight
from isobit.backends.onnx.weights import weight_codes
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import (
    bound_args,
    known_sizes,
    tensor_shape,
)
from isobit.pipeline.graph.quantized_tensors import quantizer_at

if TYPE_CHECKING:
    import onnx_ir as ir


class OperatorEmission(Emission):
    """One emission in `qoperator` form: the regions that run in integers are single integer operators."""

    def _integer(self, region: Region, grid: CodeGrid, name: str | None) -> CodesValue:
        kernel = UNARY_KERNELS.get(region.kind)
        kernel_grid = grid if kernel is None else kernel.grid(grid)
        codes = self._kernel(region, kernel_grid, None if settles(grid) else name)
        return CodesValue(self._settled(codes, grid, name) if settles(grid) else codes, grid)

    def _product(self, codes: ir.Value, factors: np.ndarray, scale: float, name: str | None = None) -> ir.Value:
        """The kernel itself."""
        operands = [codes, self._scale(1.0), self._byte(0), self.writer.constant(factors.astype(np.uint8))]
        steps = [self._scale(scale), self._byte(0), self._scale(1.0), self._byte(0)]
        return self.writer.call("QLinearMul", [*operands, *steps], domain=CONTRIB, name=name)

    def _kernel(self, region: Region, grid: CodeGrid, name: str | None) -> ir.Value:
        inputs, arguments = self._operands(region), bound_args(region.anchor)
        out = [self._scale(grid.scale), self._byte(grid.zero_point)]
        if region.kind == "conv2d":
            return self._convolution(region, out, name)
        if region.kind == "linear":
            return self._gemm(region, grid, name)
        if region.kind == "cat":
            operands = [part for value in inputs for part in self._triple(value)]
            return self.writer.call("QLinearConcat", [*out, *operands], {"axis": arguments["dim"]}, domain=CONTRIB,
                                    name=name)
        if region.kind in UNARY_KERNELS:
            return self._unary(region, out, name)
        operands = [part for value in inputs for part in self._triple(value)]
        if region.kind == "matmul":
            return self.writer.call("QLinearMatMul", [*operands, *out], name=name)
        op, attributes = _KERNELS[region.kind], {}
        if region.kind == "avg_pool2d":
            keys = ("kernel_size", "stride", "padding", "count_include_pad")
            attributes = average_attributes(*(arguments[key] for key in keys))
        return self.writer.call(op, [*operands, *out], attributes, domain=CONTRIB, name=name)

    def _unary(self, region: Region, out: list[ir.Value], name: str | None) -> ir.Value:
        kernel, operands = UNARY_KERNELS[region.kind], self._operands(region)
        if kernel.addend is not None:
            operands.insert(0, self._one(kernel.addend))
        read = [part for value in operands for part in self._triple(value)]
        attributes = attributes_of(kernel, region.anchor)
        return self.writer.call(kernel.op, [*read, *out], attributes, domain=CONTRIB, name=name)

    def _triple(self, codes: CodesValue) -> list[ir.Value]:
        return [codes.value, self._scale(codes.grid.scale), self._byte(codes.grid.zero_point)]

    def _weights(self, region: Region) -> tuple[list[ir.Value], ir.Value | None]:
        """(codes, scale, zero point) and bias of a layer."""
        arguments = bound_args(region.anchor)
        weight = pack_weight(quantizer_at(self.graph, arguments["weight"]))
        layer = layer_of(self.graph, region.anchor)
        scale = self.writer.constant(layer.scale.numpy())
        zeros = self.writer.constant(np.zeros(weight.shape[0], np.int8))
        bias = None if layer.bias is None else self.writer.constant(layer.bias.numpy().astype(np.int32))
        return [weight_codes(self.writer, weight), scale, zeros], bias

    def _convolution(self, region: Region, out: list[ir.Value], name: str | None) -> ir.Value:
        arguments = bound_args(region.anchor)
        weight, bias = self._weights(region)
        keys = ("stride", "padding", "dilation", "groups")
        kernel = known_sizes(tensor_shape(arguments["weight"])[2:])
        attributes = conv_attributes(kernel, *(arguments[key] for key in keys))
        source = self._triple(self.values[region.inputs[0]])
        return self.writer.call("QLinearConv", [*source, *weight, *out, bias], attributes, name=name)

    def _gemm(self, region: Region, grid: CodeGrid | None, name: str | None) -> ir.Value:
        weight, bias = self._weights(region)
        out = [] if grid is None else [self._scale(grid.scale), self._byte(grid.zero_point)]
        source = self._triple(self.values[region.inputs[0]])
        return self.writer.call("QGemm", [*source, *weight, bias, *out], {"transB": 1}, domain=CONTRIB, name=name)


_KERNELS = {
    "add": "QLinearAdd",
    "mul": "QLinearMul",
    "mean": "QLinearGlobalAveragePool",
    "avg_pool2d": "QLinearAveragePool",
}

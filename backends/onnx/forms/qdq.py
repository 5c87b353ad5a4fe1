"""The frozen graph in `qdq` form: quantizers become Q [Clip] [Mul Mul] DQ, regions become DQ -> operator -> Q."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid, container, output_grid
from isobit.backends.onnx.arithmetic import UNARY_KERNELS, UnaryKernel, addends
from isobit.backends.onnx.emitters import (
    changes_between_codes,
    emit_operator,
)
from isobit.backends.onnx.graph_writer import GraphWriter, onnx_dtype
from isobit.backends.onnx.pack import pack_weight
from isobit.backends.onnx.weights import channel_scale, weight_codes
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.annotation import kept_float
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    computes_size,
    get_attribute,
    known_sizes,
    tensor_dtype,
    tensor_shape,
)
from isobit.pipeline.graph.ports import input_names, input_nodes, output_names, output_nodes
from isobit.pipeline.graph.quantized_tensors import quantizer_at
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.quant.nested import NESTED_CODES
from isobit.pipeline.stages import Reference

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCER = ("isobit", "1")


@dataclass(frozen=True)
class CodesValue:
    """A uint8 ONNX value and its grid."""

    value: ir.Value
    grid: CodeGrid


class Emission:
    """One emission in `qdq` form."""

    def __init__(self, reference: Reference) -> None:
        self.graph = reference.graph
        self.regions = find_regions(self.graph, reference.quantized.target)
        self.returned = list(zip(output_names(self.graph), output_nodes(self.graph), strict=True))
        self.writer = GraphWriter({*input_names(self.graph), *output_names(self.graph)})
        self.values: dict[fx.Node, Any] = {}

    def write(self) -> ir.Model:
        inputs = []
        for node, name in zip(input_nodes(self.graph), input_names(self.graph), strict=True):
            inputs.append(self.writer.input(name, known_sizes(tensor_shape(node)[1:]), tensor_dtype(node)))
            self.values[node] = inputs[-1]
        for region in self.regions:
            if computes_size(region.anchor):
                continue
            with self.writer.group():
                value = self._region(region)
            self.values[region.value] = self._by_sample(region, value)
        outputs = [
            (self._result(node, name), known_sizes(tensor_shape(node)[1:]), tensor_dtype(node))
            for name, node in self.returned
        ]
        return self.writer.model(inputs, outputs, PRODUCER)

    def _result(self, node: fx.Node, name: str) -> ir.Value:
        """The value of an output under its name: as it was written, or a copy where it has another name already."""
        value = self.values[node]
        if isinstance(value, CodesValue):
            return self._dequantize(value, name)
        return value if value.name == name else self.writer.call("Identity", [value], name=name)

    def _name(self, region: Region) -> str | None:
        """The quantizer's name for its codes, where they are [N, ...]; else `_by_sample` gives it."""
        node = region.quantizer
        return node.name if node is not None and samples_of(node).is_first else None

    def _by_sample(self, region: Region, value: Any) -> Any:
        """Codes whose samples do not lie on the first axis go through a tensor where they do: it bears the name."""
        if region.quantizer is None or (samples := samples_of(region.quantizer)).is_first:
            return value
        shape, name = tensor_shape(region.quantizer), region.quantizer.name
        merged = known_sizes([-1 if axis == samples.axis else size for axis, size in enumerate(shape)])
        sizes = samples.split(merged)
        front = [samples.axis + 1, *(axis for axis in range(len(sizes)) if axis != samples.axis + 1)]
        split = self.writer.call("Reshape", [value.value, self.writer.integers(sizes)])
        split = self.writer.call("Transpose", [split], {"perm": front}, name=name)
        split = self.writer.call("Transpose", [split], {"perm": np.argsort(front).tolist()})
        return CodesValue(self.writer.call("Reshape", [split, self.writer.integers(merged)]), value.grid)

    def _region(self, region: Region) -> Any:
        grid = output_grid(self.graph, region)
        if region.is_layout:
            return self._layout(region)
        if region.kind == "linear" and len(tensor_shape(region.anchor)) > 2:
            return self._by_rows(region, grid)
        if grid is None:
            return self._output_value(region, self._result_name(region))
        if region.kind == "input":
            return self._quantize(self._float(region.inputs[0]), grid, self._name(region))
        if region.integer:
            return self._integer(region, grid, self._name(region))
        return self._quantize(self._operators(region, None), grid, self._name(region))

    def _by_rows(self, region: Region, grid: CodeGrid | None) -> Any:
        """A linear layer of more than two axes: kernels take a matrix, so all axes but the last become its rows."""
        source, shape = region.inputs[0], tensor_shape(region.anchor)
        codes = self.values[source]
        rows = self.writer.integers([-1, *known_sizes(tensor_shape(source)[-1:])])
        whole = self.writer.integers([-1 if size is None else size for size in shape])
        self.values[source] = CodesValue(self.writer.call("Reshape", [codes.value, rows]), codes.grid)
        if grid is None:
            values = self._output_value(region, None)
            result = self.writer.call("Reshape", [values, whole], name=self._result_name(region))
        else:
            value = self._integer(region, grid, None).value
            result = CodesValue(self.writer.call("Reshape", [value, whole], name=self._name(region)), grid)
        self.values[source] = codes
        return result

    def _output_value(self, region: Region, name: str | None) -> ir.Value:
        """A region that leaves in float."""
        return self._gemm(region, None, name) if region.kind == "linear" else self._operators(region, name)

    def _gemm(self, region: Region, grid: CodeGrid | None, name: str | None) -> ir.Value:
        """DQ -> Gemm; the quantizer, if there is one, is still to come."""
        arguments = bound_args(region.anchor)
        operands = [self._float(node) for node in (arguments["input"], arguments["weight"], arguments["bias"]) if node]
        return self.writer.call("Gemm", operands, {"transB": 1}, name=name)

    def _result_name(self, region: Region) -> str | None:
        """An output of the network has a name of its own."""
        return next((name for name, node in self.returned if node is region.value), None)

    def _integer(self, region: Region, grid: CodeGrid, name: str | None) -> CodesValue:
        """DQ -> operator -> Q; activations after the operator are ends of the grid."""
        kernel = UNARY_KERNELS.get(region.kind)
        if kernel is not None and kernel.addend is not None:
            value = self.writer.call("Add", [self._dequantize(self._one(kernel.addend)), self._float(region.inputs[0])])
            return CodesValue(self._quantize(value, kernel.grid(grid), name).value, grid)
        if kernel is not None and kernel.slope is not None:
            value = self.writer.call("LeakyRelu", [self._float(region.inputs[0])], attributes_of(kernel, region.anchor))
        elif region.kind == "add":
            value = self.writer.call("Add", [self._dequantize(codes) for codes in self._operands(region)])
        elif region.kind == "linear":
            value = self._gemm(region, grid, None)
        else:
            value = emit_operator(self.writer, region.anchor, self._float)
        return self._quantize(value, grid, name)

    def _operands(self, region: Region) -> list[CodesValue]:
        """The codes that an integer operator reads, in the order in which its kernel takes them."""
        inputs = [self.values[node] for node in region.inputs]
        if region.kind != "add":
            return inputs
        order, repeated = addends(*(tensor_shape(node) for node in region.inputs))
        first, second = (inputs[place] for place in order)
        if repeated:
            shape = self.writer.integers([1 if size is None else size for size in tensor_shape(region.anchor)])
            first = CodesValue(self.writer.call("Expand", [first.value, shape]), first.grid)
        return [first, second]

    def _operators(self, region: Region, name: str | None) -> ir.Value:
        """The operators of a region that runs in float, or of the float-valued last layer."""
        local: dict[fx.Node, Any] = {}
        for node in (region.anchor, *region.absorbed):
            plain = changes_between_codes(node) or kept_float(node)
            read = self._plain_float if plain else self._float
            local[node] = emit_operator(
                self.writer, node, lambda n, read=read: local[n] if n in local else read(n),
                name=name if node is region.tail else None,
            )
        return local[region.tail]

    def _layout(self, region: Region) -> Any:
        """A layout operator on the uint8 codes; padding takes the code of zero. On floats where grids meet."""
        if region.grid is None:
            return self._operators(region, self._result_name(region))
        grid = container(quantizer_at(self.graph, region.grid))
        changed = {}
        if region.kind in MOVES and MOVES[region.kind].fill:
            changed[MOVES[region.kind].fill] = self._byte(grid.zero_point)
        value = emit_operator(self.writer, region.anchor, lambda n: self.values[n].value, **changed)
        return CodesValue(value, grid)

    def _float(self, node: fx.Node) -> ir.Value:
        """The node's value in float: as it is, or after a DequantizeLinear of its own."""
        if node in self.values:
            value = self.values[node]
            return self._dequantize(value) if isinstance(value, CodesValue) else value
        return self._constant(node)

    def _plain_float(self, node: fx.Node) -> ir.Value:
        """`_float` without a DequantizeLinear, by the same formula: no session takes it for the input of a kernel."""
        codes = self.values.get(node)
        if not isinstance(codes, CodesValue):
            return self._float(node)
        value = self.writer.call("Cast", [codes.value], {"to": onnx_dtype("FLOAT")})
        if codes.grid.zero_point:
            zero_point = self.writer.constant(np.asarray(codes.grid.zero_point, np.float32))
            value = self.writer.call("Sub", [value, zero_point])
        return self.writer.call("Mul", [value, self._scale(codes.grid.scale)])

    def _constant(self, node: fx.Node) -> ir.Value:
        if node.op == "get_attr":
            value = get_attribute(self.graph, node).detach().cpu()
            return self.writer.constant((value.float() if value.is_floating_point() else value).numpy())
        bias = bias_quantizer_of(self.graph, node)
        if bias is not None:
            return self._bias(bias)
        quantizer = quantizer_at(self.graph, node)
        weight = pack_weight(quantizer)
        channels = weight.shape[0]
        scale = self.writer.constant(channel_scale(quantizer, channels))
        zeros = self.writer.constant(np.zeros(channels, np.int8))
        return self.writer.call("DequantizeLinear", [weight_codes(self.writer, weight), scale, zeros], {"axis": 0})

    def _bias(self, bias: Any) -> ir.Value:
        """int32 after DQ at scale s_x * s_w: the product is folded at load, the file holds neither twice."""
        source, weight = bias.parents
        codes = bias.decided.detach().cpu().numpy().astype(np.int32)
        weight_scale = self.writer.constant(channel_scale(weight, codes.shape[0]))
        scale = self.writer.call("Mul", [self._scale(source.scale), weight_scale])
        zeros = self.writer.constant(np.zeros(codes.shape[0], np.int32))
        return self.writer.call("DequantizeLinear", [self.writer.constant(codes), scale, zeros], {"axis": 0})

    def _quantize(self, value: ir.Value, grid: CodeGrid, name: str | None) -> CodesValue:
        """QuantizeLinear, and an integer Clip where the grid is narrower than its container."""
        inputs = [value, self._scale(grid.scale), self._byte(grid.zero_point)]
        codes = self.writer.call("QuantizeLinear", inputs, name=None if settles(grid) else name)
        return CodesValue(self._settled(codes, grid, name) if settles(grid) else codes, grid)

    def _settled(self, codes: ir.Value, grid: CodeGrid, name: str | None) -> ir.Value:
        """Clip to the ends of the grid and, where channels have bits of their own, two integer products.

        round(code * levels / 105) is the code on the channel's own grid of `levels` steps, times 105 / levels is on
        the common one again: `pipeline.quant.nested.regrid`, exact in any rounding mode because there are no ties.
        """
        low = self._byte(grid.low) if grid.low > 0 else None
        high = self._byte(grid.high) if grid.high < 255 else None
        if grid.multiples is None:
            return self.writer.call("Clip", [codes, low, high], name=name)
        levels = NESTED_CODES // grid.multiples.numpy()  # 0 where the channel has no bits
        back = np.where(levels > 0, grid.multiples.numpy(), 0)
        codes = self.writer.call("Clip", [codes, low, high])
        return self._product(self._product(codes, levels, 1 / NESTED_CODES), back, 1.0, name)

    def _product(self, codes: ir.Value, factors: np.ndarray, scale: float, name: str | None = None) -> ir.Value:
        """round(codes * factors * scale), uint8: what a session fuses into QLinearMul."""
        plain, step = CodeGrid(torch.tensor(1.0), 0, 0, 255), CodeGrid(torch.tensor(scale), 0, 0, 255)
        constant = self._dequantize(CodesValue(self.writer.constant(factors.astype(np.uint8)), step))
        value = self.writer.call("Mul", [self._dequantize(CodesValue(codes, plain)), constant])
        return self.writer.call("QuantizeLinear", [value, self._scale(1.0), self._byte(0)], name=name)

    def _dequantize(self, codes: CodesValue, name: str | None = None) -> ir.Value:
        inputs = [codes.value, self._scale(codes.grid.scale), self._byte(codes.grid.zero_point)]
        return self.writer.call("DequantizeLinear", inputs, name=name)

    def _one(self, grid: CodeGrid) -> CodesValue:
        """The constant that code 1 of `grid` stands for."""
        return CodesValue(self._byte(1), grid)

    def _scale(self, scale: Any) -> ir.Value:
        return self.writer.constant(np.asarray(float(scale), np.float32))

    def _byte(self, value: int) -> ir.Value:
        return self.writer.constant(np.asarray(value, np.uint8))


def attributes_of(kernel: UnaryKernel, node: fx.Node) -> dict[str, float]:
    """Attributes of the operator that `kernel` describes, for one call."""
    return {} if kernel.slope is None else {"alpha": kernel.slope(node)}


def settles(grid: CodeGrid) -> bool:
    """Something stands between a kernel's saturated bytes and the codes of this grid."""
    return (grid.low, grid.high) != (0, 255) or grid.multiples is not None

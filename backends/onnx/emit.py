"""From the frozen graph to `model.onnx`: quantizers become Q [Clip] [Mul Mul] DQ, regions become nodes in two forms.

`qdq`: DQ -> operator -> Q around float operators, which an optimised session fuses into integer kernels.
`qoperator`: the integer kernels themselves, which every session runs as they are.
Both have the same values under the same names: the uint8 tensor of a quantizer has the quantizer's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import fx

from isobit.backends.execution.codes import CodeGrid, container, output_grid
from isobit.backends.execution.layer_sums import layer_of
from isobit.backends.onnx.arithmetic import UNARY_KERNELS, UnaryKernel, addends
from isobit.backends.onnx.emitters import (
    average_attributes,
    changes_between_codes,
    conv_attributes,
    emit_operator,
    refusal,
)
from isobit.backends.onnx.graph_writer import CONTRIB, GraphWriter, onnx_dtype
from isobit.backends.onnx.pack import pack_weight
from isobit.backends.onnx.weights import channel_scale, weight_codes
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    bound_args,
    computes_size,
    get_attribute,
    is_constant,
    known_sizes,
    tensor_dtype,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.ports import input_names, input_nodes, output_names, output_nodes
from isobit.pipeline.graph.quantized_tensors import quantizer_at
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.quant.nested import NESTED_CODES
from isobit.pipeline.stages import Reference

if TYPE_CHECKING:
    import onnx_ir as ir

PRODUCER = ("isobit", "1")
Form = Literal["qdq", "qoperator"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class _CodesValue:
    """A uint8 ONNX value and its grid."""

    value: ir.Value
    grid: CodeGrid


def unsupported(graph: fx.GraphModule) -> list[tuple[fx.Node, str]]:
    """Operators of a prepared or quantized graph that cannot be written, with the reason."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function" and not is_constant(node)]
    return [(node, reason) for node in calls if (reason := refusal(node))]


def emit_model(reference: Reference, path: Path, form: Form = "qdq") -> None:
    """Write `reference` to `path`; the same graph gives the same bytes.

    Raises:
        TargetError: an operator that has no emitter.
        onnx.checker.ValidationError: never for a graph of ours; a defect.
    """
    import onnx

    problems = unsupported(reference.graph)
    if problems:
        node, reason = problems[0]
        raise TargetError(reason, where=where(node), field="target", hint="replace it, or use `target=reference`")
    emission = _OperatorEmission(reference) if form == "qoperator" else _Emission(reference)
    proto = _serialize(emission.write())
    # The checker infers shapes in a full check, and knows none of ONNX Runtime's own operators.
    onnx.checker.check_model(proto, full_check=form == "qdq")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _serialize(model: ir.Model) -> Any:
    import onnx_ir as ir

    proto = ir.to_proto(model)
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            node.ClearField("name")  # onnx-ir gives every node one: 15 bytes each
    del proto.graph.value_info[:]
    return proto


class _Emission:
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
        if isinstance(value, _CodesValue):
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
        return _CodesValue(self.writer.call("Reshape", [split, self.writer.integers(merged)]), value.grid)

    def _region(self, region: Region) -> Any:
        grid = output_grid(self.graph, region)
        if region.is_layout:
            return self._layout(region)
        if grid is None:
            return self._output_value(region)
        if region.kind == "input":
            return self._quantize(self._float(region.inputs[0]), grid, self._name(region))
        if region.integer:
            return self._integer(region, grid)
        return self._quantize(self._operators(region, None), grid, self._name(region))

    def _output_value(self, region: Region) -> ir.Value:
        """A region that leaves in float."""
        return self._operators(region, self._result_name(region))

    def _result_name(self, region: Region) -> str | None:
        """An output of the network has a name of its own."""
        return next((name for name, node in self.returned if node is region.value), None)

    def _integer(self, region: Region, grid: CodeGrid) -> _CodesValue:
        """DQ -> operator -> Q; activations after the operator are ends of the grid."""
        kernel = UNARY_KERNELS.get(region.kind)
        if kernel is not None and kernel.addend is not None:
            value = self.writer.call("Add", [self._float(region.inputs[0]), self._dequantize(self._one(kernel.addend))])
            return _CodesValue(self._quantize(value, kernel.grid(grid), self._name(region)).value, grid)
        if kernel is not None and kernel.slope is not None:
            value = self.writer.call("LeakyRelu", [self._float(region.inputs[0])], _attributes(kernel, region.anchor))
        elif region.kind == "add":
            value = self.writer.call("Add", [self._dequantize(codes) for codes in self._operands(region)])
        else:
            value = emit_operator(self.writer, region.anchor, self._float)
        return self._quantize(value, grid, self._name(region))

    def _operands(self, region: Region) -> list[_CodesValue]:
        """The codes that an integer operator reads, in the order in which its kernel takes them."""
        inputs = [self.values[node] for node in region.inputs]
        if region.kind != "add":
            return inputs
        order, repeated = addends(*(tensor_shape(node) for node in region.inputs))
        first, second = (inputs[place] for place in order)
        if repeated:
            shape = self.writer.integers([1 if size is None else size for size in tensor_shape(region.anchor)])
            first = _CodesValue(self.writer.call("Expand", [first.value, shape]), first.grid)
        return [first, second]

    def _operators(self, region: Region, name: str | None) -> ir.Value:
        """The operators of a region that runs in float, or of the float-valued last layer."""
        local: dict[fx.Node, Any] = {}
        for node in (region.anchor, *region.absorbed):
            read = self._plain_float if changes_between_codes(node) else self._float
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
        return _CodesValue(value, grid)

    def _float(self, node: fx.Node) -> ir.Value:
        """The node's value in float: as it is, or after a DequantizeLinear of its own."""
        if node in self.values:
            value = self.values[node]
            return self._dequantize(value) if isinstance(value, _CodesValue) else value
        return self._constant(node)

    def _plain_float(self, node: fx.Node) -> ir.Value:
        """`_float` without a DequantizeLinear, by the same formula: no session takes it for the input of a kernel."""
        codes = self.values.get(node)
        if not isinstance(codes, _CodesValue):
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

    def _quantize(self, value: ir.Value, grid: CodeGrid, name: str | None) -> _CodesValue:
        """QuantizeLinear, and an integer Clip where the grid is narrower than its container."""
        inputs = [value, self._scale(grid.scale), self._byte(grid.zero_point)]
        codes = self.writer.call("QuantizeLinear", inputs, name=None if _settles(grid) else name)
        return _CodesValue(self._settled(codes, grid, name) if _settles(grid) else codes, grid)

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
        constant = self._dequantize(_CodesValue(self.writer.constant(factors.astype(np.uint8)), step))
        value = self.writer.call("Mul", [self._dequantize(_CodesValue(codes, plain)), constant])
        return self.writer.call("QuantizeLinear", [value, self._scale(1.0), self._byte(0)], name=name)

    def _dequantize(self, codes: _CodesValue, name: str | None = None) -> ir.Value:
        inputs = [codes.value, self._scale(codes.grid.scale), self._byte(codes.grid.zero_point)]
        return self.writer.call("DequantizeLinear", inputs, name=name)

    def _one(self, grid: CodeGrid) -> _CodesValue:
        """The constant that code 1 of `grid` stands for."""
        return _CodesValue(self._byte(1), grid)

    def _scale(self, scale: Any) -> ir.Value:
        return self.writer.constant(np.asarray(float(scale), np.float32))

    def _byte(self, value: int) -> ir.Value:
        return self.writer.constant(np.asarray(value, np.uint8))


class _OperatorEmission(_Emission):
    """One emission in `qoperator` form: the regions that run in integers are single integer operators."""

    def _integer(self, region: Region, grid: CodeGrid) -> _CodesValue:
        name = self._name(region)
        kernel = UNARY_KERNELS.get(region.kind)
        kernel_grid = grid if kernel is None else kernel.grid(grid)
        codes = self._kernel(region, kernel_grid, None if _settles(grid) else name)
        return _CodesValue(self._settled(codes, grid, name) if _settles(grid) else codes, grid)

    def _product(self, codes: ir.Value, factors: np.ndarray, scale: float, name: str | None = None) -> ir.Value:
        """The kernel itself."""
        operands = [codes, self._scale(1.0), self._byte(0), self.writer.constant(factors.astype(np.uint8))]
        steps = [self._scale(scale), self._byte(0), self._scale(1.0), self._byte(0)]
        return self.writer.call("QLinearMul", [*operands, *steps], domain=CONTRIB, name=name)

    def _output_value(self, region: Region) -> ir.Value:
        if not region.integer:
            return super()._output_value(region)
        return self._gemm(region, None, self._result_name(region))

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
        op, attributes = _KERNELS[region.kind], {}
        if region.kind == "avg_pool2d":
            keys = ("kernel_size", "stride", "padding", "count_include_pad")
            attributes = average_attributes(*(arguments[key] for key in keys))
        return self.writer.call(op, [*operands, *out], attributes, domain=CONTRIB, name=name)

    def _unary(self, region: Region, out: list[ir.Value], name: str | None) -> ir.Value:
        kernel, operands = UNARY_KERNELS[region.kind], self._operands(region)
        if kernel.addend is not None:
            operands.append(self._one(kernel.addend))
        read = [part for value in operands for part in self._triple(value)]
        attributes = _attributes(kernel, region.anchor)
        return self.writer.call(kernel.op, [*read, *out], attributes, domain=CONTRIB, name=name)

    def _triple(self, codes: _CodesValue) -> list[ir.Value]:
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


def _attributes(kernel: UnaryKernel, node: fx.Node) -> dict[str, float]:
    return {} if kernel.slope is None else {"alpha": kernel.slope(node)}


def _settles(grid: CodeGrid) -> bool:
    """Something stands between a kernel's saturated bytes and the codes of this grid."""
    return (grid.low, grid.high) != (0, 255) or grid.multiples is not None

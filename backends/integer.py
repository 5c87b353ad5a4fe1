"""Integer execution of a frozen graph, region by region: exact sums here, the runtime's requantization in `Kernels`.

What every integer runtime shares is written once: walking the regions, moving codes through layout operators, exact
integer convolution. What differs is how a 32-bit sum becomes an 8-bit code; a backend supplies that as one function
per region kind.

Containers are uint8 always: `container code = grid code - qmin`, so every grid starts at 0 in its container. Nested
levels are one more step behind any kernel, on the integers: a multiple per channel of a grid that starts at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from backends.regions import Region, find_regions, grid_node
from pipeline.dialect import ACTIVATIONS
from pipeline.graph import (
    bias_quantizer_of,
    bound_args,
    get_attribute,
    is_constant,
    op_name,
    quantizer_of,
    tensor_shape,
)
from pipeline.grid import regrid
from pipeline.parity import FLOAT_ROUNDING, LOGITS
from pipeline.quantizer import Quantizer
from pipeline.target import Target

_FLOAT32_EXACT = 1 << 24


@dataclass(frozen=True)
class CodeGrid:
    """Where the codes of one activation tensor stand in their uint8 container.

    Args:
        scale: float32, rank 0.
        zero_point: in the container, 0 ... 255.
        low, high: least and largest code that may occur; bits below 8 and fused activations narrow them.
        multiples: int32 [C, 1, ...], shaped to broadcast over samples, of which the codes of each channel are multiples
            (nested levels); None for all codes, and where codes have settled already.
    """

    scale: Tensor
    zero_point: int
    low: int
    high: int
    multiples: Tensor | None = None

    def settle(self, codes: Tensor) -> Tensor:
        """Codes [N, C, ...] of a kernel brought to the ends of the grid, and to its channels' multiples."""
        codes = codes.clamp(self.low, self.high)
        return codes if self.multiples is None else regrid(codes, self.multiples.to(codes.device).flatten())

    def code_of(self, value: float) -> int:
        """Container code of one real number, by QuantizeLinear's formula, saturated to 0 ... 255."""
        steps = torch.round(torch.tensor(value, dtype=torch.float32) / self.scale) + self.zero_point
        return int(steps.clamp(0, 255))


@dataclass(frozen=True)
class Codes:
    """A quantized activation: integers held in float32 (exact), and their grid."""

    codes: Tensor
    grid: CodeGrid

    @property
    def centered(self) -> Tensor:
        """`code - zero_point`, float32."""
        return self.codes - self.grid.zero_point


@dataclass(frozen=True)
class Layer:
    """The integers of a convolution or linear layer.

    Args:
        weight: int8-valued codes with zero point 0, in float32.
        bias: int32-valued codes in float64, [K]; None without bias.
        scale: float32 [K], of the weight.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor


Value = Codes | Tensor
Kernel = Callable[["Execution", Region, list[Value], CodeGrid | None], Tensor]


def container(quantizer: Quantizer) -> CodeGrid:
    """The uint8 container of an activation quantizer's grid."""
    grid = quantizer.spec.grid
    scale = quantizer.scale.detach().to("cpu", torch.float32).reshape(())
    return CodeGrid(scale, int(quantizer.zero_point) - grid.qmin, 0, grid.qmax - grid.qmin)


def output_grid(graph: fx.GraphModule, region: Region) -> CodeGrid | None:
    """Grid of the region's result, with multiples, ends narrowed by the activations it absorbs; None if in float.

    Clamping codes equals clamping values, because quantizing is monotone: `Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b))`.
    """
    if region.quantizer is None:
        return None
    quantizer = graph.get_submodule(str(region.quantizer.target))
    grid = container(quantizer)
    low, high = grid.low, grid.high
    for node in region.absorbed:
        if op_name(node) not in ACTIVATIONS:  # a residual addition
            continue
        least, most = activation_range(node)
        first, last = grid.code_of(least), grid.code_of(most)
        low, high = min(max(low, first), last), max(min(high, last), first)
    multiples = quantizer.multiples
    if multiples is not None:
        multiples = multiples.detach().cpu().reshape(-1, *[1] * (len(tensor_shape(region.quantizer)) - 2))
    return CodeGrid(grid.scale, grid.zero_point, min(low, grid.high), min(high, grid.high), multiples)


def activation_range(node: fx.Node) -> tuple[float, float]:
    """Least and largest value of a relu or hardtanh."""
    if op_name(node) == "relu":
        return 0.0, float("inf")
    arguments = bound_args(node)
    return float(arguments["min_val"]), float(arguments["max_val"])


def layer_of(graph: fx.GraphModule, node: fx.Node) -> Layer:
    """Weight and bias integers of a conv2d or linear node."""
    arguments = bound_args(node)
    quantizer = quantizer_of(graph, arguments["weight"])
    codes = quantizer.codes.detach().cpu()
    zero_point = quantizer.zero_point.detach().cpu().reshape(-1, *[1] * (codes.dim() - 1))
    scale = quantizer.scale.detach().cpu().float().reshape(-1).expand(codes.shape[0]).contiguous()
    bias = None
    if arguments["bias"] is not None:
        bias = bias_quantizer_of(graph, arguments["bias"]).codes.detach().cpu().double()
    return Layer((codes - zero_point).float(), bias, scale)


def explicit_padding(padding: Any, kernel: tuple[int, ...], dilation: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of conv2d's `padding` argument: one or two integers, `same` or `valid`."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        total = [pair(dilation)[axis] * (kernel[axis] - 1) for axis in (0, 1)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    rows, columns = pair(padding)
    return rows, columns, rows, columns


def pair(value: Any) -> tuple[int, int]:
    """Both entries of an ATen int[2] argument, which may hold one."""
    entries = [value] if isinstance(value, int) else list(value)
    return (entries[0], entries[-1]) if entries else (0, 0)


def window_sum(values: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Sums of all windows, each element added in row order (float32 sums depend on it)."""
    height = (values.shape[2] - kernel[0]) // stride[0] + 1
    width = (values.shape[3] - kernel[1]) // stride[1] + 1
    total = values.new_zeros(values.shape[0], values.shape[1], height, width)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows = slice(row, row + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(column, column + stride[1] * (width - 1) + 1, stride[1])
            total = total + values[:, :, rows, columns]
    return total


def exact_conv2d(x: Codes, layer: Layer, node: fx.Node) -> Tensor:
    """32-bit sums of a convolution on codes, bias included: integers in float32 or float64, [N, K, H, W]."""
    arguments = bound_args(node)
    dilation = pair(arguments["dilation"])
    top, left, bottom, right = explicit_padding(arguments["padding"], tuple(layer.weight.shape[2:]), dilation)
    padded = F.pad(x.centered, (left, right, top, bottom))

    def convolve(values: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(values, weight, None, pair(arguments["stride"]), 0, dilation, arguments["groups"])

    return _exact_sum(padded, layer, convolve, axis=1)


def exact_linear(x: Codes, layer: Layer) -> Tensor:
    """32-bit sums of a linear layer on codes, bias included: integers in float32 or float64, [N, ..., K]."""
    return _exact_sum(x.centered, layer, F.linear, axis=-1)


def _exact_sum(values: Tensor, layer: Layer, product: Callable[[Tensor, Tensor], Tensor], axis: int) -> Tensor:
    """`product(values, weight) + bias` without rounding: float32 holds integers below 2^24, float64 the rest."""
    weight = layer.weight.to(values.device)
    largest = values.abs().max() * weight.abs().flatten(1).sum(1).max()
    if layer.bias is not None:
        largest = largest + layer.bias.abs().max()
    # GPUs may run float32 products in TF32, so exactness is only claimed for the CPU.
    narrow = values.device.type == "cpu" and float(largest) < _FLOAT32_EXACT
    dtype = torch.float32 if narrow else torch.float64
    total = product(values.to(dtype), weight.to(dtype))
    if layer.bias is None:
        return total
    shape = [1] * total.dim()
    shape[axis] = -1
    return total + layer.bias.to(values.device, dtype).reshape(shape)


def dequantized(value: Value) -> Tensor:
    """float32 values, `scale * (code - zero_point)`; floats pass."""
    return value.centered * value.grid.scale.to(value.codes.device) if isinstance(value, Codes) else value


def quantize_float(x: Tensor, grid: CodeGrid) -> Tensor:
    """QuantizeLinear in float32: `round_half_even(x / scale) + zero_point`, saturated to uint8."""
    steps = torch.round(x.float() / grid.scale.to(x.device)) + grid.zero_point
    return steps.clamp(0, 255)


def _explained(value: Tensor, grid: CodeGrid) -> tuple[Tensor, Tensor]:
    """Least and largest uint8 code of float values [N, ...] that the float rounding of another library explains."""
    largest = value.abs().flatten(1).amax(1).reshape(-1, *[1] * (value.dim() - 1))
    margin = FLOAT_ROUNDING * torch.maximum(largest, 255 * grid.scale.to(value.device))
    low, high = (grid.settle(quantize_float(end, grid)) for end in (value - margin, value + margin))
    return low.to(torch.uint8), high.to(torch.uint8)


def float_values(regions: Sequence[Region]) -> set[fx.Node]:
    """Values that leave a float operator unquantized."""
    return {region.value for region in regions if region.kind == "float" and region.quantizer is None}


def _is_boundary(region: Region, floats: set[fx.Node]) -> bool:
    """The region's quantizer reads what a float operator computed."""
    if region.quantizer is None:
        return False
    return region.kind == "float" or (region.kind == "input" and region.inputs[0] in floats)


class Execution:
    """Runs the regions of a frozen graph in integers.

    Args:
        graph: frozen, with integer weights (`dialect.verify(graph, "frozen")`).
        target: says which operators run in integers.
        kernels: per region kind, a function of (execution, region, input values, output grid) that returns the
            codes before the grid's ends and multiples are applied, or float32 values where the region has no
            quantizer. Layout operators, the network input and float regions need none.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, kernels: Mapping[str, Kernel]) -> None:
        self.graph = graph
        self.target = target
        self.kernels = kernels
        self.regions = find_regions(graph, target)
        self._layers: dict[fx.Node, Layer] = {}
        self._grids = {region.anchor: output_grid(graph, region) for region in self.regions}
        self._last_use = self._find_last_uses()
        floats = float_values(self.regions)
        self.boundaries = tuple(region.quantizer.name for region in self.regions if _is_boundary(region, floats))
        self.float_output = network_output(graph) in floats

    def layer(self, node: fx.Node) -> Layer:
        """Integers of a conv2d or linear node, read once."""
        if node not in self._layers:
            self._layers[node] = layer_of(self.graph, node)
        return self._layers[node]

    def run(self, x: Tensor, observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Codes of every quantized tensor and the output.

        Args:
            x: float32 [N, C, H, W].
            observed: codes that a runtime computed, by quantizer name. Consumers of these tensors start from them
                instead of from this execution's own, so a difference stays where it arises.

        Returns:
            uint8 codes by the name of the quantizer node, and float32 values under `logits`.
        """
        return self.follow(x, observed or {})[0]

    @torch.no_grad()
    def follow(
        self, x: Tensor, observed: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """`run`, and for each float boundary the least and the largest code that float rounding can explain."""
        values: dict[fx.Node, Value] = {node: x.float() for node in self.graph.graph.nodes if node.op == "placeholder"}
        results: dict[str, Tensor] = {}
        bounds: dict[str, tuple[Tensor, Tensor]] = {}
        for region in self.regions:
            value = self._run_region(region, values)
            if region.quantizer is not None:
                name = region.quantizer.name
                results[name] = value.codes.to(torch.uint8)
                if name in self.boundaries:
                    bounds[name] = _explained(self._float_of(region, values), value.grid)
                value = Codes(observed[name].to(value.codes), value.grid) if name in observed else value
            values[region.value] = value
            for node in self._last_use.get(region.anchor, ()):
                values.pop(node, None)
        results[LOGITS] = dequantized(values[network_output(self.graph)])
        return results, bounds

    def _run_region(self, region: Region, values: dict[fx.Node, Value]) -> Value:
        grid = self._grids[region.anchor]
        if region.is_layout:
            return self._move(region.anchor, values)
        if region.kind in ("input", "float"):
            value = self._float_of(region, values)
            return value if grid is None else Codes(grid.settle(quantize_float(value, grid)), grid)
        result = self.kernels[region.kind](self, region, [values[node] for node in region.inputs], grid)
        return result if grid is None else Codes(grid.settle(result), grid)

    def _float_of(self, region: Region, values: dict[fx.Node, Value]) -> Tensor:
        """The float value in front of the quantizer of an `input` or `float` region."""
        return dequantized(values[region.inputs[0]]) if region.kind == "input" else self._run_float(region, values)

    def _move(self, node: fx.Node, values: dict[fx.Node, Value]) -> Codes:
        """A layout operator on the codes themselves; padding takes the code of zero."""
        source = next(values[n] for n in node.all_input_nodes if n in values)
        if op_name(node) == "pad":
            moved = F.pad(source.codes, bound_args(node)["pad"], value=float(source.grid.zero_point))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n].codes)
            moved = node.target(*args, **kwargs)
        return Codes(moved, source.grid)

    def _run_float(self, region: Region, values: dict[fx.Node, Value]) -> Tensor:
        result: Any = None
        local: dict[fx.Node, Any] = {}
        for node in (region.anchor, *region.absorbed):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self._float_value(n, values, local))
            result = local[node] = node.target(*args, **kwargs)
        return result

    def _float_value(self, node: fx.Node, values: dict[fx.Node, Value], local: dict[fx.Node, Any]) -> Any:
        if node in local:
            return local[node]
        if not is_constant(node):
            return dequantized(values[node])
        if node.op == "get_attr":
            return get_attribute(self.graph, node).detach().float()
        return self.graph.get_submodule(str(node.target))(self._float_value(node.args[0], values, local))

    def _find_last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """Anchor of a region -> values that no later region reads; the network output is never dropped."""
        last: dict[fx.Node, fx.Node] = {}
        for region in self.regions:
            for node in region.inputs:
                last[node] = region.anchor
        last.pop(network_output(self.graph), None)
        drops: dict[fx.Node, list[fx.Node]] = {}
        for node, anchor in last.items():
            drops.setdefault(anchor, []).append(node)
        return drops


def network_output(graph: fx.GraphModule) -> fx.Node:
    """The node whose value the network returns."""
    returned = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    while isinstance(returned, tuple | list):
        returned = returned[0]
    return returned


def value_grid(graph: fx.GraphModule, target: Target, node: fx.Node) -> CodeGrid | None:
    """Container grid that the value of `node` is on, through layout operators; None if in float."""
    found = grid_node(graph, target, node)
    return None if found is None else container(graph.get_submodule(str(found.target)))

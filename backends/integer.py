"""Integer execution of a frozen graph, region by region: exact sums here, the runtime's requantization in `Kernels`.

What every integer runtime shares is written once: walking the regions, moving codes through layout operators, exact
integer convolution. What differs is how a 32-bit sum becomes an 8-bit code; a backend supplies that as one function
per region kind.

Containers are uint8 always: `container code = grid code - qmin`, so every grid starts at 0 in its container. Nested
levels are one more step behind any kernel, on the integers: a multiple per channel of a grid that starts at 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
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
    pair,
    quantizer_of,
    tensor_shape,
)
from pipeline.grid import regrid
from pipeline.parity import FLOAT_ROUNDING, LOGITS
from pipeline.quantizer import Quantizer
from pipeline.samples import samples_of
from pipeline.target import Target

_FLOAT32_EXACT = 1 << 24
PART = 16  # samples that are walked at once: three times as fast on ResNet-20 as 256
_MOST_CUTS = 8  # float32 sums that are faster together than one in float64

Cuts = tuple[tuple[int, int], ...]


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
        """Codes [N, C, ...] of a kernel brought to the ends of the grid, and to its channels' multiples; in place."""
        codes = codes.clamp_(self.low, self.high)
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
        """`code - zero_point`, float32; the codes themselves where that is 0."""
        return self.codes - self.grid.zero_point if self.grid.zero_point else self.codes


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
    _cuts: dict[tuple[int, bool], Cuts | None] = field(default_factory=dict, repr=False, compare=False)

    def cuts(self, largest: int, dense: bool) -> Cuts | None:
        """Runs of input channels whose products float32 sums without rounding, in any order; None where float64 must.

        Args:
            largest: magnitude of an input.
            dense: the input channels may be cut; one run or none otherwise.
        """
        if (largest, dense) not in self._cuts:
            self._cuts[largest, dense] = _find_cuts(self.weight, largest, dense)
        return self._cuts[largest, dense]


def _find_cuts(weight: Tensor, largest: int, dense: bool) -> Cuts | None:
    # By output and input channel, what no partial sum exceeds.
    bounds = weight.double().abs().reshape(*weight.shape[:2], -1).sum(2) * largest
    channels = bounds.shape[1]
    for parts in range(1, (min(_MOST_CUTS, channels) if dense else 1) + 1):
        ends = [channels * place // parts for place in range(parts + 1)]
        if all(float(bounds[:, start:end].sum(1).max()) < _FLOAT32_EXACT for start, end in pairwise(ends)):
            return tuple(pairwise(ends))
    return None


Value = Codes | Tensor
Constant = TypeVar("Constant")
Kernel = Callable[["Execution", Region, list[Value], CodeGrid | None], Tensor]


def container(quantizer: Quantizer) -> CodeGrid:
    """The uint8 container of an activation quantizer's grid."""
    grid = quantizer.spec.grid
    scale = quantizer.scale.detach().to("cpu", torch.float32).reshape(())
    return CodeGrid(scale, int(quantizer.zero_point) - grid.qmin, 0, grid.qmax - grid.qmin)


def output_grid(graph: fx.GraphModule, region: Region) -> CodeGrid | None:
    """Grid of the region's result, with multiples, ends narrowed by its activations; None if in float.

    Clamping codes equals clamping values, because quantizing is monotone: `Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b))`.
    """
    if region.quantizer is None:
        return None
    quantizer = graph.get_submodule(str(region.quantizer.target))
    grid = container(quantizer)
    low, high = grid.low, grid.high
    for node in (region.anchor, *region.absorbed):
        if region.kind == "float" or op_name(node) not in ACTIVATIONS:
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


@dataclass(frozen=True)
class Sums:
    """32-bit sums of a layer on codes: exact products, and the bias that is still to be added.

    Args:
        products: integers in float32 or float64.
        bias: as of `Layer`.
        axis: of the layer's channels.
    """

    products: Tensor
    bias: Tensor | None
    axis: int

    def exact(self) -> Tensor:
        """The sums as integers in float64."""
        total = self.products.double()
        return total if self.bias is None else total + self._along(self.bias.to(total))

    def integers(self) -> Tensor:
        """The sums as int64."""
        total = self.products.long()
        return total if self.bias is None else total.add_(self._along(self.bias.to(total)))

    def rounded(self) -> Tensor:
        """The sums as a runtime converts them: each rounded to float32 once; a tensor of its own."""
        if self.bias is None:
            return self.products.float()
        bias = self.bias.to(self.products.device)
        if self.products.dtype is not torch.float32:
            return (self.products + self._along(bias)).float()
        # A float32 sum of two float32 numbers is rounded once; a bias that float32 cannot hold takes the long way.
        narrow = bias.float()
        long = (narrow.double() != bias).nonzero()[:, 0]
        if not len(long):
            return self.products.add_(self._along(narrow))
        wide = (self.products.index_select(self.axis, long).double() + self._along(bias[long])).float()
        return self.products.add_(self._along(narrow)).index_copy_(self.axis % self.products.dim(), long, wide)

    def _along(self, values: Tensor) -> Tensor:
        shape = [1] * self.products.dim()
        shape[self.axis] = -1
        return values.reshape(shape)


def conv2d_sums(x: Codes, layer: Layer, node: fx.Node) -> Sums:
    """32-bit sums of a convolution on codes, [N, K, H, W]."""
    arguments = bound_args(node)
    dilation, groups = pair(arguments["dilation"]), arguments["groups"]
    top, left, bottom, right = explicit_padding(arguments["padding"], tuple(layer.weight.shape[2:]), dilation)
    values, inside = x.centered, (top, left)
    if inside != (bottom, right):
        values, inside = F.pad(values, (left, right, top, bottom)), (0, 0)

    def convolve(values: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(values, weight, None, pair(arguments["stride"]), inside, dilation, groups)

    return Sums(_products(values, x.grid, layer, convolve, 1, groups == 1), layer.bias, 1)


def linear_sums(x: Codes, layer: Layer) -> Sums:
    """32-bit sums of a linear layer on codes, [N, ..., K]."""
    return Sums(_products(x.centered, x.grid, layer, F.linear, -1, True), layer.bias, -1)


def _products(
    values: Tensor, grid: CodeGrid, layer: Layer, product: Callable[[Tensor, Tensor], Tensor], axis: int, dense: bool
) -> Tensor:
    """`product(values, weight)` without rounding: float32 holds integers below 2^24, float64 the rest.

    Args:
        values: centred codes, input channels along `axis`; any uint8 code may occur.
        dense: every output sees every input channel, so that a sum too wide for float32 can be cut into such that fit.
    """
    weight = layer.weight.to(values.device)
    # GPUs may run float32 products in TF32, so exactness is only claimed for the CPU.
    cuts = layer.cuts(max(grid.zero_point, 255 - grid.zero_point), dense) if values.device.type == "cpu" else None
    if cuts is None:
        return product(values.double(), weight.double())
    values = values.float()
    if len(cuts) == 1:
        return product(values, weight)
    parts = (product(values.narrow(axis, start, end - start), weight[:, start:end]) for start, end in cuts)
    return functools.reduce(Tensor.add_, (part.double() for part in parts))


def dequantized(value: Value) -> Tensor:
    """float32 values, `scale * (code - zero_point)`; floats pass."""
    return value.centered * value.grid.scale.to(value.codes.device) if isinstance(value, Codes) else value


def all_pairs(function: Callable[[Codes, Codes], Tensor], a: CodeGrid, b: CodeGrid) -> Tensor:
    """float32 [65536]: an elementwise `function` of every code of `a` with every code of `b`, for `looked_up`."""
    codes = torch.arange(256, dtype=torch.float32)
    return function(Codes(codes.reshape(256, 1), a), Codes(codes.reshape(1, 256), b)).float().flatten()


def looked_up(table: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What `all_pairs` holds for codes `a` and `b`, which may broadcast: much faster than a formula in float64."""
    index = torch.add(b, a, alpha=256).to(torch.int32)
    return table.to(index.device).index_select(0, index.flatten()).view(index.shape)


def stored(codes: Tensor) -> Tensor:
    """Codes 0 ... 255 in any dtype as uint8; by way of int16, which is twice as fast as from float32 at once."""
    return codes.to(torch.int16).to(torch.uint8)


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
    """Values that leave a float operator unquantized, as they are or laid out anew."""
    found: set[fx.Node] = set()
    for region in regions:
        moved = region.is_layout and not found.isdisjoint(region.inputs)
        if region.quantizer is None and (region.kind == "float" or moved):
            found.add(region.value)
    return found


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
        self._constants: dict[fx.Node, Any] = {}
        self._grids = {region.anchor: output_grid(graph, region) for region in self.regions}
        self._on_grid = {region.anchor for region in self.regions if region.is_layout
                         and grid_node(graph, target, region.anchor) is not None}
        self._last_use = self._find_last_uses()
        floats = float_values(self.regions)
        self.boundaries = tuple(region.quantizer.name for region in self.regions if _is_boundary(region, floats))
        self.float_output = network_output(graph) in floats

    def layer(self, node: fx.Node) -> Layer:
        """Integers of a conv2d or linear node, read once."""
        if node not in self._layers:
            self._layers[node] = layer_of(self.graph, node)
        return self._layers[node]

    def once(self, region: Region, make: Callable[[], Constant]) -> Constant:
        """What `make` returns for a region, called once: numbers that depend on no sample."""
        if region.anchor not in self._constants:
            self._constants[region.anchor] = make()
        return self._constants[region.anchor]

    def run(self, x: Tensor, observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Codes of every quantized tensor and the output.

        Args:
            x: float32 [N, C, H, W].
            observed: codes that a runtime computed, by quantizer name. Consumers of these tensors start from them
                instead of from this execution's own, so a difference stays where it arises.

        Returns:
            uint8 codes [N, ...] by the name of the quantizer node, and float32 values under `logits`.
        """
        return self.follow(x, observed or {})[0]

    def walk(
        self, x: Tensor, observed: Mapping[str, Tensor]
    ) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """`follow`, in parts whose activations stay in the processor's cache, as arrays of all samples."""
        parts = []
        for start in range(0, max(len(x), 1), PART):
            rows = slice(start, start + PART)
            parts.append(self.follow(x[rows], {name: value[rows] for name, value in observed.items()}))
        results = {name: _joined([part[name] for part, _ in parts]) for name in parts[0][0]}
        bounds = {
            name: (_joined([ends[name][0] for _, ends in parts]), _joined([ends[name][1] for _, ends in parts]))
            for name in parts[0][1]
        }
        return results, bounds

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
                samples = samples_of(region.quantizer)
                results[name] = stored(samples.gather(value.codes))
                if name in self.boundaries:
                    bounds[name] = _explained(samples.gather(self._float_of(region, values)), value.grid)
                if name in observed:
                    value = Codes(samples.scatter(observed[name]).to(value.codes), value.grid)
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

    def _move(self, node: fx.Node, values: dict[fx.Node, Value]) -> Value:
        """A layout operator on the codes themselves; padding takes the code of zero. On values off one grid."""
        if node not in self._on_grid:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: dequantized(values[n]))
            return node.target(*args, **kwargs)
        source = next(values[n] for n in node.all_input_nodes if n in values)
        if op_name(node) == "pad":
            moved = F.pad(source.codes, bound_args(node)["pad"], value=float(source.grid.zero_point))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n].codes.float())
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


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()


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

"""Integer execution of a frozen graph, region by region: exact sums here, the runtime's requantization in `Kernels`.

What every integer runtime shares is written once: walking the regions and moving codes through layout operators here,
exact integer convolution in `layer_sums`. What differs is how a 32-bit sum becomes an 8-bit code; a backend supplies
that as one function per region kind.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx

from isobit.backends.execution.codes import (
    CodeGrid,
    Codes,
    Value,
    dequantized,
    on_grid,
    output_grid,
    quantize_float,
    stored,
)
from isobit.backends.execution.directed import directed_samples
from isobit.backends.execution.kernels import Kernel, LogitKernel
from isobit.backends.execution.layer_sums import Layer, layer_of
from isobit.backends.execution.margins import DIFFERENCES, GATED, JUMPS, largest_of_samples, margin_of
from isobit.backends.execution.reachable import every_input
from isobit.backends.execution.ties import call
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.nodes import (
    get_attribute,
    is_constant,
    op_name,
    source_of,
    where,
)
from isobit.pipeline.graph.ports import input_nodes, output_names, output_nodes
from isobit.pipeline.operators.index_map import run_move
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.proof.arithmetic import Chosen, Followed
from isobit.pipeline.proof.counts import FLOAT_ROUNDING, Reach
from isobit.pipeline.samples.network_inputs import Inputs, in_floats, part, sample_count, tensors
from isobit.pipeline.target import Target

# Of these one operator alone is further off than float rounding of its results.
_ALONE = DIFFERENCES | GATED
PART = 16  # samples that are walked at once: three times as fast on ResNet-20 as 256

Constant = TypeVar("Constant")
FILLED = "filled"  # kernel of the rows of `MOVES` whose result has a grid of its own


def _explained(value: Tensor, grid: CodeGrid, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least and largest uint8 code of float values [N, ...] that the float rounding of another library explains.

    Args:
        carried: what several operators before the quantizer make of their roundings; see `margins`.
    """
    margin = FLOAT_ROUNDING * torch.maximum(largest_of_samples(value), 255 * grid.scale.to(value.device))
    if carried is not None:
        margin = torch.fmax(margin, carried.to(value))  # what is not a number explains nothing
    margin = torch.where(value.isfinite(), margin, 0.0)
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
    """The quantizer of a region that has one reads what a float operator computed."""
    return region.kind == "float" or (region.kind == "input" and region.inputs[0] in floats)


class Execution:
    """Runs the regions of a frozen graph in integers.

    Args:
        graph: frozen, with integer weights (`dialect.verify(graph, "frozen")`).
        target: says which operators run in integers.
        kernels: per region kind, `FILLED` for all moves with a grid of their own. Layout operators, the network input
            and float regions need none.
        logits: the kernel of a layer that has no quantizer.
    """

    def __init__(
        self, graph: fx.GraphModule, target: Target, kernels: Mapping[str, Kernel], logits: LogitKernel
    ) -> None:
        self.graph = graph
        self.target = target
        self.kernels, self.logits = kernels, logits
        self.regions = find_regions(graph, target)
        self._layers: dict[fx.Node, Layer] = {}
        self._constants: dict[fx.Node, Any] = {}
        self._grids = {region.anchor: output_grid(graph, region) for region in self.regions}
        self._on_grid = {region.anchor for region in self.regions if region.grid is not None}
        self._last_use = self._find_last_uses()
        floats = float_values(self.regions)
        self.boundaries = tuple(
            region.quantizer.name for region in self.regions
            if region.quantizer is not None and _is_boundary(region, floats)
        )
        self.outputs = output_names(graph)
        self._returned = dict(zip(self.outputs, output_nodes(graph), strict=True))
        self.float_outputs = tuple(name for name, node in self._returned.items() if node in floats)
        self._carried, self.jumping = self._find_carried(floats), self._find_jumping(floats)

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

    def run(self, x: Inputs, observed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Codes of every quantized tensor and the output.

        Args:
            x: [N, ...], or a tuple of several inputs.
            observed: codes that a runtime computed, by quantizer name. Consumers of these tensors start from them
                instead of from this execution's own, so a difference stays where it arises.

        Returns:
            uint8 codes [N, ...] by the name of the quantizer node, and the float32 values of each output by its name.
        """
        return self.follow(x, observed or {}, bounded=False)[0]

    def walk(
        self, x: Inputs, observed: Mapping[str, Tensor], bounded: bool = True
    ) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """`follow`, in parts whose activations stay in the processor's cache, as arrays of all samples."""
        parts = []
        for start in range(0, max(sample_count(x), 1), PART):
            rows = slice(start, start + PART)
            parts.append(self.follow(part(x, rows), {name: value[rows] for name, value in observed.items()}, bounded))
        results = {name: _joined([found[name] for found, _ in parts]) for name in parts[0][0]}
        bounds = {
            name: (_joined([ends[name][0] for _, ends in parts]), _joined([ends[name][1] for _, ends in parts]))
            for name in parts[0][1]
        }
        return results, bounds

    @torch.no_grad()
    def follow(
        self, x: Inputs, observed: Mapping[str, Tensor], bounded: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """`run`, and for each float boundary the least and the largest code that float rounding can explain.

        And of each output that float operators compute one after the other the least and the largest number.

        Args:
            bounded: false for no such codes, which take time.
        """
        values: dict[fx.Node, Value] = dict(
            zip(input_nodes(self.graph), tensors(in_floats(x, torch.float32)), strict=True)
        )
        margins: dict[fx.Node, Tensor] = {}
        results: dict[str, Tensor] = {}
        bounds: dict[str, tuple[Tensor, Tensor]] = {}
        for region in self.regions:
            carried = margins if bounded and region.anchor in self._carried else None
            value, before, margin = self._run_region(region, values, carried)
            if region.quantizer is not None:
                name, value = region.quantizer.name, on_grid(value)
                samples = samples_of(region.quantizer)
                results[name] = stored(samples.gather(value.codes))
                if bounded and before is not None and name in self.boundaries:
                    margin = None if margin is None else samples.gather(margin)
                    bounds[name] = _explained(samples.gather(before), value.grid, margin)
                if name in observed:
                    value = Codes(samples.scatter(observed[name]).to(value.codes), value.grid)
            elif margin is not None:
                margins[region.value] = margin
                bounds.update(self._ends(region.value, value, margin))
            values[region.value] = value
            for node in self._last_use.get(region.anchor, ()):
                values.pop(node, None)
                margins.pop(node, None)
        results.update((name, dequantized(values[node]).float()) for name, node in self._returned.items())
        return results, bounds

    def _ends(self, node: fx.Node, value: Value, margin: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Least and largest number of what leaves the network here in float."""
        names = [name for name in self.float_outputs if self._returned[name] is node]
        found = dequantized(value).float()
        return dict.fromkeys(names, (found - margin, found + margin))

    def _run_region(
        self, region: Region, values: dict[fx.Node, Value], margins: dict[fx.Node, Tensor] | None
    ) -> tuple[Value, Tensor | None, Tensor | None]:
        """The region's result, what its quantizer read where that is in float, and the margin, where asked for."""
        grid = self._grids[region.anchor]
        if region.is_layout:
            moved = self._move(region.anchor, values)
            return moved, None, self._margin(region.anchor, moved, values, {}, margins)
        if region.kind in ("input", "float"):
            if region.kind == "input":
                value = dequantized(values[region.inputs[0]])
                margin = None if margins is None else margins.get(region.inputs[0])
            else:
                value, margin = self._run_float(region, values, margins)
            coded = value if grid is None else Codes(grid.settle(quantize_float(value, grid)), grid)
            return coded, value, margin
        inputs = [on_grid(values[node]) for node in region.inputs]
        if grid is None:
            return self.logits(self, region, inputs), None, None
        return Codes(grid.settle(self.kernel_of(region)(self, region, inputs, grid)), grid), None, None

    def kernel_of(self, region: Region) -> Kernel:
        """What computes a region that has a grid and is neither moved, nor an input, nor in float."""
        return self.kernels[FILLED if region.kind in MOVES else region.kind]

    def grid_of(self, region: Region) -> CodeGrid | None:
        """The grid of a region's result; None without one of its own."""
        return self._grids[region.anchor]

    def _move(self, node: fx.Node, values: dict[fx.Node, Value]) -> Value:
        """A layout operator on the codes themselves; padding takes the code of zero. On values off one grid."""
        if node not in self._on_grid:
            return call(node, lambda n: dequantized(values[n]))
        source = next(on_grid(values[n]) for n in node.all_input_nodes if n in values)
        if op_name(node) in MOVES:
            moved = run_move(node, source.codes.float(), source.grid.zero_point)
        else:
            moved = call(node, lambda n: on_grid(values[n]).codes.float())
        return Codes(moved, source.grid)

    def _run_float(
        self, region: Region, values: dict[fx.Node, Value], margins: dict[fx.Node, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """What the last operator of a float region gives, and its margin; those of the others end here."""
        result: Any = None
        margin: Tensor | None = None
        local: dict[fx.Node, Any] = {}
        inner: dict[fx.Node, Tensor] = {}
        known = None if margins is None else ChainMap(inner, margins)
        for node in (region.anchor, *region.absorbed):
            result = local[node] = call(node, lambda n: self._float_value(n, values, local))
            margin = self._margin(node, result, values, local, known)
            if margin is not None:
                inner[node] = margin
        if isinstance(result, Tensor) and bool(result.isnan().any()):
            raise CalibrationError(
                f"the operator {op_name(region.anchor)} gives NaN, which has no code, on values that lie on a grid",
                where=where(region.anchor), allowed="numbers, also where what it reads is exactly 0",
                hint="Divide by something that cannot be 0: x / (y + 1e-6), or y.clamp(min=1e-6).",
            )
        return result, margin

    def _margin(
        self, node: fx.Node, result: Any, values: dict[fx.Node, Value], local: dict[fx.Node, Any],
        margins: Mapping[fx.Node, Tensor] | None,
    ) -> Tensor | None:
        """The margin of a float value; None where it is exact, or where none was asked for."""
        if margins is None:
            return None
        return margin_of(node, lambda n: self._float_value(n, values, local), margins, result)

    def _float_value(self, node: fx.Node, values: dict[fx.Node, Value], local: dict[fx.Node, Any]) -> Any:
        if node in local:
            return local[node]
        if not is_constant(node):
            return dequantized(values[node])
        if node.op == "get_attr":
            value = get_attribute(self.graph, node).detach()
            return value.float() if value.is_floating_point() else value
        return self.graph.get_submodule(str(node.target))(self._float_value(source_of(node), values, local))

    def _find_carried(self, floats: set[fx.Node]) -> set[fx.Node]:
        """Anchors of the regions in float on whose rounding others in float build, before a boundary or an output."""
        wanted, found = {self._returned[name] for name in self.float_outputs}, set[fx.Node]()
        for region in reversed(self.regions):
            ends = region.quantizer is not None and region.quantizer.name in self.boundaries
            if ends or region.value in wanted:
                read = floats.intersection(region.inputs)
                wanted |= read
                if region.value in wanted or read or region.absorbed or op_name(region.anchor) in _ALONE:
                    found.add(region.anchor)
        return found

    def _find_jumping(self, floats: set[fx.Node]) -> frozenset[str]:
        """Boundaries whose float regions jump, or read in float what does."""
        found = set[fx.Node]()
        for region in self.regions:
            jumps = any(op_name(node) in JUMPS for node in (region.anchor, *region.absorbed))
            if (region.kind == "float" and jumps) or not found.isdisjoint(floats.intersection(region.inputs)):
                found.add(region.value)
        quantizers = (region.quantizer for region in self.regions if region.value in found)
        return frozenset(each.name for each in quantizers if each is not None)

    def _find_last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """Anchor of a region -> values that no later region reads; the network's outputs are never dropped."""
        last: dict[fx.Node, fx.Node] = {}
        for region in self.regions:
            for node in region.inputs:
                last[node] = region.anchor
        for node in output_nodes(self.graph):
            last.pop(node, None)
        drops: dict[fx.Node, list[fx.Node]] = {}
        for node, anchor in last.items():
            drops.setdefault(anchor, []).append(node)
        return drops


class ExecutedArithmetic:
    """`pipeline.proof.arithmetic.Arithmetic` of an execution: what an artifact must compute, code by code.

    Args:
        execution: of the frozen graph, with the kernels of a runtime.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.float_boundaries, self.jumping = execution.boundaries, execution.jumping
        self.outputs, self.float_outputs = execution.outputs, execution.float_outputs

    def run(self, x: Inputs) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name in execution order, and each float32 output by its name, of x [N, ...]."""
        return self.execution.walk(x, {}, bounded=False)[0]

    def follow(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """See `pipeline.proof.arithmetic.Arithmetic`; of `codes` only those of float boundaries are taken over."""
        taken = {name: torch.from_numpy(codes[name]) for name in self.float_boundaries if name in codes}
        return Followed(*self.execution.walk(x, taken))

    def every_input(self) -> list[Reach]:
        """See `pipeline.proof.arithmetic.Arithmetic`."""
        return every_input(self.execution)

    def directed(self, like: Inputs) -> Chosen:
        """See `pipeline.proof.arithmetic.Arithmetic`."""
        return directed_samples(self.execution, like)

    def pieces(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """See `pipeline.proof.arithmetic.Arithmetic`."""
        return Followed(*self.execution.walk(x, {name: torch.from_numpy(given) for name, given in codes.items()}))


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).cpu().numpy()

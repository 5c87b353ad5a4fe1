"""Samples that are made to show what a runtime's kernels compute: codes chosen for every quantized tensor by itself.

Which they are says `backends.device.chosen`, for devices make them again. Here stands what they are made of: the grids
of a graph, and the codes at which a layer's sums are largest. Codes of all tensors and samples together may take more
memory than a network, so they are made for as many samples at once as are run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from isobit.backends.device.chosen import SAMPLES, chosen_codes, chosen_numbers
from isobit.backends.device.probe import digests_of
from isobit.backends.execution.codes import CodeGrid
from isobit.backends.execution.layer_sums import Layer, explicit_padding
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, op_name, pair, tensor_dtype
from isobit.pipeline.graph.ports import input_names, input_nodes, output_nodes
from isobit.pipeline.proof.arithmetic import Arithmetic, Chosen, Followed, Pieces, Runner
from isobit.pipeline.proof.counts import Directed
from isobit.pipeline.proof.parity import LevelReport, compare_results
from isobit.pipeline.quant.pattern import Pattern
from isobit.pipeline.samples.network_inputs import Inputs, part, sample_count, tensors

if TYPE_CHECKING:
    from isobit.backends.execution.integer import Execution

Keep = Callable[[Chosen, Mapping[str, np.ndarray]], object]


class ChosenCodes(Mapping[str, np.ndarray]):
    """Codes [SAMPLES, ...] by the name of a tensor, each made when it is asked for."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = {pattern.name: pattern for pattern in patterns}

    def __getitem__(self, name: str) -> np.ndarray:
        return chosen_codes(self._patterns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns)

    def __len__(self) -> int:
        return len(self._patterns)


def directed_samples(run: Execution, like: Inputs) -> Chosen:
    """`SAMPLES` inputs, and the codes that take the place of every quantized tensor, whoever computed it.

    Args:
        like: at least one sample; inputs of integers, whose numbers mean something, are taken from there.
    """
    rows = [place % sample_count(like) for place in range(SAMPLES)]
    grids = {region.inputs[0]: run.grid_of(region) for region in run.regions if region.kind == "input"}
    given = tuple(
        _pattern(name, tuple(values.shape[1:]), grids.get(node), numbers=True)
        if tensor_dtype(node).is_floating_point else None
        for name, node, values in zip(input_names(run.graph), input_nodes(run.graph), tensors(like), strict=True)
    )
    x = [values[rows] if pattern is None else torch.from_numpy(chosen_numbers(pattern))
         for values, pattern in zip(tensors(like), given, strict=True)]
    inputs = tuple(x) if len(x) > 1 else x[0]
    one = run.run(part(inputs, slice(1)))
    if any(len(values) != 1 for values in one.values()):  # several rows a sample: which are whose, only the graph knows
        return Chosen(inputs, {}, {}, given, (), {})
    shapes = {name: tuple(codes.shape[1:]) for name, codes in one.items()}
    readers, patterns, levels = _layers_of(run), list[Pattern](), dict[str, int]()
    for region in run.regions:
        grid, quantizer = run.grid_of(region), region.quantizer
        if quantizer is not None and grid is not None:
            patterns.append(_pattern(quantizer.name, shapes[quantizer.name], grid, readers.get(quantizer)))
            levels[quantizer.name] = _levels(grid)
    return Chosen(inputs, ChosenCodes(patterns), levels, given, tuple(patterns), _operators(run))


@dataclass
class _Seen:
    """What was compared so far, and which codes each tensor has shown."""

    level: LevelReport
    shown: dict[str, np.ndarray]

    def add(self, arithmetic: Arithmetic, expected: Followed, results: Mapping[str, np.ndarray]) -> None:
        compare_results(self.level, arithmetic, expected, results)
        self.shown = {name: codes for name, codes in self.shown.items() if name in results}
        for name, codes in self.shown.items():
            codes[results[name]] = True

    @property
    def wrong(self) -> int:
        """Codes and outputs that are not as they must be; what float rounding explains of such samples is."""
        return self.level.codes.differing + self.level.unexplained + len(self.level.wrong_outputs)

    def report(self, chosen: Chosen, layers: bool, reason: str) -> Directed:
        level = self.level
        first = (level.first_divergence or next(iter(level.wrong_outputs), None)) if self.wrong else None
        bounded = sum(count.compared for count in level.boundaries.values())
        codes = replace(level.codes, compared=level.codes.compared + bounded)
        shown = {name: np.count_nonzero(codes) / chosen.levels[name] for name, codes in self.shown.items()}
        return Directed(SAMPLES, layers, codes, self.wrong, first, shown, reason, level.unsteady)


def direct(
    arithmetic: Arithmetic, session: Runner, pieces: Pieces | None, like: Inputs, batch: int = SAMPLES,
    keep: Keep | None = None,
) -> Directed:
    """Run an artifact on chosen samples, and each of its layers on chosen codes where its target can.

    Args:
        session: of the artifact.
        pieces: the same, layer by layer; None where only whole networks can be run.
        like: see `directed_samples`.
        batch: samples that are run at once.
        keep: called with what was chosen and the digests of what layers must give, where some machine can run them.
    """
    try:
        chosen = arithmetic.directed(like)
    except CalibrationError as error:  # an operator in float that has no number there: 0 / 0
        return Directed(reason=_first_line(error))
    if chosen is None:
        return Directed(reason="the target's arithmetic is that of its runtime")
    seen = _Seen(LevelReport("directed", True), {name: np.zeros(256, bool) for name in chosen.levels})
    try:
        for rows in _batches(batch):
            x = part(chosen.inputs, rows)
            results = session.run(x)
            seen.add(arithmetic, arithmetic.follow(x, results), results)
    except CalibrationError as error:
        return seen.report(chosen, False, _first_line(error)) if seen.wrong else Directed(reason=_first_line(error))
    if pieces is None and keep is None:
        return seen.report(chosen, False, "")
    if not chosen.patterns:
        return seen.report(chosen, False, "samples do not lie on the first axis")
    with_layers, digests = copy.deepcopy(seen), list[Mapping[str, np.ndarray]]()
    try:
        if pieces is None:  # a device can run what cannot be run here
            if keep is not None:
                keep(chosen, piece_digests(arithmetic, chosen, batch))
            return seen.report(chosen, False, "")
        for rows in _batches(batch):
            x, codes = part(chosen.inputs, rows), _codes_of(chosen, rows)
            expected = arithmetic.pieces(x, codes)
            with_layers.add(arithmetic, expected, pieces.run(x, codes))
            if keep is not None:
                digests.append(_digests(expected))
        if keep is not None:
            keep(chosen, _joined(digests))
    except CalibrationError as error:
        found = with_layers if with_layers.wrong else seen  # what was found stays found
        return found.report(chosen, False, _first_line(error))
    return with_layers.report(chosen, True, "")


def piece_digests(arithmetic: Arithmetic, chosen: Chosen, batch: int = SAMPLES) -> dict[str, np.ndarray]:
    """Digests of what every layer must give for chosen codes, by the name of its tensor or output.

    Args:
        batch: samples that are run at once.
    """
    return _joined([_digests(arithmetic.pieces(part(chosen.inputs, rows), _codes_of(chosen, rows)))
                    for rows in _batches(batch)])


def _batches(batch: int) -> Iterator[slice]:
    return (slice(start, min(start + batch, SAMPLES)) for start in range(0, SAMPLES, batch))


def _codes_of(chosen: Chosen, rows: slice) -> dict[str, np.ndarray]:
    return {pattern.name: chosen_codes(pattern, range(SAMPLES)[rows]) for pattern in chosen.patterns}


def _digests(expected: Followed) -> dict[str, np.ndarray]:
    return {name: digests_of(values) for name, values in expected.results.items()}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([found[name] for found in parts]) for name in parts[0]}


def _first_line(error: CalibrationError) -> str:
    return str(error).partition("\n")[0]


def _levels(grid: CodeGrid) -> int:
    """How many codes a tensor may have, those of all its channels together."""
    codes = torch.arange(grid.low, grid.high + 1)
    if grid.multiples is not None:
        codes = grid.settle(codes[:, None].repeat(1, grid.multiples.numel()))
    return len(codes.unique())


def _pattern(
    name: str, shape: tuple[int, ...], grid: CodeGrid | None, layer: tuple[Layer, fx.Node] | None = None,
    numbers: bool = False,
) -> Pattern:
    """What the codes of a tensor, or the `numbers` of an input, are made of.

    Args:
        grid: None for an input that no grid is known of.
        layer: the first that reads the tensor.
    """
    if grid is None:
        return Pattern(name, shape, 0, 255, 0, scale=1.0)
    multiples = None if numbers or grid.multiples is None else tuple(grid.multiples.flatten().tolist())
    return Pattern(
        name, shape, grid.low, grid.high, grid.zero_point, multiples,
        None if layer is None else _largest_sum(*layer, shape), float(grid.scale) if numbers else None,
    )


def _operators(run: Execution) -> dict[str, str]:
    """What computes each quantized tensor, and each output that is not one of them, by its name."""
    values = {region.value: " + ".join(
        filter(None, [op_name(region.anchor), *map(op_name, region.absorbed)])) for region in run.regions
        if region.kind != "input"}
    tensors_ = {region.quantizer.name: values.get(region.quantizer, "quantize") for region in run.regions
                if region.quantizer is not None}
    returned = zip(run.outputs, output_nodes(run.graph), strict=True)
    return {**tensors_, **{name: values.get(node, "") for name, node in returned}}


def _layers_of(run: Execution) -> dict[fx.Node, tuple[Layer, fx.Node]]:
    """By the quantizer's node, the first layer that reads its tensor as it is."""
    found: dict[fx.Node, tuple[Layer, fx.Node]] = {}
    for region in run.regions:
        if op_name(region.anchor) in WEIGHTED and region.kind != "float":
            found.setdefault(region.inputs[0], (run.layer(region.anchor), region.anchor))
    return found


def _largest_sum(layer: Layer, node: fx.Node, shape: tuple[int, ...]) -> np.ndarray | None:
    """Where the codes must be largest for one channel of each group to reach its largest sum; None for other shapes."""
    weight = layer.weight.numpy()
    if weight.ndim == 2:
        fits = len(shape) > 0 and shape[-1] == weight.shape[1]
        return np.broadcast_to(weight[np.abs(weight).sum(1).argmax()] > 0, shape) if fits else None
    arguments = bound_args(node)
    groups = arguments["groups"]
    if len(shape) != 3 or shape[0] != weight.shape[1] * groups:
        return None
    of_group = weight.reshape(groups, -1, *weight.shape[1:])
    strongest = np.abs(of_group).sum((2, 3, 4)).argmax(1)
    taps = of_group[np.arange(groups), strongest].reshape(shape[0], *weight.shape[2:]) > 0
    top, left, _, _ = explicit_padding(arguments["padding"], weight.shape[2:], arguments["dilation"])
    rows, columns = (
        # The first window that lies inside the map begins at output ceil(before / stride).
        (np.arange(size) + before - -(-before // stride) * stride) // step % taps.shape[1 + axis]
        for axis, (size, before, step, stride) in enumerate(zip(
            shape[1:], (top, left), pair(arguments["dilation"]), pair(arguments["stride"]), strict=True))
    )
    return taps[:, rows[:, None], columns]

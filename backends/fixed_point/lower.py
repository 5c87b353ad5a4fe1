"""A frozen reference as a `Program`: regions in, integer steps out; nothing is fused here that regions do not fuse.

`refused` takes the same walk before there are numbers, so that what it lets pass can be lowered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import fx

from isobit.backends.fixed_point import layout
from isobit.backends.fixed_point.floats.lowering import FloatLowering
from isobit.backends.fixed_point.floats.steps import Compute, FloatCall, FloatStep
from isobit.backends.fixed_point.joined import Joined, find_parts, join
from isobit.backends.fixed_point.numbers import fill_code, regrid_table, requantize_table
from isobit.backends.fixed_point.operators.arranged import ARRANGED, concatenate
from isobit.backends.fixed_point.program import Conv, Dequantize, Lookup, Move, Program, Step, Weights
from isobit.backends.fixed_point.steps import PAIRS, joined_axis, make_step, refusal
from isobit.backends.fixed_point.values import Refusal, Sums, Value, graph_shape, per_sample
from isobit.backends.regions import Region, find_regions
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import (
    bound_args,
    op_name,
    tensor_dtype,
    tensor_shape,
    where,
)
from isobit.pipeline.graph.ports import input_names, input_nodes, output_names, output_nodes
from isobit.pipeline.operators.index_map import move_numbers
from isobit.pipeline.operators.moves import MOVES, is_move
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target


def lower(reference: Reference) -> Program:
    """The program of a frozen graph that was placed for an integer target (`rules.integer_target`).

    Raises:
        TargetError: numbers that fit no integers, or an operator that `refused` names.
    """
    try:
        return _Lowering(reference.graph, reference.quantized.target).run()
    except Refusal as refusal:
        raise TargetError(refusal.reason, where=where(refusal.node), field="target") from None


def refused(graph: fx.GraphModule, target: Target) -> list[tuple[fx.Node, str]]:
    """What of a quantized graph cannot be lowered, with the reason; its quantizers need no numbers yet."""
    lowering = _Lowering(graph, target, trial=True)
    try:
        lowering.run()
    except Refusal as refusal:
        return [*lowering.refused, (refusal.node, refusal.reason)]
    return lowering.refused


def float_calls(graph: fx.GraphModule, target: Target) -> list[tuple[fx.Node, FloatCall]]:
    """The operators of a quantized graph that run in float, and what each is to compute; nothing is `refused`."""
    names = {node.name: node for node in graph.graph.nodes}
    steps = _Lowering(graph, target, trial=True).run().steps
    return [(names[step.name], step.call) for step in steps if isinstance(step, Compute)]


def readers_of_given(graph: fx.GraphModule, target: Target) -> list[fx.Node]:
    """The nodes of a quantized graph that read an input in float as it is given, not as codes; nothing is `refused`."""
    names = {node.name: node for node in graph.graph.nodes}
    program = _Lowering(graph, target, trial=True).run()
    return [names[step.name] for step in program.steps
            if isinstance(step, FloatStep) and any(number in program.raw for number in step.reads)]


class _Lowering(FloatLowering):
    """One walk over the regions; layout operators only change `Value.numbers` until somebody reads codes.

    Attributes:
        refused: in a trial, operators that may be computed in float and have no kernel; with the reason.
        heads: of each layer whose sums leave, by name: which of its channels, and as which logits.
    """

    def __init__(self, graph: fx.GraphModule, target: Target, trial: bool = False) -> None:
        super().__init__(graph, target, trial)
        self.refused: list[tuple[fx.Node, str]] = []
        self.heads: dict[str, list[tuple[np.ndarray, tuple[int, int] | None]]] = {}

    def run(self) -> Program:
        """The program, of a trial without its steps; raises Refusal. Of no use where anything is `refused`."""
        regions = find_regions(self.graph, self.target)
        unread = self._enter(regions)
        for region in regions:
            if region.value not in self.values:
                try:
                    self._region(region)
                except Refusal as refusal:
                    self._refuse(Refusal(self._to_blame(refusal.node, region), refusal.reason), region)
        if self.refused:
            return Program((), (), ())
        if unread:
            raise Refusal(unread[0], f"nothing computes with the input {unread[0].name} in integers")
        nodes = output_nodes(self.graph)
        shapes = [graph_shape(node) for node in nodes]
        in_float = self.is_in_float(nodes)
        if len(nodes) == 1:
            self.leave_in_float(nodes) if in_float else self._leave(nodes[0])
        elif in_float or any(isinstance(self.values.get(node), Sums) for node in nodes):
            self._leave_one_by_one(nodes)
        else:
            self._leave_together(nodes)
        logits = shapes[0] if len(nodes) == 1 else (sum(map(math.prod, shapes)),)
        outputs = tuple(zip(output_names(self.graph), shapes, strict=True))
        steps = tuple(each for step in self.steps for each in self._with_heads(step))
        return Program(tuple(self.buffers), steps, logits, outputs, input_names(self.graph),
                       tuple(self.floats.tensors), self.raw)

    def _enter(self, regions: Sequence[Region]) -> list[fx.Node]:
        """The inputs, in their order: codes, or integers as they are; those of floats that nothing reads as codes."""
        unread = []
        first = {region.inputs[0]: region for region in reversed(regions) if region.kind == "input"}
        for node in input_nodes(self.graph):
            if len(graph_shape(node)) > 3:
                raise Refusal(node, f"an input of {len(tensor_shape(node))} axes: four at most, the batch included")
            if node in first:
                self.store(first[node], self.grid(first[node]))
            elif tensor_dtype(node).is_floating_point and self.target.float_operators != "nowhere":
                self.store_unread(node)
            elif tensor_dtype(node).is_floating_point:
                unread.append(node)
            else:
                self.store_integers(node)
        return unread

    def _refuse(self, refusal: Refusal, region: Region) -> None:
        """Go on after a region whose operator will be placed in float; raises `refusal` where none may be."""
        if not self.trial or not self.floats.allows(refusal.node):
            raise refusal from None
        self.refused.append((refusal.node, refusal.reason))
        self.pretend(region)

    def _to_blame(self, node: fx.Node, region: Region) -> fx.Node:
        """The operator that cannot be lowered where that is told of a quantizer: its reader, of a value in float."""
        if node.op != "call_module":
            return node
        readers = [reader.node for reader in self.flow.consumers(self.calls[node])
                   if reader.op and self.target.rule_of(reader).inputs != "float"]
        return region.anchor if region.anchor.op == "call_function" and region.integer else [*readers, node][0]

    def _region(self, region: Region) -> None:
        node = region.anchor
        if self.runs_in_float(region):
            self.run_in_float(region)
        elif region.kind == "input":
            self._regrid(region)
        elif self._is_joined(region):
            self.joined[node] = self._join(node)
        elif is_move(op_name(node)) and region.inputs[0] in self.values and region.quantizer is None:
            self.values[node] = self._moved(node)
        elif not region.integer:
            raise Refusal(node, region.reason)
        elif op_name(node) in MOVES:
            self._filled(region)
        elif op_name(node) == "cat" and joined_axis(node) > 1:
            concatenate(self, region)
        else:
            self._step(region)

    def _regrid(self, region: Region) -> None:
        """A quantizer of codes that have a grid already."""
        source, node = region.inputs[0], region.anchor
        in_order = self.lies_in_order(source)
        inputs = (self.codes(source, node, in_order=in_order),)
        before, grid = self.value(source, node).grid, self.grid(region)
        output = self.store(region, grid, in_order)
        if not self.trial:
            table = regrid_table(before, grid)
            self.steps.append(Lookup(region.value.name, region.module, inputs, output, table, high=grid.high))

    def _is_joined(self, region: Region) -> bool:
        """The region lays values of several grids out for the network's output."""
        node = region.anchor
        starts = op_name(node) == "cat" or node.args[0] in self.joined
        return region.is_layout and starts and self.flow.only_leaves(self.calls[node])

    def _step(self, region: Region) -> None:
        """A region that computes."""
        node = region.anchor
        for reason, operator in ((refusal(operator), operator) for operator in (node, *region.absorbed)):
            if reason:
                raise Refusal(operator, reason)
        for source in region.inputs:
            self.check_on_grid(source, node)
        if op_name(node) in ARRANGED:
            ARRANGED[op_name(node)](self, region)
            return
        sources = [source for source in region.inputs if op_name(node) != "cat" or self.values[source].numbers.size]
        in_order = self._computes_in_order(region)
        inputs = tuple(self._operand(source, region, in_order) for source in sources)
        grids = [self.value(source, node).grid for source in sources]
        if region.quantizer is None and not region.is_layout:
            shape = per_sample(region.value)
            self.values[region.value] = Sums(node, np.arange(np.prod(shape)).reshape(shape))
            grid = output = None
        else:
            # Codes that a layout operator passes on, a maximum or a concatenation, keep the grid they have.
            grid = grids[0] if region.is_layout else self.grid(region)
            output = self.store(region, grid, in_order, self._computes_anywhere(region))
        if not self.trial:
            step = make_step(self.graph, region, grids, grid)
            self.steps.append(replace(step, inputs=inputs, output=output))

    def _computes_in_order(self, region: Region) -> bool:
        """The channels of what the region's kernel reads and gives are the last axis of the graph.

        A linear layer over several axes wants it so; operators of single elements take what is there.
        """
        node = region.anchor
        if op_name(node) == "linear":
            return len(tensor_shape(node)) > 2 or self._computes_anywhere(region)
        operators = (node, *region.absorbed)
        if any(op_name(operator) not in (*UNARY, *PAIRS) for operator in operators):
            return False
        if any(len(operator.all_input_nodes) > 1 for operator in operators if op_name(operator) in UNARY):
            return False  # parameters by channel, which are those of axis 1
        shape = tensor_shape(region.value)
        return any(self.lies_in_order(source) for source in region.inputs if tensor_shape(source) == shape)

    def _computes_anywhere(self, region: Region) -> bool:
        """The region computes line by line or element by element, so that the batch may lie on any axis, as it does."""
        node, tail = region.anchor, region.value
        names = {op_name(operator) for operator in (node, *region.absorbed)}
        if samples_of(tail).is_first or not names <= {"linear", *UNARY, *PAIRS}:
            return False
        shapes = [(tensor_shape(source), source is region.inputs[0] and op_name(node) == "linear")
                  for source in region.inputs]
        same = all(shape[:-1] == tensor_shape(tail)[:-1] if lines else shape == tensor_shape(tail)
                   for shape, lines in shapes)
        return same and {samples_of(source) for source in region.inputs} == {samples_of(tail)}

    def _leave(self, output: fx.Node, logits: tuple[int, int] | None = None) -> None:
        """An output: the sums of a layer in the order in which they leave, or codes that become numbers.

        Args:
            logits: which of them it is; see `Step`.
        """
        if output in self.joined:
            self._leave_joined(self.joined[output], output, logits)
            return
        value = self.values.get(output)
        if value is None:
            raise Refusal(output, "an output that no layer computes is in float")
        if isinstance(value, Value):
            if self.buffers[value.buffer].in_order:
                self._leave_joined(self._whole(output, output), output, logits)
            else:
                self.steps.append(Dequantize(output.name, "", (self.codes(output, output),), None, logits=logits))
        else:
            self.heads.setdefault(value.layer.name, []).append((value.numbers.reshape(-1), logits))

    def _leave_one_by_one(self, outputs: Sequence[fx.Node]) -> None:
        """Several outputs of which some are sums or in float: every one is written by a step of its own."""
        first = 0
        for output in outputs:
            logits = (first, math.prod(graph_shape(output)))
            if self.is_in_float([output]) or not (output in self.values or output in self.joined):
                self.leave_in_float([output], logits)
            else:
                self._leave(output, logits)
            first += logits[1]

    def _with_heads(self, step: Step) -> list[Step]:
        """The step itself; of a layer whose sums leave, one for every output that they are."""
        if not isinstance(step, Conv) or step.output is not None:
            return [step]
        return [replace(_reordered(step, numbers), logits=logits) for numbers, logits in self.heads.get(step.name, ())]

    def _leave_together(self, outputs: Sequence[fx.Node]) -> None:
        """Several outputs: the elements of all of them, one output after the other."""
        values = [self._whole(output, output) for output in outputs]
        for output, value in zip(outputs, values, strict=True):
            if value.numbers.shape[0] != 1:
                raise Refusal(output, f"the samples do not lie one after the other on the first axis of {output.name}")
        together = join(values, lambda numbers: torch.cat([part.reshape(1, -1) for part in numbers], 1))
        self._leave_joined(together, outputs[0])

    def _leave_joined(self, joined: Joined, output: fx.Node, logits: tuple[int, int] | None = None) -> None:
        """The output where layout operators put it together from tensors on several grids."""
        if joined.numbers.shape[0] != 1 or tensor_shape(output)[0] is not None:
            raise Refusal(output, f"the samples do not lie one after the other on the first axis of {output.name}")
        parts = find_parts(joined, [self.buffers[number].shape for number, _ in joined.sources])
        if not parts:
            raise Refusal(output, f"{output.name} has no elements")
        self.steps.append(Dequantize(
            output.name, "", tuple(number for number, _ in parts), None, tuple(places for _, places in parts),
            logits=logits))

    def _moved(self, node: fx.Node) -> Value | Sums:
        """A layout operator, run on the numbers of the elements."""
        source = self.values[next(n for n in node.all_input_nodes if n in self.values)]
        return replace(source, numbers=move_numbers(node, source.numbers))

    def _filled(self, region: Region) -> None:
        """What is moved beside a number: codes brought to the grid that holds both, then moved."""
        node = region.anchor
        number, before = self.codes(region.inputs[0], node), self.value(region.inputs[0], node).grid
        grid = self.grid(region)
        table = None if self.trial else requantize_table(node, before, grid)
        if table is not None:
            between = self.add(replace(self.buffers[number], quantized=False))
            self.steps.append(Lookup(node.name, region.module, (number,), between, table))
            number = between
        output = self.store(region, grid)
        if not self.trial:
            source = self.buffers[number]
            numbers = move_numbers(node, layout.identity_map(source.shape, source.nchw)[None])
            form = layout.find_form(layout.channels_last(numbers[0]), source.shape)
            self.steps.append(Move(region.value.name, region.module, (number,), output, **vars(form),
                                   fill=fill_code(node, grid)))

    def _join(self, node: fx.Node) -> Joined:
        """A layout operator after which nothing is computed: its inputs keep their grids up to the logits."""
        read = [self._whole(source.node, node) for source in self.calls[node].inputs]
        return join(read, lambda numbers: _run(node, numbers))

    def _whole(self, node: fx.Node, reader: fx.Node) -> Joined:
        """The value of `node` as one that can be joined."""
        if node in self.joined:
            return self.joined[node]
        value = self.values.get(node)
        if not isinstance(value, Value):
            raise Refusal(reader, f"{node.name} is on no grid")
        return Joined(((value.buffer, self.buffers[value.buffer].size),), value.numbers)

    def _operand(self, source: fx.Node, region: Region, in_order: bool) -> int:
        """Number of a tensor that an operator reads: of the result's shape where it takes two, or one pixel of it."""
        node = region.anchor
        if self._computes_anywhere(region):
            return self.codes(source, node, in_order=in_order, anywhere=True)
        pair = next((n for n in (node, *region.absorbed) if op_name(n) in PAIRS), None)
        if pair is None or (source is region.inputs[0] and node is not pair):
            return self.codes(source, node, in_order=in_order)
        have, shape = self.values[source].numbers.shape, per_sample(pair)
        if len(have) != len(shape):
            raise Refusal(pair, f"operands of {len(have)} and {len(shape)} axes, the batch first in both")
        height, width, channels = layout.map_shape(have[1:], in_order)
        pixel = (height, width) == (1, 1) and channels == layout.map_shape(shape[1:], in_order)[2]
        return self.codes(source, pair, None if pixel and node is pair else shape, in_order)


def _run(node: fx.Node, numbers: list[torch.Tensor]) -> torch.Tensor:
    """A layout operator or a concatenation on the numbers of elements, in the order in which it reads tensors."""
    if op_name(node) in MOVES:
        return torch.from_numpy(move_numbers(node, numbers[0].numpy()))
    return torch.cat(numbers, bound_args(node)["dim"])


def _reordered(step: Conv, numbers: np.ndarray) -> Conv:
    """The layer whose sums are these of `step`; a sum of nothing where the number is `OUTSIDE`."""
    if np.array_equal(numbers, np.arange(len(step.bias))):
        return step
    inside = numbers != layout.OUTSIDE
    rows = np.where(inside, numbers, 0)
    codes = step.weights.codes[rows] * inside.reshape(-1, 1, 1, 1).astype(np.int8)
    weights = Weights(codes, step.weights.bits, step.weights.offset[rows])
    bias = np.where(inside, step.bias[rows], 0).astype(np.int32)
    return replace(step, weights=weights, bias=bias, logit_scale=step.scale_of_logits[rows])

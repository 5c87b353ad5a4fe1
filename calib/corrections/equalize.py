"""Channels brought to one range before a depthwise convolution, so that all of them use the codes of their tensor.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), arXiv 1906.04721, section
4.1: a ReLU keeps positive factors, so what a layer divides a channel by the next one may multiply it with. Where the
next is depthwise and weights have a scale for each channel, no weight loses anything by it; ranges are those of the
calibration images, not of the weights.

A ReLU6 keeps factors below its end only. No channel is widened beyond the widest, which keeps to the end: on the
calibration images the network stays the same, and beyond what a channel had there it is clipped at most a little
earlier, as by a quantizer's range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isobit.calib.context import Calibration
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import is_depthwise, weighted_layers
from isobit.pipeline.graph.nodes import bound_args, get_attribute, is_constant, op_name, quantizer_of
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.quantizer import Phase, Quantizer, stand_in_for
from isobit.pipeline.samples.network_inputs import run_graph

HOMOGENEOUS = frozenset(name for name, row in UNARY.items() if row.homogeneous)
CLIP = "hardtanh"  # ReLU6 is one
LEAST_FACTOR = 2.0**-6  # images never seen may have more in a channel that was nearly empty


@dataclass(frozen=True)
class Pair:
    """A layer and the depthwise convolutions that alone read its result.

    Args:
        first: the layer.
        quantizer: of what lies between, for this tensor only.
        readers: the depthwise convolutions.
    """

    first: fx.Node
    quantizer: Quantizer
    readers: tuple[fx.Node, ...]


@torch.no_grad()
def equalize(calibration: Calibration, clips: bool = False) -> int:
    """Scale weights and biases in place, before ranges are searched; how many tensors were equalized.

    The float network stays the same up to rounding in float32; with `clips`, on the calibration images.

    Args:
        clips: also through a ReLU6.
    """
    pairs = list(find_pairs(calibration.graph, clips))
    ranges = {pair.quantizer: _Largest() for pair in pairs}
    for quantizer in ranges:
        quantizer.phase = Phase.OBSERVE
    if pairs:
        with stand_in_for(ranges.items()):
            for part in batches(calibration.count, calibration.batch):
                run_graph(calibration.graph, calibration.batch_at(part))
    for pair in pairs:
        _scale(calibration.graph, pair, ranges[pair.quantizer].factors())
    return len(pairs)


def find_pairs(graph: fx.GraphModule, clips: bool = False) -> Iterator[Pair]:
    """Every pair of `graph`, in execution order.

    Args:
        clips: what lies between may be a ReLU6, or another clip that no widened channel reaches before the widest.
    """
    calls = Calls(graph)
    places = [quantizer_of(graph, node) for node in graph.graph.nodes]
    for layer in weighted_layers(graph):
        if op_name(layer) != "conv2d" or not _own_weight(graph, layer):
            continue
        node, quantizer = layer, None
        while len(node.users) == 1:
            (user,) = node.users
            found = quantizer_of(graph, user)
            if found is None and op_name(user) not in HOMOGENEOUS and not (clips and _is_even_clip(user)):
                break
            node, quantizer = user, found or quantizer
        readers = tuple(node.users)
        if quantizer is not None and not quantizer.fixed and places.count(quantizer) == 1 and readers and all(
            reader.args[0] is node and is_depthwise(calls[reader]) and _own_weight(graph, reader)
            for reader in readers
        ):
            yield Pair(layer, quantizer, readers)


class _Largest:
    """Stands in for a quantizer and remembers the largest magnitude of each channel."""

    def __init__(self) -> None:
        self._largest: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        found = x.abs().amax((0, 2, 3))
        self._largest = found if self._largest is None else torch.maximum(self._largest, found)
        return x

    def factors(self) -> Tensor:
        """What each channel is divided by, 1 for the widest; 1 for one that is always 0 or holds no finite number."""
        if self._largest is None or not bool(torch.isfinite(self._largest).all() & (self._largest > 0).any()):
            return torch.ones(())
        share = (self._largest.double() / self._largest.max()).clamp(min=LEAST_FACTOR)
        return torch.where(self._largest > 0, share, 1.0)


def _scale(graph: fx.GraphModule, pair: Pair, factors: Tensor) -> None:
    weight, bias = _parameters(graph, pair.first)
    for tensor in (weight, bias):
        if tensor is not None:
            tensor.copy_(tensor.double() / _rows(factors, tensor))
    for reader in pair.readers:
        weight, _ = _parameters(graph, reader)
        weight.copy_(weight.double() * _rows(factors, weight))


def _rows(factors: Tensor, like: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (like.dim() - 1))


def _parameters(graph: fx.GraphModule, layer: fx.Node) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, without their quantizers."""
    args = bound_args(layer)
    bias = args["bias"]
    return get_attribute(graph, stated(args["weight"])), None if bias is None else get_attribute(graph, stated(bias))


def _own_weight(graph: fx.GraphModule, layer: fx.Node) -> bool:
    """Its parameters are constants that nothing else reads, and its weight has a scale for each output channel."""
    args = bound_args(layer)
    given = [value for value in (args["weight"], args["bias"]) if value is not None]
    quantizer = quantizer_of(graph, args["weight"])
    return quantizer is not None and quantizer.spec.axis == 0 and all(map(reads_alone, given))


def reads_alone(value: fx.Node) -> bool:
    """A constant that one operator reads, through its quantizer or as it is."""
    return is_constant(value) and len(value.users) == 1 and len(stated(value).users) == 1


def stated(value: fx.Node) -> fx.Node:
    """The parameter that a layer's argument is, without its quantizer."""
    return value.all_input_nodes[0] if value.op == "call_module" else value


def _is_even_clip(node: fx.Node) -> bool:
    """A clip to 0 ... b, or to -b ... b: magnitudes up to the largest one stay what they are when they grow to it."""
    if op_name(node) != CLIP:
        return False
    low, high = UNARY[CLIP].ends_of(node, coded=False)
    return high > 0.0 and low in (0.0, -high)

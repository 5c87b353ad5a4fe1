"""The places of a graph at which quantizers stand: one walk for everybody who asks for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from torch import fx

from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of, where
from isobit.pipeline.quant.quantizer import BiasQuantizer, Quantizer


@dataclass(frozen=True)
class QuantizedTensor:
    """A place at which a quantizer stands.

    Args:
        node: the quantizer's.
        quantizer: its module, which other places may share.
    """

    node: fx.Node
    quantizer: Quantizer

    @property
    def name(self) -> str:
        """The node's: of the tensor in tables and artifacts."""
        return self.node.name

    @property
    def source(self) -> fx.Node:
        """The node whose value is quantized."""
        return self.node.all_input_nodes[0]

    @property
    def is_weight(self) -> bool:
        """The value does not depend on the input."""
        return is_constant(self.node)


class QuantizedTensors:
    """All places of a graph at which a quantizer stands, in execution order, or some of them."""

    def __init__(self, tensors: Iterable[QuantizedTensor]) -> None:
        self._tensors = tuple(tensors)

    def __iter__(self) -> Iterator[QuantizedTensor]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def weights(self) -> QuantizedTensors:
        """Those of weights."""
        return QuantizedTensors(tensor for tensor in self if tensor.is_weight)

    def activations(self) -> QuantizedTensors:
        """Those of values that depend on the input."""
        return QuantizedTensors(tensor for tensor in self if not tensor.is_weight)

    def within(self, names: Collection[str]) -> QuantizedTensors:
        """Those whose nodes `names` holds."""
        return QuantizedTensors(tensor for tensor in self if tensor.name in names)

    def distinct(self) -> QuantizedTensors:
        """The first place of every quantizer."""
        first: dict[int, QuantizedTensor] = {}
        for tensor in self:
            first.setdefault(id(tensor.quantizer), tensor)
        return QuantizedTensors(first.values())

    def by_name(self) -> dict[str, Quantizer]:
        """Quantizers by the names of their nodes."""
        return {tensor.name: tensor.quantizer for tensor in self}


def quantized_tensors(graph: fx.GraphModule) -> QuantizedTensors:
    """Every place of `graph` at which a quantizer stands, in execution order."""
    found = ((node, quantizer_of(graph, node)) for node in graph.graph.nodes)
    return QuantizedTensors(QuantizedTensor(node, quantizer) for node, quantizer in found if quantizer is not None)


def quantizer_at(graph: fx.GraphModule, node: fx.Node) -> Quantizer:
    """The `Quantizer` that `node` calls, where one must stand; raises TypeError where none does."""
    found = quantizer_of(graph, node)
    if found is None:
        raise TypeError(f"{where(node)} is no quantizer")
    return found


def bias_quantizer_at(graph: fx.GraphModule, node: fx.Node) -> BiasQuantizer:
    """The `BiasQuantizer` that `node` calls, where one must stand; raises TypeError where none does."""
    found = bias_quantizer_of(graph, node)
    if found is None:
        raise TypeError(f"{where(node)} is no quantizer of a bias")
    return found


def quantizers(graph: fx.GraphModule) -> dict[str, Quantizer]:
    """Every distinct quantizer by the name of its first node, in execution order."""
    return quantized_tensors(graph).distinct().by_name()

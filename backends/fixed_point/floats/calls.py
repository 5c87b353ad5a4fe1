"""The float operators of a graph as steps: each is computed where it stands, of values that codes stand for.

Shapes are those of one sample: a batch that lies on a later axis, or within one, needs no care.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg

from isobit.backends.fixed_point.floats.steps import Compute, FloatCall
from isobit.backends.fixed_point.floats.tensors import FloatTensor
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import after_layers
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    get_attribute,
    is_constant,
    known_sizes,
    module_path,
    quantizer_of,
    source_of,
    tensor_dtype,
    tensor_shape,
)
from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.target import Target

Example = tuple[tuple[int, ...], torch.dtype]


class Floats:
    """The values of a graph that are in float: where they may be, and the step of each operator.

    Args:
        graph: quantized or frozen.
        target: says where operators may be in float.

    Attributes:
        tensors: made so far.
        numbers: of the tensor that holds the value of a node.
    """

    def __init__(self, graph: fx.GraphModule, target: Target) -> None:
        self.graph, self.target = graph, target
        self.tensors: list[FloatTensor] = []
        self.numbers: dict[fx.Node, int] = {}
        self._tail = {call.node for call in after_layers(Calls(graph))}
        self._examples: Mapping[fx.Node, Any] | None = None

    def allows(self, node: fx.Node) -> bool:
        """The target may compute an operator in float."""
        where = self.target.float_operators
        return where == "anywhere" or (where == "after_layers" and node in self._tail)

    def add(self, node: fx.Node) -> int:
        """A new tensor for the value of `node`."""
        shape, dtype = self._tensor(node)
        self.tensors.append(FloatTensor(node.name, shape, str(dtype).removeprefix("torch.")))
        self.numbers[node] = len(self.tensors) - 1
        return self.numbers[node]

    def is_tensor(self, node: fx.Node) -> bool:
        """The value of `node` is one tensor; that of others is read by an entry of it, or is a size."""
        return isinstance(self.examples[node], Tensor)

    def compute(self, node: fx.Node, trial: bool) -> tuple[list[fx.Node], Compute]:
        """The nodes whose values an operator reads, and its step, `reads` and `writes` still open.

        Args:
            trial: parameters have no numbers yet, and the step holds none.
        """
        sources, constants = self._arguments(node)
        graph, copies = fx.Graph(), dict[fx.Node, Any]()
        for place, source in enumerate((*sources, *constants)):
            copies[source] = graph.placeholder(f"input_{place}")

        def copy(read: fx.Node) -> Any:
            if read not in copies and read is not node and self._is_number(read):
                return self.examples[read]
            if read not in copies:
                args, kwargs = map_arg((read.args, read.kwargs), copy)
                copies[read] = graph.call_function(read.target, args, kwargs)  # pyright: ignore[reportArgumentType]
            return copies[read]

        graph.output(copy(node))
        call = FloatCall(str(graph), tuple(map(self._tensor, (*sources, *constants))), graph)
        parameters = () if trial else tuple(self._constant(constant).numpy() for constant in constants)
        return sources, Compute(node.name, module_path(node), (), None, (), None, call, parameters)

    @property
    def examples(self) -> Mapping[fx.Node, Any]:
        """What each node gives for one sample: a tensor without numbers, a size, a tuple."""
        if self._examples is None:
            self._examples = _run_one_sample(self.graph)
        return self._examples

    def _arguments(self, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """The tensors that an operator reads, and its parameters; through operators that give several at once."""
        sources, constants = dict[fx.Node, None](), dict[fx.Node, None]()

        def find(read: fx.Node) -> None:
            for source in read.all_input_nodes:
                if is_constant(source):
                    constants[source] = None
                elif self.is_tensor(source):
                    sources[source] = None
                elif not self._is_number(source):
                    find(source)

        find(node)
        return list(sources), list(constants)

    def _is_number(self, node: fx.Node) -> bool:
        return isinstance(self.examples[node], bool | int | float)

    def _tensor(self, node: fx.Node) -> Example:
        """Shape and type for one sample; integers are given to a program in 32 bits."""
        found = self.examples[node]
        given = node.op == "placeholder" and not found.dtype.is_floating_point
        return tuple(map(int, found.shape)), torch.int32 if given else found.dtype

    def _constant(self, node: fx.Node) -> Tensor:
        """The numbers of a parameter, as its quantizer gives them where it has one."""
        if node.op == "get_attr":
            value = get_attribute(self.graph, node).detach().cpu()
        else:
            value = self.graph.get_submodule(str(node.target))(self._constant(source_of(node))).detach()
        return value.float() if value.is_floating_point() else value


class _OneSample(fx.Interpreter):
    """Runs a graph in which quantizers change nothing and keeps every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.quantized = graph
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if quantizer_of(self.quantized, n) is not None or bias_quantizer_of(self.quantized, n) is not None:
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            value = value.float() if is_constant(n) else value
        else:
            value = super().run_node(n)
        self.values[n] = value
        return value


def _run_one_sample(graph: fx.GraphModule) -> Mapping[fx.Node, Any]:
    """What every node gives for one sample of zeros; numbers are worked out only where shapes need them."""
    sources = [(known_sizes(tensor_shape(node)[1:]), tensor_dtype(node)) for node in input_nodes(graph)]

    def run() -> Mapping[fx.Node, Any]:
        recorder = _OneSample(graph)
        with torch.no_grad():
            recorder.run(*(torch.zeros(1, *sizes, dtype=dtype) for sizes, dtype in sources))
        return recorder.values

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return run()
    except Exception:  # operators without shape rules raise many types; one that is wrong does again below
        return run()

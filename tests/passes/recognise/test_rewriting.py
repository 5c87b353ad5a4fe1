"""What the recognitions share: constants of calls."""

from __future__ import annotations

import torch

from isobit.passes.recognise.rewriting import is_call, number_of, tensor_and_number, tensor_of
from tests.examples import nets
from tests.passes.recognise.recognised import Parts


def test_constants_of_calls():
    graph = nets.captured_of(Parts(lambda m, x: (m.three + x) * m.v), 4, 6, 5)[0].graph
    total, product = nets.find(graph, "add_constant"), nets.find(graph, "mul_parameter")
    assert is_call(total, torch.ops.aten.add.Tensor) and not is_call(3.0, torch.ops.aten.add.Tensor)
    assert tensor_and_number(graph, total) == (graph.graph.find_nodes(op="placeholder")[0], 3.0)
    assert tensor_and_number(graph, product) is None
    assert number_of(graph, 2) == 2.0 and number_of(graph, total) is None
    assert tensor_of(graph, product.args[1]).dtype == torch.float64

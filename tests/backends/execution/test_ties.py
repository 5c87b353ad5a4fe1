"""The lower index comes first of equal values."""

import pytest
import torch
from torch import fx

from isobit.backends.execution.ties import ORDERED, call

X = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 1.0]]).repeat(2, 40)


@pytest.mark.parametrize(("arguments", "first"), [
    ((torch.ops.aten.topk.default, 5), [1, 2, 4, 7, 8]),
    ((torch.ops.aten.topk.default, 3, 1, False), [3, 9, 15]),
    ((torch.ops.aten.sort.default,), [3, 9, 15]),
    ((torch.ops.aten.sort.default, 1, True), [1, 2, 4, 7, 8]),
])
def test_the_lower_index_comes_first(arguments, first):
    target, *rest = arguments
    graph = fx.Graph()
    node = graph.call_function(target, (graph.placeholder("x"), *rest))
    values, indices = call(node, lambda source: X)
    assert indices[1, :len(first)].tolist() == first and torch.equal(values, X.gather(1, indices))
    assert target in ORDERED and torch.equal(values, target(X, *rest)[0])

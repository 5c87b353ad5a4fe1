"""The order of nodes, and the sizes of inputs."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.onnx.graph import Graph, Node, Port, in_order, with_shapes


def node(reads: str, makes: str) -> Node:
    return Node("Relu", f"{reads}{makes}", (reads,), (makes,), {})


def test_nodes_are_put_in_an_order_of_execution():
    first, second, third = node("x", "a"), node("a", "b"), node("b", "c")
    assert in_order((third, first, second), {"x"}) == (first, second, third)


@pytest.mark.parametrize(("nodes", "said"), [
    ((node("b", "a"), node("a", "b")), "circle"),
    ((node("nothing", "a"),), "no node makes the value 'nothing'"),
    ((node("x", "a"), node("x", "a")), "the same name"),
])
def test_nodes_without_an_order_are_refused(nodes, said):
    with pytest.raises(InputError, match=said):
        in_order(nodes, {"x"})


def test_sizes_are_given_where_they_are_free_and_win_where_they_are_declared():
    graph = Graph((), {}, (Port("x", torch.float32, (10, 3, None, 32)),), (), 17)
    assert with_shapes(graph, {"x": (1, 3, 64, 48)}).inputs[0].shape == (10, 3, 64, 48)
    assert graph.batch == 10 and graph.fixed_batch
    with pytest.raises(InputError, match="size of the input 'x' is free") as refusal:
        with_shapes(graph, {})
    assert refusal.value.field == "input_shape"
    with pytest.raises(InputError, match="has 4 axes, 2 sizes"):
        with_shapes(graph, {"x": (1, 3)})
    with pytest.raises(InputError, match="no input 'z'"):
        with_shapes(graph, {"z": (1, 3)})

"""Modules read off names: which graphs need it, and what the names say."""

from __future__ import annotations

import pytest

from isobit.passes.units.names import is_flat, named_stack
from isobit.pipeline.graph.nodes import module_path
from tests.examples import flat, nets


def operators(graph):
    return [node for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(("name", "expected"), [("residual", False), ("mobile", False), ("tied", False)])
def test_a_graph_is_flat_where_no_module_holds_two_layers(name, expected):
    assert is_flat(operators(nets.captured_net(name)[0].graph)) == expected


@pytest.mark.parametrize("name", ["residual", "mobile"])
@pytest.mark.parametrize("flatten", [flat.nameless, flat.named])
def test_graphs_of_files_are_flat(name, flatten):
    assert is_flat(operators(flatten(nets.captured_net(name)[0].graph)))


def test_paths_that_differ_in_numbers_are_of_one_class():
    graph = flat.named(nets.captured_net("residual")[0].graph)
    layers = [node for node in operators(graph) if module_path(node).endswith("conv2")]
    assert [named_stack(node) for node in layers] == [
        [("blocks", "blocks"), ("blocks.0", "blocks.#")], [("blocks", "blocks"), ("blocks.1", "blocks.#")],
    ]  # fmt: skip

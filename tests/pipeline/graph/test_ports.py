"""Names of a graph's inputs and outputs."""

from __future__ import annotations

import copy

from torch import Tensor, fx, nn

from isobit.pipeline.graph.ports import input_names, input_nodes, name_ports, output_names, output_nodes, unlike


class _Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left + right, left - right


class _One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_ports_have_names_of_their_own_and_given_ones_survive_a_copy() -> None:
    graph = fx.symbolic_trace(_Two())
    assert [node.name for node in input_nodes(graph)] == ["left", "right"] == list(input_names(graph))
    assert len(output_nodes(graph)) == 2 and output_names(graph) == ("output_0", "output_1")
    name_ports(graph, ["image:0", "scale"], ["sum", "difference"])
    again = copy.deepcopy(graph)
    assert input_names(again) == ("image:0", "scale") and output_names(again) == ("sum", "difference")


def test_one_input_and_one_output_without_names() -> None:
    graph = fx.symbolic_trace(_One())
    assert input_names(graph) == ("input",) and output_names(graph) == ("logits",)


def test_a_name_that_was_given_stays_and_one_that_was_not_gives_way() -> None:
    graph = fx.symbolic_trace(_One())
    name_ports(graph, outputs=["input"])
    assert (input_names(graph), output_names(graph)) == (("input_",), ("input",))
    name_ports(graph, inputs=["logits"], outputs=["y"])
    assert (input_names(graph), output_names(graph)) == (("logits",), ("y",))
    graph = fx.symbolic_trace(_One())
    name_ports(graph, inputs=["logits"])
    assert (input_names(graph), output_names(graph)) == (("logits",), ("logits_",))
    graph = fx.symbolic_trace(_Two())
    name_ports(graph, inputs=["output_1", "output_1_"])
    assert output_names(graph) == ("output_0", "output_1__")


def test_a_name_grows_until_it_is_free() -> None:
    assert unlike("a", ()) == "a" and unlike("a", ("a", "a_")) == "a__"

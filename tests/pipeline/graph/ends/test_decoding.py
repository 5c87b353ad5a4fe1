"""Where integers end: found from the outputs backwards, or chosen by name; the rest of the network is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.ends.decoding import cut_points, decodes, mark_decoding
from isobit.pipeline.graph.layers import weighted_layers
from isobit.pipeline.graph.nodes import op_name
from tests.examples import nets
from tests.examples.detectors import captured_detector

FIRST = {
    "yolo8": (["boxes.0", "scores.0", "boxes.1", "scores.1"], "softmax makes scores of logits"),
    "yolo5": (["heads.0", "heads.1"], "sigmoid makes scores of logits"),
    "ssd": (["scores.0", "scores.1", "boxes.0", "boxes.1"], "softmax makes scores of logits"),
    "centernet": (["heat"], "sigmoid makes scores of logits"),
    "chosen": (["score", "box"], "sigmoid makes scores of logits"),
}


def prepared(name: str, *cut: str):
    return prepare(captured_detector(name)[0].graph, cut)


@pytest.mark.parametrize("name", FIRST)
def test_decoding_begins_right_after_the_heads(name):
    graph = prepared(name)
    points = cut_points(graph)
    assert ([point.layer for point in points], points[0].why) == FIRST[name]
    assert all("detectors.py" in point.source for point in points)
    order = [bool(decodes(node)) for node in graph.graph.nodes if node.op == "call_function"]
    assert order == sorted(order) and any(order), "what decodes stands last"
    assert not any(decodes(layer) for layer in weighted_layers(graph))


@pytest.mark.parametrize("name", [*nets.NETS, "plain"])
def test_nothing_decodes_in_networks_that_end_with_their_layers(name):
    found = captured_detector(name)[0] if name == "plain" else nets.captured_net(name)[0]
    assert cut_points(prepare(found.graph)) == ()


class _End(nn.Module):
    def __init__(self, end) -> None:
        super().__init__()
        self.layer, self.other, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), end

    def forward(self, x):
        return self.end(self.layer(x), self.other(x))


@pytest.mark.parametrize(("end", "found"), [
    (lambda a, b: torch.sigmoid(a), []),  # the activation of a single output
    (lambda a, b: (torch.sigmoid(a), b), ["sigmoid"]),
    (lambda a, b: torch.softmax(a, 1), ["softmax"]),
    (lambda a, b: (F.silu(a) + b, b), []),
    (lambda a, b: (a * torch.sigmoid(b.mean((2, 3), True)), b), []),  # a gate
    (lambda a, b: (torch.sigmoid(a) * torch.sigmoid(b), b), ["sigmoid", "sigmoid", "mul"]),
    (lambda a, b: F.relu(a + b), []),
    (lambda a, b: (torch.relu(a) * 8, a.argmax(1)), []),  # a scale, and an exact choice
    (lambda a, b: (torch.relu(a) * 8 + 3, b), []),
    (lambda a, b: (torch.relu(a) * 8 + torch.arange(4.0), b), ["mul_constant", "add_parameter"]),
    (lambda a, b: (torch.relu(a).exp() * 8, b), ["exp", "mul_constant"]),
    (lambda a, b: (torch.relu(a)[:, [2, 1, 0, 3]] * 2, b), []),  # an order that is written down
    (lambda a, b: (a.gather(1, b.argmax(1, keepdim=True)), b), ["gather"]),
])
def test_scores_and_places_are_decoded_and_activations_and_gates_are_not(end, found):
    graph = prepare(capture(_End(end).eval(), torch.randn(1, 3, 4, 4)).graph)
    assert [op_name(node) for node in graph.graph.nodes if decodes(node)] == found


def test_a_chosen_cut_wins_and_takes_the_names_of_layers_nodes_and_outputs():
    found = prepared("yolo5")
    first = next(node.name for node in found.graph.nodes if decodes(node))
    assert [op_name(node) for node in prepared("yolo5", "none").graph.nodes if decodes(node)] == []
    for names in (("heads.0", "heads.1"), (first,)):
        graph = prepared("yolo5", *names)
        marked = [node.name for node in graph.graph.nodes if decodes(node)]
        assert marked and (first in marked) == (first not in names)
    assert cut_points(prepared("centernet", "heat", "size")) == cut_points(prepared("centernet", "heat"))


@pytest.mark.parametrize(("names", "message"), [
    (("haeds.0",), "no place 'haeds.0'"), (("none", "heads.0"), "both 'none'"), (("stem.0",), "a layer lies after"),
    (("logits",), "nothing lies after 'logits'"), (("heads.0", "logits"), "'logits' is computed from 'heads.0'"),
    (("heads.0", "reshape_default"), "'reshape_default' is computed from 'heads.0'"),
])
def test_a_cut_that_cannot_be_is_refused_with_what_can(names, message):
    with pytest.raises(InputError, match=message) as error:
        prepared("yolo5", *names)
    assert error.value.field == "options.cut" and error.value.where == f"cut {', '.join(names)}"
    assert error.value.hint
    if "both" not in message:
        assert "none, heads.0" in error.value.allowed


def test_the_name_of_a_decoded_output_ends_no_branch():
    with pytest.raises(InputError, match="nothing lies after 'output_0'"):
        prepared("ssd", "output_0", "boxes.0", "boxes.1")


def test_marks_are_written_anew():
    graph = prepared("ssd")
    assert mark_decoding(graph) and not mark_decoding(graph, ["none"])
    assert not any(decodes(node) for node in graph.graph.nodes)

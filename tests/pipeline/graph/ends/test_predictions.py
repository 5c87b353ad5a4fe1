"""What counts as a prediction, from score functions and shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.ends.predictions import Prediction, find_predictions, gives_scores
from isobit.pipeline.graph.nodes import nodes_by_name, op_name, tensor_shape
from tests.examples import nets
from tests.examples.detectors import captured_detector


def found_in(name: str) -> list[tuple[str, tuple[int | None, ...], str]]:
    """(kind, shape of one sample, kind of what it is weighed by) of each prediction."""
    graph = prepare(captured_detector(name)[0].graph)
    nodes, found = nodes_by_name(graph), find_predictions(graph)
    kinds = {each.node: each.kind for each in found}
    return [(each.kind, tensor_shape(nodes[each.node])[1:], kinds.get(each.weighed_by, "")) for each in found]


@pytest.mark.parametrize(("name", "expected"), [
    ("plain", [("scores", (3, 8, 8), ""), ("numbers", (4, 8, 8), "scores")]),
    ("yolo8", [("scores", (3, 80), ""), ("numbers", (4, 80), "scores")]),
    ("ssd", [("classes", (160, 4), ""), ("numbers", (160, 2), "classes"), ("numbers", (160, 2), "classes")]),
    ("centernet", [("scores", (3, 8, 8), ""), ("numbers", (2, 8, 8), "scores"), ("numbers", (2, 8, 8), "scores")]),
    ("yolo5", [("scores", (2, 8, 8, 8), ""), ("scores", (2, 4, 4, 8), "")]),
])
def test_scores_and_boxes_are_told_apart_before_they_are_decoded(name, expected):
    assert found_in(name) == expected


def test_a_classifiers_logits_are_classes():
    graph = prepare(nets.captured_net("residual")[0].graph)
    (found,) = find_predictions(graph)
    assert (found.kind, found.axis, found.title) == ("classes", 1, "logits")


def test_stated_names_win_and_a_score_function_is_looked_through():
    graph = prepare(captured_detector("ssd")[0].graph)
    found = find_predictions(graph, {"classes": ["output_0"], "numbers": ["output_1"]})
    nodes = nodes_by_name(graph)
    assert [each.kind for each in found] == ["classes", "numbers"] and found[0].axis == 2
    assert op_name(nodes[found[0].node]) == "cat" and found[1].weighed_by == found[0].node


def test_an_unknown_name_is_answered_with_the_outputs():
    graph = prepare(captured_detector("plain")[0].graph)
    with pytest.raises(RecipeError, match="no output and no node 'boxes'") as error:
        find_predictions(graph, {"numbers": ["boxes"]})
    assert error.value.field == "recipe.method.prediction" and "output_0, output_1" in error.value.allowed


def test_a_prediction_says_what_it_is():
    assert Prediction("n", "boxes", "numbers", 1, "c").text == "boxes: numbers, weighed by the float scores"


class Ends(nn.Module):
    """Two maps of 8 and 4 channels, 6 x 6, and a classifier's features, ended by a function."""

    def __init__(self, end):
        super().__init__()
        self.a, self.b, self.fc, self.end = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 3), end

    def forward(self, x):
        return self.end(self.a(x), self.b(x), lambda y: self.fc(y.mean((2, 3))))


def ended(end, stated=None, *cut):
    graph = prepare(capture(Ends(end).eval(), torch.randn(2, 3, 6, 6)).graph, cut)
    nodes = nodes_by_name(graph)
    return [(op_name(nodes[each.node]), each.kind, each.axis, each.probabilities, bool(each.weighed_by))
            for each in find_predictions(graph, stated)]


def rows(y, width):
    return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, width)


@pytest.mark.parametrize(("end", "expected"), [
    # RetinaNet's rows: two anchors of four classes, one box each
    (lambda a, b, fc: (rows(a, 4).sigmoid(), rows(a * 2, 4)),
     [("view", "scores", 2, False, False), ("view", "numbers", 2, False, True)]),
    (lambda a, b, fc: (rows(a, 2), rows(torch.cat([a, a], 1), 4)),
     [("view", "scores", 2, False, False), ("view", "numbers", 2, False, True)]),
    (lambda a, b, fc: fc(b), [("linear", "classes", 1, False, False)]),
    (lambda a, b, fc: fc(b)[:, :1], [("slice", "numbers", 1, False, False)]),
    (lambda a, b, fc: fc(b)[:, :1].sigmoid(), [("sigmoid", "scores", 1, True, False)]),
    (lambda a, b, fc: fc(b).sigmoid(), [("sigmoid", "scores", 1, True, False)]),
    (lambda a, b, fc: fc(b).softmax(1), [("linear", "classes", 1, False, False)]),
    (lambda a, b, fc: b.sigmoid().permute(0, 2, 3, 1), [("permute", "scores", 3, True, False)]),
])
def test_what_ends_a_network_tells_its_predictions(end, expected):
    assert ended(end) == expected


def test_without_a_cut_scores_in_integers_are_probabilities():
    assert ended(lambda a, b, fc: (rows(a, 4).softmax(2), rows(a * 2, 4)), None, "none") == [
        ("softmax", "classes", 2, True, False), ("view", "numbers", 2, False, True)]
    joined = ended(lambda a, b, fc: torch.cat([b.sigmoid(), b * 2], 1), None, "none")
    assert [each[:4] for each in joined] == [("sigmoid", "scores", 1, True), ("mul_constant", "numbers", 1, False)]


def test_stated_scores_are_taken_before_the_function_that_made_them_through_layouts():
    both = lambda a, b, fc: (rows(a.sigmoid(), 4), b)  # noqa: E731
    assert ended(both, {"scores": ["output_0"]}) == [("conv2d", "scores", 1, False, False)]
    levels = lambda a, b, fc: (torch.cat([rows(a.sigmoid(), 4), rows(b.sigmoid(), 4)], 1), b)  # noqa: E731
    assert ended(levels, {"scores": ["output_0"]}) == [("cat", "scores", 2, True, False)]
    mixed = lambda a, b, fc: (torch.cat([b.sigmoid(), b * 2], 1), b)  # noqa: E731
    with pytest.raises(RecipeError, match="joins what sigmoid gave with other values") as error:
        ended(mixed, {"scores": ["output_0"]})
    assert "sigmoid" in error.value.hint and error.value.field == "recipe.method.prediction"


@pytest.mark.parametrize(("last", "scores"), [
    ([nn.Softmax(1)], True), ([nn.Sigmoid()], True), ([nn.LogSoftmax(1)], False), ([], False),
    ([nn.Sigmoid(), nn.Linear(4, 4)], False),
])
def test_an_output_is_scores_where_a_softmax_or_sigmoid_ends_it(last, scores):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *last)
    graph = capture(net.eval(), torch.rand(2, 3, 8, 8)).graph
    assert list(gives_scores(graph).values()) == [scores] == list(gives_scores(prepare(graph)).values())

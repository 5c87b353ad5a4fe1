"""A decision stays with its node, in copies of the graph too."""

import copy

from isobit.pipeline.graph.annotation import Annotation, annotation_of, set_annotation
from tests.examples import nets


def test_a_decision_travels_with_copies_and_can_be_forgotten():
    graph = nets.captured_net("residual")[0].graph
    graph = copy.deepcopy(graph)
    node = nets.find(graph, "conv2d")
    assert annotation_of(node) is None
    set_annotation(node, Annotation(kind="inner", note="why"))
    copied = copy.deepcopy(graph)
    assert annotation_of(nets.find(copied, "conv2d")) == Annotation(kind="inner", note="why")
    set_annotation(node, None)
    assert annotation_of(node) is None and annotation_of(nets.find(copied, "conv2d")) is not None

"""Shapes of one sample, wherever in a value the batch lies."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from isobit.backends.fixed_point.values import Refusal, graph_shape, per_sample, sample_shape
from isobit.pipeline.capture.sample_layout import META, Samples


def node_of(shape, samples=None):
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.erf.default, (graph.placeholder("x"),))
    node.meta["shape"] = shape
    if samples is not None:
        node.meta[META] = samples
    return node


def test_the_batch_is_first_mostly():
    node = node_of((None, 3, 4))
    assert (per_sample(node), graph_shape(node), sample_shape(node)) == ((1, 3, 4), (3, 4), (3, 4))


@pytest.mark.parametrize(("shape", "samples", "wanted"), [
    ((7, None, 4), Samples(1, 1, 1), (7, 1, 1, 4)), ((None, 3, 4), Samples(0, 1, 2), (1, 2, 3, 4)),
    ((5, None), Samples(1, 3, 1), (5, 3, 1)),
])
def test_a_batch_on_another_axis_or_within_one_leaves_what_is_around_it(shape, samples, wanted):
    node = node_of(shape, samples)
    assert sample_shape(node) == wanted
    with pytest.raises(Refusal, match="do not lie on the first axis"):
        per_sample(node)


def test_a_size_that_varies_elsewhere_is_refused():
    for node in (node_of((None, None, 4), Samples(1, 1, 1)), node_of((3, None)), node_of(())):
        with pytest.raises(Refusal):
            sample_shape(node)

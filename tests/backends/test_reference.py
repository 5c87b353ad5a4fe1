"""The papers' target: quantizers where the papers put them, and a saved graph that gives the same codes."""

import numpy as np
import pytest
import torch

from isobit.backends import reference as _registers_the_target  # noqa: F401
from isobit.backends.base import BACKENDS
from isobit.backends.execution.exact import ExactArithmetic
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import frozen_levels, frozen_reference, quantized_net

BACKEND = BACKENDS.get("reference")


def test_nothing_but_the_papers_points_is_quantized():
    quantized, _ = quantized_net(BACKEND.target("paper"))
    graph = quantized.graph
    names = [n.name for n in graph.graph.nodes if quantizer_of(graph, n) is not None and not is_constant(n)]
    assert names == ["relu_q", "relu_1_q", "relu_2_q"]
    assert not any(bias_quantizer_of(graph, n) for n in graph.graph.nodes)


def test_the_classifiers_8_bits_sit_on_the_last_blocks_output():
    quantized, _ = quantized_net(BACKEND.target("paper"))
    graph = quantized.graph
    bits = {name: quantizer.spec.grid.bits for name, quantizer in quantizers(graph).items()}
    assert (bits["relu_q"], bits["relu_1_q"], bits["relu_2_q"]) == (4, 4, 8)


# torch 2.11's torch.export.load warns of its own read-only buffer.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_the_saved_graph_gives_the_same_codes_and_logits(tmp_path):
    reference, images = frozen_reference(BACKEND.target("paper"))
    BACKEND.emit(reference, tmp_path)
    expected, got = ExactArithmetic(reference).run(images), BACKEND.open(tmp_path, "float64").run(images)
    assert list(expected) == list(got)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_emitting_leaves_the_reference_runnable(tmp_path):
    reference, images = frozen_reference(BACKEND.target("paper"))
    before = reference.evaluate(images)
    BACKEND.emit(reference, tmp_path)
    assert torch.equal(before, reference.evaluate(images))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_levels_survive_the_saved_graph(tmp_path):
    reference, images = frozen_levels(BACKEND.target("paper"))
    assert quantizers(reference.graph)["relu_q"].multiples is not None
    BACKEND.emit(reference, tmp_path)
    expected, got = ExactArithmetic(reference).run(images), BACKEND.open(tmp_path, "float64").run(images)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)

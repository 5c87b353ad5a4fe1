"""Folded constants change no answer, whatever their phase, and are computed once."""

import torch

from backends.onnx_qdq.target import TARGETS
from pipeline.constants import Constant, fold_constants
from pipeline.graph import bias_quantizer_of, is_constant, quantizer_of
from tests.tiny import frozen_reference


def test_the_answers_are_the_same_bits():
    reference, images = frozen_reference(TARGETS["generic"])
    folded = fold_constants(reference.graph)
    with torch.no_grad():
        assert torch.equal(folded(images), reference.graph(images))
    assert torch.equal(fold_constants(reference.graph, torch.float64)(images.double()), reference.evaluate(images))


def test_no_quantizer_of_a_constant_is_left_and_the_graph_stays_as_it_is():
    reference, _ = frozen_reference(TARGETS["generic"])
    folded = fold_constants(reference.graph)
    constants = [node for node in folded.graph.nodes if node.op == "call_module" and is_constant(node)]
    assert constants and all(isinstance(folded.get_submodule(node.target), Constant) for node in constants)
    assert not any(
        isinstance(reference.graph.get_submodule(node.target), Constant)
        for node in reference.graph.graph.nodes if node.op == "call_module"
    )
    left = [node for node in folded.graph.nodes if quantizer_of(folded, node) or bias_quantizer_of(folded, node)]
    assert left and not any(is_constant(node) for node in left)

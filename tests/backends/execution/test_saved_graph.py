"""The graph as a file gives the codes and outputs of the frozen graph."""

import numpy as np
import pytest
import torch

from isobit.backends import reference as _registers_the_target  # noqa: F401
from isobit.backends.base import BACKENDS
from isobit.backends.execution.exact import ExactArithmetic
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import frozen_levels, frozen_reference

BACKEND = BACKENDS.get("reference")


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

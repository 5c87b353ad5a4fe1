"""Layers over the last of several axes and products of two tensors, in float operators between quantizers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.emit import emit_model
from isobit.backends.onnx.session import OnnxSession, integer_ops
from isobit.backends.onnx.target import TARGETS
from isobit.backends.regions import find_regions
from tests.examples.tiny import frozen_reference

pytestmark = pytest.mark.onnxruntime


class Tokens(nn.Module):
    """Attention in parts: linear layers of three axes, one of them the network's output; products of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        shares = (self.query(x) @ self.key(x).transpose(1, 2)).relu()
        return self.head(shares @ self.value(x))


def tokens(recipe="minmax_w8a8"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Tokens().eval(), torch.randn(12, 3, 8, 8)
    return frozen_reference(TARGETS["generic"], recipe, model, images)


def check_codes(form, recipe, path, levels):
    reference, images = tokens(recipe)
    emit_model(reference, path, form)
    expected = IntegerArithmetic(reference).run(images)
    for level in levels:
        got = OnnxSession(path, level).run(images)
        assert got.keys() == expected.keys() and got["logits"].shape == (12, 16, 5)
        assert all(np.array_equal(got[name], codes) for name, codes in expected.items()), level
    return reference


@pytest.mark.parametrize("recipe", ["minmax_w8a8", "qdrop_w4a4"])
def test_codes_and_outputs_are_those_of_the_arithmetic(recipe, tmp_path):
    reference = check_codes("qdq", recipe, tmp_path / "model.onnx", ("all", "extended"))
    assert all(region.integer for region in find_regions(reference.graph, TARGETS["generic"]))
    found = integer_ops(tmp_path / "model.onnx")
    assert found["float"] == 0 and found["kernels"]["QGemm"] == 4 and found["kernels"]["QLinearMatMul"] == 2


def test_the_layer_itself_is_one_product_of_matrices(tmp_path):
    check_codes("qdq", "minmax_w8a8", tmp_path / "model.onnx", ())
    model = onnx.load(tmp_path / "model.onnx")
    nodes = [node.op_type for part in (model.graph, *model.functions) for node in part.node]
    assert "Gemm" in nodes and "QGemm" not in nodes

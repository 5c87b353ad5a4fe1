"""Layers over the last of several axes and products of two tensors, as the integer kernels themselves."""

from __future__ import annotations

import onnx
import pytest

from isobit.backends.onnx.session import LEVELS
from tests.backends.onnx.forms.test_qdq import check_codes

pytestmark = pytest.mark.onnxruntime


def test_codes_and_outputs_are_those_of_the_arithmetic_at_every_level(tmp_path):
    check_codes("qoperator", "minmax_w8a8", tmp_path / "model.onnx", tuple(LEVELS))
    model = onnx.load(tmp_path / "model.onnx")
    nodes = [node.op_type for part in (model.graph, *model.functions) for node in part.node]
    assert {"QGemm", "QLinearMatMul"} <= set(nodes) and not {"Gemm", "MatMul"} & set(nodes)

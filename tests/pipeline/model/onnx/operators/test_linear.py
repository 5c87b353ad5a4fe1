"""Products of matrices against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm_is_a_linear_layer(tmp_path, attributes):
    weight = f32(4, 6) if attributes.get("transB") else f32(6, 4)
    assert single(tmp_path, "Gemm", ["N", 6], [weight, f32(4)], **attributes) < 1e-5
    assert single(tmp_path, "Gemm", ["N", 6], [weight], **attributes) < 1e-5


def test_products(tmp_path):
    assert single(tmp_path, "MatMul", ["N", 3, 6], [f32(6, 4)]) < 1e-5
    assert single(tmp_path, "MatMul", ["N", 3, 6], [f32(1, 6, 4)]) < 1e-5
    assert single(tmp_path, "Einsum", ["N", 3, 6], [f32(6, 4)], equation="nij,jk->nik") < 1e-5

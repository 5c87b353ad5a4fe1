"""Arithmetic against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.examples.onnx_files import f32, single

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sum", "Mean"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (1, 3, 5)])
def test_with_a_constant(tmp_path, op, shape):
    constant = abs(f32(*shape)) if op != "Pow" else f32(*shape) * 0 + 2
    assert single(tmp_path, op, ["N", 3, 5], [constant]) < 1e-5


def test_remainders(tmp_path):
    assert single(tmp_path, "Mod", ["N", 3, 5], [abs(f32(1))], fmod=1) < 1e-5


@pytest.mark.parametrize("op", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
def test_comparisons(tmp_path, op):
    from onnx import TensorProto

    assert single(tmp_path, op, ["N", 3, 5], [f32(1)[0] * 0], result=TensorProto.BOOL) == 0

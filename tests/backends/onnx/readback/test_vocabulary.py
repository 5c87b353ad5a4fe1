"""ONNX operators as terms: defaults are filled in, ends belong to their codes, kernels are their parts."""

import numpy as np
import pytest

from isobit.backends.onnx.readback.vocabulary import (
    KERNELS,
    Unknown,
    dequantize,
    kernel_operator,
    onnx_operator,
    quantize,
)
from isobit.backends.readback.description import Float32, Terms


@pytest.fixture
def terms():
    return Terms()


def parts(terms, count, grid=0.5):
    """(codes, scale, zero point) of operands."""
    found = []
    for place in range(count):
        found += [terms.edge(f"x{place}"), terms.constant(grid + place, np.float32), terms.constant(place, np.uint8)]
    return found


def test_a_default_written_out_says_the_same_as_none(terms):
    x, w = terms.edge("x"), terms.constant(np.ones((2, 2, 3, 3)), np.float32)
    short = onnx_operator(terms, "Conv", [x, w], {})
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
    assert onnx_operator(terms, "Conv", [x, w, None], attributes) is short
    assert onnx_operator(terms, "Conv", [x, w], {"strides": [1, 2]}) is not short
    assert onnx_operator(terms, "Conv", [x, w], {"auto_pad": b"SAME_UPPER"}) is not short
    assert onnx_operator(terms, "LeakyRelu", [x], {}) is onnx_operator(terms, "LeakyRelu", [x], {"alpha": 0.01})
    assert onnx_operator(terms, "LeakyRelu", [x], {}).get("alpha") == Float32.of(0.01)
    assert onnx_operator(terms, "Identity", [x], {}) is x
    joined = onnx_operator(terms, "Concat", [x, w, x], {"axis": 1})
    assert [name for name, _ in joined.fields] == ["inputs[0]", "inputs[1]", "inputs[2]", "axis"]


@pytest.mark.parametrize(("op", "inputs", "attributes", "words"), [
    ("Frobnicate", 1, {}, "operator Frobnicate"),
    ("Relu", 1, {"alpha": 1.0}, "attribute alpha of Relu"),
    ("Relu", 2, {}, "operand 2 of Relu"),
    ("QuantizeLinear", 3, {"saturate": 0}, "QuantizeLinear with saturate 0"),
    ("Identity", 2, {}, "Identity with other than one operand"),
])
def test_what_is_not_known_is_said(terms, op, inputs, attributes, words):
    with pytest.raises(Unknown, match=words):
        onnx_operator(terms, op, [terms.edge("x")] * inputs, attributes)


def test_ends_of_fresh_codes_belong_to_their_grid_and_others_are_operators(terms):
    x, scale, zero = parts(terms, 1)
    codes = quantize(terms, x, scale, zero)
    ends = [terms.constant(each, np.uint8) for each in (2, 15)]
    narrow = onnx_operator(terms, "Clip", [codes, *ends], {})
    assert (narrow.kind, narrow.get("low"), narrow.get("high")) == ("quantize", 2, 15)
    assert onnx_operator(terms, "Clip", [codes, None, ends[1]], {}).get("low") == 0
    assert onnx_operator(terms, "Clip", [narrow, *ends], {}).kind == "Clip"
    wide = [terms.constant([each], np.uint8) for each in (2, 15)]
    assert onnx_operator(terms, "Clip", [codes, *wide], {}).kind == "Clip"
    assert onnx_operator(terms, "Clip", [terms.edge("codes"), *ends], {}).kind == "Clip"


@pytest.mark.parametrize(("kernel", "op", "count", "attributes"), [
    ("QLinearAdd", "Add", 2, {}), ("QLinearMul", "Mul", 2, {}), ("QLinearMatMul", "MatMul", 2, {}),
    ("QLinearSigmoid", "Sigmoid", 1, {}), ("QLinearLeakyRelu", "LeakyRelu", 1, {"alpha": 0.3}),
    ("QLinearGlobalAveragePool", "GlobalAveragePool", 1, {}),
    ("QLinearAveragePool", "AveragePool", 1, {"kernel_shape": [2, 2]}),
])
def test_a_kernel_is_its_parts_with_a_mark(terms, kernel, op, count, attributes):
    operands, out = parts(terms, count), parts(terms, 1, 0.25)[1:]
    found = kernel_operator(terms, kernel, [*operands, *out], attributes)
    values = [dequantize(terms, *operands[3 * place:3 * place + 3]) for place in range(count)]
    assert found is quantize(terms, onnx_operator(terms, op, values, attributes, "integer"), *out)
    assert found is not quantize(terms, onnx_operator(terms, op, values, attributes), *out)
    with pytest.raises(Unknown, match="operands"):
        kernel_operator(terms, kernel, operands, attributes)
    if kernel.endswith("Pool"):
        with pytest.raises(Unknown, match="channels that lie last"):
            kernel_operator(terms, kernel, [*operands, *out], {**attributes, "channels_last": 1})


def test_a_layers_bias_is_worth_the_product_of_both_scales(terms):
    x, x_scale, x_zero = parts(terms, 1)
    weight = terms.constant(np.ones((2, 3)), np.int8)
    scale, zeros = terms.constant([0.1, 0.3], np.float32), terms.constant([0, 0], np.int8)
    bias, out = terms.constant([5, 6], np.int32), parts(terms, 1, 0.25)[1:]
    worth = dequantize(terms, bias, terms.constant(np.float32([0.1, 0.3]) * np.float32(0.5)),
                       terms.constant([0, 0], np.int32), axis=0)
    values = [dequantize(terms, x, x_scale, x_zero), dequantize(terms, weight, scale, zeros, axis=0), worth]
    value = onnx_operator(terms, "Gemm", values, {"transB": 1}, "integer")
    given = [x, x_scale, x_zero, weight, scale, zeros, bias]
    assert kernel_operator(terms, "QGemm", given, {"transB": 1}) is value
    assert kernel_operator(terms, "QGemm", [*given, *out], {"transB": 1}) is quantize(terms, value, *out)
    convolved = kernel_operator(terms, "QLinearConv", [*given[:6], *out, bias], {"group": 1})
    assert convolved is quantize(terms, onnx_operator(terms, "Conv", values, {}, "integer"), *out)
    with pytest.raises(Unknown, match="no constant"):
        kernel_operator(terms, "QGemm", [*given[:4], terms.edge("s"), zeros, bias], {})


def test_parts_that_are_joined(terms):
    operands, out = parts(terms, 2), parts(terms, 1, 0.25)[1:]
    found = kernel_operator(terms, "QLinearConcat", [*out, *operands], {"axis": 1})
    values = [dequantize(terms, *operands[place:place + 3]) for place in (0, 3)]
    assert found is quantize(terms, onnx_operator(terms, "Concat", values, {"axis": 1}, "integer"), *out)
    with pytest.raises(Unknown, match="operands of QLinearConcat"):
        kernel_operator(terms, "QLinearConcat", operands, {"axis": 1})


def test_a_kernel_that_nobody_knows_is_said(terms):
    with pytest.raises(Unknown, match="com.microsoft.QLinearSoftmax"):
        kernel_operator(terms, "QLinearSoftmax", [], {})
    assert "QLinearSoftmax" not in KERNELS

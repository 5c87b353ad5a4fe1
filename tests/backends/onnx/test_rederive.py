"""Sums and thresholds that are read off the file are those that the build says of its reference."""

import onnx
import pytest
from onnx import numpy_helper

from isobit.backends.base import BACKENDS
from isobit.backends.onnx.rederive import rederive
from tests.examples.onnx_cases import frozen, frozen_with_levels

FORMS = ("onnx", "onnx-qoperator")


def derived(reference, form, folder):
    backend = BACKENDS.get(form)
    backend.emit(reference, folder)
    return backend.derive(folder), {one.name: one for one in backend.arithmetic(reference).every_input()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 3)])
@pytest.mark.parametrize("name", ["relu", "add", "squeeze_excite", "depthwise", "hardtanh", "matmul", "tokens",
                                  "conv_transpose", "folded", "cat_signed", "pad_slice"])
def test_every_digest_is_that_of_the_build(name, bits, form, tmp_path):
    found, said = derived(frozen(name, *bits)[0], form, tmp_path)
    both = [one for one in said.values() if one.name in found and one.digest]
    assert len(both) >= 2 and any(found[one.name].bound is not None for one in both)
    for one in both:
        assert found[one.name].digest == one.digest and found[one.name].bound in (None, one.bound), one


def test_codebooks_are_read_and_nested_levels_are_left_alone(tmp_path):
    found, said = derived(frozen_with_levels("add", "generic")[0], "onnx", tmp_path)
    both = [one for one in said.values() if one.name in found and one.digest]
    assert both and all(found[one.name].digest == one.digest for one in both)


@pytest.mark.parametrize(("kind", "change"), [
    ("weight", lambda array: array + (array == array.max())), ("bias", lambda array: array + 1),
    ("scale", lambda array: array * 1.0000002),
])
def test_a_number_that_is_another_gives_another_digest(kind, change, tmp_path):
    found, _ = derived(frozen("relu", 8, 8)[0], "onnx", tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    wanted = {"weight": (onnx.TensorProto.INT8, 4), "bias": (onnx.TensorProto.INT32, 1),
              "scale": (onnx.TensorProto.FLOAT, 0)}[kind]
    tensor = next(each for each in model.graph.initializer if (each.data_type, len(each.dims)) == wanted
                  and numpy_helper.to_array(each).any())
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    again = rederive(tmp_path / "model.onnx")
    assert any(again[name].digest != one.digest for name, one in found.items())


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09\x12")
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX model"):
        rederive(tmp_path / "model.onnx")

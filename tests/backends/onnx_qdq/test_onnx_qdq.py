"""The backend as the driver sees it."""

import pytest

from backends.base import BACKENDS
from backends.onnx_qdq import OnnxBackend
from backends.onnx_qdq.profiles import DEFAULT_PROFILE
from tests.backends.onnx_qdq.cases import frozen


@pytest.mark.parametrize(("name", "form"), [("onnx", "qdq"), ("onnx-qoperator", "qoperator")])
def test_registered_under_its_name_with_the_default_profile_first(name, form):
    backend = BACKENDS.get(name)
    assert (backend.name, backend.form) == (name, form)
    assert backend.profiles[0] == DEFAULT_PROFILE
    assert backend.levels[0] == "all"


def test_only_levels_with_integer_kernels_are_gated():
    assert OnnxBackend("qdq").gated_levels == ("all", "extended")
    assert OnnxBackend("qoperator").gated_levels == OnnxBackend("qoperator").levels


@pytest.mark.onnxruntime
@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_emit_open_and_count(form, tmp_path):
    backend = OnnxBackend(form)
    reference, images = frozen("relu", 4, 4)
    backend.emit(reference, tmp_path)
    assert not list(backend.unsupported(reference.graph))
    expected = backend.arithmetic(reference).run(images)
    for level in backend.gated_levels:
        got = backend.open(tmp_path, level).run(images)
        assert all((got[name] == expected[name]).all() for name in expected)
    assert backend.integer_ops(tmp_path)["float"] == 0
    assert {"onnxruntime", "onnx"} <= set(backend.versions())

"""The backend as the driver sees it."""

import copy

import pytest

from isobit.backends import onnx as module
from isobit.backends.base import BACKENDS
from isobit.backends.onnx import OnnxBackend
from isobit.backends.onnx.profiles import DEFAULT_PROFILE
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.ports import name_ports
from tests.backends.device.test_processor import HASWELL
from tests.examples.onnx_cases import frozen


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
    assert not list(backend.unsupported(reference.graph, reference.quantized.target))
    expected = backend.arithmetic(reference).run(images)
    for level in backend.gated_levels:
        got = backend.open(tmp_path, level).run(images)
        assert all((got[name] == expected[name]).all() for name in expected)
    assert backend.integer_ops(tmp_path)["float"] == 0
    assert {"onnxruntime", "onnx"} <= set(backend.versions())


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("profile", ["vnni", "arm64"])
def test_a_profile_that_saturates_here_is_refused_before_calibration(form, profile, monkeypatch):
    monkeypatch.setattr(module, "this_machine", lambda: "x86_64")
    monkeypatch.setattr(module, "read_cpuinfo", lambda: HASWELL)
    with pytest.raises(TargetError, match="avx512_vnni or avx_vnni") as error:
        OnnxBackend(form).target(profile)
    assert "i7-4770" in str(error.value) and DEFAULT_PROFILE in error.value.hint
    assert OnnxBackend(form).target(DEFAULT_PROFILE).profile == DEFAULT_PROFILE
    monkeypatch.setattr(module, "read_cpuinfo", lambda: HASWELL.replace(" avx2 ", " avx2 avx_vnni "))
    assert OnnxBackend(form).target(profile).profile == profile


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_name_of_an_input_and_of_an_output_is_refused(form):
    reference, _ = frozen("add", 4, 4)
    graph, target = copy.deepcopy(reference.graph), reference.quantized.target
    name_ports(graph, ["x"], ["x"])
    with pytest.raises(TargetError, match="'x' is an input and an output of the model") as error:
        OnnxBackend(form).unsupported(graph, target)
    assert error.value.where == "output 'x'" and "(`outputs`)" in error.value.hint

"""The target from a frozen network to a proven artifact."""

import numpy as np
import pytest

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.tvm import TvmBackend
from isobit.backends.tvm.device import device_runner
from isobit.backends.tvm.device.device_runner import read_device
from isobit.backends.tvm.profiles import PROFILES
from isobit.pipeline.errors import TargetError
from tests.backends.tvm.conftest import needs
from tests.examples.onnx_cases import _captured as captured_case
from tests.examples.onnx_cases import frozen, recipe_of

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("bits", [(8, 8), (4, 4)])
def test_an_artifact_computes_what_the_arithmetic_says(bits, tmp_path):
    needs("native")
    backend = TvmBackend()
    reference, images = frozen("add", *bits, target=backend.target("native"))
    files = backend.emit(reference, tmp_path)
    assert {"model.so", "device.json", "run.py", "loader"} <= {path.name for path in files}
    assert all(path.is_file() for path in files)
    wanted, got = backend.arithmetic(reference).run(images), backend.open(tmp_path, backend.levels[0]).run(images)
    assert list(got) == list(wanted)
    for name, codes in wanted.items():
        assert np.array_equal(codes.view(np.uint32) if name == "logits" else codes,
                              got[name].view(np.uint32) if name == "logits" else got[name]), name
    read = backend.read_back(reference, tmp_path, None)
    assert read.operators and not read.differences and not read.unread and not read.reason, read.text
    operators = backend.integer_ops(tmp_path)
    assert operators["float"] == 0
    assert operators["integer"] == sum(operators["kernels"].values()) - 2
    sizes = backend.sizes(tmp_path)
    assert sizes["model"] == (tmp_path / "model.so").stat().st_size
    assert sizes["runtime"] > sizes["model"]


def test_native_is_the_profile_that_it_becomes(tmp_path):
    needs("native")
    target = TvmBackend().target("native")
    assert target.profile != "native"
    assert target.profile in TvmBackend.profiles
    backend = TvmBackend()
    reference, _ = frozen("relu", target=target)
    backend.emit(reference, tmp_path)
    assert read_device(tmp_path)["profile"] == target.profile


def test_an_unknown_profile_is_named():
    with pytest.raises(TargetError, match="no device profile 'x86-64-vni'"):
        TvmBackend().target("x86-64-vni")


def test_operators_without_integer_kernels_are_refused():
    backend = TvmBackend()
    target = integer_target("tvm", "native")
    graph = passes.quantize(captured_case("softmax")[0], recipe_of(8, 8), target).graph
    assert [reason for _, reason in backend.unsupported(graph, target)] == ["tvm has no integer kernel for softmax"]


def test_it_is_registered():
    assert isinstance(BACKENDS.get("tvm"), TvmBackend)
    assert set(BACKENDS.get("tvm").versions()) >= {"apache-tvm", "apache-tvm-ffi"}


def test_a_batch_of_the_module_is_timed_here(native):
    timed = TvmBackend().contender(native, 2, 1)
    timed.run()
    assert timed.runtime.startswith("apache-tvm-ffi ")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_time_says_something_where_the_module_runs_without_an_emulator(machine, monkeypatch):
    present = " ".join(f for name in ("x86-64-v3", "aarch64-dotprod") for f in PROFILES[name].features)
    monkeypatch.setattr(device_runner, "this_machine", lambda: machine)
    monkeypatch.setattr(device_runner, "read_cpuinfo", lambda: f"flags : {present}\n")
    timed = {name for name in PROFILES if not TvmBackend().untimed(name)}
    assert timed == ({"x86-64-v3"} if machine == "x86_64" else {"aarch64", "aarch64-dotprod"})
    assert TvmBackend().untimed("aarch64-i8mm").endswith("; `run.py --bench` measures it on the device")

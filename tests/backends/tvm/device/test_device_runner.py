"""`run.py` on a device: passes on what was built, fails on anything else, needs nothing of ours."""

import ast
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from isobit.backends.device.probe import PROBE
from isobit.backends.device.processor import this_machine
from isobit.backends.device.replay import CannotCheck
from isobit.backends.execution.directed import piece_digests
from isobit.backends.tvm import TvmBackend
from isobit.backends.tvm.device import device_runner
from isobit.backends.tvm.device.device_runner import named, open_module, read_results, to_tensor
from isobit.backends.tvm.device.toolchain import compiler, emulation
from isobit.backends.tvm.profiles import NATIVE, PROFILES, resolve
from isobit.backends.tvm.session import NativeSession
from isobit.shipping.probe import write_probe
from tests.backends.tvm import toy
from tests.backends.tvm.conftest import needs
from tests.examples.onnx_cases import frozen
from tests.examples.sealed import change_golden, seal, write_documents
from tests.examples.tvm_networks import resnet
from tests.pipeline.artifact.keys import key_pair
from tools.check.mutate_artifact import judge_here, mutants, survivors

pytestmark = pytest.mark.tvm


def run(folder, *options):
    """As on the device: in the artifact's folder, without this checkout on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "run.py", "--seconds", "0.05", *map(str, options)],
        cwd=folder, capture_output=True, text=True, env=environment,
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def edit_device(folder, **facts):
    device = json.loads((folder / "device.json").read_text())
    (folder / "device.json").write_text(json.dumps({**device, **facts}))
    seal(folder)


def test_what_was_built_passes(native):
    code, lines = run(native)
    assert (code, lines[-1]) == (0, "PASS")
    assert lines[0] == f"samples: 8, codes compared: {8 * (8 * 8 * 3 + 8 * 8 * 16)}"
    assert lines[1].startswith("latency: ") and lines[1].endswith(" ms (median, one thread, batch 1, CPU time)")


def test_a_bench_says_what_an_inference_takes_and_no_more(native):
    code, lines = run(native, "--bench")
    assert code == 0 and len(lines) == 3 and "PASS" not in lines
    assert lines[1].startswith(native.name) and "apache-tvm-ffi " in lines[1] and "CPU time" in lines[2]


@pytest.mark.parametrize("threads", [2, 7])
def test_any_number_of_threads_passes(native, threads):
    code, lines = run(native, "--threads", threads)
    assert (code, lines[-1]) == (0, "PASS") and f"(median, {threads} threads, batch 1, time that passed)" in lines[1]
    code, lines = run(native, "--bench", "--threads", threads)
    assert code == 0 and f"{threads} threads" in lines[2] and "time that passed" in lines[2]


@pytest.mark.parametrize("threads", ["0", "257", "many"])
def test_no_such_number_of_threads(native, threads):
    done = subprocess.run([sys.executable, "run.py", "--threads", threads], cwd=native, capture_output=True, text=True)
    assert done.returncode == 2 and "argument --threads: " in done.stderr and "Traceback" not in done.stderr


def test_what_is_timed_is_a_batch_sample_by_sample(native, monkeypatch):
    import tvm  # noqa: F401 (as in TvmBackend: its runtime must be the one of this process)

    calls, numbers = [], []

    def open_it(folder, threads):
        numbers.append(threads)
        return {"main": lambda *given: calls.append(given)}

    monkeypatch.setattr(device_runner, "open_module", open_it)
    device_runner.timed(native, 3, 2).run()
    assert [[tensor.shape for tensor in given] for given in calls] == 3 * [[(1, 3, 8, 8)]]
    assert numbers == [2]
    monkeypatch.setattr(device_runner, "why_not_here", lambda device: "another processor")
    with pytest.raises(CannotCheck, match="another processor"):
        device_runner.timed(native, 1, 1)
    edit_device(native, machine="another")
    with pytest.raises(CannotCheck, match="this module is for another; .*; `run.py --bench` measures it on the device"):
        device_runner.timed(native, 1, 1)
    with pytest.raises(ValueError, match="changed since"):
        (native / "model.so").write_bytes(b"")
        device_runner.timed(native, 1, 1)


def test_no_damage_passes(native):
    write_documents(native)
    seal(native)
    assert survivors(native, mutants(native, flips=16), judge_here) == []


OPENED = """
import sys, shutil
from pathlib import Path
import numpy as np
import run
first, second, rebuilt = map(Path, sys.argv[1:])
x = run.to_tensor(run.read_golden(first, ["input_q", "layer_q"])["input"][:1])
compute = lambda folder: np.from_dlpack(run.open_module(folder)["main"](x)).copy()
wanted, other = compute(first), compute(second)
assert not np.array_equal(wanted, other)
assert np.array_equal(wanted, compute(first)) and np.array_equal(other, compute(second))
shutil.move(first, first.with_name("old"))
shutil.copytree(rebuilt, first)
assert np.array_equal(other, compute(first)), "the old module under the new path"
"""


def test_artifacts_load_side_by_side_and_anew_in_one_process(native, tmp_path):
    """A second runtime library in one process would abort it; the system remembers libraries by their path."""
    second = shutil.copytree(native, tmp_path / "second")
    profile = resolve(NATIVE)
    toy.build(second / "model.so", profile.llvm_target(), compiler(profile), head=-toy.HEAD)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, native, second, second], cwd=second, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_rebuilt_module_is_the_one_that_a_session_runs(native):
    x = toy.images(1)
    before = NativeSession(native, taps=False).run(x)["logits"]
    profile = resolve(NATIVE)
    (native / "model.so").unlink()
    toy.build(native / "model.so", profile.llvm_target(), compiler(profile), head=-toy.HEAD)
    assert not np.array_equal(NativeSession(native, taps=False).run(x)["logits"], before)


def test_main_is_compared_and_not_trace_alone(native, monkeypatch):
    class Moved(dict):
        """A module whose `main` is not what `trace` shows."""

        def __init__(self, folder, threads):
            machine = open_module(folder, threads)
            super().__init__(trace=machine["trace"], main=lambda x: to_tensor(np.from_dlpack(machine["main"](x)) + 1))

    monkeypatch.setattr(device_runner, "open_module", Moved)
    assert device_runner.replay(native, 0.0) == ["main: logits: 32 of 32 values differ"]


def test_a_folder_that_was_changed_vouches_for_no_results(native, tmp_path):
    (native / "model.so").write_bytes(b"")
    assert run(native, "--check", tmp_path / "none") == (1, ["model.so: changed since it was built", "FAIL"])


def test_a_flipped_byte_of_the_module_fails_before_it_is_loaded(native):
    content = bytearray((native / "model.so").read_bytes())
    content[len(content) // 2] ^= 1
    (native / "model.so").write_bytes(content)
    assert run(native) == (1, ["model.so: changed since it was built", "FAIL"])


def test_a_missing_library_fails(native):
    (native / "lib" / "libtvm_runtime.so").unlink()
    assert run(native) == (1, ["lib/libtvm_runtime.so: missing", "FAIL"])


def test_another_code_on_the_device_fails_and_is_named(native):
    def flip(golden):
        golden["code:layer_q"][3, 2, 1, 0] ^= 1

    change_golden(native, flip)
    code, lines = run(native)
    assert code == 1 and lines[-1] == "FAIL" and f"layer_q: 1 of {8 * 16 * 64} codes differ, by up to 1" in lines


def test_another_bit_of_a_logit_fails(native):
    def nudge(golden):
        golden["logits"][0, 0] = np.nextafter(golden["logits"][0, 0], np.float32(1e9))

    change_golden(native, nudge)
    code, lines = run(native)
    assert code == 1 and "logits: 1 of 32 values differ" in lines


def test_a_processor_without_a_feature_is_told_so_before_the_module_is_loaded(native):
    facts = json.loads((native / "device.json").read_text())
    edit_device(native, cpu_features=["never_built", *facts["cpu_features"]])
    code, (line, last) = run(native)
    assert (code, last) == (1, "FAIL")
    assert line.startswith("this module needs never_built; this processor (")
    assert line.endswith(f"not never_built: build with --device-profile {facts['profile']}")


def test_a_module_of_another_machine_is_not_loaded(native):
    edit_device(native, machine="riscv64")
    code, lines = run(native)
    assert code == 1 and lines[0].startswith("this module is for riscv64; this machine is ")


def test_another_interface_package_is_named_with_the_one_to_install(native):
    edit_device(native, packages={"apache-tvm-ffi": "0.2.0"})
    code, lines = run(native)
    assert code == 1 and lines[0].startswith("this module needs apache-tvm-ffi 0.2.0, and here it is 0.1.")
    assert lines[0].endswith("pip install apache-tvm-ffi==0.2.0")


def test_golden_inputs_go_to_the_loader_and_its_results_are_checked(native, tmp_path):
    given, written = tmp_path / "input.bin", tmp_path / "output.bin"
    assert run(native, "--write-input", given) == (0, [])
    subprocess.run([native / "loader", "trace", "model.so", given, written], cwd=native, check=True)
    code, lines = run(native, "--check", written)
    assert (code, lines[-1]) == (0, "PASS") and lines[0].startswith("samples: 8, codes compared: ")
    content = bytearray(written.read_bytes())
    content[5] ^= 1
    written.write_bytes(content)
    code, lines = run(native, "--check", written)
    assert (code, lines[-1]) == (1, "FAIL") and lines[1].startswith("input_q: 1 of ")


# The module, then pairs of function and the offset in bytes at which its input starts.
AT_OFFSETS = """
import json, sys
import numpy as np, tvm_ffi
from pathlib import Path
import run
folder = Path(sys.argv[1])
module = run.open_module(folder)
random = np.random.default_rng(0)
for name, shape, kind in (("main", (1, 3, 8, 8), "float32"), ("codes", (1, 8, 8, 3), "uint8")):
    x = (random.random(shape) * 200).astype(kind)
    found = []
    for offset in (0, x.itemsize, 3 * x.itemsize, 16):
        memory = np.zeros(x.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved = memory[start:start + x.nbytes].view(kind).reshape(shape)
        moved[...] = x
        found.append(np.from_dlpack(module[name](tvm_ffi.from_dlpack(moved))).tobytes())
    assert len(set(found)) == 1 and any(found[0]), name
"""


@pytest.mark.parametrize("name", ["x86-64-vnni", "x86-64-v3"])
def test_an_input_may_start_anywhere_in_memory(native, name, tmp_path):
    """A kernel that took the alignment of the runtime's own memory for granted would end the process."""
    from isobit.backends.tvm.build import module_builder, write_module

    profile = PROFILES[name]
    if profile.machine.name != this_machine() or emulation(profile):
        pytest.skip(f"this processor does not run {name}")
    write_module(module_builder(resnet(1, (16,), 8), profile), profile, native / "model.so")
    done = subprocess.run([sys.executable, "-c", AT_OFFSETS, native], cwd=native, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_results_of_half_a_sample_are_refused():
    device = {"trace": [{"name": "a", "nhwc": [2, 3, 4], "shape": [4, 2, 3]}], "logits": [5]}
    with pytest.raises(ValueError, match="size"):
        read_results(b"\0" * (24 + 20 + 1), device)


def test_results_come_in_the_shapes_of_the_graph():
    device = {
        "trace": [{"name": "map", "nhwc": [2, 3, 4], "shape": [4, 2, 3]}, {"name": "row", "nhwc": [1, 1, 6],
                                                                           "shape": [6]}], "logits": [5]
    }
    codes = np.arange(2 * 24, dtype=np.uint8).reshape(2, 2, 3, 4)
    row, logits = np.arange(12, dtype=np.uint8).reshape(2, 1, 1, 6), np.ones((2, 5), np.float32)
    results = named([codes, row, logits], device)
    assert list(results) == ["map", "row", "logits"]
    assert results["map"].shape == (2, 4, 2, 3) and results["map"][1, 3, 0, 2] == codes[1, 0, 2, 3]
    assert np.array_equal(results["row"], row.reshape(2, 6))


def test_the_syntax_is_that_of_python_3_8(artifacts):
    ast.parse((artifacts("native") / "run.py").read_text(), feature_version=(3, 8))


def test_only_numpy_and_the_interface_package_are_imported(artifacts):
    lines = (artifacts("native") / "run.py").read_text().splitlines()
    imports = {line.split()[1].split(".")[0] for line in lines if line.lstrip().startswith(("import ", "from "))}
    asked_for = {"model_signing"}  # by --require-signature alone, inside its function
    assert imports - set(sys.stdlib_module_names) == {"numpy", "tvm_ffi"} | asked_for


def test_the_toy_is_worth_comparing():
    codes = toy.expected(toy.images(8))["layer_q"]
    assert 0.1 < (codes == 0).mean() < 0.9 and len(np.unique(codes)) > 50


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """An artifact of a real network with a probe, not to be changed."""
    needs(NATIVE)
    backend, folder = TvmBackend(), tmp_path_factory.mktemp("probed")
    reference, images = frozen("relu", 8, 8, target=backend.target(NATIVE))
    backend.emit(reference, folder)
    judged = backend.arithmetic(reference)
    chosen = judged.directed(images[:1])
    assert write_probe(folder / PROBE, judged, ["input"], chosen, piece_digests(judged, chosen))
    (folder / "golden.npz").write_bytes(b"not read")
    seal(folder, tensors=[{"name": "relu_1_q", "module": "second", "kind": "activation", "bits": 8}])
    return folder


@pytest.fixture
def probed(probes, tmp_path):
    """The same, for a test to change."""
    return shutil.copytree(probes, tmp_path / "probed")


def test_layers_that_are_right_pass_each_by_itself(probed):
    code, lines = run(probed, "--probe")
    assert code == 0 and lines[-1] == "PASS" and lines[0].startswith("layers run by themselves: ") and len(lines) == 2


def test_a_damaged_or_a_missing_probe_fails(probed):
    content = bytearray((probed / PROBE).read_bytes())
    content[len(content) // 2] ^= 4
    (probed / PROBE).write_bytes(content)
    assert run(probed, "--probe") == (1, ["probe.npz: changed since it was built", "FAIL"])
    (probed / PROBE).unlink()
    assert run(probed, "--probe") == (2, ["probe.npz: missing, it was built: copy the whole folder", "FAIL"])
    seal(probed)
    code, lines = run(probed, "--probe")
    assert code == 2 and lines[0].startswith("probe.npz: the build wrote none") and lines[1:] == ["FAIL"]


@pytest.mark.parametrize("options", [[], ["--probe"], ["--check", "output.bin"]])
def test_who_signed_is_asked_first(probed, tmp_path, options):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    _, public = key_pair(tmp_path)
    assert run(probed, "--require-signature", str(public), *options) == (
        1, ["model.sig: missing, nobody signed this folder", "FAIL"])


def test_a_kernel_that_is_wrong_at_its_end_is_named(probes, monkeypatch):
    """One step less where the tensor is largest, as instructions that saturate early give."""
    names = device_runner.traced(device_runner.read_device(probes))

    def opened(folder, threads):
        pieces = open_module(folder, threads)["pieces"]

        def saturating(*given):
            found = [np.from_dlpack(tensor).copy() for tensor in pieces(*given)]
            wrong = found[names.index("relu_1_q")]
            wrong[wrong == 255] = 254
            return [to_tensor(values) for values in found]

        return {"pieces": saturating}

    assert device_runner.check_layers(probes) == []
    monkeypatch.setattr(device_runner, "open_module", opened)
    (line,) = device_runner.check_layers(probes)
    assert line.startswith("relu_1_q: wrong on ") and line.endswith(" chosen samples: conv2d + relu of second")

"""`run.py` on a device: passes on what was built, fails on anything else, needs nothing of ours."""

import ast
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from isobit.backends.device.probe import PROBE
from isobit.backends.device.replay import CannotCheck
from isobit.backends.execution.directed import piece_digests
from isobit.backends.onnx import OnnxBackend
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.device import device_runner
from isobit.backends.onnx.device.device_runner import FILES, with_outputs
from isobit.pipeline.graph.ports import input_names
from isobit.pipeline.samples.network_inputs import part
from isobit.shipping.probe import write_probe
from isobit.shipping.ship import write_golden
from tests.examples import ports
from tests.examples.onnx_cases import frozen
from tests.examples.sealed import change_golden, seal, write_documents
from tests.pipeline.artifact.keys import key_pair
from tools.check.mutate_artifact import judge_here, mutants, survivors

pytestmark = pytest.mark.onnxruntime
OPEN = device_runner.open_session


@pytest.fixture(params=["qdq", "qoperator"])
def artifact(tmp_path, request):
    reference, images = frozen("add", 4, 4)
    backend = OnnxBackend(request.param)
    assert [path.name for path in backend.emit(reference, tmp_path)] == ["model.onnx", "run.py"]
    expected = backend.arithmetic(reference).run(images[:16])
    codes = {f"code:{name}": value for name, value in expected.items() if name != "logits"}
    np.savez_compressed(tmp_path / "golden.npz", input=images[:16].numpy(), logits=expected["logits"], **codes)
    seal(tmp_path)
    return tmp_path


@pytest.fixture
def probed(artifact):
    """The same with a probe."""
    reference, images = frozen("add", 4, 4)
    judged = IntegerArithmetic(reference)
    chosen = judged.directed(images[:1])
    assert write_probe(artifact / PROBE, judged, ["input"], chosen, piece_digests(judged, chosen))
    names = {"relu_q": "stem", "relu_2_q": "branch"}
    seal(artifact, tensors=[{"name": name, "module": module, "kind": "activation", "bits": 8}
                            for name, module in names.items()])
    return artifact


def run(folder, *options):
    done = subprocess.run(
        [sys.executable, "-W", "error", "run.py", "--seconds", "0.05", *options],
        cwd=folder, capture_output=True, text=True,
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_what_was_built_passes(artifact):
    code, lines = run(artifact)
    assert code == 0 and lines[-1] == "PASS"
    assert lines[0].startswith("samples: 16, codes compared: ") and lines[1].startswith("latency: ")


def test_a_bench_says_what_an_inference_takes_and_no_more(artifact):
    code, lines = run(artifact, "--bench")
    assert code == 0 and len(lines) == 3 and "PASS" not in lines
    assert lines[1].startswith(artifact.name) and "onnxruntime " in lines[1] and "CPU time" in lines[2]
    (artifact / "golden.npz").write_bytes(b"")
    assert run(artifact, "--bench") == (1, ["golden.npz: changed since it was built", "FAIL"])


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_timed_is_a_batch_of_the_model(artifact, batch, monkeypatch):
    fed = []

    def session(*given, **more):
        opened = OPEN(*given, **more)
        threads.append(opened.get_session_options().intra_op_num_threads)
        return SimpleNamespace(get_inputs=opened.get_inputs, run=lambda names, feed: fed.append(feed))

    threads = []
    monkeypatch.setattr(device_runner, "open_session", session)
    timed = device_runner.timed(artifact, batch, 2)
    timed.run()
    assert [feed["input"].shape[0] for feed in fed] == [batch] and threads == [2]
    assert timed.runtime.startswith("onnxruntime ")


def test_weights_that_this_processor_saturates_are_not_timed(artifact, monkeypatch):
    monkeypatch.setattr(device_runner, "inexact", lambda manifest: ["saturates"])
    with pytest.raises(CannotCheck, match="saturates"):
        device_runner.timed(artifact, 1, 1)


def test_what_is_made_for_another_machine_is_not_timed(artifact, monkeypatch):
    seal(artifact, target={"name": "onnx", "profile": "arm64"})
    monkeypatch.setattr(device_runner, "this_machine", lambda: "aarch64")
    assert device_runner.timed(artifact, 1, 1).runtime
    monkeypatch.setattr(device_runner, "this_machine", lambda: "x86_64")
    with pytest.raises(CannotCheck, match="made for aarch64, and this machine is x86_64"):
        device_runner.timed(artifact, 1, 1)


def test_no_damage_passes(artifact):
    write_documents(artifact)
    seal(artifact)
    assert survivors(artifact, mutants(artifact, flips=9), judge_here) == []


def test_the_files_are_those_that_the_device_needs(artifact):
    assert sorted(path.name for path in artifact.iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize(("weights", "code"), [(8, 1), (4, 0)])
def test_a_processor_that_saturates_is_told_so_before_it_computes(artifact, weights, code):
    entry = {"kind": "weight", "bits": weights, "symmetric": True, "channel_bits": None}
    seal(artifact, target={"name": "onnx", "profile": "vnni"}, tensors=[entry])
    text = (artifact / "run.py").read_text()
    cpuinfo = "def read_cpuinfo():\n    return 'model name : Old\\nflags : avx2'\n\n\n"
    (artifact / "run.py").write_text(text.replace("def open_session", cpuinfo + "def open_session"))
    seal(artifact)
    got, lines = run(artifact)
    assert got == code
    if code:
        assert len(lines) == 2 and lines[1] == "FAIL"
        assert "needs avx512_vnni or avx_vnni on x86_64; this processor (Old) has neither" in lines[0]
        assert lines[0].endswith("build with --device-profile generic")


def test_a_changed_file_fails(artifact):
    with (artifact / "model.onnx").open("ab") as file:
        file.write(b" ")
    assert run(artifact) == (1, ["model.onnx: changed since it was built", "FAIL"])


def test_a_missing_file_fails(artifact):
    (artifact / "golden.npz").unlink()
    assert run(artifact) == (1, ["golden.npz: missing", "FAIL"])


def test_another_code_on_the_device_fails_and_is_named(artifact):
    sizes = []

    def flip(golden):
        golden["code:relu_q"][3, 2, 1, 0] ^= 1
        sizes.append(golden["code:relu_q"].size)

    change_golden(artifact, flip)
    code, lines = run(artifact)
    assert code == 1 and f"relu_q: 1 of {sizes[0]} codes differ, by up to 1" in lines and lines[-1] == "FAIL"


def test_another_logit_fails(artifact):
    def nudge(golden):
        golden["logits"][0, 0] = np.nextafter(golden["logits"][0, 0], np.float32(100))

    change_golden(artifact, nudge)
    code, lines = run(artifact)
    assert code == 1 and "logits: 1 of 80 values differ" in lines


def test_a_model_that_does_not_load_fails_without_a_traceback(artifact):
    (artifact / "model.onnx").write_bytes(b"not a model")
    seal(artifact)
    code, lines = run(artifact)
    assert code == 1 and lines[-1] == "FAIL" and len(lines) == 2


def test_outputs_are_added_without_the_onnx_package(artifact):
    model = onnx.ModelProto.FromString(with_outputs((artifact / "model.onnx").read_bytes(), ["relu_q", "x" * 300]))
    added = model.graph.output[1:]
    assert [value.name for value in added] == ["relu_q", "x" * 300]
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for value in added)


def test_the_syntax_is_that_of_python_3_8(artifact):
    ast.parse((artifact / "run.py").read_text(), feature_version=(3, 8))


def test_only_numpy_and_onnxruntime_are_imported(artifact):
    lines = (artifact / "run.py").read_text().splitlines()
    imports = {line.split()[1].split(".")[0] for line in lines if line.lstrip().startswith(("import ", "from "))}
    asked_for = {"model_signing"}  # by --require-signature alone, inside its function
    assert imports - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"} | asked_for


def test_layers_that_are_right_pass_each_by_itself(probed):
    code, lines = run(probed, "--probe")
    assert code == 0 and lines[-1] == "PASS" and lines[0].startswith("layers run by themselves: ")
    assert run(probed)[0] == 0


class Wrong:
    """A session whose kernel gives one step less where one tensor of a cut model is largest."""

    def __init__(self, model):
        self.session = OPEN(model)

    def get_inputs(self):
        return self.session.get_inputs()

    def get_outputs(self):
        return self.session.get_outputs()

    def run(self, names, feed):
        found = self.session.run(names, feed)
        place = names.index("own:relu_2_q")
        found[place] = found[place] - (found[place] == 15)
        return found


OPEN = device_runner.open_session


def test_a_kernel_that_is_wrong_at_its_end_is_named(probed, monkeypatch, capsys):
    assert device_runner.check_layers(probed) == []
    monkeypatch.setattr(device_runner, "open_session", Wrong)
    (line,) = device_runner.check_layers(probed)
    assert line.startswith("relu_2_q: wrong on ") and line.endswith(" chosen samples: conv2d + relu of branch")


def test_another_bias_is_found_in_its_layer_alone(probed):
    """What comes after a wrong layer reads chosen codes, so nothing else is blamed."""
    model = onnx.load(probed / "model.onnx")
    read = {name for node in model.graph.node for name in (node.input[:1] if "Dequantize" in node.op_type else
                                                           node.input[8:9])}
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.name in read)
    codes = numpy_helper.to_array(tensor) + 40
    tensor.CopyFrom(numpy_helper.from_array(codes.astype(np.int32), tensor.name))
    onnx.save(model, probed / "model.onnx")
    seal(probed)
    code, lines = run(probed, "--probe")
    assert code == 1 and lines[-1] == "FAIL" and len(lines) == 3
    assert lines[1].startswith("relu_q: wrong on ") and " chosen samples: conv2d + relu of stem" in lines[1]


def test_a_damaged_or_a_missing_probe_fails(probed):
    with (probed / PROBE).open("ab") as file:
        file.write(b" ")
    assert run(probed, "--probe") == (1, ["probe.npz: changed since it was built", "FAIL"])
    assert run(probed) == (1, ["probe.npz: changed since it was built", "FAIL"])
    (probed / PROBE).unlink()
    assert run(probed, "--probe") == (2, ["probe.npz: missing, it was built: copy the whole folder", "FAIL"])
    assert run(probed) == (1, ["probe.npz: missing", "FAIL"])
    seal(probed)
    code, lines = run(probed, "--probe")
    assert code == 2 and lines[0].startswith("probe.npz: the build wrote none") and lines[1:] == ["FAIL"]
    assert run(probed)[0] == 0


def test_where_the_processor_saturates_its_kernels_are_run_all_the_same(probed, monkeypatch):
    manifest = json.loads((probed / "manifest.json").read_text())
    entry = {"name": "w", "module": "stem", "kind": "weight", "bits": 8, "symmetric": True, "channel_bits": None}
    seal(probed, target={"name": "onnx", "profile": "vnni"}, tensors=[*manifest["tensors"], entry])
    monkeypatch.setattr(device_runner, "read_cpuinfo", lambda: "model name : Old\nflags : avx2")
    monkeypatch.setattr(device_runner, "this_machine", lambda: "x86_64")
    monkeypatch.setattr(device_runner, "open_session", Wrong)
    reason, line = device_runner.check_layers(probed)
    assert "this processor (Old) has neither" in reason and line.startswith("relu_2_q: wrong on ")


def test_who_signed_is_asked_before_a_session_is_opened(artifact, tmp_path_factory):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    key = tmp_path_factory.mktemp("keys")
    _, public = key_pair(key)
    (artifact / "model.onnx").write_bytes(b"not a model")
    seal(artifact)
    assert run(artifact, "--require-signature", str(public)) == (
        1, ["model.sig: missing, nobody signed this folder", "FAIL"])
    code, lines = run(artifact, "--require-signature", str(key / "gone.pub"))
    assert code == 2 and "the key cannot be read" in lines[0] and lines[1:] == ["FAIL"]


def test_the_probe_of_another_network_fails(probed):
    with np.load(probed / PROBE) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(probed / PROBE, **{**arrays, "digests": arrays["digests"][1:]})
    seal(probed)
    code, lines = run(probed, "--probe")
    assert code == 1 and lines[-1] == "FAIL" and "does not hold a digest for every tensor" in lines[-2]


@pytest.mark.parametrize("name", ["heads", "siamese"])
def test_networks_with_several_inputs_and_outputs_are_probed(name, tmp_path):
    reference, x = ports.frozen(name, "onnx")
    backend = OnnxBackend("qdq")
    backend.emit(reference, tmp_path)
    judged, names = backend.arithmetic(reference), input_names(reference.graph)
    chosen = judged.directed(part(x, slice(1)))
    assert write_probe(tmp_path / PROBE, judged, names, chosen, piece_digests(judged, chosen))
    (tmp_path / "golden.npz").write_bytes(b"not read")
    seal(tmp_path)
    assert len(names) + len(judged.outputs) > 2
    assert device_runner.check_layers(tmp_path) == []


def test_several_inputs_pass_in_the_script_that_is_shipped(tmp_path):
    reference, x = ports.frozen("siamese", "onnx")
    backend = OnnxBackend("qdq")
    backend.emit(reference, tmp_path)
    arithmetic = backend.arithmetic(reference)
    inputs = input_names(reference.graph)
    assert inputs == ("left", "right")
    write_golden(arithmetic, backend.open(tmp_path, "all"), [(x, None)], tmp_path / "golden.npz", inputs)
    seal(tmp_path)
    code, lines = run(tmp_path)
    assert (code, lines[-1]) == (0, "PASS")

"""`run.py` on a device: passes on what was built, fails on anything else, needs nothing of ours."""

import ast
import subprocess
import sys

import numpy as np
import onnx
import pytest

from isobit.backends.onnx import OnnxBackend
from isobit.backends.onnx.device.device_runner import FILES, with_outputs
from tests.examples.onnx_cases import frozen
from tests.examples.sealed import change_golden, seal, write_documents
from tools.check.mutate_artifact import judge_here, mutants, survivors

pytestmark = pytest.mark.onnxruntime


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


def run(folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "run.py", "--seconds", "0.05"], cwd=folder, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_what_was_built_passes(artifact):
    code, lines = run(artifact)
    assert code == 0 and lines[-1] == "PASS"
    assert lines[0].startswith("samples: 16, codes compared: ") and lines[1].startswith("latency: ")


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
    assert imports - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}

"""`run.py` on a device: passes on what was built, fails on anything else, needs nothing but a compiler."""

import ast
import os
import re
import subprocess
import sys

import pytest

from isobit.backends.c import device_runner
from isobit.backends.c.device_runner import BOARDS, FILES, shortened
from isobit.backends.device.replay import CannotCheck
from tests.backends.c.compiled import needs_emulator, needs_gcc, write, write_artifact
from tests.examples import programs
from tests.examples.sealed import seal, write_documents
from tests.pipeline.artifact.keys import key_pair
from tools.check.mutate_artifact import judge_here, mutants, survivors

pytestmark = needs_gcc


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(programs.every_step(4), tmp_path)


def run(folder, *options, env=None):
    command = [sys.executable, "-W", "error", "run.py", "--seconds", "0.05", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def flip_a_weight(folder):
    """Another network under a manifest that vouches for it: only the replay can tell."""
    text = (folder / "model.c").read_text()
    edited = re.sub(r"(uint8_t weights_1\[\d+\] = \{\s*)(\d+)", lambda m: m[1] + str(int(m[2]) ^ 1), text)
    assert edited != text
    (folder / "model.c").write_text(edited)
    seal(folder)


def test_what_was_built_passes(artifact):
    code, lines = run(artifact)
    assert code == 0 and lines[-1] == "PASS"
    assert lines[0].startswith("samples: 3, tensors compared: ") and lines[1].startswith("latency: ")
    assert "not the microcontroller" in lines[1]


def test_a_bench_says_what_an_inference_takes_and_no_more(artifact):
    code, lines = run(artifact, "--bench")
    assert code == 0 and len(lines) == 3 and "PASS" not in lines
    assert " -O2  " in lines[1] and lines[1].endswith("not the microcontroller") and "CPU time" in lines[2]


def test_what_is_timed_is_a_batch_sample_by_sample_on_one_thread(artifact, monkeypatch):
    calls = []
    monkeypatch.setattr(device_runner, "one_run", lambda *given: lambda: calls.append(1))
    device_runner.timed(artifact, 3, 1).run()
    assert len(calls) == 3
    with pytest.raises(CannotCheck, match="one thread"):
        device_runner.timed(artifact, 1, 2)


def test_what_is_made_for_a_microcontroller_is_not_timed(artifact):
    seal(artifact, target={"name": "c", "profile": "cortex-m4"})
    with pytest.raises(CannotCheck, match="made for cortex-m4: measure a run in the firmware"):
        device_runner.timed(artifact, 1, 1)


def test_without_a_compiler_nothing_is_timed(artifact, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CannotCheck, match="no C compiler"):
        device_runner.timed(artifact, 1, 1)


def test_inputs_are_codes_of_all_values_and_of_integers_0_and_1():
    model = {"tensors": [{"shape": [8, 8, 8]}, {"shape": [1, 1, 64], "integers": True}, {"shape": [1, 1, 1]}],
             "input_names": ["image", "tokens"]}
    codes, tokens = device_runner.random_codes(model)
    assert len(codes) == 512 and len(set(codes.raw)) > 200 and codes.raw == device_runner.random_codes(model)[0].raw
    assert len(tokens) == 64 and set(tokens) == {0, 1}


@needs_emulator
@pytest.mark.parametrize("board", BOARDS)
def test_what_was_built_passes_on_an_emulated_processor_and_anything_else_fails(artifact, board):
    code, lines = run(artifact, f"--{board}", "--samples", "2")
    assert code == 0 and lines[0].startswith("samples: 2, ") and lines[-1] == "PASS"
    flip_a_weight(artifact)
    code, lines = run(artifact, f"--{board}")
    assert code == 1 and "t2 differs in 3 samples, first in sample 0" in lines and lines[-1] == "FAIL"


def test_no_damage_passes(artifact):
    write_documents(artifact)
    seal(artifact)
    assert survivors(artifact, mutants(artifact, flips=10), judge_here) == []


def test_the_files_are_those_that_the_device_needs(artifact):
    names = {path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()}
    assert names == {*FILES, "manifest.json"}


def test_so_many_samples_are_replayed_as_were_asked_for(artifact):
    code, lines = run(artifact, "--samples", "2")
    assert code == 0 and lines[0].startswith("samples: 2, ")
    code, lines = run(artifact, "--samples", "4")
    assert code == 1 and "samples_are_there" in " ".join(lines) and lines[-1] == "FAIL"


@pytest.mark.parametrize("samples", ["0", "-1", "x"])
def test_no_samples_are_no_replay(artifact, samples):
    command = [sys.executable, "run.py", "--samples", samples]
    done = subprocess.run(command, cwd=artifact, capture_output=True, text=True)
    assert done.returncode == 2 and "PASS" not in done.stdout and "--samples" in done.stderr


def test_two_networks_live_in_one_program(artifact, tmp_path):
    """Every name with external linkage begins with the network's."""
    other = tmp_path / "other"
    write(programs.every_step(8), other)
    for name in ("model.c", "model.h"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace("net_", "second_").replace("NET_", "SECOND_"))
    main = '#include "model.h"\n#include "other/model.h"\n' + "int main(void)\n{\n" + "".join(
        f"    static uint8_t {n}_x[{n.upper()}_INPUT_BYTES];\n    static float {n}_y[{n.upper()}_LOGITS];\n"
        f"    {n}_run({n}_x, {n}_y);\n" for n in ("net", "second")) + "    return 0;\n}\n"
    (artifact / "both.c").write_text(main)
    subprocess.run(["gcc", "-std=c99", "both.c", "model.c", "other/model.c", "-o", "both"], cwd=artifact, check=True)
    subprocess.run([artifact / "both"], check=True)


def test_a_changed_file_fails(artifact):
    with (artifact / "model.c").open("a") as file:
        file.write("\n")
    assert run(artifact) == (1, ["model.c: changed since it was built", "FAIL"])


def test_a_missing_file_fails(artifact):
    (artifact / "cortex_m4" / "startup.c").unlink()
    assert run(artifact) == (1, ["cortex_m4/startup.c: missing", "FAIL"])


def test_another_network_fails(artifact):
    flip_a_weight(artifact)
    code, lines = run(artifact)
    assert code == 1 and lines[0] == "t2 differs in 3 samples, first in sample 0"
    tensors = [line.partition(" differ")[0] for line in lines if " differ" in line and "differing" not in line]
    assert len(tensors) == len(set(tensors)) > 3 and tensors[-1] == "logits"
    assert lines[-2:] == ["the test program failed (exit status 1)", "FAIL"]


def test_what_differs_is_told_once_in_the_order_of_the_network():
    said = ["sample 0: b differs", "sample 0: logits differ", "sample 1: a differs", "sample 1: b differs",
            "samples: 2"]
    assert shortened(said, ["a", "b", "logits"]) == [
        "a differs in sample 1", "b differs in 2 samples, first in sample 0",
        "logits differ in sample 0", "samples: 2"]
    assert shortened(["samples: 2, tensors compared: 4, differing: 0"], ["a"]) == [
        "samples: 2, tensors compared: 4, differing: 0"]


def test_files_that_do_not_compile_fail_with_the_complaint(artifact):
    (artifact / "golden.h").write_text("#error broken\n")
    seal(artifact)
    code, lines = run(artifact)
    assert code == 1 and lines[-1] == "FAIL" and any("broken" in line for line in lines)


def test_no_compiler_is_told_with_the_package(artifact, tmp_path):
    code, lines = run(artifact, env={"PATH": str(tmp_path / "nothing"), "HOME": os.environ.get("HOME", "")})
    assert code == 1 and lines[-1] == "FAIL" and "apt install gcc" in lines[0]


def test_only_the_standard_library_is_imported(artifact):
    tree = ast.parse((artifact / "run.py").read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    asked_for = {"model_signing"}  # by --require-signature alone, inside its function
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == asked_for


def test_who_signed_is_asked_before_anything_is_compiled(artifact, tmp_path_factory):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    _, public = key_pair(tmp_path_factory.mktemp("keys"))
    nothing = {"PATH": "", "HOME": os.environ.get("HOME", "")}
    assert run(artifact, "--require-signature", str(public), env=nothing) == (
        1, ["model.sig: missing, nobody signed this folder", "FAIL"])

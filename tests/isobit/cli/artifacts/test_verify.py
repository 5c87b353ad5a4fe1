"""The command `isobit verify`: an artifact as it was built passes, and every folder that was tampered with fails."""

import json
import os
import py_compile
import shutil
import subprocess
import sys

import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from isobit.cli import app
from isobit.pipeline.artifact.certificate import CERTIFICATE
from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.manifest import file_table
from tests.isobit.commands import ENVIRONMENT, FAST

pytestmark = pytest.mark.onnxruntime


def verify(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def edited(folder, name, edit, sealed=True):
    """Change a JSON file; `sealed`: its own digest says so as well."""
    content = json.loads((folder / name).read_text())
    edit(content)
    if sealed and DIGEST in content:
        content[DIGEST] = content_digest(content)
    (folder / name).write_text(json.dumps(content))


def resealed(folder):
    """Manifest and certificate say of the files what they are now: only what they hold can tell."""
    table = {name: entry.model_dump(mode="json") for name, entry in file_table(folder).items()
             if name not in (CERTIFICATE,)}
    edited(folder, MANIFEST, lambda content: content.update(files=table))
    sealed = json.loads((folder / MANIFEST).read_text())[DIGEST]
    edited(folder, CERTIFICATE, lambda content: content.update(manifest=sealed))


def model(folder, edit):
    found = onnx.load(folder / "model.onnx")
    edit(found.graph)
    onnx.save(found, folder / "model.onnx")
    resealed(folder)


def constant(kind, change):
    """Edit the first constant of a type and rank."""
    def edit(graph):
        tensor = next(each for each in graph.initializer if (each.data_type, len(each.dims)) == kind
                      and numpy_helper.to_array(each).any())
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), tensor.name))

    return lambda folder: model(folder, edit)


def renamed(graph):
    """Call the tensor `relu_q` otherwise, everywhere in the model."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["other" if name == "relu_q" else name for name in names]


def proven(change, sealed=True):
    def edit(folder):
        edited(folder, CERTIFICATE, lambda content: change(content["proven"]), sealed)

    return edit


def tensors(change):
    """Edit what is said of every input, in both files that say it."""
    def edit(folder):
        edited(folder, "parity.json", lambda content: change(content["every_input"]))
        edited(folder, CERTIFICATE, lambda content: change(content["proven"]["every_input"]))
        resealed(folder)

    return edit


TAMPERED = {
    "a byte of the model": lambda folder: (folder / "model.onnx").write_bytes(
        (folder / "model.onnx").read_bytes()[:-9] + bytes(9)),
    "no model": lambda folder: (folder / "model.onnx").unlink(),
    "no run.py": lambda folder: (folder / "run.py").unlink(),
    "another run.py": lambda folder: (folder / "run.py").write_text("print('PASS')\n"),
    "a report that says more": lambda folder: (folder / "report.md").write_text("all is well\n"),
    "a file more": lambda folder: (folder / "libonnxruntime.so").write_bytes(b"\x7fELF"),
    "code in place of run.py": lambda folder: py_compile.compile(folder / "run.py"),
    "a link for a file": lambda folder: ((folder / "run.py").rename(folder.parent / "run.py"),
                                         (folder / "run.py").symlink_to(folder.parent / "run.py")),
    "a folder for a package of Python's": lambda folder: (folder / "numpy").symlink_to(folder.parent),
    "a certificate elsewhere": lambda folder: ((folder / CERTIFICATE).rename(folder.parent / CERTIFICATE),
                                               (folder / CERTIFICATE).symlink_to(folder.parent / CERTIFICATE)),
    "a certificate that never ends": lambda folder: ((folder / CERTIFICATE).unlink(), os.mkfifo(folder / CERTIFICATE)),
    "a tensor of which nothing is said": tensors(lambda content: content["tensors"].pop("relu_q")),
    "a file of a name that no terminal shows": lambda folder: (folder / "a\x1b[2Jb").write_text(""),
    "no certificate": lambda folder: (folder / CERTIFICATE).unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).write_text("{}"),
    "a certificate of nothing": lambda folder: (folder / CERTIFICATE).write_text("[]"),
    "a certificate that was edited": proven(lambda content: content.update(samples=10**6), sealed=False),
    "one that says more than parity.json": proven(lambda content: content.update(samples=10**6)),
    "one of another build": lambda folder: edited(
        folder, CERTIFICATE, lambda content: content.update(manifest="0" * 64)),
    "one of another format": lambda folder: edited(folder, CERTIFICATE, lambda content: content.update(format=2)),
    "a manifest that was edited": lambda folder: edited(
        folder, MANIFEST, lambda content: content.update(seed=7), sealed=False),
    "a rule that did not hold": proven(lambda content: content["gate"]["rules"][0].update(passed=False)),
    "no rules": proven(lambda content: content["gate"].update(rules=[])),
    "a weight, and all hashes with it": constant(
        (onnx.TensorProto.INT8, 4), lambda array: array + (array == array.max())),
    "a bias, and all hashes with it": constant((onnx.TensorProto.INT32, 1), lambda array: array + 1),
    "a scale by a millionth, and all hashes with it": constant(
        (onnx.TensorProto.FLOAT, 0), lambda array: array * 1.000001),
    "a tensor of another name, and all hashes with it": lambda folder: model(folder, renamed),
    "a bound beyond int32, and all hashes": tensors(lambda content: content["tensors"]["relu_q"].update(bound=2**31)),
    "a bound that is smaller, and all hashes": tensors(lambda content: content["tensors"]["relu_q"].update(bound=1)),
    "thresholds of another layer, and all hashes": tensors(lambda content: content["tensors"]["relu_q"].update(
        digest=content["tensors"]["x_q"]["digest"])),
}


def test_a_certificate_holds_and_says_where_it_was_shown(command, tmp_path):
    built = command(recipe=FAST, evaluation="many.npz")
    assert built.exit_code == 0, built.stderr
    script = tmp_path / "verify.py"
    result = verify(tmp_path / "out", "--script", script)
    assert result.exit_code == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "PASS" and "proven on " in lines[0] and "worked out again" in lines[2]
    content = json.loads((tmp_path / "out" / CERTIFICATE).read_text())
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert content["proven"]["every_input"] == parity["every_input"]
    # On a machine without Isobit and PyTorch: numpy and onnx alone.
    alone = ("import runpy, sys; sys.modules.update(torch=None, isobit=None, onnxruntime=None); "
             "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
    plain = subprocess.run([sys.executable, "-c", alone, script, tmp_path / "out"], capture_output=True, text=True,
                           env=ENVIRONMENT, check=False)
    assert plain.returncode == 0 and plain.stdout.splitlines() == lines, plain.stdout + plain.stderr




def test_tampered_folders_fail_and_say_why(command, tmp_path):
    assert command(recipe=FAST, evaluation="many.npz").exit_code == 0
    assert len(TAMPERED) >= 20
    for name, tamper in TAMPERED.items():
        folder = tmp_path / "tampered" / "net"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(tmp_path / "out", folder)
        tamper(folder)
        result = verify(folder)
        assert result.exit_code == 1 or (result.exit_code == 2 and "manifest" in result.stderr), (name, result.stdout)
        assert result.exit_code == 2 or (result.stdout.splitlines()[-1] == "FAIL" and len(result.stdout) > 6), name
        assert "Traceback" not in result.stderr and "\x1b" not in result.stdout
        assert ("remove that folder" in result.stdout) == (name == "code in place of run.py")


def test_what_is_no_artifact_is_refused(tmp_path):
    assert verify(tmp_path / "gone").exit_code == 2 and verify(tmp_path).exit_code == 2

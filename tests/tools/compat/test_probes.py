"""What `run.py` says in another environment, with a script in its place and the interpreter at hand."""

import sys
from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from tools.compat import probes
from tools.compat.environments import ONNX_RUNTIME, TVM, Runtime
from tools.compat.probes import Probed

HEAD = "import sys\nprint('layers run by themselves: 3, chosen samples of each: 14')\n"


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """Runs a text as run.py, with numpy in the place of a runtime."""
    monkeypatch.setattr(probes, "environment", lambda runtime, folder: Path(sys.executable))
    monkeypatch.setattr(Runtime, "module", "numpy")

    def run(text, package=ONNX_RUNTIME):
        (tmp_path / "net").mkdir(exist_ok=True)
        (tmp_path / "net" / "run.py").write_text(text)
        return probes.probe(tmp_path / "net", Runtime(package, "newest"), tmp_path)

    return run


def test_layers_that_are_right_are_counted(probed):
    one = probed(HEAD + "print('not compared, float operators have no one answer: gelu_q')\nprint('PASS')\n")
    assert one.passed and (one.kernels, one.wrong, one.said, one.runtime) == (3, [], "", "ONNX Runtime")
    assert one.version[0].isdigit() and probes.from_json(probes.to_json(one)) == one


def test_wrong_layers_are_named_beside_what_is_said_of_the_processor(probed):
    one = probed(HEAD + "if '--probe' in sys.argv:\n    print('it saturates')\n"
                 "    print('relu_q: wrong on 3 of 14 chosen samples: conv2d')\nprint('FAIL')\n")
    assert not one.passed and one.wrong == ["relu_q"] and one.said == "it saturates"
    text = probes.table([one, Probed("net", "ONNX Runtime", "1.0", "Haswell", "PASS", "PASS", 3)])
    assert text.splitlines()[2:] == [
        f"|net|on Haswell 1.0|3|ONNX Runtime {one.version}: 1 of 3 kernels, first `relu_q`|"]


@pytest.mark.parametrize(("text", "said"), [
    ("import os\nos.abort()\n", "exit status -6: "), ("raise ValueError('of another TVM')\n", "of another TVM"),
])
def test_what_does_not_load_is_told(probed, text, said):
    one = probed(text, TVM)
    assert not one.passed and one.kernels == 0 and said in one.probe and said in one.run_py
    assert f"|none|0|TVM {one.version}: " in probes.table([one]) and said in probes.table([one])


def test_what_is_wrong_as_a_whole_alone_does_not_pass(probed):
    one = probed(HEAD + "print('PASS' if '--probe' in sys.argv else 'FAIL')\n")
    assert not one.passed and "`run.py` alone: FAIL" in probes.table([one])


def test_a_processor_is_emulated_where_there_is_an_emulator(monkeypatch):
    assert probes.emulator(probes.HERE) == []
    monkeypatch.setattr(probes.shutil, "which", lambda name: f"bin/{name}")
    assert probes.emulator("Haswell") == ["qemu-x86_64", "-cpu", "Haswell"]
    monkeypatch.setattr(probes.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="qemu-x86_64 is not installed"):
        probes.emulator("Haswell")


def test_a_runtime_that_hangs_is_told(probed, monkeypatch):
    monkeypatch.setattr(probes, "TIMEOUT", 1)
    assert probed("import time\ntime.sleep(60)\n").probe == "no end within 1 s"

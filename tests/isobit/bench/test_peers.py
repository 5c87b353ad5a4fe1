"""Other tools: those that are installed, stand-ins that show what they are told, and where one is missing."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from isobit.backends.device.replay import CannotCheck
from isobit.bench import peers
from isobit.bench.peers import OPENVINO, PEERS, REPORTS_CALLS, need, open_litert, quiet
from tests.examples.float_files import write_float


@pytest.fixture
def source(tmp_path):
    return write_float(tmp_path / "float.onnx")


class Request:
    """An inference of the stand-in: it keeps what it is given."""

    def __init__(self):
        self.tensors, self.runs = {}, 0

    def set_input_tensor(self, place, tensor):
        self.tensors[place] = tensor

    def infer(self):
        self.runs += 1


@pytest.fixture
def openvino(monkeypatch):
    """A stand-in for OpenVINO that reads every file as one input [n, 3, 8, 8]."""
    size = lambda known: SimpleNamespace(is_static=known is not None, get_length=lambda: known)  # noqa: E731
    port = SimpleNamespace(partial_shape=[size(None), size(3), size(8), size(8)], get_any_name=lambda: "image",
                           element_type=SimpleNamespace(to_dtype=lambda: np.dtype("float32")))
    port = type("Port", (), vars(port))  # hashable
    seen = SimpleNamespace(request=Request(), port=port, shapes=[], compiled=[])
    model = SimpleNamespace(inputs=[port], reshape=lambda shapes: seen.shapes.append(shapes))
    compiled = SimpleNamespace(create_infer_request=lambda: seen.request)
    core = SimpleNamespace(read_model=lambda path: model,
                           compile_model=lambda *given: (seen.compiled.append(given), compiled)[1])
    stand_in = SimpleNamespace(Core=lambda: core, Tensor=lambda array: array, __version__="2026.4.1-1234-release")
    monkeypatch.setitem(sys.modules, "openvino", stand_in)
    seen.model = model
    return seen


def test_openvino_is_held_to_float32_and_to_the_threads(openvino, tmp_path):
    found = PEERS["openvino"].open(tmp_path / "float.onnx", tmp_path, 4, 2)
    assert found.runtime == "openvino 2026.4.1"
    ((model, device, settings),) = openvino.compiled
    assert model is openvino.model and device == "CPU"
    assert settings["INFERENCE_NUM_THREADS"] == 2 and settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert openvino.shapes == [{openvino.port: [4, 3, 8, 8]}]
    assert openvino.request.tensors[0].shape == (4, 3, 8, 8) and openvino.request.tensors[0].dtype == np.float32
    found.run()
    assert openvino.request.runs == 1


def test_nncf_quantizes_what_openvino_reads_and_reports_nothing(openvino, tmp_path, monkeypatch):
    def quantize(model, data, subset_size):
        assert model is openvino.model and data[0]["image"].shape == (1, 3, 8, 8) and subset_size == 1
        return "quantized"

    monkeypatch.setitem(sys.modules, REPORTS_CALLS, "what reports calls")
    monkeypatch.setitem(sys.modules, "nncf", SimpleNamespace(quantize=quantize, Dataset=list, __version__="3.4"))
    found = PEERS["openvino-int8"].open(tmp_path / "float.onnx", tmp_path, 1, 1)
    assert sys.modules[REPORTS_CALLS] is None, "it cannot be imported"
    assert found.note == "NNCF 3.4" and openvino.compiled[0][0] == "quantized"
    assert "INFERENCE_PRECISION_HINT" not in openvino.compiled[0][2]


def test_litert_gets_a_value_for_each_input(tmp_path, monkeypatch):
    made = []

    class Interpreter:
        """The stand-in."""

        def __init__(self, path, num_threads):
            self.given, self.runs, self.told = {}, 0, (path, num_threads)
            made.append(self)

        def allocate_tensors(self):
            self.given.clear()

        def get_input_details(self):
            return [{"index": 7, "shape": np.array([1, 8, 8, 3]), "dtype": np.int8}]

        def set_tensor(self, index, value):
            self.given[index] = value

        def invoke(self):
            self.runs += 1

    monkeypatch.setattr(peers, "package_versions", lambda *names: dict.fromkeys(names, "2.3"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=Interpreter))
    found = open_litert(tmp_path / "net.tflite", 3, 2)
    found.run()
    assert found.runtime == "ai-edge-litert 2.3" and made[0].told == (str(tmp_path / "net.tflite"), 2)
    assert made[0].given[7].dtype == np.int8 and made[0].runs == 3


def test_a_tool_that_is_not_installed_says_what_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "package_versions", lambda *names: {OPENVINO: "1"})
    PEERS["openvino"].check()
    with pytest.raises(CannotCheck, match=r"^not installed: nncf \(pip install 'isobit\[peers\]'\)$"):
        PEERS["openvino-int8"].check()
    with pytest.raises(CannotCheck, match="not installed: ai-edge-litert"):
        open_litert(tmp_path / "net.tflite", 1, 1)
    need()


@pytest.mark.parametrize("name", list(PEERS))
def test_a_tool_that_is_installed_runs(name, source, tmp_path):
    for package in PEERS[name].packages:
        pytest.importorskip(package)
    with quiet():
        found = PEERS[name].open(source, tmp_path, 2, 1)
        found.run()
    assert found.runtime.split()[1][0].isdigit()


def test_quiet_is_quiet_and_ends(capsys):
    with quiet():
        print("said")
        logging.warning("warned")
    print("after")
    assert capsys.readouterr().out == "after\n" and logging.root.manager.disable == 0

"""What the command line names: artifacts, models and peers, each under a name of its own, or what is wrong."""

import pytest

from isobit.backends.device.timing import Contender
from isobit.backends.onnx import OnnxBackend
from isobit.bench import candidates as module
from isobit.bench import peers
from isobit.bench.candidates import candidates, peer_names
from isobit.bench.peers import PEERS
from isobit.pipeline.errors import InputError
from tests.examples.float_files import write_float


@pytest.fixture
def source(tmp_path):
    return write_float(tmp_path / "float.onnx")


def test_an_artifact_is_opened_by_its_target_and_says_what_it_is(artifact, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(OnnxBackend, "contender", lambda self, *given: opened.append(given))
    (found,) = candidates([artifact], None, tmp_path)
    found.open(4, 2)
    assert opened == [(artifact, 4, 2)] and (found.name, found.kind) == ("artifact", "artifact")
    assert found.facts["target"] == "onnx" and found.facts["profile"] == "generic"
    assert found.facts["recipe"] == "minmax_w8a8" and len(found.facts["manifest_sha256"]) == 64


def test_a_model_is_opened_as_it_is(source, tmp_path, monkeypatch):
    lite = tmp_path / "net.tflite"
    lite.write_bytes(b"lite")
    monkeypatch.setattr(module, "open_litert", lambda path, batch, threads: Contender(f"{path.name}", lambda: None))
    first, second = candidates([source, lite], None, tmp_path)
    assert (first.name, first.kind) == ("float.onnx", "model") and len(first.facts["sha256"]) == 64
    assert first.open(2, 1).runtime.startswith("onnxruntime ") and second.open(1, 1).runtime == "net.tflite"


def test_peers_start_from_the_first_float_model_when_they_are_opened(source, tmp_path, monkeypatch):
    work, given = tmp_path / "work", []
    work.mkdir()
    peer = type(PEERS["openvino"])((), lambda *values: given.append(values))
    monkeypatch.setitem(PEERS, "openvino", peer)
    other = write_float(tmp_path / "other.onnx")
    *_, found = candidates([source, other], "openvino", work)
    assert (found.name, found.kind, found.facts["made_from"]) == ("openvino", "peer", "float.onnx")
    found.open(2, 1)
    assert given == [(source, work / "openvino", 2, 1)] and (work / "openvino").is_dir()


def test_all_peers_are_those_that_are_installed(source, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "package_versions", lambda *names: {"openvino": "1"})
    required = {name: {found.name: found.required for found in candidates([source], name, tmp_path)[1:]}
                for name in ("all", "openvino-int8")}
    assert required == {"all": {"quantize_static": True, "openvino": True, "openvino-int8": False},
                        "openvino-int8": {"openvino-int8": True}}


def test_folders_of_one_name_are_told_apart(artifact, tmp_path):
    same = tmp_path / "elsewhere" / artifact.name
    same.parent.mkdir()
    same.symlink_to(artifact)
    link = tmp_path / "link"
    link.symlink_to(artifact)
    names = [found.name for found in candidates([artifact, same, link], None, tmp_path)]
    assert names == [str(artifact), str(same), "link"]
    with pytest.raises(InputError, match="given twice"):
        candidates([artifact, artifact], None, tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("gone.onnx", "no such file or folder"), ("net.pth", "torch.onnx.export"), ("", "manifest")],
)
def test_what_is_neither_artifact_nor_model_is_refused(tmp_path, name, text):
    (tmp_path / "net.pth").write_bytes(b"")
    with pytest.raises(InputError, match=text):
        candidates([tmp_path / name], None, tmp_path)


def test_peers_are_named_or_refused(artifact, tmp_path):
    assert peer_names(None) == [] and peer_names("all") == list(PEERS)
    assert peer_names("openvino,quantize_static,openvino") == ["openvino", "quantize_static"]
    with pytest.raises(InputError, match=r"no peer 'openvin'(.|\n)*Did you mean 'openvino'"):
        peer_names("openvin")
    with pytest.raises(InputError, match="peers start from a float model"):
        candidates([artifact], "all", tmp_path)

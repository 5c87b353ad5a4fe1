"""Artifacts on other runtimes, with the interpreter at hand in the place of the environments."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from tests.tools.small_subject import small_subject
from tools.bench import builds as bench_builds
from tools.check import compat
from tools.documents import fill, read_json

pytestmark = pytest.mark.onnxruntime


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    subject = small_subject(folder)
    record = bench_builds.build(subject, "qdrop_w4a4", 1005, bench_builds.Settings(folder / "b", 2, 32))
    return subject, folder / "b" / record["artifact"]


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(compat, "environment", lambda version, folder: Path(sys.executable))


def test_a_sound_artifact_passes(built, here, tmp_path):
    subject, artifact = built
    (entry,) = compat.check(artifact, subject, ["newest"], tmp_path, samples=20)
    assert entry.passed and entry.run_py == "PASS" and entry.samples == 36
    assert entry.differing == 0 and entry.compared > 1000 and entry.integer_kernels >= 6 and entry.float_kernels == 0


def test_a_runtime_that_computes_otherwise_does_not_pass(built, here, tmp_path, monkeypatch):
    subject, artifact = built
    monkeypatch.setattr(compat, "CHILD", compat.CHILD.replace("x = np.load(inputs)", "x = np.load(inputs) * 1.01"))
    (entry,) = compat.check(artifact, subject, ["newest"], tmp_path, samples=4)
    assert entry.differing > 0 and not entry.passed


def test_a_runtime_that_cannot_load_the_file_is_an_entry_with_its_reason(built, here, tmp_path, monkeypatch):
    subject, artifact = built
    monkeypatch.setattr(compat, "CHILD", "raise ValueError('opset 19 is not known')")
    (entry,) = compat.check(artifact, subject, ["newest"], tmp_path, samples=4)
    assert "opset 19 is not known" in entry.error and not entry.passed
    table = compat.tables(compat.numbers([entry], "tools/check/compat.py"))["matrix"]
    assert "opset 19 is not known" in table and "Not every artifact passed:" in table and "| none |" in table


def test_float_kernels_are_counted(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y])), tmp_path / "m.onnx")
    assert compat.kernels(tmp_path / "m.onnx") == (0, 2)


@pytest.mark.parametrize(("version", "numpy"), [("1.17.3", "numpy<2"), ("1.18.1", "numpy<2"), ("1.22.1", "numpy")])
def test_old_wheels_get_the_numpy_that_they_were_built_against(version, numpy):
    assert compat.requirements(version) == [f"onnxruntime=={version}", numpy]


def test_newest_has_no_version():
    assert compat.requirements("newest") == ["onnxruntime", "numpy"]


def test_the_command_writes_the_document_and_the_verdict(built, here, tmp_path, monkeypatch):
    subject, artifact = built
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "compat.md").write_text("Mine.\n<!-- compat:matrix -->\n<!-- /compat:matrix -->\n")
    monkeypatch.setattr(compat, "trained", lambda data: {subject.name: subject})
    assert compat.main([str(artifact), "--versions", "newest", "--samples", "4"]) == 0
    assert json.loads((tmp_path / "build" / "compat.json").read_text())["passed"]
    page = (tmp_path / "docs" / "compat.md").read_text()
    assert page.startswith("Mine.\n") and "Every artifact passed." in page and f"| {artifact.name} |" in page
    (line,) = json.loads((tmp_path / "docs" / "compat.json").read_text())["entries"]
    assert line["run_py"] == "PASS" and line["differing"] == 0 and "error" not in line


def test_the_page_is_what_its_numbers_give():
    page = Path(__file__).parents[3] / "docs" / "compat.md"
    text = page.read_text(encoding="utf-8")
    assert fill(text, compat.tables(read_json(page.with_suffix(".json"))), "compat", "docs/compat.md") == text


def test_without_artifacts_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    assert compat.main([]) == 2
    assert "run tools/bench/bench.py first" in capsys.readouterr().out

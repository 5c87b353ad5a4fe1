"""Artifacts on other runtimes, with the interpreter at hand in the place of the environments."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from tests.tools.small_subject import small_subject
from tools.bench import builds as bench_builds
from tools.check import compat
from tools.compat import probes
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
    for module in (compat, probes):
        monkeypatch.setattr(module, "environment", lambda runtime, folder: Path(sys.executable))


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
    content = compat.numbers([entry], "tools/check/compat.py")
    table = compat.tables({**content, "probes": {"command": "", "entries": []}})["matrix"]
    assert "opset 19 is not known" in table and "Not every artifact passed:" in table and "|none|" in table


def test_float_kernels_are_counted(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y])), tmp_path / "m.onnx")
    assert compat.kernels(tmp_path / "m.onnx") == (0, 2)


def test_the_command_writes_the_document_and_the_verdict(built, here, tmp_path, monkeypatch):
    subject, artifact = built
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    marks = "".join(f"<!-- compat:{name} -->\n<!-- /compat:{name} -->\n" for name in ("matrix", "probes"))
    (tmp_path / "docs" / "compat.md").write_text("Mine.\n" + marks)
    monkeypatch.setattr(compat, "trained", lambda data: {subject.name: subject})
    assert compat.main([str(artifact), "--versions", "newest", "--samples", "4", "--processors", ""]) == 0
    assert json.loads((tmp_path / "build" / "compat.json").read_text())["passed"]
    page = (tmp_path / "docs" / "compat.md").read_text()
    assert page.startswith("Mine.\n") and "Every artifact passed." in page and f"|{artifact.name}|" in page
    written = json.loads((tmp_path / "docs" / "compat.json").read_text())
    (line,), (probe,) = written["entries"], written["probes"]["entries"]
    assert line["run_py"] == "PASS" and line["differing"] == 0 and "error" not in line
    assert probe["run_py"] == probe["probe"] == "PASS" and probe["kernels"] >= 6 and "wrong" not in probe
    assert f"|{artifact.name}|ONNX Runtime {probe['version']}|{probe['kernels']}|none|" in page


def test_what_is_not_measured_again_stays_with_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    marks = "".join(f"<!-- compat:{name} -->\n<!-- /compat:{name} -->\n" for name in ("matrix", "probes"))
    (tmp_path / "docs" / "compat.md").write_text(marks)
    before = {**compat.numbers([compat.Entry("net", "1.0", "PASS", 4, 9, 0, 0, 3, 0)], "before"), "code": "of before"}
    (tmp_path / "docs" / "compat.json").write_text(json.dumps(before))
    compat.write_docs([], [probes.Probed("net", "TVM", "2.0", "here", "PASS", "PASS", 5)], "now")
    after = json.loads((tmp_path / "docs" / "compat.json").read_text())
    assert {key: after[key] for key in before} == before and after["probes"]["code"] != "of before"
    page = (tmp_path / "docs" / "compat.md").read_text()
    assert "|net|1.0|4|9|3|0|" in page and "|net|TVM 2.0|5|none|" in page


def test_the_page_is_what_its_numbers_give():
    page = Path(__file__).parents[3] / "docs" / "compat.md"
    text = page.read_text(encoding="utf-8")
    assert fill(text, compat.tables(read_json(page.with_suffix(".json"))), "compat", "docs/compat.md") == text


def test_without_artifacts_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compat, "ROOT", tmp_path)
    assert compat.main([]) == 2
    assert "run tools/bench/bench.py first" in capsys.readouterr().out

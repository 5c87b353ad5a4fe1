"""The benches on a tiny network: every section runs, builds are reused while nothing changed."""

import json

import pytest
import torch

from isobit.pipeline.proof.findings import Rule
from isobit.shipping import prove
from tests.tools.small_subject import small_subject
from tools.bench import bench
from tools.bench import builds as bench_builds
from tools.bench import calibration as bench_calibration
from tools.bench import subjects as bench_subjects

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def settings(tmp_path):
    return bench_builds.Settings(tmp_path / "builds", steps=2, images=32)


@pytest.mark.slow
def test_smoke_run_measures_every_section_and_keeps_its_numbers_apart(tmp_path, monkeypatch, capsys):
    subject = small_subject(tmp_path)
    monkeypatch.setattr(bench, "trained", lambda data, quick: {subject.name: subject})
    monkeypatch.setattr(bench, "random_weights", lambda folder, size: {})
    out = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    code = bench.main(["--quick", "--recipes", "mse_w8a8", "--out", str(out), "--threads", str(threads)])
    results = json.loads(out.read_text())
    assert code == 0 and results["smoke"]
    assert set(results["builds"]) == {f"resnet20/{r}/1005" for r in ("mse_w8a8", *bench.TIMED.values())}
    assert set(results["latency"]["resnet20"]["contenders"]) == {
        "float", "quantize_static S8S8 (default)", "quantize_static U8S8 per channel", "W8A8", "W4A8", "W4A4"
    }
    assert results["calibration"]["ratio"] > 0
    parity = next(row for row in results["rows"] if row["what"].startswith("ResNet-20: operators"))
    assert parity["measured"].endswith(" in integers, 0 in float")
    assert any(row["section"] == "latency" and "[" in row["measured"] for row in results["rows"])
    printed = capsys.readouterr().out
    assert "Smoke run" in printed and "DS-CNN: not measured" in printed
    bench.main(["--quick", "--only", "none", "--out", str(out), "--threads", str(threads)])
    assert json.loads(out.read_text())["latency"] == results["latency"]  # a section that is not asked for stays


def test_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "speed"])
    assert "no such section: speed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_build_is_reused_until_what_it_depends_on_moves(tmp_path, settings, monkeypatch):
    subject = small_subject(tmp_path)
    first = bench_builds.build(subject, "mse_w8a8", 1005, settings)
    again = bench_builds.build(subject, "mse_w8a8", 1005, settings)
    assert not first["reused"] and again == {**first, "reused": True}
    monkeypatch.setattr(bench_builds, "code_sha256", lambda: "another")
    assert not bench_builds.build(subject, "mse_w8a8", 1005, settings)["reused"]
    fresh = bench_builds.Settings(settings.folder, 2, 32, fresh=True)
    assert not bench_builds.build(subject, "mse_w8a8", 1005, fresh)["reused"]


def test_a_failed_gate_is_reported_not_hidden(tmp_path, settings, monkeypatch):
    original = prove.apply_gates

    def fail(report):
        original(report)
        report.rules.append(Rule("never", "parity", 1, 0, False))

    monkeypatch.setattr(prove, "apply_gates", fail)
    record = bench_builds.build(small_subject(tmp_path), "mse_w8a8", 1005, settings)
    assert record["passed"] is False and record["artifact"].endswith("-failed")
    assert (settings.folder / record["artifact"] / "model.onnx").is_file()


def test_calibration_time_is_extended_along_the_line_through_the_last_two():
    assert bench_calibration.at_steps([(10, 99.0), (50, 7.0), (150, 17.0)], 1000) == pytest.approx(102.0)
    assert bench_calibration.at_steps([(50, 7.0), (1000, 90.0)], 1000) == 90.0


def test_random_networks_keep_their_activations_alive(tmp_path):
    subject = bench_subjects.random_weights(tmp_path, size=32)["mobilenet_v2"]
    model, images = subject.load().module, subject.calibration(4, 0).materialize()[0]
    with torch.no_grad():
        logits = model(images)
    assert 1e-3 < float(logits.std()) < 1e3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), subject.load().module.parameters(), strict=True))


def test_networks_whose_files_are_missing_are_left_out(tmp_path):
    assert bench_subjects.trained(tmp_path) == {}

"""Times by bits: measured in the target's own session, alike where they differ by chance, refused where emulated."""

from __future__ import annotations

import numpy as np
import pytest

from isobit import latency, passes
from isobit.analyze import place_at
from isobit.backends.device.replay import CannotCheck
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.latency import beside_float, measure_latencies
from isobit.pipeline.errors import TargetError
from isobit.pipeline.samples.network_inputs import run_graph
from tests.examples.pages import LATENCY
from tests.examples.tiny import quantized_net


@pytest.fixture(scope="module")
def at_bits():
    quantized, images = quantized_net(TARGETS["generic"], "nearest_w8a8")
    return place_at(quantized, (4, 8)), images


def test_every_number_of_bits_is_timed(at_bits):
    placed, images = at_bits
    found = measure_latencies(placed, images)
    assert set(found) == {4, 8} and all(time > 0 for time in found.values())


def test_times_that_differ_by_chance_are_one():
    assert latency.alike({8: 1.0, 4: 1.04}) == {8: 1.02, 4: 1.02}
    assert latency.alike({8: 1.5, 4: 1.0}) == {8: 1.5, 4: 1.0}
    assert latency.alike({8: 1.37, 4: 1.06, 3: 1.02, 2: 1.0}) == {8: 1.37, 4: 1.06, 3: 1.01, 2: 1.01}


def test_what_cannot_be_timed_is_refused(at_bits, monkeypatch):
    placed, images = at_bits
    monkeypatch.setattr(type(latency.BACKENDS.get("onnx")), "untimed", lambda self, profile: f"{profile} is elsewhere")
    with pytest.raises(TargetError, match="cannot say how long an artifact takes on the device: generic is elsewhere"):
        measure_latencies(placed, images)


def test_an_artifact_is_timed_beside_the_float_network_in_turns(tmp_path):
    quantized, images = quantized_net(TARGETS["generic"], "nearest_w8a8")
    reference, _ = passes.legalize(calibrate(quantized, images))
    backend = latency.BACKENDS.get("onnx")
    backend.emit(reference, tmp_path)
    found = beside_float(backend, tmp_path, reference, images[:1])
    assert found.low <= found.ratio <= found.high and found.artifact_ms > 0 and found.rounds == latency.ROUNDS
    assert found.runtime == found.float_runtime and found.runtime.startswith("onnxruntime ")
    assert "float by the same" in found.where
    plain = backend.timed_float(reference, images[:1])()[0]
    np.testing.assert_allclose(plain, run_graph(quantized.captured.graph, images[:1])[0].detach(), atol=1e-4)


def test_what_takes_long_or_runs_nowhere_here_is_not_timed(tmp_path, monkeypatch):
    quantized, images = quantized_net(TARGETS["generic"], "nearest_w8a8")
    reference, _ = passes.legalize(calibrate(quantized, images))
    backend = latency.BACKENDS.get("onnx")
    backend.emit(reference, tmp_path)
    with pytest.raises(CannotCheck, match="no float network is timed beside C"):
        beside_float(latency.BACKENDS.get("c"), tmp_path, reference, images[:1])
    monkeypatch.setattr(latency, "LONGEST", 1e-9)
    with pytest.raises(CannotCheck, match="longer than 1e-09 s; `run.py --bench` measures it on the device"):
        beside_float(backend, tmp_path, reference, images[:1])


@pytest.mark.parametrize(("ratio", "text"), [(2.0, "time over float 0.50 (0.40 to 0.53)"),
                                             (0.5, "time over float 2.00 (1.60 to 2.11)")])
def test_more_than_one_is_slower_than_float(ratio, text):
    low, high = (1.9, 2.5) if ratio > 1 else (1 / 2.11, 1 / 1.6)
    assert text in LATENCY.model_copy(update={"ratio": ratio, "low": low, "high": high}).text

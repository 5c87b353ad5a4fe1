"""Times by bits: measured in the target's own session, alike where they differ by chance, refused where emulated."""

from __future__ import annotations

import pytest

from isobit import latency
from isobit.analyze import place_at
from isobit.backends.onnx.target import TARGETS
from isobit.latency import measure_latencies
from isobit.pipeline.errors import TargetError
from tests.examples.tiny import quantized_net


@pytest.fixture(scope="module")
def at_bits():
    quantized, images = quantized_net(TARGETS["generic"], "nearest_w8a8")
    return place_at(quantized, (4, 8)), images


def test_every_number_of_bits_is_timed(at_bits):
    placed, images = at_bits
    found = measure_latencies(placed, images)
    assert set(found) == {4, 8} and all(time > 0 for time in found.values())


def test_times_that_differ_by_chance_are_one(at_bits, monkeypatch):
    placed, images = at_bits
    for times, alike in (([1.0, 1.04], True), ([1.0, 1.5], False)):
        monkeypatch.setattr(latency, "_latency", lambda *_, left=list(times): left.pop(0))
        assert (len(set(measure_latencies(placed, images).values())) == 1) is alike


def test_an_emulated_processor_is_refused(at_bits, monkeypatch):
    placed, images = at_bits
    backend = latency.BACKENDS.get("onnx")
    monkeypatch.setattr(type(backend), "proof_samples", lambda self, folder: 4)
    with pytest.raises(TargetError, match="emulated"):
        measure_latencies(placed, images)

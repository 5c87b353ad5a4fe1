"""The simulation gives what can be worked out by hand, and what is measured is measured."""

from __future__ import annotations

import math

import pytest

from tools.documents import read_json
from tools.sweep import scale
from tools.sweep.scale import measure, simulate

FREE = {"hand_out": 0.0, "operations": 0.0, "rate": 1.0, "failures": 0.0}


def test_without_a_driver_s_time_all_places_are_busy():
    found = simulate(4000, 10, 4, 60.0, **FREE)
    mean = 60.0 * math.exp(0.125)  # of a log-normal with deviation 0.5
    assert found.hours == pytest.approx(4000 * mean / 40 / 3600, rel=0.05) and found.machines_busy > 0.95
    assert found.lost == 0


def test_a_slow_driver_and_a_slow_server_each_set_the_pace():
    slow = simulate(1000, 1000, 1, 1.0, hand_out=1.0, operations=0.0, rate=1.0, failures=0.0)
    assert slow.hours == pytest.approx(1000 / 3600, rel=0.02) and slow.driver_busy > 0.98
    server = simulate(1000, 1000, 1, 1.0, hand_out=0.0, operations=100.0, rate=50.0, failures=0.0)
    assert server.hours == pytest.approx(2000 / 3600, rel=0.02) and server.server_busy > 0.98


def test_machines_that_fail_cost_their_builds_and_no_cell():
    found = simulate(2000, 10, 1, 3600.0, **{**FREE, "failures": 200.0})
    assert found.lost > 10 and found.hours > simulate(2000, 10, 1, 3600.0, **FREE).hours


def test_the_drivers_own_time_is_a_part_of_a_second():
    costs = measure(20)
    assert 0 < costs.look < costs.hand_out < 1 and costs.index > 0 and costs.opened > 100


def test_the_plan_of_the_document_is_what_was_measured_and_simulated(tmp_path, monkeypatch, capsys):
    document = tmp_path / "sweep.md"
    document.write_text("Words.\n\n<!-- scale:plan -->\n<!-- /scale:plan -->\n")
    monkeypatch.setattr(scale, "DOCUMENT", document)
    monkeypatch.setattr(scale, "measure", lambda: scale.Costs(0.002, 0.0001, 0.0005, 4000))
    assert scale.main(["--cells", "1000", "--machines", "10", "--write-docs"]) == 0
    text = document.read_text()
    assert "1,000 cells of 11.3 minutes" in text and "takes 2.0 ms to hand out a cell" in text
    assert "| on each machine |" in text and capsys.readouterr().out.strip() in text
    assert set(read_json(tmp_path / "scale.json")["simulated"]) == {"on the shared file system", "on each machine"}

"""The check of a device, on the CPU with a few steps: that it runs, and that its numbers hang together."""

import json

import pytest

from tools import devices


@pytest.mark.slow
def test_everything_is_measured_and_told(tmp_path, capsys):
    out = tmp_path / "sub" / "devices.json"
    code = devices.main([
        "--device", "cpu", "--arch", "shufflenet_v2_x0_5", "--size", "32", "--images", "8",
        "--batch", "4", "--steps", "1", "3", "--out", str(out)])
    found = json.loads(out.read_text())
    assert code == 0 and found["units"] > 10 and found["processes"] == 1
    for name in ("ours", "literal"):
        row = found[name]
        assert row["ms_per_step"] > 0 and row["peak_gb"] > 0.05
        assert row["hours_at_paper_steps"] > row["ms_per_step"] * found["units"] * 19_990 / 3.6e6
    assert found["times_faster"] == pytest.approx(found["literal"]["ms_per_step"] / found["ours"]["ms_per_step"])
    assert found["share_of_peak"] > 0 and found["peak_tflops"] > 0
    # The CPU beside itself: the same seed, the same numbers.
    assert found["loss"]["ratio"] == 1.0 and found["loss"]["first_unit_nearest_ratio"] == 1.0
    printed = capsys.readouterr().out
    assert "1 x " in printed and "ours: " in printed and "literal: " in printed and "extrapolated" in printed

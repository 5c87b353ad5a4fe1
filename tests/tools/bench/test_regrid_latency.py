"""The timed ways of the second rounding really are the same rounding, and only the chosen one runs in integers."""

import numpy as np
import pytest

from tools.bench import regrid_latency

pytestmark = pytest.mark.onnxruntime


def test_every_way_gives_the_same_codes_and_none_does_not():
    codes = {way: regrid_latency.measure(way, 1, 1)[1] for way in regrid_latency.WAYS}
    chosen = codes["two QLinearMul"]
    assert set(np.unique(chosen)) > {0, 7, 15, 35, 105}
    assert all(np.array_equal(chosen, other) == (way != "none") for way, other in codes.items())


def test_the_command_prints_a_row_for_each_way(capsys):
    assert regrid_latency.main(["--runs", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(regrid_latency.WAYS)

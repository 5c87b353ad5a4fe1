"""What a failed gate says: the rule with its numbers, where codes first differ, where the failed folder lies."""

from pathlib import Path
from types import SimpleNamespace

from isobit.pipeline.proof.findings import Rule
from isobit.result import GateFailed


def test_a_failed_gate_says_what_was_measured_and_where_it_lies():
    rules = [Rule("no code differs", "parity", 3, 0, False), Rule("top-1 points lost", "accuracy", 0.5, 1.0, True)]
    first = {"tensor": "conv_1", "module": "stem"}
    parity = SimpleNamespace(gate=rules, to_json=lambda: {"first_divergence": first})
    error = GateFailed(SimpleNamespace(parity=parity, folder=Path("out-failed")), Path("out"))
    assert error.what == "no code differs: measured 3, allowed 0" and error.exit_code == 1
    assert error.where == "first differing tensor conv_1 (stem)"
    assert "nothing was written to out;" in error.hint and error.hint.endswith("out-failed")
    assert error.build.parity is parity

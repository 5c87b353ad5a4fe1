"""Which rules a build is held to, and what breaks each of them."""

import pytest

from isobit.pipeline.proof.counts import FLOAT_ROUNDING, BoundaryCount, CodeCount, Directed, FloatOutput, OutputCount
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.parity import LevelReport, ParityReport


def gated(*levels):
    report = ParityReport(4, {}, {}, list(levels), {}, CodeCount())
    report.accuracy = {"float": 70.0, "artifact": 69.0}
    apply_gates(report)
    return report


def test_every_gated_level_has_a_rule_and_others_have_none():
    levels = [LevelReport("all", True, codes=CodeCount(8)), LevelReport("none", False, codes=CodeCount(8, 8, 3)),
              LevelReport("basic", True, codes=CodeCount(8, 1, 1))]
    report = gated(*levels)
    assert [(rule.measured, rule.passed) for rule in report.rules] == [(0, True), (1, False)]
    assert not report.passed and "'basic'" in report.rules[1].rule


def test_a_gate_over_nothing_does_not_pass():
    assert not gated(LevelReport("all", True)).passed


def test_outputs_are_something_to_compare_where_no_tensor_has_codes():
    """On a target that leaves the input in float, a single layer has logits alone."""
    outputs = {"logits": OutputCount(2)}
    assert gated(LevelReport("float64", True, outputs=outputs)).passed
    outputs["logits"].in_float = FloatOutput(2, 0.0)
    assert not gated(LevelReport("float64", True, outputs=outputs)).passed


def test_a_logit_counts_as_a_code_where_integers_give_it():
    level = LevelReport("all", True, codes=CodeCount(8), outputs={"logits": OutputCount(2, 1)})
    assert [rule.measured for rule in gated(level).rules] == [1]
    level.outputs["logits"].in_float = FloatOutput(2, 0.0)
    assert [rule.measured for rule in gated(level).rules] == [0, 0.0]
    assert gated(level).rules[0].rule.startswith("no code that integer kernels compute differs")


def test_every_output_that_a_float_operator_gives_has_a_rule_of_its_own():
    outputs = {"boxes": OutputCount(4, 2, FloatOutput(4, 1.0)), "scores": OutputCount(4, 1, FloatOutput(4, 0.0)),
               "count": OutputCount(4, 1)}
    rules = gated(LevelReport("all", True, codes=CodeCount(8), outputs=outputs)).rules
    assert [(rule.measured, rule.passed) for rule in rules] == [(1, False), (1.0, False), (0.0, True)]
    assert rules[0].rule.startswith("no code or output value that integer kernels compute differs")
    assert "output 'boxes'" in rules[1].rule and "output 'scores'" in rules[2].rule


@pytest.mark.parametrize(("error", "passed"), [(FLOAT_ROUNDING, True), (2 * FLOAT_ROUNDING, False)])
def test_logits_of_a_float_operator_are_held_to_float_rounding(error, passed):
    level = LevelReport("all", True, codes=CodeCount(8), outputs={"logits": OutputCount(2, 1, FloatOutput(2, error))})
    assert gated(level).passed == passed


def test_codes_of_a_float_operator_must_be_explained():
    level = LevelReport("all", True, codes=CodeCount(8), boundaries={"a_q": BoundaryCount(4, 2, 1, 1)})
    report = gated(level)
    assert [rule.measured for rule in report.rules] == [0, 1, 0] and not report.parity_passed


def test_chosen_codes_have_a_rule_of_their_own():
    report = ParityReport(4, {}, {}, [LevelReport("all", True, codes=CodeCount(8))], {}, CodeCount())
    report.directed = Directed(3, True, CodeCount(40), 2, "a_q", {"a_q": 1.0})
    apply_gates(report)
    assert [(rule.measured, rule.passed) for rule in report.rules] == [(2, False), (0, True)]
    assert "chosen" in report.rules[0].rule and not report.parity_passed

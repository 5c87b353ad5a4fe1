"""One wording for what a build says of itself, and parity and accuracy never stand for one another."""

from dataclasses import replace

import pytest

from isobit.pipeline.proof.counts import BoundaryCount, CodeCount, FloatOutput, OutputCount, Reach
from isobit.pipeline.proof.findings import AccuracyVerdict, Finding, Rule
from isobit.pipeline.proof.parity import LevelReport, ParityReport
from isobit.pipeline.proof.verdicts import (
    float_kernels,
    headlines,
    kernels_text,
    level_note,
    parity_text,
    reach_text,
    steps,
)

ACCURACY = {"float": 88.0, "calibrated": 80.0, "reference": 79.5, "artifact": 79.5}
LEVEL = LevelReport("all", True, 50, CodeCount(1000, 0, 0), 100.0)
GOOD = Rule("no code differs", "parity", 0, 0, True)
LOST = Rule("points lost", "accuracy", 8.5, 1.0, False)


def report(level=LEVEL, rules=(GOOD,), judged=None):
    return ParityReport(50, ACCURACY, {}, [level], {}, CodeCount(), rules=list(rules), judged=judged)


def test_an_accuracy_that_fails_leaves_parity_passed():
    findings = (Finding("artifact", "lost", "few bits", "take more"),)
    judged = AccuracyVerdict("failed", "8.5 points lost", findings, rule=LOST)
    made = report(judged=judged)
    parity, accuracy = headlines(made)
    assert (parity.title, accuracy.title) == ("PARITY PASSED", "ACCURACY FAILED") and not made.passed
    assert [rule["passed"] for rule in made.to_json()["gate"]["rules"]] == [True, False]
    assert accuracy.details == ("lost. Likely cause: few bits. Take more.",)
    assert parity.line == "PARITY PASSED: all 1,000 integer codes equal the reference (50 samples)"


def test_json_says_the_same_words():
    judged = AccuracyVerdict("warning", "8.5 points lost", chance=10.0, allowed=5.0)
    made = report(judged=judged)
    verdicts = made.to_json()["verdicts"]
    assert verdicts["parity"] == {"status": "ok", "text": parity_text(made)}
    assert verdicts["accuracy"] == {"status": "warning", "text": "8.5 points lost", "chance": 10.0, "allowed": 5.0,
                                    "findings": []}


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"codes": CodeCount(1000, 12, 3)}, "no code differs", "12 of 1,000 integer codes differ from the reference"),
        ({"boundaries": {"g": BoundaryCount(10, 4, 2, 4)}}, "after floats", "4 codes right after float operators"),
        ({"outputs": {"logits": OutputCount(10, 2)}}, "no code or logit differs",
         "no code or logit differs: measured 2, allowed 0"),
    ],
)
def test_what_fails_is_said_in_numbers(changes, rule, words):
    failed = replace(GOOD, rule=rule, measured=2, passed=False)
    made = report(replace(LEVEL, **changes), rules=(failed,))
    assert headlines(made)[0].title == "PARITY FAILED" and words in parity_text(made)


def test_codes_that_float_kernels_move_are_not_called_equal():
    loose = replace(LEVEL, gated=False, codes=CodeCount(1000, 12, 3))
    text = parity_text(report(loose))
    assert "12 of 1,000 integer codes differ" in text and "equal" not in text


def test_every_step_has_its_cost_and_no_data_s_loss_is_the_method_s():
    rows = steps(report()).rows
    assert [row.change for row in rows] == [None, -8.0, -0.5, 0.0]
    assert all("method" not in row.cause for row in rows)
    blamed = steps(report(judged=AccuracyVerdict("warning", "", (Finding("calibration", "black", "", ""),)))).rows
    assert blamed[1].cause.startswith("calibration data that does not fit") and rows[1].cause != blamed[1].cause
    assert blamed[2:] == rows[2:]


def test_kernels_and_levels_are_named_alike_everywhere():
    assert level_note(LEVEL) == "" and level_note(replace(LEVEL, gated=False)) == " (float kernels, not gated)"
    known = {"integer": 3, "float": 1, "reasons": {"gelu": "no kernel"}}
    assert kernels_text(known) == "3 integer, 1 float" and float_kernels(known) == ["float: gelu: no kernel"]
    assert float_kernels({"integer": 3, "float": 0}) == []


@pytest.mark.parametrize(("after", "in_float", "text"), [
    (24, True, "24 codes right after float operators are the reference's but for float rounding, and 8 output values "
               "are the reference's but for float rounding"),
    (0, False, "8 output values are equal to the reference's"),
])
def test_a_proof_without_codes_says_what_it_is_of(after, in_float, text):
    boundaries = {"gru_q": BoundaryCount(after)} if after else {}
    outputs = {"logits": OutputCount(8, 0, FloatOutput(8) if in_float else None)}
    made = replace(report(), levels=[LevelReport("all", True, boundaries=boundaries, outputs=outputs)])
    assert parity_text(made) == f"no integer kernel gives codes here: {text} (50 samples)"


def test_what_holds_for_every_input_is_one_line():
    made = report()
    assert reach_text(made) == "" and made.to_json()["every_input"] == {
        "text": "", "sum_limit": None, "tensors": {}}
    made.reach = [Reach("x_q", "numbers", 100, 2, 1), Reach("relu_q", "sums", 1000, bound=512, limit=1024),
                  Reach("gelu_q", "nothing", why="runs in float")]
    assert reach_text(made) == (
        "1 of 3 tensors have exact arithmetic's codes for every input, 1 part from them by 1 step(s) at most (x_q on "
        "most, 2 of 100 numbers), 1 are not gone through; the largest sum takes 50 % of what the target adds in")
    told = made.to_json()["every_input"]
    assert told["text"] == reach_text(made) and told["sum_limit"] == 1024
    assert list(told["tensors"]) == ["x_q", "relu_q", "gelu_q"]

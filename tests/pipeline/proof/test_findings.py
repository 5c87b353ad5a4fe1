"""Plain values: one line for a rule, sentences for a finding, and whom a verdict blames."""

from isobit.pipeline.proof.findings import (
    KEPT,
    ORDER,
    AccuracyVerdict,
    Difference,
    Finding,
    ReadBack,
    Rule,
    lost_text,
)
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.parity import CodeCount, ParityReport

WRONG = Difference("conv1", "W", "3", "4")


def test_a_rule_in_one_line():
    assert Rule("points lost", "accuracy", 2.5, 1.0, False).text == "points lost: measured 2.5, allowed 1.0"


def test_a_finding_in_sentences():
    assert Finding("float", "it is dark", "night", "wait").text == "it is dark. Likely cause: night. Wait."


def test_calibration_is_blamed_by_its_findings_alone():
    dark = Finding("calibration", "it is dark", "night", "wait")
    assert AccuracyVerdict("warning", "", (dark,)).blames_calibration
    assert not AccuracyVerdict("warning", "", (Finding("float", "a", "b", "c"),)).blames_calibration
    said = AccuracyVerdict("warning", "bad", (dark,), 10.0, 5.0).to_json()
    assert said == {"status": "warning", "text": "bad", "chance": 10.0, "allowed": 5.0, "findings": [
        {"about": "calibration", "what": "it is dark", "cause": "night", "do": "wait"}]}
    assert ORDER.index("ok") < ORDER.index("unknown") < ORDER.index("warning") < ORDER.index("failed")


def test_a_loss_is_in_points_and_a_gain_is_no_negative_loss():
    assert lost_text(0.922, "%") == "0.92 points lost" and lost_text(-0.016, "%") == "0.02 points gained"
    assert lost_text(-0.001, "%") == "0.00 points lost" and lost_text(0.0123, "") == "0.0123 lost"
    assert lost_text(3, "%", False) == "3.00 points more" and lost_text(-0.25, "dB", False) == "0.25 dB less"
    assert Rule("points lost", "accuracy", -0.016, 1.0, True).text.endswith("measured -0.016 (a gain), allowed 1.0")


def test_a_difference_is_said_by_layer_and_field():
    assert WRONG.text == "conv1: W is 3, must be 4"
    assert Difference("", "opset", "18", "19").text == "opset is 18, must be 19"


def test_reading_back_says_what_was_read_and_what_was_not():
    assert ReadBack(1200, 34).text == "1,200 operators, 34 constants, every field as the reference says"
    apart = ReadBack(3, 4, unread=("lstm", "topk")).text
    assert apart == "3 operators, 4 constants, every field read as the reference says; not read back: lstm, topk"
    assert ReadBack(3, 4, (WRONG,)).text == "3 operators, 4 constants, 1 fields differ: conv1: W is 3, must be 4"
    assert ReadBack(reason="no reader").text == "not read back: no reader"


def test_the_rule_fails_where_a_field_differs_and_nothing_unread_passes_for_read():
    (passed,), (failed,) = ReadBack(3, 4).rules, ReadBack(3, 4, (WRONG,)).rules
    assert passed.passed and not failed.passed and "conv1: W is 3" in failed.text
    assert ReadBack(reason="no reader").rules == []
    assert passed.rule == "every field of the files is what the reference says must stand there"
    for unread, kinds in ((("lstm",), "lstm"), (("gru", "lstm", "topk"), "gru, lstm and topk")):
        (rule,) = ReadBack(3, 4, unread=unread).rules
        assert rule.rule == f"every field of the files but those of {kinds} is what the reference says must stand there"


def test_the_gate_holds_a_build_to_it_and_parity_json_tells_it():
    report = ParityReport(1, {}, {}, [], {}, CodeCount(), read_back=ReadBack(3, 4, (WRONG,) * (KEPT + 1)))
    apply_gates(report)
    assert not report.parity_passed
    told = report.read_back.to_json()
    assert told["differing"] == KEPT + 1 and len(told["differences"]) == KEPT
    assert told["differences"][0] == {"layer": "conv1", "field": "W", "found": "3", "expected": "4"}

"""Plain values: one line for a rule, sentences for a finding, and whom a verdict blames."""

from isobit.pipeline.proof.findings import ORDER, AccuracyVerdict, Finding, Rule, lost_text


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

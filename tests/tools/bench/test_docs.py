"""docs/performance.json and the tables made of it."""

from pathlib import Path

from tools.bench.docs import build_rows, latency_rows, numbers, tables
from tools.documents import fill, read_json

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
LEVELS = [{"level": "all", "compared": 1000, "differing": 0, "logits_differing": 0},
          {"level": "extended", "compared": 1000, "differing": 2, "logits_differing": 0},
          {"level": "basic", "compared": 1000, "differing": 1234, "logits_differing": 9}]
BUILD = {"subject": "ds_cnn", "recipe": "qdrop_w4a4", "steps": 10, "seed": 3, "levels": LEVELS, "model_bytes": 22_618,
         "accuracy": {"float": 91.3333, "calibrated": 88.0, "reference": 88.0, "artifact": None},
         "integer_ops": {"integer": 11, "float": 0, "reasons": {}}}
FILE = {"bytes": 1234, "ms": [0.1, 0.20049, 0.3], "speed_over": {"float": [0.9, 1.0, 1.1]}}
FASTER = {**FILE, "speed_over": {"float": [1.9, 2.014, 2.1]}}
RUN = {"cpu": "A CPU", "cores": 2, "versions": "torch 1", "command": "bench"}
RESULTS = {
    "builds": {"one": BUILD},
    "latency": {"ds_cnn": {"contenders": {"float": FILE, "W8A8": FASTER}}},
    "calibration": {"runs": [{"steps": 25, "ours_s": 13.049, "literal_s": 53.2}], "ours_s": 106.94, "literal_s": 432.0,
                    "ratio": 4.04, "step_ratio": 3.887, "how": "extrapolated", "processor": "A CPU, AVX2"},
    "runs": {"size": RUN, "latency": RUN},
}


def test_every_number_is_kept():
    found = numbers(RESULTS)
    assert found["builds"] == [{
        "network": "ds_cnn", "recipe": "qdrop_w4a4", "steps": 10, "seed": 3, "float": 91.33, "calibrated": 88.0,
        "reference": 88.0, "artifact": None, "kb": 22.6,
        "codes": {"all": [1000, 0], "extended": [1000, 2], "basic": [1000, 1234]},
    }]
    assert found["latency"][1] == {
        "network": "ds_cnn", "file": "W8A8", "kb": 1.2, "ms": 0.2, "speed_over_float": [1.9, 2.01, 2.1]
    }
    (timed,) = found["calibration"]
    assert timed["at_1000"] == {"steps": 1000, "ours_s": 106.9, "literal_s": 432.0, "how": "extrapolated"}
    assert len(found["rows"]) == 12 and found["by_hand"] == []
    kept = {"by_hand": [{"command": "another"}], "builds": ["of an earlier run"]}
    assert numbers(RESULTS, kept) == {**found, "by_hand": [{"command": "another"}]}


def test_tables_show_a_part():
    found = numbers(RESULTS)
    assert build_rows(found) == [("DS-CNN", "qdrop_w4a4", "–", "22.6", "0 / 2", "1,234")]
    assert latency_rows(found) == [("DS-CNN", "0.200", "–", "–", "0.50", "–", "–")]
    shown = tables(found)
    assert "| size, latency | A CPU, 2 cores | torch 1 | `bench` |" in shown["machine"]
    assert "| A CPU, AVX2 | 25 1,000 (extrapolated) | 13.05 106.9 | 53.20 432.0 | 3.89x |" in shown["calibration"]


def test_calibration_is_told_for_each_processor():
    """A second measurement on the same one replaces the first."""
    other = {**RESULTS, "calibration": {**RESULTS["calibration"], "processor": "Another, AVX512", "step_ratio": None}}
    both = numbers(other, numbers(RESULTS))
    assert [entry["processor"] for entry in both["calibration"]] == ["A CPU, AVX2", "Another, AVX512"]
    line = "| Another, AVX512 | 25 1,000 (extrapolated) | 13.05 106.9 | 53.20 432.0 | – |"
    assert line in tables(both)["calibration"]
    again = {**RESULTS, "calibration": {**RESULTS["calibration"], "step_ratio": 2.0}}
    assert [entry["step_ratio"] for entry in numbers(again, both)["calibration"]] == [None, 2.0]


def test_the_page_is_what_its_numbers_give():
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text, tables(read_json(PAGE.with_suffix(".json")))) == text


def test_a_page_without_numbers_says_so_and_keeps_its_words():
    text = PAGE.read_text(encoding="utf-8")
    filled = fill(text, tables(numbers({})))
    assert "Not measured yet." in filled and filled.splitlines()[0] == text.splitlines()[0]

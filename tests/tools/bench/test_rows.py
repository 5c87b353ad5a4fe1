"""What a user asks of the benches: every row says what was measured, and what was not."""

import copy

import pytest

from tools.bench.rows import summary_rows

LEVELS = ("all", "extended", "basic", "disabled")
STATIC = "quantize_static U8S8 per channel"


def _build(subject, recipe):
    levels = [{"level": level, "compared": 1000, "differing": 0, "logits_differing": 0} for level in LEVELS]
    return {"subject": subject, "recipe": recipe, "levels": levels,
            "integer_ops": {"integer": 30, "float": 0, "reasons": {}}}


def _contenders(**speeds):
    """Contenders by title with their speed over float."""
    return {"contenders": {name: {"speed_over": {base: [s / b] * 3 for base, b in speeds.items()}}
                           for name, s in speeds.items()}}


@pytest.fixture
def results():
    nets = _contenders(**{"float": 1.0, STATIC: 2.0, "W8A8": 2.1, "W4A4": 2.0})
    large = _contenders(float=1.0, W8A8=3.3)
    builds = [_build("resnet20", "qdrop_w8a8"), _build("resnet20", "qdrop_w4a4"), _build("ds_cnn", "qdrop_w8a8")]
    versions = ("1.17.3", "1.22.1", "1.31.1")
    return {
        "builds": {str(index): build for index, build in enumerate(builds)},
        "compat": {"passed": True, "entries": [{"version": version, "differing": 0} for version in versions]},
        "latency": {"resnet20": nets, "ds_cnn": nets, "resnet18": large, "mobilenet_v2": large},
        "calibration": {"ratio": 3.4, "ours_s": 100.0, "literal_s": 340.0, "how": "measured",
                        "processor": "A CPU, AVX2"},
    }


def shown(results):
    return {row.what: row.measured for row in summary_rows(results)}


def test_every_row_says_what_was_measured(results):
    rows = shown(results)
    assert rows["ResNet-20: codes that differ from the integer arithmetic"] == (
        "0 of 8,000 codes and 0 logits, 2 builds at 4 levels")
    assert rows["DS-CNN: operators"] == "30 in integers, 0 in float"
    assert rows["ResNet-20 W8A8 over quantize_static at its best: speed"] == "1.05x [1.05, 1.05]"
    assert rows["DS-CNN W4A4 over W8A8: speed"] == "0.95x [0.95, 0.95]"
    assert rows["ResNet-18 W8A8 over float: speed"] == "3.30x [3.30, 3.30]"
    assert "0 differing codes and logits on 1.17.3, 1.22.1, 1.31.1" in rows.values()
    assert "3.40x (A CPU, AVX2: 340 s / 100 s, measured)" in rows.values()


def test_what_was_not_measured_says_so():
    assert set(shown({}).values()) == {"not measured"} and len(shown({})) == 12


def test_what_differs_and_where_is_told(results):
    changed = copy.deepcopy(results)
    changed["builds"]["0"]["levels"][3]["differing"] = 7
    changed["builds"]["2"]["levels"][0]["logits_differing"] = 1
    changed["builds"]["2"]["integer_ops"] = {"integer": 29, "float": 1, "reasons": {"gelu": "no kernel"}}
    changed["compat"]["passed"] = False
    rows = shown(changed)
    assert rows["ResNet-20: codes that differ from the integer arithmetic"] == (
        "7 of 8,000 codes and 0 logits, 2 builds at 4 levels; at disabled")
    assert rows["DS-CNN: codes that differ from the integer arithmetic"] == (
        "0 of 4,000 codes and 1 logits, 1 builds at 4 levels; at all")
    assert rows["DS-CNN: operators"] == "29 in integers, 1 in float: no kernel"
    assert any(measured.endswith("not every artifact ran everywhere with the same codes") for measured in rows.values())

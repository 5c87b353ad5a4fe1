"""The judging table: every row can be met and missed, and what was not measured is not judged."""

import copy

import pytest
from bench_rows import judged_rows

LEVELS = ("all", "extended", "basic", "disabled")


def _build(subject, recipe, top1, size=280_000):
    accuracy = {"float": 88.34, "calibrated": top1, "reference": top1, "artifact": top1}
    levels = [{"level": level, "compared": 1000, "differing": 0, "logits_differing": 0} for level in LEVELS]
    return {"subject": subject, "recipe": recipe, "accuracy": accuracy, "levels": levels, "model_bytes": size,
            "integer_ops": {"integer": 30, "float": 0, "reasons": {}}}


def _contenders(**speeds):
    """Contenders by title with their speed over float."""
    return {"contenders": {name: {"speed_over": {base: [s / b] * 3 for base, b in speeds.items()}}
                           for name, s in speeds.items()}}


@pytest.fixture
def good():
    """Results that meet every row."""
    static = "quantize_static U8S8 per channel"
    nets = _contenders(**{"float": 1.0, static: 2.0, "W8A8": 2.1, "W4A4": 2.0})
    large = _contenders(float=1.0, W8A8=3.3)
    builds = [
        _build("resnet20", "qdrop_w8a8", 88.2), _build("resnet20", "mse_w8a8", 88.14),
        _build("resnet20", "qdrop_w4a4", 87.4, 150_000), _build("resnet20", "qdrop_w2a2", 70.5, 86_000),
        _build("ds_cnn", "qdrop_w8a8", 88.3), _build("ds_cnn", "mse_w8a8", 88.3), _build("ds_cnn", "qdrop_w4a4", 86.1),
    ]
    versions = ("1.17.3", "1.22.1", "1.31.1")
    return {
        "builds": {str(index): build for index, build in enumerate(builds)},
        "compat": {"passed": True, "entries": [{"version": version, "differing": 0} for version in versions]},
        "latency": {"resnet20": nets, "ds_cnn": nets, "resnet18": large, "mobilenet_v2": large},
        "calibration": {"ratio": 3.4, "ours_s": 100.0, "literal_s": 340.0, "how": "measured"},
    }


def test_good_results_meet_every_row(good):
    assert {row.verdict for row in judged_rows(good)} == {"met"}


def test_nothing_measured_judges_nothing():
    rows = judged_rows({})
    assert {(row.verdict, row.measured) for row in rows} == {("–", "not measured")}


def _set(*path, value):
    def change(results):
        place = results
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    return change


@pytest.mark.parametrize(("change", "missed"), [
    (_set("builds", "2", "accuracy", "artifact", value=87.28), "ResNet-20 qdrop_w4a4: top-1 of the artifact"),
    (_set("builds", "2", "accuracy", "reference", value=87.42), "ResNet-20 qdrop_w4a4: top-1 of the artifact"),
    (_set("builds", "3", "accuracy", "artifact", value=70.4), "ResNet-20 qdrop_w2a2: top-1 of the artifact"),
    (_set("builds", "1", "accuracy", "artifact", value=88.12), "ResNet-20 mse_w8a8: top-1 of the artifact"),
    (_set("builds", "6", "accuracy", "artifact", value=85.9), "DS-CNN qdrop_w4a4: top-1 of the artifact"),
    (_set("builds", "0", "levels", 3, "differing", value=1),
     "ResNet-20: codes that differ from the integer arithmetic"),
    (_set("builds", "5", "levels", 0, "logits_differing", value=1),
     "DS-CNN: codes that differ from the integer arithmetic"),
    (_set("builds", "0", "integer_ops", "float", value=1), "ResNet-20: operators in integers"),
    (_set("builds", "3", "model_bytes", value=86_001),
     "ResNet-20 qdrop_w2a2: model.onnx (float file 1,081 kB)"),
    (_set("compat", "passed", value=False),
     "The same file on ONNX Runtime 1.17.3, 1.22.1 and the newest (tools/compat.py)"),
    (_set("latency", "resnet18", value=_contenders(float=1.0, W8A8=3.19)),
     "ResNet-18 W8A8 over float: speed, one thread, batch 1"),
    (_set("calibration", "ratio", value=2.99),
     "ResNet-20 W4A4: CPU time of calibration, literal loop over ours, 1,000 steps a unit"),
])
def test_one_bad_number_misses_its_row_and_no_other(good, change, missed):
    results = copy.deepcopy(good)
    change(results)
    assert [row.what for row in judged_rows(results) if row.verdict == "missed"] == [missed]


def test_w4a4_may_be_eight_percent_slower_than_w8a8_and_no_more(good):
    static = "quantize_static U8S8 per channel"
    for w4a4, expected in ((1.96, "met"), (1.93, "missed")):
        good["latency"]["resnet20"] = _contenders(**{"float": 1.0, static: 2.0, "W8A8": 2.1, "W4A4": w4a4})
        row = next(r for r in judged_rows(good) if r.what.startswith("ResNet-20 W4A4 over W8A8"))
        assert row.verdict == expected

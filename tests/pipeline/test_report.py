"""The report holds the verdict, the four accuracies with what each step cost, and every row of its tables."""

from dataclasses import replace

import pytest

from backends.placement import PlacementRow
from pipeline.artifact import CalibrationEntry, FileEntry, Manifest, ModelEntry, RecipeEntry, TargetEntry, TensorEntry
from pipeline.parity import BoundaryCount, CodeCount, FloatOutput, LevelReport, ParityReport
from pipeline.report import render_report
from pipeline.stages import UnitLog

MANIFEST = Manifest(
    version="0.1.0", recipe=RecipeEntry(name="qdrop_w4a4", policy="qdrop", text="name: qdrop_w4a4\n", sha256="r" * 64),
    model=ModelEntry(name="net", sha256="m" * 64, arch=None),
    calibration=CalibrationEntry(kind="files", sha256="c" * 64, count=1024),
    target=TargetEntry(name="onnx", profile="generic", runtime={"onnxruntime": "1.31.1"}), packages={"torch": "2.13"},
    seed=7, tensors=[], files={"model.onnx": FileEntry(bytes=149200, sha256="f" * 64)},
    sizes={"model": 149200, "weights_packed": 140300},
)
ROW = PlacementRow(
    "relu_q", "conv1", "conv2d+relu", "integer", "8", 4, "unsigned", "weight codes keep to +-64", "net.py:3"
)
LOG = UnitLog("layer1.0", 1000, 4.0, 0.5, 0.6, 0.012, 0.14, 9.5)
ACCURACY = {"float": 88.34, "calibrated": 87.5, "reference": 87.4, "artifact": 87.4}


def parity(**changes):
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 0, 0), 0, 100.0)
    rules = [{"rule": "no code differs", "measured": 0, "allowed": 0, "passed": True}]
    report = ParityReport(5000, ACCURACY, {}, [level], {}, CodeCount(2000, 3, 1), rules,
                          {"integer": 33, "float": 1, "reasons": {"gelu": "no kernel"}})
    return replace(report, **changes)


def render(report=None, log=(LOG,), notes=()):
    return render_report(MANIFEST, report or parity(), [ROW], log, notes)


def test_a_passing_build_says_so_and_what_each_step_cost():
    text = render(notes=["conv1: 1 channel scale(s) raised"])
    assert "**Gate PASSED.** All 1,000,000 integer codes of the artifact equal the reference." in text
    assert "| calibrated | 87.50 % | -0.84 (method) |" in text
    assert "| artifact | 87.40 % | +0.00 (parity) |" in text
    assert "5000 samples. Calibration: 1024 samples, source: files. Bit policy: qdrop. Seed 7." in text
    assert "Of 2,000 codes of the graph evaluated exactly, 3 are moved" in text
    assert "* conv1: 1 channel scale(s) raised" in text and "* float: gelu: no kernel" in text
    assert "| model.onnx | 149,200 | `ffffffffffffffff` |" in text and "take 140,300 bytes" in text
    assert "| relu_q | conv1 | conv2d+relu | integer | 8 | 4 | unsigned | weight codes keep to +-64 |" in text
    assert "| layer1.0 | 1000 | 4 | 0.5 | 0.6 | 1.20 % | 14.00 % | 9.5 |" in text


def test_a_failing_build_says_how_many_codes_differ():
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 12, 3), 0, 99.9)
    rules = [{"rule": "no code differs", "measured": 12, "allowed": 0, "passed": False}]
    text = render(parity(levels=[level], rules=rules))
    assert "**Gate FAILED.** 12 of 1,000,000 integer codes differ from the reference." in text
    assert "FAILED: no code differs: measured 12, allowed 0" in text


def test_without_labels_there_are_no_accuracies():
    text = render(parity(accuracy=dict.fromkeys(ACCURACY)))
    assert "| float | no labels | the trained model |" in text and "None" not in text


def test_a_method_without_units_has_no_calibration_table():
    assert "## Calibration" not in render(log=())


def test_tables_are_well_formed():
    lines = [line for line in render().splitlines() if line.startswith("|")]
    blocks = [line.count("|") for line in lines]
    assert len(blocks) > 10 and min(blocks) >= 4


@pytest.mark.parametrize("kept", [True, False])
def test_the_guard_is_named(kept):
    assert ("kept nearest rounding" in render(log=[replace(LOG, kept_nearest=kept)])) is kept


def test_float_operators_get_a_table_of_their_own():
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 0, 0), 7, 100.0,
                        boundaries={"gelu_q": BoundaryCount(1300, 2, 1)}, float_output=FloatOutput(50, 1.5e-7))
    text = render(parity(levels=[level]))
    assert "| gelu_q | 1,300 | 2 | 1 | 0 |" in text and "relative error at most 1.5e-07" in text
    assert "All 1,000,000 integer codes of the artifact that integer kernels compute equal" in text
    level.boundaries["gelu_q"].unexplained = 3
    assert "3 codes right behind float operators are wrong" in render(parity(levels=[level]))
    assert "behind a float operator" not in render()


def test_levels_say_what_their_container_costs():
    common = {"module": "", "signed": True, "symmetric": True, "axis": 0, "scale": 1.0, "zero_point": 0,
              "codes_sha256": ""}
    tensors = [
        TensorEntry(name="w", kind="weight", bits=2.5, container="int8", count=8000, levels="multibit",
                    channel_bits=[1, 4], **common),
        TensorEntry(name="v", kind="weight", bits=8, container="int8", count=500, **common),
        TensorEntry(name="a", kind="activation", bits=2.0, container="uint8", count=None, levels="nested",
                    channel_bits=[0, 4], elements=3000, **common),
        TensorEntry(name="b", kind="activation", bits=3.0, container="uint8", count=None, levels="nested",
                    channel_bits=[3], elements=1000, **common),
    ]
    text = render_report(MANIFEST.model_copy(update={"tensors": tensors}), parity(), [ROW], (), ())
    assert "2.50 bits on average as codebooks per channel: 2,500 bytes packed, 8,000 in the int8 container" in text
    assert "2.25 bits on average on nested grids per channel: their uint8 container costs 4,000 bytes" in text
    assert "on average" not in render()

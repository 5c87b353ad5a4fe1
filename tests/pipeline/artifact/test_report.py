"""The report holds the verdict, the four accuracies with what each step cost, and every row of its tables."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from isobit.pipeline.artifact.manifest import (
    CalibrationEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    TargetEntry,
    TensorEntry,
)
from isobit.pipeline.artifact.report import FRONTIER, cell, render_report
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.counts import BoundaryCount, CodeCount, FloatOutput, OutputCount, Reach
from isobit.pipeline.proof.findings import AccuracyVerdict, Finding, Rule
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.proof.parity import LevelReport, ParityReport
from isobit.pipeline.recipe.allocation import Allocation, Point
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.stages import UnitLog

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


ALLOCATION = Allocation(
    BitBudget(average=3, options=(2, 4, 8)), {"conv1": 432, "conv2": 2304, "conv3": 2304},
    {"conv1": 8, "conv2": 4, "conv3": 2}, {"conv2": {2: 0.5, 4: 0.02, 8: 1e-4}, "conv3": {2: 0.1, 4: 0.03, 8: 2e-4}},
    (Point(1584, 0.6), Point(2160, 0.12), Point(2736, 0.05), Point(5040, 3e-4)), Point(2160, 0.12),
    {2: Point(1584, 0.6), 4: Point(2736, 0.05), 8: Point(5040, 3e-4)}, 256,
)


def parity(**changes):
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 0, 0), 100.0)
    rules = [Rule("no code differs", "parity", 0, 0, True)]
    report = ParityReport(5000, ACCURACY, {}, [level], {}, CodeCount(2000, 3, 1), rules,
                          {"integer": 33, "float": 1, "reasons": {"gelu": "no kernel"}})
    return replace(report, **changes)


def render(report=None, log=(LOG,), notes=(), allocation=None):
    return render_report(MANIFEST, report or parity(), [ROW], log, notes, allocation=allocation)


def test_a_passing_build_says_so_and_what_each_step_cost():
    text = render(notes=["conv1: 1 channel scale(s) raised"])
    assert "**PARITY PASSED:** all 1,000,000 integer codes equal the reference (5,000 samples)" in text
    assert "| calibrated | 87.50 % | -0.84 (calibration: few bits on this target's grids) |" in text
    assert "| artifact | 87.40 % | +0.00 (the files: nothing may be lost here) |" in text
    assert "5000 samples. Calibration: 1024 samples, source: files. Bit policy: qdrop. Seed 7." in text
    assert "Of 2,000 codes of the graph evaluated exactly, 3 are moved" in text
    assert "* conv1: 1 channel scale(s) raised" in text and "* float: gelu: no kernel" in text
    assert "| model.onnx | 149,200 | `ffffffffffffffff` |" in text and "take 140,300 bytes" in text
    assert "| relu_q | conv1 | conv2d+relu | integer | 8 | 4 | unsigned | weight codes keep to +-64 |" in text
    assert "| layer1.0 | 1000 | 4 | 0.5 | 0.6 | 1.20 % | 14.00 % |  |" in text


def test_a_failing_build_says_how_many_codes_differ():
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 12, 3), 99.9)
    rules = [Rule("no code differs", "parity", 12, 0, False)]
    text = render(parity(levels=[level], rules=rules))
    assert "**PARITY FAILED:** 12 of 1,000,000 integer codes differ from the reference" in text
    assert "FAILED: no code differs: measured 12, allowed 0" in text


def test_without_labels_there_are_no_accuracies():
    text = render(parity(accuracy=dict.fromkeys(ACCURACY)))
    assert "| stage |" not in text and "None" not in text


def test_the_stages_stand_by_the_metric_that_judges_the_build():
    answers = Answers(("float", "calibrated", "reference", "artifact"), find_measures(["mean_absolute_error"]))
    zeros = {"value": np.zeros((4, 1), np.float32)}
    answers.add({"float": zeros, "calibrated": {"value": zeros["value"] + 0.25}, "reference": zeros, "artifact": zeros},
                torch.zeros(4, 1))
    text = render(parity(answers=answers, accuracy=dict.fromkeys(ACCURACY)))
    assert "| stage | mean absolute error | what" in text and "top-1" not in text.split("## Parity")[0]
    assert "| calibrated | 0.25 | +0.25 (calibration:" in text


def test_both_verdicts_stand_on_top_with_causes_and_no_data_s_loss_is_the_method_s():
    finding = Finding("calibration", "calibration images are black", "a closed lens", "open it")
    judged = AccuracyVerdict("warning", "top-1 88 % -> 10 %", (finding,))
    text = render(parity(judged=judged))
    assert text.index("**PARITY PASSED:**") < text.index("**ACCURACY WARNING:** top-1 88 % -> 10 %") < text.index("|")
    assert "* calibration images are black. Likely cause: a closed lens. Open it." in text
    assert "| calibrated | 87.50 % | -0.84 (calibration data that does not fit, see ACCURACY) |" in text


def test_outputs_without_a_choice_have_no_top1_and_the_distance_is_said():
    answers = Answers(("float", "calibrated", "reference", "artifact"))
    ones, near = ({"value": np.float32(factor) * np.ones((4, 1), np.float32)} for factor in (1, 1.1))
    answers.add({"float": ones, "calibrated": near, "reference": near, "artifact": ones}, None)
    text = render(parity(answers=answers, levels=[LevelReport("all", True, 4, CodeCount(10, 0, 0), None)]))
    assert "no choice" not in text and "same top-1" not in text
    assert "| logits differing |\n|---|---|---|---|---|---|\n" in text
    assert "\n* value: calibrated 20.0 dB (cosine 1.0000), reference 20.0 dB (cosine 1.0000)\n" in text


@pytest.mark.parametrize(("name", "shown"), [
    ("layer1.0.conv_q", "layer1.0.conv_q"), ("/head/Conv:0", "/head/Conv:0"), ("", ""), ("a|b", r"`a\|b`"),
    ("a\r\n# b", "`a # b`"), ("<img>", "`<img>`"), ("a`b", "`` a`b ``"), ("__a__", "`__a__`"), ("*a*", "`*a*`"),
])
def test_names_are_no_markdown(name, shown):
    assert cell(name) == shown


def test_names_of_the_user_break_no_table_and_no_line():
    answers = Answers(("float", "calibrated", "reference", "artifact"))
    ones, near = ({"a|b\n# c": np.float32(factor) * np.ones((4, 1), np.float32)} for factor in (1, 1.1))
    answers.add({"float": ones, "calibrated": near, "reference": near, "artifact": ones}, None)
    report = parity(answers=answers, judged=AccuracyVerdict("ok", "the output 'a|b\n# c' is near"))
    text = render_report(MANIFEST, report, [replace(ROW, module="a|b")], [replace(LOG, name="x|y")], ())
    assert "\n# c" not in text and "\n* `a\\|b # c`: calibrated 20.0 dB" in text
    assert "| relu_q | `a\\|b` | conv2d+relu |" in text and "| `x\\|y` | 1000 |" in text


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
    level = LevelReport("all", True, 5000, CodeCount(1_000_000, 0, 0), 100.0,
                        boundaries={"gelu_q": BoundaryCount(1300, 2, 1)},
                        outputs={"logits": OutputCount(50, 3, FloatOutput(50, 1.5e-7, measured=2.5e-7))})
    text = render(parity(levels=[level]))
    assert "| gelu_q | 1,300 | 2 | 1 | 0 |" in text and "relative error at most 2.5e-07; of values" in text
    assert "do not explain 1.5e-07, allowed" in text
    assert "all 1,000,000 integer codes that integer kernels compute equal" in text
    level.boundaries["gelu_q"].unexplained = 3
    assert "3 codes right after float operators are wrong" in render(parity(levels=[level]))
    assert "after a float operator" not in render()


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


def test_chosen_bits_stand_layer_by_layer_beside_equal_bits_everywhere():
    drawn = MANIFEST.model_copy(update={"files": {**MANIFEST.files, FRONTIER: FileEntry(bytes=1, sha256="f" * 64)}})
    text = render_report(drawn, parity(), [ROW], (LOG,), (), allocation=ALLOCATION)
    assert "## Bits" in text and "3 bits on average of 2, 4, 8." in text and "a mean over 256 images" in text
    assert "| conv1 | 432 | 8 | fixed by the recipe |" in text and "| conv3 | 2,304 | 2 | 0.1 |" in text
    assert "| **chosen, 3.00 on average** | 2,160 | 0.12 |" in text and "| 4 everywhere | 2,736 | 0.05 |" in text
    assert f"]({FRONTIER})" in text
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("|"))
    assert "## Bits" not in render() and FRONTIER not in render() + render(allocation=ALLOCATION)


def test_paragraphs_and_lists_have_one_empty_line_between_them():
    text = render()
    assert "\n\n\n" not in text.split("## Recipe")[0]
    lines = text.split("## Recipe")[0].splitlines()
    for before, line in itertools.pairwise(lines):
        starts = line.startswith(("* ", "| ", "#")) and not before.startswith(line[0])
        assert not starts or before == "", (before, line)


def test_what_parts_for_some_input_has_a_table_and_what_is_open_its_reason():
    reach = [Reach("x_q", "numbers", 2000, 2, 1), Reach("relu_q", "sums", 1000),
             Reach("gelu_q", "nothing", why="runs in float"), Reach("a|b", "nothing", why="runs in float")]
    text = render(parity(reach=reach))
    assert "Without samples, from integers alone: 1 of 4 tensors have exact arithmetic's codes for every input" in text
    assert "\n| x_q | numbers | 2,000 | 2 | 1 |\n" in text and "| relu_q | sums" not in text
    assert "\n* not gone through, runs in float: gelu_q, `a\\|b`\n" in text
    assert "\n\n\n" not in text and "Without samples" not in render()
    assert "that parts from exact" not in render(parity(reach=reach[1:]))

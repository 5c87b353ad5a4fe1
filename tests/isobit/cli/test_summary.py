"""What the final screen, the dry run and `--json` say about a build."""

import json
from dataclasses import replace

import numpy as np

from isobit.backends.placement import placement_table
from isobit.backends.reference import TARGET
from isobit.cli.summary import (
    allocation_lines,
    build_json,
    build_lines,
    class_count,
    error_json,
    float_lines,
    outputs_text,
    placement_counts,
    plan_json,
)
from isobit.pipeline.artifact.manifest import Manifest, ModelEntry, RecipeEntry, TargetEntry
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.counts import BoundaryCount, CodeCount, Reach
from isobit.pipeline.proof.findings import Rule
from isobit.pipeline.proof.parity import LevelReport, ParityReport
from isobit.pipeline.proof.verdicts import headlines
from isobit.pipeline.recipe.allocation import Allocation, Point
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import UnitLog
from tests.examples import ports
from tests.examples.tiny import quantized_net

MANIFEST = Manifest(
    version="0.1.0",
    recipe=RecipeEntry(name="qdrop_w4a4", policy="qdrop", text=load_recipe("qdrop_w4a4").to_yaml(), sha256="r"),
    model=ModelEntry(name="net", sha256="m", arch=None), calibration=None,
    target=TargetEntry(name="onnx", profile="generic", runtime={}), packages={}, seed=7, tensors=[], files={},
    sizes={"model": 149200, "weights_packed": 140300},
)
ACCURACY = {"float": 88.34, "calibrated": 87.5, "reference": 87.4, "artifact": 87.4}
LEVEL = LevelReport("all", True, 5000, CodeCount(1_000_000, 0, 0), 100.0)
RULE = Rule("no code differs", "parity", 0, 0, True)


def parity(level=LEVEL, rule=RULE, **changes):
    loose = LevelReport("basic", False, 100, CodeCount(20_000, 30, 1), 100.0)
    report = ParityReport(5000, ACCURACY, {}, [level, loose], {"relu_q": "layer1.relu"}, CodeCount(), [rule],
                          {"integer": 33, "float": 0, "reasons": {}})
    return replace(report, **changes)


def test_the_screen_names_what_a_recipe_was_changed_to(tmp_path):
    recipe = load_recipe("qdrop_w4a4", ["method.steps=300", "seed=1", "overrides=[{where: [first, a, bbbbbb, cccc, d], "
                                        "weights: {bits: 8}}]"])
    entry = RecipeEntry(name=recipe.name, policy=recipe.policy, text=recipe.to_yaml(), sha256="r")
    line = build_lines(tmp_path, MANIFEST.model_copy(update={"recipe": entry}), parity(), "model.onnx", "numpy")[1]
    assert line == "  recipe      qdrop_w4a4, bit policy qdrop; overrides=...; method.steps=300; seed=1"


def failing():
    tensors = {"relu_q": CodeCount(500, 12, 3)}
    level = replace(LEVEL, codes=CodeCount(1_000_000, 12, 3), tensors=tensors, order=["relu_q"])
    return parity(level, replace(RULE, passed=False, measured=12))


def test_a_passing_build_shows_costs_kernels_size_and_the_next_step(tmp_path):
    (tmp_path / "run.py").touch()
    assert headlines(parity())[0].line.startswith("PARITY PASSED: all 1,000,000 integer codes equal the reference")
    lines = build_lines(tmp_path, MANIFEST, parity(), "model.onnx", "numpy and onnxruntime")
    text = "\n".join(lines)
    assert lines[1] == "  recipe      qdrop_w4a4, bit policy qdrop" and lines[3].startswith("  float ")
    assert lines[2] == "  target      onnx, profile generic"
    assert "  calibrated   87.50 %   -0.84  calibration: few bits on this target's grids" in lines
    assert "  artifact     87.40 %   +0.00  the files: nothing may be lost here" in lines
    assert "  codes       0 of 1,000,000 differ at level 'all'" in lines
    assert "30 of 20,000 differ at level 'basic' (float kernels, not gated)" in text
    assert "33 integer, 0 float" in text and "149,200 bytes in model.onnx, weight codes alone 140,300" in text
    assert f"next        python {tmp_path / 'run.py'}" in text and "predict.py" not in text
    (tmp_path / "predict.py").touch()
    assert f"  python {tmp_path / 'predict.py'} picture.jpg" in "\n".join(
        build_lines(tmp_path, MANIFEST, parity(), "model.onnx", "numpy and onnxruntime"))


def test_what_a_device_holds_is_shown_where_the_target_says_it(tmp_path):
    sizes = {**MANIFEST.sizes, "flash": 284_732, "arena": 49_152}
    lines = build_lines(tmp_path, MANIFEST.model_copy(update={"sizes": sizes}), parity(), "model.c", "a C compiler")
    assert any(line.strip() == "bytes on the device: flash 284,732, arena 49,152" for line in lines)
    assert not any("bytes on the device" in line for line in build_lines(tmp_path, MANIFEST, parity(), "m", "numpy"))


def test_files_of_a_firmware_are_named_instead_of_the_folder(tmp_path):
    (tmp_path / "run.py").touch()
    text = "\n".join(
        build_lines(tmp_path, MANIFEST, parity(), "model.c", "a C compiler", ("model.c", "model.h")))
    assert "add model.c and model.h to the firmware" in text and "copy the folder" not in text


def test_no_runner_no_advice_to_run_it(tmp_path):
    assert "next" not in "\n".join(build_lines(tmp_path, MANIFEST, parity(), "model.pt2", "numpy and onnxruntime"))


def test_a_failing_build_says_where_it_differs_first_and_what_to_read(tmp_path):
    text = "\n".join(build_lines(tmp_path, MANIFEST, failing(), "model.onnx", "numpy and onnxruntime"))
    assert "first in    relu_q (layer1.relu)" in text
    assert f"look at {tmp_path / 'parity.json'}" in text and "run.py" not in text


def test_float_operators_are_named_but_not_without_end(tmp_path):
    reasons = {f"tensor{index}": "runs Exp in float" for index in range(8)}
    level = replace(LEVEL, boundaries={"a": BoundaryCount(40, 2, 1, 0)})
    report = parity(level, integer_ops={"integer": 3, "float": 8, "reasons": reasons})
    text = "\n".join(build_lines(tmp_path, MANIFEST, report, "model.onnx", "numpy and onnxruntime"))
    assert "float: tensor0: runs Exp in float" in text and "tensor5" not in text and "float: 3 more" in text
    assert "after float operators 2 of 40 moved, 0 more than float rounding explains" in text


def test_without_labels_no_accuracy_is_shown(tmp_path):
    report = parity(accuracy=dict.fromkeys(ACCURACY))
    text = "\n".join(build_lines(tmp_path, MANIFEST, report, "model.onnx", "numpy and onnxruntime"))
    assert not [stage for stage in ACCURACY if f"  {stage} " in text.replace("  artifact    " + str(tmp_path), "")]


def test_each_output_s_distance_is_shown_but_not_without_end(tmp_path):
    answers, names = Answers(tuple(ACCURACY)), [f"out{index}" for index in range(10)]
    given = {name: np.ones((2, 3), np.float32) for name in names}
    near = {name: np.float32(1.1) * value for name, value in given.items()}
    answers.add(dict.fromkeys(ACCURACY, given) | {"artifact": near}, None)
    lines = build_lines(tmp_path, MANIFEST, parity(answers=answers), "model.onnx", "numpy and onnxruntime")
    assert "  to float    out0: artifact 20.0 dB (cosine 1.0000)" in lines
    assert any(line.strip() == "2 more outputs, see report.md" for line in lines) and "out8" not in "\n".join(lines)


def test_outputs_are_told_as_classes_or_by_their_shapes():
    quantized, _ = quantized_net(TARGET, "minmax_w8a8")
    assert outputs_text(quantized.captured) == "5 classes" and class_count(quantized.captured) == 5
    detector, _ = ports.placed("detector", "reference")
    assert class_count(detector.captured) is None and outputs_text(detector.captured).startswith("outputs ")


def test_json_holds_the_parity_and_what_it_was_made_from(tmp_path):
    log = [UnitLog("stem", 10, 1, 1, 1, 0, 0, 1.0), UnitLog("head", 10, 1, 1, 2, 0, 0, 1.0, kept_nearest=True)]
    summary = json.loads(json.dumps(build_json(tmp_path, MANIFEST, parity(), ["a note"], log, 1.23)))
    assert (summary["exit_code"], summary["passed"], summary["seed"], summary["seconds"]) == (0, True, 7, 1.2)
    assert (summary["recipe"], summary["policy"]) == ("qdrop_w4a4", "qdrop")
    assert summary["accuracy"] == ACCURACY and summary["codes"]["differing"] == 0
    assert summary["units_kept_nearest"] == ["head"] and summary["notes"] == ["a note"]
    assert build_json(tmp_path, MANIFEST, failing(), [], [], 1.0)["exit_code"] == 1


def test_an_error_in_json_has_its_parts():
    summary = error_json(InputError("what", where="where", allowed="allowed", hint="do"))
    assert summary["error"] == {
        "stage": "input", "field": "", "what": "what", "where": "where", "allowed": "allowed", "do": "do"
    }
    assert summary["exit_code"] == 2


def test_a_plan_in_json_has_units_and_placement():
    quantized, _ = quantized_net(TARGET, "qdrop_w4a4")
    summary = plan_json(quantized, placement_table(quantized.graph, TARGET), [], {"cpu_seconds": 5.0})
    assert summary["expected"] == {"cpu_seconds": 5.0}
    json.dumps(summary)
    assert summary["dry_run"] and summary["input_shape"] == [3, 8, 8] and summary["policy"] == "qdrop"
    assert [unit["name"] for unit in summary["units"]] == [unit.name for unit in quantized.units]


def row(runs, op="conv2d"):
    return PlacementRow("y", "act", op, runs, None, None, None, "no integer kernel", "net.py:3")


def test_what_stays_float_is_counted_and_named():
    rows = [row("integer", "quantize"), row("integer"), row("layout"), row("float", "erf")]
    assert placement_counts(rows) == "1 operators in integers, 1 in float"
    assert float_lines(rows) == ["act (erf, net.py:3): no integer kernel"]


def test_chosen_bits_are_two_lines_however_many_layers_there_are():
    layers = [f"layer{index}" for index in range(9)]
    allocation = Allocation(
        BitBudget(average=3), {"stem": 9} | dict.fromkeys(layers, 1000),
        {"stem": 8} | dict.fromkeys(layers, 3) | {"layer8": 2}, {name: {2: 0.1, 3: 0.05} for name in layers},
        (Point(3259, 0.5),), Point(3259, 0.5), {3: Point(3384, 0.45)}, 64,
    )
    assert allocation_lines(allocation) == [
        "2.89 bits on average over 9 layers, 3,259 bytes; omega 0.5 nats",
        "2 bits: layer8; 3 bits: layer0, layer1, layer2, layer3 and 4 more",
    ]


def test_what_holds_for_every_input_is_one_line(tmp_path):
    reach = [Reach("relu_q", "sums", 1000), Reach("gelu_q", "nothing", why="runs in float")]
    lines = build_lines(tmp_path, MANIFEST, parity(reach=reach), "model.onnx", "numpy")
    assert sum("every input 1 of 2 tensors have exact" in line for line in lines) == 1
    assert not any("every input" in line for line in build_lines(tmp_path, MANIFEST, parity(), "model.onnx", "numpy"))

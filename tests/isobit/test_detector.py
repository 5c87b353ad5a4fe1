"""What a detector finds: boxes at every stage, against annotations or float's own, and drawn by the artifact."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.isobit.commands import refused

DETECTOR = """import json
import numpy as np
import torch
from torch import nn


class Bright(nn.Module):
    # Brightness of each cell of 4x4 pixels as its score, and distances of a box's sides from the cell's centre.

    def __init__(self):
        super().__init__()
        self.cells, self.score, self.sides = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 1, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        cells = torch.relu(self.cells(x))
        return {"scores": self.score(cells).flatten(2).transpose(1, 2),
                "sides": self.sides(cells).flatten(2).transpose(1, 2)}


def decode(outputs, size):
    assert size == (16, 16)
    y, x = np.divmod(np.arange(16), 4)
    centre = np.stack([x, y, x, y], 1) * 4 + 2
    kept = outputs["scores"][:, 0] > 0.5
    boxes = centre + outputs["sides"] * [-1, -1, 1, 1]
    return boxes[kept], outputs["scores"][kept, 0], np.zeros(kept.sum())


def judged():
    with open("val.json") as file:
        given = json.load(file)
    for image in given["images"]:
        of = [one for one in given["annotations"] if one["image_id"] == image["id"]]
        boxes = np.array([one["bbox"] for one in of], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        yield np.load(image["file_name"]), {"boxes": boxes, "labels": [one["category_id"] for one in of]}


def found(boxes, target):
    return [len(one.boxes) == len(wanted["boxes"]) for one, wanted in zip(boxes, target)]


found.decoded = True


def broken(boxes, target):
    return [one.box for one in boxes]


broken.decoded = True
"""


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """mine.py, mine.pth, pictures/ of bright cells, and val.json with their places in COCO's form."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(DETECTOR)
    weights = {"cells.weight": torch.full((4, 3, 4, 4), 1 / 48), "cells.bias": torch.zeros(4),
               "score.weight": torch.full((1, 4, 1, 1), 0.25), "score.bias": torch.zeros(1),
               "sides.weight": torch.full((4, 4, 1, 1), 0.5), "sides.bias": torch.zeros(4)}
    torch.save(weights, tmp_path / "mine.pth")
    (tmp_path / "pictures").mkdir()
    random, coco = np.random.default_rng(0), {"images": [], "annotations": []}
    for number in range(8):
        pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        for cell in random.choice(16, 3, replace=False).tolist():
            y, x = 4 * (cell // 4), 4 * (cell % 4)
            pixels[y:y + 4, x:x + 4] = 255
            coco["annotations"].append({"image_id": number, "category_id": 0, "bbox": [x, y, 4, 4]})
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
        np.save(tmp_path / f"{number}.npy", pixels.transpose(2, 0, 1).astype(np.float32) / 255)
        coco["images"].append({"id": number, "file_name": f"{number}.npy"})
    (tmp_path / "val.json").write_text(json.dumps(coco))
    coco["categories"] = [{"id": 0, "name": "cell"}]
    for image in coco["images"]:
        image |= {"width": 16, "height": 16, "file_name": f"{image['id']}.png"}
    (tmp_path / "pictures.json").write_text(json.dumps(coco))

    def run(command, *arguments):
        return command("--calib-data", "pictures", "--eval-data", "mine.py:judged", "--decoder", "mine.py:decode",
                       "--set", "images.count=8", *arguments, model="mine.pth", arch="mine.py:Bright", calib=None,
                       evaluation=None)

    return run


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("metric", "title"), [("map", "COCO mean average precision"), ("mine.py:found", "found")])
def test_boxes_are_measured_at_every_stage_and_drawn_by_the_artifact(command, detector, tmp_path, metric, title):
    if metric == "map":
        pytest.importorskip("faster_coco_eval", reason="the extra `detection` (faster-coco-eval) is not installed")
    result = detector(command, "--metric", metric, "--max-drop", "20")
    assert result.exit_code == 0, result.stderr
    said = json.loads((tmp_path / "out" / "parity.json").read_text())["metrics"][metric.rpartition(":")[2]]
    full = 100.0 if metric == "map" else 1.0
    assert list(said["values"]) == ["float", "calibrated", "reference", "artifact"]
    assert said["values"]["float"] == full and said["values"]["artifact"] >= 0.8 * full
    assert f"ACCURACY OK: {title} " in result.stdout
    assert f"  measured    {title}{', %' if metric == 'map' else ''}: float {full:g}, calibrated" in result.stdout
    done = subprocess.run([sys.executable, "-I", "out/predict.py", "pictures/0.png"], capture_output=True, text=True)
    assert done.returncode == 0 and "3 boxes with a score of 0.5 or more, drawn into " in done.stdout
    assert "/0.boxes.jpg" in done.stdout
    with Image.open(tmp_path / "0.boxes.jpg") as drawn:
        assert drawn.size == (16, 16)


def test_what_cannot_be_measured_is_refused_before_calibration(command, detector):
    for arguments, texts in {
        ("--metric", "mine.py:broken"): ("the metric 'broken' fails: AttributeError", "mine.py:"),
        ("--metric", "top1"): ("the metric 'top1'",),
        ("--metric", "mine.py:fond"): ("there is no 'fond' in it", "--metric mine.py:fond"),
        ("--metric", "word_error_rate"): ("an error rate compares texts, and the decoder gives Detections",),
        ("--decoder", "mine.py:judged"): ("the function cannot be called", "f(outputs, (height, width))"),
    }.items():
        refused(detector(command, *arguments), *texts)
    refused(command("--metric", "map"), "reads what a decoder makes of the outputs, and none is named", "--decoder")
    refused(command("--metric", "top1", evaluation=None), "'top1' compares with targets, and there are none")


def test_a_coco_file_at_the_door(command, detector, tmp_path):
    pytest.importorskip("faster_coco_eval", reason="the extra `detection` (faster-coco-eval) is not installed")
    result = detector(command, "--calib-data", "pictures.json", "--eval-data", "pictures.json", "--metric", "map")
    assert result.exit_code == 0, result.stderr
    said = json.loads((tmp_path / "out" / "parity.json").read_text())["metrics"]
    assert said["map"]["values"]["float"] == said["map50"]["values"]["float"] == 100.0 and "against" not in said["map"]
    assert "8 of the 8 evaluation samples are those of calibration" in result.stdout
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["preprocessing"]
    assert record["classes"] == ["cell"] and record["decoder"] == "decode"
    assert (tmp_path / "out" / "decoder.py").read_text() == DETECTOR
    done = subprocess.run([sys.executable, "-I", "out/predict.py", "pictures/0.png"], capture_output=True, text=True)
    assert done.returncode == 0 and "cell 1.00" in done.stdout


def test_without_labels_floats_own_boxes_are_the_yardstick(command, detector, tmp_path):
    pytest.importorskip("faster_coco_eval", reason="the extra `detection` (faster-coco-eval) is not installed")
    result = detector(command, "--eval-data", "pictures", "--metric", "map:score=0.6", "--metric", "f1:output=scores",
                      "--max-drop", "20")
    assert result.exit_code == 0, result.stderr
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    boxes = parity["metrics"]["map:score=0.6"]
    assert boxes["against"] == "float" and boxes["values"]["float"] == 100.0 and boxes["values"]["artifact"] > 80
    title = "COCO mean average precision (score=0.6) against float's boxes"
    assert boxes["title"] == title and f"ACCURACY OK: {title} 100.00 % (float)" in result.stdout
    assert parity["metrics"]["f1:output=scores"]["values"]["artifact"] == 100.0
    assert parity["gate"]["rules"][-1]["of"] == "accuracy" and title in (tmp_path / "out" / "report.md").read_text()


def test_boxes_that_nothing_compares_are_told_before_calibration(command, detector):
    result = detector(command, "--eval-data", "pictures.json")
    assert result.exit_code == 0 and "the targets of the evaluation data are not compared: --metric" in result.stdout


@pytest.mark.parametrize(("text", "message"), [
    ('{"images": [', "cannot be read as JSON"), ('{"images": [], "categories": []}', "lists no images"),
    ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "has no 'file_name'"),
])
def test_a_coco_file_that_cannot_be_used_is_refused(command, detector, tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    refused(detector(command, "--eval-data", "bad.json", "--metric", "map"), message, "bad.json")


def test_metrics_that_cannot_be_meant_are_refused_before_calibration(command, detector, tmp_path):
    pytest.importorskip("faster_coco_eval", reason="the extra `detection` (faster-coco-eval) is not installed")
    (tmp_path / "turned.py").write_text(DETECTOR.replace("return boxes[kept]", "return boxes[kept][:, ::-1]"))
    refused(detector(command, "--eval-data", "pictures.json", "--metric", "map", "--decoder", "turned.py:decode"),
            "boxes have a side below 0 or are not finite, of the float network's", "x1 y1 x2 y2")
    for name, text in (("f1:limit=3", "takes no 'limit=3'"), ("f1:threshold=nan", "takes no 'threshold=nan'"),
                       ("top1:k=3", "no parameters"), ("map:", "pictures")):
        result = detector(command, "--eval-data", "pictures", "--metric", name)
        assert (result.exit_code == 0) if name == "map:" else refused(result, text)

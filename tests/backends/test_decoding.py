"""Detectors with all that decodes their boxes, on every target: proven, with a grid of its own for each head."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from isobit import build as story
from isobit.pipeline.graph.nodes import nodes_by_name, op_name, quantizer_of
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.network_inputs import tensors
from isobit.result import Options
from tests.examples.detectors import DETECTORS, captured_detector

HEADS = {"plain": 2, "yolo8": 4, "yolo5": 2, "ssd": 4, "centernet": 3, "chosen": 2}
# C has no float kernels for these ends: the artifact gives the heads' own values.
ENDED = {("c", "centernet"), ("c", "chosen"), ("tvm", "chosen")}  # runtimes for devices do not sort


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a detector for a target, each once."""

    @functools.cache
    def build(name, target, *cut):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = DETECTORS[name]().eval()
        images = array_batches(captured_detector(name)[1], None, 8, "calib", "noise")
        folder = tmp_path_factory.mktemp(name) / "out"
        return story.compile_model(model, load_recipe("minmax_w8a8"), target, images, None, folder, Options(cut=cut))

    return build


def values(network, images):
    with torch.no_grad():
        return [value.double() for value in tensors(network(images))]


# Every end on onnx; each kind of end on the others, which take longer to build.
CASES = [
    *((name, "onnx") for name in DETECTORS), *((name, "c") for name in ("yolo5", "centernet", "chosen")),
    ("chosen", "tvm"), pytest.param("yolo8", "tvm", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_boxes_are_decoded_in_float_and_proven(built, name, target):
    if target == "tvm":
        pytest.importorskip("tvm")
    build = built(name, target)
    quantized, images = build.calibrated.quantized, captured_detector(name)[1]
    assert build.passed and build.manifest.version
    assert (build.manifest.cut is not None) == (name != "plain")
    ended = bool(build.manifest.cut and build.manifest.cut.without)
    assert ended == ((target, name) in ENDED)
    own, wanted = values(build.calibrated.graph, images), values(quantized.captured.graph, images)
    for mine, right in zip(own, wanted, strict=True):
        if not ended and (name == "chosen" or (name == "centernet" and right is wanted[0])):
            continue  # another peak, or another of nearly equal scores, may be chosen than in float
        assert float((mine - right).square().mean() / right.var()) < 0.02


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"plain", "chosen"}))
def test_every_head_has_a_grid_of_its_own(built, name):
    graph = built(name, "onnx").calibrated.graph
    nodes = nodes_by_name(graph)
    heads = [node for node in nodes.values() if op_name(node) == "conv2d"][-HEADS[name]:]
    quantizers = [quantizer_of(graph, next(iter(node.users))) for node in heads]
    assert None not in quantizers and len({id(each) for each in quantizers}) == HEADS[name]
    assert len({float(each.scale) for each in quantizers}) == HEADS[name]


def test_a_chosen_cut_is_where_integers_end(built):
    build = built("yolo5", "onnx", "none")
    assert build.passed and build.manifest.cut is None
    assert "cut" not in (build.folder / "manifest.json").read_text()


def test_the_report_and_the_manifest_name_the_cut(built):
    build = built("ssd", "onnx")
    assert [point.layer for point in build.manifest.cut.points] == ["scores.0", "scores.1", "boxes.0", "boxes.1"]
    assert "softmax" in build.manifest.cut.operators
    report = (build.folder / "report.md").read_text()
    assert "integers end at scores.0 (detectors.py:" in report and np.isfinite(build.manifest.sizes["model"])

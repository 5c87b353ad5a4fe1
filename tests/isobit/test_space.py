"""What choices of bits take: bytes as the target stores them, milliseconds, and the choices that no other beats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from isobit.analyze import measured, open_subject, place_at
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.watcher import Quiet
from isobit.result import Options
from isobit.space import Sizes, Space, width_of
from tests.examples.tiny import model_and_images

LOSSES = {2: 1.0, 4: 0.1, 8: 0.01}


@pytest.fixture(scope="module", name="placed")
def _placed():
    model, images = model_and_images(samples=16)
    watcher = TimedStages(Quiet())
    recipe = load_recipe("nearest_w4a4", ["images.batch_size=4", "overrides=[{where: head, weights: {bits: 4}}]"])
    subject = open_subject(model, recipe, "onnx", array_batches(images, None, 4, "calib", "arrays"), None, Options(),
                           watcher)
    analysis = measured(subject, (2, 4, 8), 4, watcher)
    return place_at(subject.quantized, analysis.bits), analysis


def test_every_layer_has_bits_and_sizes_are_those_of_the_codes(placed):
    at_bits, analysis = placed
    sizes = Sizes.of(at_bits, analysis, {})
    space = Space.of(sizes, [{bits: 3 * loss for bits, loss in LOSSES.items()} for _ in sizes.free])
    assert list(space.costs) == sorted(space.costs) and len(sizes.free) == 3
    for point, wanted in ((0, 2), (len(space.costs) - 1, 8)):
        bits = space.bits(point)
        assert bits == {"stem": wanted, "inner": wanted, "outer": wanted, "head": 4}
        assert sizes.bytes(bits) == pytest.approx(space.costs[point], abs=1)
        assert bits == sizes.placed_bits(at_bits[wanted])
    assert width_of(sizes.choices[-1], {"head": 4}) == 4 and sizes.widths((8, 5, 6, 3)) == [3, 8]


def test_depthwise_layers_take_what_the_target_stores_of_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    images, watcher = torch.rand(8, 3, 8, 8), TimedStages(Quiet())
    recipe = load_recipe("nearest_w4a8", ["images.batch_size=4"])
    subject = open_subject(model.eval(), recipe, "onnx", array_batches(images, None, 4, "calib", "arrays"), None,
                           Options(), watcher)
    analysis = measured(subject, (4, 8), 2, watcher)
    at_bits = place_at(subject.quantized, analysis.bits)
    plain = Sizes.of(at_bits, analysis, {})
    assert plain.depthwise == {"2"} and plain.bytes({"0": 4, "2": 4, "4": 4}) == (216 + 72 + 32) // 2
    sizes = replace(plain, limits=replace(plain.limits, depthwise_bits=8))
    assert sizes.bytes({"0": 4, "2": 4, "4": 4}) == (216 + 32) // 2 + 72 and sizes.widths((4, 8)) == [4, 8]
    space = Space.of(sizes, [{4: 1.0, 8: 0.1}] * 3)
    assert all(space.bits(point)["2"] == 8 for point in range(len(space.costs)))  # nothing is saved by fewer


def test_milliseconds_are_shared_by_multiplications(placed):
    at_bits, analysis = placed
    slow = Sizes.of(at_bits, analysis, {2: 1.0, 4: 2.0, 8: 4.0})
    space = Space.of(slow, [LOSSES] * 3)
    assert sum(slow.shares.values()) == pytest.approx(1.0)
    assert 1.0 <= space.costs[0] < space.costs[-1] <= 4.0 + 1e-3
    alike = Sizes.of(at_bits, analysis, dict.fromkeys(at_bits, 1.0))  # bits change no time: the best answers win
    same = Space.of(alike, [LOSSES] * 3)
    assert same.costs == (1.0,) and same.bits(0)["stem"] == 8

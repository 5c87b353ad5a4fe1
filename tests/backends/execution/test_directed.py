"""Chosen codes bring every layer to its ends, and a kernel that is wrong there alone is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.backends.execution.codes import Codes
from isobit.backends.execution.directed import SAMPLES, direct
from isobit.backends.execution.exact import ExactArithmetic
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import tensors
from tests.backends.execution.test_reachable import arithmetic_of
from tests.examples.onnx_cases import frozen, frozen_with_levels


@pytest.mark.parametrize(("name", "bits"), [("depthwise", (8, 8)), ("relu", (4, 4))])
def test_one_channel_of_each_group_reaches_its_least_and_its_largest_sum(name, bits):
    judged, images = arithmetic_of("onnx", name, *bits)
    run, chosen, checked = judged.execution, judged.directed(images[:1]), 0
    for region in run.regions:
        quantizer = region.inputs[0].name if region.inputs else ""
        if op_name(region.anchor) != "conv2d" or quantizer not in chosen.codes:
            continue
        grid = next(run.grid_of(other) for other in run.regions if other.value.name == quantizer)
        kernel = run.kernel_of(region)
        given = Codes(torch.from_numpy(chosen.codes[quantizer]).float(), grid)
        sums, reach = kernel.add(run, region, [given]).exact(), kernel.reach(run, region, [grid])
        groups = region.anchor.args[6] if len(region.anchor.args) > 6 else 1
        assert int((sums.amax((0, 2, 3)) == reach.largest.flatten()).sum()) >= groups
        assert int((sums.amin((0, 2, 3)) == reach.least.flatten()).sum()) >= groups
        checked += 1
    assert checked >= 2


def test_every_tensor_gets_codes_of_its_grid_and_the_input_numbers_between_them():
    judged, images = arithmetic_of("onnx", "add", 4, 4)
    chosen, run = judged.directed(images[:1]), judged.execution
    grids = {region.value.name: run.grid_of(region) for region in run.regions if region.quantizer is not None}
    assert chosen.codes.keys() == grids.keys() == chosen.levels.keys()
    for name, codes in chosen.codes.items():
        assert codes.dtype == np.uint8 and len(codes) == SAMPLES
        assert (codes.min(), codes.max()) == (grids[name].low, grids[name].high)
        assert chosen.levels[name] == grids[name].high - grids[name].low + 1
    steps = chosen.inputs / grids["x_q"].scale
    assert bool((steps % 1 == 0.5).any()) and bool((steps % 1 == 0).any())
    again = judged.directed(images[1:2])
    assert torch.equal(again.inputs, chosen.inputs)
    assert all(np.array_equal(again.codes[name], codes) for name, codes in chosen.codes.items())


def test_nested_levels_are_kept():
    reference, images = frozen_with_levels("add", "generic")
    judged = BACKENDS.get("onnx").arithmetic(reference)
    chosen = judged.directed(images[:1])
    for region in judged.execution.regions:
        grid = judged.execution.grid_of(region)
        if region.quantizer is not None and grid.multiples is not None:
            codes = torch.from_numpy(chosen.codes[region.value.name])
            assert torch.equal(grid.settle(codes.float()), codes.float())
            assert 1 < chosen.levels[region.value.name] < grid.high


def test_numbers_of_words_are_those_of_the_samples():
    judged, x = arithmetic_of("fixed", "words")
    given = tensors(judged.directed(x).inputs)
    for mine, theirs in zip(given, tensors(x), strict=True):
        assert mine.is_floating_point() or set(mine.flatten().tolist()) <= set(theirs.flatten().tolist())


class Saturating:
    """Layers of an artifact that are wrong by one step where a tensor is at its largest code."""

    def __init__(self, pieces, name):
        self.pieces, self.name = pieces, name

    def run(self, x, codes):
        found = dict(self.pieces.run(x, codes))
        wrong = found[self.name].copy()
        wrong[wrong == wrong.max()] -= 1
        return {**found, self.name: wrong}


@pytest.mark.onnxruntime
@pytest.mark.parametrize("target", ["onnx", "onnx-qoperator", "c"])
@pytest.mark.parametrize("name", ["relu", "squeeze_excite", "avg_pool"])
def test_every_layer_of_an_artifact_gives_what_it_must_for_chosen_codes(name, target, tmp_path):
    backend = BACKENDS.get(target)
    reference, images = frozen(name, 8, 8, target=backend.target("generic"))
    backend.emit(reference, tmp_path)
    session, pieces, judged = backend.open(tmp_path, backend.levels[0]), backend.pieces(tmp_path), backend.arithmetic(
        reference)
    found = direct(judged, session, pieces, images[:1])
    whole = direct(judged, session, None, images[:1])
    assert not found.wrong and found.samples == SAMPLES and found.layers and not found.reason
    assert found.codes.compared == 2 * whole.codes.compared > 10000 and not whole.wrong and not whole.layers
    assert all(0 < whole.shown[name] <= share <= 1 for name, share in found.shown.items())
    assert found.shown["x_q"] > 0.9
    wrong = direct(judged, session, Saturating(pieces, "relu_q"), images[:1])
    assert wrong.wrong and wrong.first == "relu_q" and not wrong.rules[0].passed


class Counting:
    """Layers of an artifact, and how many samples they were given at once."""

    def __init__(self, pieces):
        self.pieces, self.most = pieces, 0

    def run(self, x, codes):
        self.most = max(self.most, len(x), *(len(given) for given in codes.values()))
        return self.pieces.run(x, codes)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", ["squeeze_excite", "gelu"])
def test_few_samples_at_once_find_what_all_find(name, tmp_path):
    backend = BACKENDS.get("onnx")
    reference, images = frozen(name, 8, 8)
    backend.emit(reference, tmp_path)
    session, judged, kept = backend.open(tmp_path, "all"), backend.arithmetic(reference), []

    def found(batch, name=None):
        pieces = Counting(backend.pieces(tmp_path))
        told = direct(judged, session, pieces if name is None else Saturating(pieces, name), images[:1], batch,
                      lambda chosen, digests: kept.append(digests))
        assert pieces.most == min(batch, SAMPLES)
        return told

    whole, wrong = found(64), found(SAMPLES, "relu_q")
    assert whole.layers and not whole.wrong and wrong.wrong and wrong.first == "relu_q"
    assert [found(batch) for batch in (1, 4)] == [whole] * 2 and found(4, "relu_q") == wrong
    unrun = direct(judged, session, None, images[:1], 4, lambda chosen, digests: kept.append(digests))
    assert not unrun.layers and not unrun.wrong and not unrun.reason
    for digests in kept[1:]:
        assert digests.keys() == kept[0].keys()
        assert all(len(rows) == SAMPLES and np.array_equal(rows, kept[0][key]) for key, rows in digests.items())


@pytest.mark.onnxruntime
def test_codes_after_float_operators_are_held_to_their_bounds(tmp_path):
    backend = BACKENDS.get("onnx")
    reference, images = frozen("gelu", 8, 8)
    backend.emit(reference, tmp_path)
    session, judged = backend.open(tmp_path, "all"), backend.arithmetic(reference)
    assert not direct(judged, session, backend.pieces(tmp_path), images[:1]).wrong
    wrong = direct(judged, session, Saturating(Saturating(backend.pieces(tmp_path), "gelu_q"), "gelu_q"), images[:1])
    assert wrong.wrong and wrong.first == "gelu_q"


class Shares(nn.Module):
    """Divides by a sum that chosen codes make 0."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = torch.sigmoid(self.one(x))
        return self.two(x / x.sum(1, keepdim=True)).mean((2, 3))


@pytest.mark.onnxruntime
def test_an_operator_that_has_no_number_there_leaves_what_was_compared(tmp_path):
    torch.manual_seed(0)
    x, backend = torch.rand(8, 3, 5, 5) + 1, BACKENDS.get("onnx")
    quantized = passes.quantize(capture(Shares().eval(), x[:1]), load_recipe("minmax_w8a8"), backend.target("generic"))
    reference = passes.legalize(calibrate(quantized, x))[0]
    backend.emit(reference, tmp_path)
    session, judged = backend.open(tmp_path, "all"), backend.arithmetic(reference)
    found = direct(judged, session, backend.pieces(tmp_path), x[:1])
    unrun = direct(judged, session, None, x[:1], keep=lambda chosen, digests: None)
    assert "gives NaN" in found.reason and found == unrun and not found.layers


@pytest.mark.onnxruntime
def test_what_was_found_before_an_operator_has_no_number_stays_found(tmp_path):
    backend = BACKENDS.get("onnx")
    reference, images = frozen("relu", 8, 8)
    backend.emit(reference, tmp_path)
    session, judged, asked = backend.open(tmp_path, "all"), backend.arithmetic(reference), []

    class Ending:
        """The arithmetic, which has no number for layers of the second batch."""

        directed, run, follow = judged.directed, judged.run, judged.follow
        outputs, float_outputs, float_boundaries = judged.outputs, judged.float_outputs, judged.float_boundaries
        jumping = judged.jumping

        def pieces(self, x, codes):
            asked.append(len(x))
            if len(asked) % 2 == 0:
                raise CalibrationError("the operator div gives NaN", where="div", hint="Divide by something else.")
            return judged.pieces(x, codes)

    right = direct(Ending(), session, backend.pieces(tmp_path), images[:1], 7)
    wrong = direct(Ending(), session, Saturating(backend.pieces(tmp_path), "relu_q"), images[:1], 7)
    assert "gives NaN" in right.reason and right.rules[0].passed
    assert wrong.wrong and wrong.first == "relu_q" and not wrong.rules[0].passed and "gives NaN" in wrong.reason


class Rows(nn.Module):
    """Several rows for each sample."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)).reshape(-1, 4))


@pytest.mark.onnxruntime
def test_a_network_of_several_rows_a_sample_is_run_as_a_whole(tmp_path):
    torch.manual_seed(0)
    x, backend = torch.randn(8, 3, 4, 4), BACKENDS.get("onnx")
    quantized = passes.quantize(capture(Rows().eval(), x[:1]), load_recipe("minmax_w8a8"), backend.target("generic"))
    reference = passes.legalize(calibrate(quantized, x))[0]
    backend.emit(reference, tmp_path)
    session, judged = backend.open(tmp_path, "all"), backend.arithmetic(reference)
    found = direct(judged, session, backend.pieces(tmp_path), x[:1])
    assert found.codes.compared and not found.wrong and not found.layers and "first axis" in found.text


def test_where_nothing_can_be_chosen_is_said(tmp_path):
    reference, images = frozen("relu", 8, 8)
    found = direct(ExactArithmetic(reference), None, None, images[:1])
    assert found.reason and not found.rules and found.text.startswith("none: ")

    class Nowhere:
        def directed(self, like):
            raise CalibrationError("the operator div gives NaN", where="div", hint="Divide by something else.")

    assert "gives NaN" in direct(Nowhere(), None, None, images[:1]).reason
    assert replace(found, samples=1).rules[0].passed is False

"""The stage function: a copy comes back, hardened and quiet; images that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.calib.ranges import histograms, range_search
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CalibrationError, RecipeError
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.batching import evaluation_batch, footprint
from isobit.pipeline.stages import Quantized
from tests.examples.held import Held
from tests.examples.units import Notes, net, recipe


@pytest.mark.parametrize("name", ["qdrop_w2a2", "qdrop_w4a4", "mse_w8a8", "minmax_w8a8"])
def test_the_result_is_hardened_quiet_and_can_be_frozen(name: str) -> None:
    quantized, images = net(recipe(name))
    calibrated = calibrate(quantized, images)
    for node in calibrated.graph.graph.nodes:
        quantizer, bias = quantizer_of(calibrated.graph, node), bias_quantizer_of(calibrated.graph, node)
        if quantizer is not None:
            assert quantizer.phase is Phase.ON and (quantizer.codes is not None) == is_constant(node)
            assert quantizer.stand_in is None
            assert not quantizer.scale.requires_grad
        if bias is not None:
            assert bias.phase is Phase.ON
    assert all(quantizer.phase is Phase.OFF for quantizer in quantizers(quantized.graph).values())
    assert torch.equal(calibrated.graph(images), calibrated.graph(images))
    reference, _ = passes.legalize(calibrated)
    close = (reference.evaluate(images).float() - calibrated.graph(images)).abs().mean()
    assert float(close) < 0.2 * float(calibrated.graph(images).abs().mean())


def test_calibration_beats_nearest_at_low_bits() -> None:
    quantized, images = net(recipe("qdrop_w2a2", steps=150))
    nearest, _ = net(recipe("nearest_w2a2"))
    expected = quantized.teacher(images)
    errors = [(calibrate(q, images).graph(images) - expected).square().mean() for q in (quantized, nearest)]
    assert float(errors[0]) < 0.8 * float(errors[1])


def test_checkpoints_of_another_recipe_are_not_used(tmp_path: Path) -> None:
    for steps, trained in ((40, 160), (40, 0), (30, 120)):
        quantized, images = net(recipe(steps=steps))
        watcher = Notes()
        calibrate(quantized, images, progress=watcher, checkpoints=tmp_path, resume=True)
        assert watcher.trained == trained and len(watcher.logs) == 4
        told = {160: ["nothing was resumed: there are no checkpoints of an earlier run"], 0: [],
                120: [f"nothing was resumed: the checkpoints are of {quantized.recipe.name} (method.steps 40, now 30)"]}
        assert watcher.notes == told[trained]


def test_interrupted_anywhere_and_resumed_is_the_uninterrupted_result(tmp_path: Path) -> None:
    quantized, images = net()
    expected = calibrate(quantized, images)
    with pytest.raises(KeyboardInterrupt):
        calibrate(quantized, images, progress=Notes(stop_at=2), checkpoints=tmp_path)
    resumed = calibrate(quantized, images, checkpoints=tmp_path, resume=True)
    left, right = expected.graph.state_dict(), resumed.graph.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_images_of_another_shape_are_refused() -> None:
    quantized, images = net()
    with pytest.raises(CalibrationError, match=r"\[3, 8, 8\]"):
        calibrate(quantized, images[:, :1])


class Rows(nn.Module):
    """Looks up what it computes, so that nobody can tell from the data whether there is such a row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.last = nn.Embedding(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.rows(x * 2).mean(1))


def test_a_number_outside_of_a_table_is_a_mistake_of_the_data() -> None:
    numbers = torch.ones(8, 5, dtype=torch.int64)
    quantized = passes.quantize(capture(Rows().eval(), numbers[:1]), load_recipe("minmax_w8a8"), TARGETS["generic"])
    with pytest.raises(CalibrationError, match="outside of its table") as error:
        calibrate(quantized, numbers * 2)
    assert error.value.field == "calibration" and error.value.allowed


def test_less_than_a_batch_is_refused() -> None:
    quantized, images = net()
    with pytest.raises(CalibrationError, match="do not fill one batch of 8"):
        calibrate(quantized, images[:7])


def test_images_that_are_not_finite_are_named() -> None:
    quantized, images = net()
    images = images.clone()
    images[5, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match="image 5"):
        calibrate(quantized, images)


def test_a_wrong_parameter_is_refused_before_anything_runs() -> None:
    quantized, images = net(recipe("qdrop_w4a4", "method.keep_porb=0.5"))
    with pytest.raises(RecipeError, match="keep_prob"):
        calibrate(quantized, images[:1])


def wide_net(name: str) -> tuple[Quantized, torch.Tensor]:
    """A network whose tensors outweigh its weights: one sample's forward pass takes 16 MB."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(),
        nn.Conv2d(64, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()
    images = torch.randn(32, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    return passes.quantize(capture(model, images[:1]), load_recipe(name), TARGETS["generic"]), images


@pytest.mark.parametrize("name", ["mse_w8a8", "minmax_w8a8"])
def test_a_range_search_keeps_to_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search takes beside the network's values is bounded by a constant: a small one here."""
    for module in (histograms, range_search):
        monkeypatch.setattr(module, "CHUNK", 2**16)
    quantized, images = wide_net(name)
    peaks = {}
    for budget in (4e7, 4e9):
        with Held() as held:
            calibrate(quantized, images, memory=budget)
        peaks[budget] = held.peak
    assert evaluation_batch(quantized.graph, 4e7) < evaluation_batch(quantized.graph, 4e9)
    assert peaks[4e7] < 4e7 < peaks[4e9]


def test_the_budget_changes_no_number_of_a_walk_over_the_units() -> None:
    """Draws and steps keep the recipe's batch; only passes over all images are cut."""
    quantized, images = net(recipe("qdrop_w4a4", steps=4))
    images = torch.cat([images, images.flip(3)])[:64]
    sample = footprint(quantized.graph).forward
    assert [evaluation_batch(quantized.graph, budget) for budget in (16 * sample, 1e9)] == [16, 64]
    few, many = (calibrate(quantized, images, memory=budget) for budget in (16 * sample, 1e9))
    for name, value in many.graph.state_dict().items():
        assert torch.equal(value, few.graph.state_dict()[name]), name

"""Every method, the finish and both generators on each kind of device: the bodies run on the CPU wherever there is one.

    python -m pytest -m gpu        on a machine with a CUDA device; elsewhere each of them says why it is skipped
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from isobit.calib.calibrate import calibrate
from isobit.calib.methods import METHODS, find_method
from isobit.calib.reconstruction.mixing import MaskSource
from isobit.calib.sources import make
from isobit.calib.training.recompute import free_memory
from isobit.pipeline.recipe.schema import MethodChoice, Recipe
from isobit.pipeline.stages import Calibrated
from tests.examples.tiny import multibit_recipe
from tests.examples.units import net, recipe

ON_CUDA = (
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none answers here"),
)
EPOCHS = {"epochs": 2, "steps": 2, "range_epochs": 1, "warmup_epochs": 1}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=ON_CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def taught(method: str, base: Recipe | None = None, **parameters: Any) -> Recipe:
    """A recipe for the methods that train the whole network, which `recipe` has no name for."""
    base = base or recipe("qdrop_w4a4", "policy=none", "weights.range=minmax")
    return base.model_copy(update={"method": MethodChoice(name=method, parameters=parameters)})


RECIPES: dict[str, Recipe] = {
    "nearest": recipe("mse_w4a4"), "adaround": recipe("adaround_w4a8", steps=6),
    "brecq": recipe("brecq_w4a4", steps=6), "brecq fisher": recipe("brecq_w4a4", "method.fisher=full", steps=6),
    "qdrop": recipe("qdrop_w4a4", steps=6), "lsq": recipe("lsq_w4a4", steps=6),
    "qdrop signs": recipe("qdrop_w4a4", "method.rounding=signsgd", steps=6),
    "pdquant": recipe("pdquant_w4a4", "method.correction_steps=5", "method.prediction_images=4", steps=6),
    "zeroq": taught("zeroq"), "gdfq": taught("gdfq", **EPOCHS),
    "fdda": taught("fdda", **EPOCHS, real_images=2),
    "dmbq": taught("dmbq", multibit_recipe("images.batch_size=16"), start_epochs=1, epochs=1, pad=1),
}
FINISHED = recipe("qdrop_w4a4", "finish.steps=5", steps=6)


def calibrated(of: Recipe, device: str) -> Calibrated:
    """The tiny network, its own answers as labels."""
    quantized, images = net(of)
    with torch.no_grad():
        labels = quantized.teacher(images).argmax(1)
    return calibrate(quantized, images, labels=labels, device=device)


def check(found: Calibrated) -> None:
    """Numbers are finite, codes are decided, and everything is back on the CPU."""
    state = found.graph.state_dict()
    assert {value.device.type for value in state.values()} == {"cpu"}
    assert all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point())
    assert any(name.endswith("codes") for name in state)
    # What is no buffer would stay where it was calibrated.
    assert not [name for part in found.graph.modules() for name, value in vars(part).items() if torch.is_tensor(value)]
    assert all(math.isfinite(log.loss_hard) for log in found.log)


def test_no_method_is_left_out() -> None:
    find_method(MethodChoice(name="nearest"))  # all are registered
    shipped = {name for name in METHODS.names() if METHODS.get(name).run.__module__.startswith("isobit.calib.methods")}
    assert {of.method.name for of in RECIPES.values()} == shipped


@pytest.mark.parametrize("name", RECIPES)
def test_a_method_calibrates(name: str, device: str) -> None:
    check(calibrated(RECIPES[name], device))


def test_the_finish_trains(device: str) -> None:
    found = calibrated(FINISHED, device)
    check(found)
    assert any(note.startswith("finish: loss of the whole network") for note in found.findings.notes)


@pytest.mark.parametrize("source", ["distilled", "generated"])
def test_images_are_made(source: str, device: str) -> None:
    quantized, _ = net(recipe(
        "mse_w8a8", f"images.source={source}", "images.count=8", "images.batch=4", "images.iterations=100"))
    made = make(quantized, device=device)
    assert made.images.device.type == "cpu" and made.images.shape[0] == 8
    assert bool(torch.isfinite(made.images).all()) and float(made.images.std()) > 0.0


def test_masks_have_their_probability(device: str) -> None:
    source, like = MaskSource(3, torch.device(device)), torch.empty(64, 512, device=device)
    mask = source.draw(like, 0.3)
    assert mask.device.type == device and set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(0.3, abs=0.02)


def test_free_memory_is_told(device: str) -> None:
    assert free_memory(torch.device(device)) > 0


@pytest.mark.parametrize("name", ["qdrop", "pdquant", "brecq"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_CUDA)])
def test_losses_are_those_of_the_cpu(name: str, device: str) -> None:
    """With nearest rounding nearly to the last bit in the first unit; learned ones, whose masks differ, in kind."""
    here, there = calibrated(RECIPES[name], "cpu"), calibrated(RECIPES[name], device)
    assert there.log[0].loss_nearest == pytest.approx(here.log[0].loss_nearest, rel=1e-3)
    ours, others = (sum(log.loss_hard for log in found.log) for found in (there, here))
    assert ours == pytest.approx(others, rel=0.25)

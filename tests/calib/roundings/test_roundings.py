"""The protocol, one test for every rounding that is registered, and a new rounding as one class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor

from isobit import build as story
from isobit.calib.methods import find_method
from isobit.calib.ranges.observers import weight_params
from isobit.calib.reconstruction.trainer import UnitTrainer
from isobit.calib.roundings import (
    ROUNDINGS,
    Rounding,
    RoundingKind,
    RoundingParameters,
    Weights,
    choose_rounding,
    find_rounding,
    rounding,
)
from isobit.calib.roundings.nearest import NearestRounding
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.grid import Grid, QuantSpec, RangeSearch
from isobit.pipeline.quant.quantizer import Phase, Quantizer
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import MethodChoice
from isobit.pipeline.samples.data import open_data
from tests.examples import tiny
from tests.examples.units import calibrated, calibration, recipe, task_at

find_rounding("soft")  # discovers all of them
NAMES = tuple(ROUNDINGS.names())
STEPS = 40
OWN = {"soft": {"learning_rate": 0.3, "rounding_weight": 1e-3}}  # parameters for so few steps
LEARNED = ("adaround", "brecq", "pdquant", "qdrop")


def layers(bits: int = 3) -> Weights:
    """A convolution's and a linear layer's weight; ranges without their extremes, so that some codes are clipped."""
    found = []
    for seed, shape in enumerate([(5, 4, 3, 3), (7, 20)]):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        quantizer = Quantizer(QuantSpec(Grid(bits, signed=False), False, 0, RangeSearch("mse")))
        quantizer.set_params(weight_params(weight, quantizer.spec, "w"))
        quantizer.phase = Phase.ON
        found.append((quantizer, weight))
    return found


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> RoundingKind:
    return find_rounding(request.param)


@pytest.fixture
def weights() -> Weights:
    return layers()


def made(name: str, weights: Weights) -> Rounding:
    return choose_rounding(name, OWN.get(name, {})).make(weights, STEPS)


def error(weights: Weights) -> float:
    return float(loss(weights).detach())


def loss(weights: Weights) -> Tensor:
    """An answer of two layers on correlated inputs, against the float layers': what nearest rounding is not best at."""
    total = torch.zeros(())
    for quantizer, weight in weights:
        count = weight[0].numel()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(64, 3, generator=generator) @ torch.randn(3, count, generator=generator)
        total = total + (x @ (quantizer(weight) - weight).flatten(1).T).square().mean()
    return total


def train(rounding: Rounding, weights: Weights) -> None:
    rounding.attach()
    for step in range(STEPS):
        rounding.refresh()
        value = loss(weights)
        if value.requires_grad:
            value.backward()
        rounding.collect(torch.tensor([step]), rounding.regularised(step), value.detach)
    rounding.settle()


def test_before_the_first_step_the_unit_is_no_worse_than_nearest(kind: RoundingKind, weights: Weights) -> None:
    nearest = error(weights)
    rounding = made(kind.name, weights)
    rounding.attach()
    rounding.refresh()
    assert error(weights) <= nearest * (1 + 1e-5) and rounding.flipped() == 0.0


def test_what_is_hardened_is_on_the_grid_next_to_the_weight_and_at_home(kind: RoundingKind, weights: Weights) -> None:
    nearest = [quantizer.quantize(weight) for quantizer, weight in weights]
    worst = error(weights)
    rounding = made(kind.name, weights)
    train(rounding, weights)
    flipped = rounding.flipped()
    codes = rounding.harden()
    different = 0
    for (quantizer, weight), decided, near in zip(weights, codes, nearest, strict=True):
        grid = quantizer.spec.grid
        assert decided.dtype == torch.int32 and decided.shape == weight.shape
        assert grid.qmin <= int(decided.min()) and int(decided.max()) <= grid.qmax
        assert int((decided - near).abs().max()) <= 1
        assert torch.equal(quantizer.codes, decided) and quantizer.stand_in is None
        different += int((decided != near).sum())
    assert flipped == pytest.approx(different / sum(weight.numel() for _, weight in weights))
    assert (flipped > 0.02) == kind.learns and 0.0 <= rounding.undecided() <= 1.0
    assert error(weights) < 0.7 * worst if kind.learns else error(weights) == pytest.approx(worst)


def test_hardening_again_changes_nothing(kind: RoundingKind, weights: Weights) -> None:
    rounding = made(kind.name, weights)
    train(rounding, weights)
    first = [codes.clone() for codes in rounding.harden()]
    assert all(torch.equal(*pair) for pair in zip(first, rounding.harden(), strict=True))


def test_detached_the_quantizers_round_to_nearest_as_before(kind: RoundingKind, weights: Weights) -> None:
    before = [quantizer(weight) for quantizer, weight in weights]
    rounding = made(kind.name, weights)
    train(rounding, weights)
    rounding.detach()
    for (quantizer, weight), value in zip(weights, before, strict=True):
        assert quantizer.stand_in is None and quantizer.codes is None
        assert torch.equal(quantizer(weight), value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nearest"])
def test_a_rounding_refuses_quantizers_that_are_taken_and_takes_none(name: str, weights: Weights) -> None:
    weights[1][0].attach(torch.neg)
    with pytest.raises(RuntimeError, match="one stand-in"):
        made(name, weights).attach()
    assert weights[0][0].stand_in is None and weights[1][0].stand_in is torch.neg


@pytest.mark.parametrize("name", LEARNED)
def test_every_method_that_learns_rounding_takes_any(name: str, kind: RoundingKind) -> None:
    sets = (f"method.rounding={kind.name}", *(("method.correction_steps=2",) if name == "pdquant" else ()))
    first, again = (calibrated(recipe(f"{name}_w2a4", *sets, steps=20)) for _ in range(2))
    state, same = first.graph.state_dict(), again.graph.state_dict()
    assert all(torch.equal(state[key], same[key]) for key in state)
    trained = [log for log in first.log if log.steps]
    assert any(log.flipped > 0.0 for log in trained) == kind.learns


def test_an_unknown_rounding_is_answered_with_the_nearest_spelling() -> None:
    with pytest.raises(RecipeError, match=r"no rounding 'signsdg'(.|\n)*nearest, signsgd, soft(.|\n)*'signsgd'"):
        find_method(MethodChoice(name="qdrop", parameters={"rounding": "signsdg"}))


@pytest.mark.parametrize(("rounding", "where"), [
    ({"name": "signsgd", "beta_start": 3.0}, "method.rounding.beta_start"), ({"name": "nearest", "rate": 1.0}, "rate"),
    ({"name": "signsgd", "learning_rate": 0.0}, "method.rounding.learning_rate"), ({"warmup": 2.0}, "warmup"),
    ({"name": 3}, "no rounding '3'"), ({"name": "sofd"}, "'soft'"),
])  # fmt: skip
def test_parameters_belong_to_the_rounding_that_they_stand_with(rounding: dict[str, Any], where: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        find_method(MethodChoice(name="qdrop", parameters={"rounding": rounding}))
    assert where in str(refusal.value) and refusal.value.field.startswith("recipe.method.rounding")


def test_settings_of_soft_rounding_do_not_reach_another() -> None:
    """A recipe's `learning_rate` is Adam's; the same word beside another rounding's name is that rounding's."""
    def chosen(**parameters: Any) -> dict[str, Any]:
        _, found = find_method(MethodChoice(name="qdrop", parameters={"steps": 10_000, **parameters}))
        return found.settings.rounding.parameters.model_dump()

    assert chosen(learning_rate=0.5, rounding="signsgd") == {"learning_rate": 1.0}
    assert chosen(learning_rate=0.5, rounding={"name": "signsgd", "learning_rate": 2.0}) == {"learning_rate": 2.0}
    assert chosen(warmup=0.3, rounding={"learning_rate": 0.25}) == chosen(warmup=0.3, learning_rate=0.25)
    assert chosen(learning_rate=0.25)["learning_rate"] == 0.5  # twice the rate at half the paper's steps
    assert find_method(MethodChoice(name="qdrop"))[1].passes > 0


# --- a new rounding -------------------------------------------------------------------------------------------------


class DownParameters(RoundingParameters):
    by: int = Field(default=0, ge=0)


class Down(NearestRounding):
    """Every weight to the code below it, or further: a rounding that nobody wants, in ten lines."""

    def __init__(self, weights: Weights, parameters: DownParameters, steps: int) -> None:
        super().__init__(weights, parameters, steps)
        self.moved, self.by = 0, parameters.by

    def attach(self) -> None:
        self.harden()

    def collect(self, cursor: Tensor, regularised: bool, loss: Callable[[], Tensor]) -> None:
        assert float(loss().detach()) >= 0.0 and int(cursor) == self.moved
        self.moved += 1

    def harden(self) -> tuple[Tensor, ...]:
        for quantizer, weight in self._weights:
            scale, zero_point = quantizer.aligned(weight)
            codes = torch.floor(weight / scale) + zero_point - self.by
            quantizer.harden(codes.clamp(quantizer.spec.grid.qmin, quantizer.spec.grid.qmax))
        return tuple(quantizer.codes for quantizer, _ in self._weights)

    def flipped(self) -> float:
        return 0.5


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROUNDINGS, "_entries", dict(ROUNDINGS._entries))
    rounding("down", DownParameters, learns=False)(Down)


@pytest.mark.usefixtures("down")
def test_a_new_rounding_is_driven_by_the_step_loop() -> None:
    task, _ = task_at(calibration(recipe("qdrop_w4a4")), 1)
    method, parameters = find_method(MethodChoice(name="qdrop", parameters={"rounding": "down", "steps": 12}))
    assert method.name == "qdrop"
    trainer = UnitTrainer(task, dataclasses.replace(parameters.settings, scale_learning_rate=1e-3))
    trainer.train(lambda count: None)
    trainer.harden()
    assert trainer.rounding.moved == 12 and trainer.flipped() == 0.5
    for quantizer, weight in task.weights:
        above = quantizer.dequantize(quantizer.codes.float()) > weight + 1e-5
        assert not bool((above & (quantizer.codes > quantizer.spec.grid.qmin)).any())


@pytest.mark.usefixtures("down")
def test_a_new_rounding_builds_end_to_end(tmp_path: Path) -> None:
    model, images = tiny.model_and_images(samples=32)
    np.savez(tmp_path / "calib.npz", x=images.numpy())
    data = open_data(tmp_path / "calib.npz", batch_size=8, purpose="calib")
    sets = ("method.rounding={name: down, by: 1}", "method.steps=5", "images.count=32", "images.batch_size=8")
    build = story.compile_model(model, load_recipe("qdrop_w4a4", sets), "reference", data, None, tmp_path / "a")
    assert build.passed and "rounding:\n    name: down\n    by: 1\n" in build.manifest.recipe.text

"""Mixed precision: sensitivities against their definition, the frontier against brute force, and who may be chosen."""

from __future__ import annotations

import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.calib.mixed_precision.allocation import (
    Choice,
    allocate,
    find_choices,
    pareto_frontier,
    sensitivities,
    weight_specs,
)
from isobit.calib.ranges.observers import weight_params
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CalibrationError, RecipeError, TargetError
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.grid import along, dequantize, quantize
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Captured, Quantized
from tests.examples import nets
from tests.examples.tiny import model_and_images

ONNX = TARGETS["generic"]
WEIGHTS = {"stem": 216, "inner": 576, "outer": 576, "head": 40}  # of the tiny network
CPU = torch.device("cpu")


def recipe(budget: str = "{average: 3, options: [2, 3, 4, 8]}", *sets: str, base: str = "nearest_w4a8") -> Recipe:
    return load_recipe(base, [f"weights.bits={budget}", *sets])


@functools.cache
def tiny() -> Captured:
    """With a prediction sure enough for the two directions of the divergence to differ."""
    model, images = model_and_images()
    with torch.no_grad():
        model.head.weight.mul_(40)
    return capture(model, images[:1])


def place(of: Recipe | None = None, captured: Captured | None = None) -> tuple[Quantized, tuple[Choice, ...]]:
    quantized = passes.quantize(captured or tiny(), of or recipe(), ONNX)
    return quantized, choices_of(quantized)


def images(samples: int = 12) -> Tensor:
    return model_and_images(samples=samples)[1]


def choices_of(quantized: Quantized) -> tuple[Choice, ...]:
    """As compile.py does it: every option placed."""
    given = quantized.recipe
    return find_choices(quantized, {
        bits: weight_specs(passes.quantize(quantized.captured, given.at_bits(bits), quantized.target))
        for bits in given.weights.bits.options
    })


def named(choices: tuple[Choice, ...]) -> dict[str, int | None]:
    return {path: choice.fixed for choice in choices for path in choice.weights}


# --- the exact optimum ---


def problem(layers: int, options: int, seed: int, falling: bool = False) -> list[list[tuple[int, float]]]:
    """Sizes that collide and omegas that need not fall with the size, as measured ones need not."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(layers):
        omegas = generator.random(options) ** 4
        sizes = np.sort(generator.choice(np.arange(1, 12), options, replace=False)) * int(generator.integers(1, 9))
        made.append(list(zip(sizes.tolist(), sorted(omegas, reverse=True) if falling else omegas, strict=True)))
    return made


def every_choice(layers: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    return [tuple(map(math.fsum, zip(*taken, strict=True))) for taken in itertools.product(*layers)]


@pytest.mark.parametrize(("layers", "options", "seed"), [(1, 3, 0), (4, 6, 1), (6, 4, 2), (8, 3, 3), (8, 3, 4)])
def test_the_frontier_is_what_brute_force_finds_at_every_size(layers, options, seed):
    given = problem(layers, options, seed)
    frontier, everything = pareto_frontier(given), every_choice(given)
    assert (np.diff(frontier.sizes) > 0).all() and (np.diff(frontier.omegas) < 0).all()
    assert frontier.sizes[0] == min(size for size, _ in everything)
    for budget in range(int(frontier.sizes[0]), int(frontier.sizes[-1]) + 20, 3):
        point = frontier.within(budget)
        best = min(omega for size, omega in everything if size <= budget)
        assert frontier.sizes[point] <= budget and frontier.omegas[point] == pytest.approx(best, rel=1e-12)


def test_the_options_of_a_point_add_up_to_it():
    given = problem(7, 4, seed=5)
    frontier = pareto_frontier(given)
    for point in range(len(frontier.sizes)):
        taken = [layer[pick] for layer, pick in zip(given, frontier.picks(point), strict=True)]
        assert sum(size for size, _ in taken) == frontier.sizes[point]
        assert sum(omega for _, omega in taken) == pytest.approx(frontier.omegas[point], rel=1e-12)


def test_the_loosest_budget_buys_the_widest_option_everywhere():
    frontier = pareto_frontier(problem(8, 5, seed=6, falling=True))
    assert frontier.picks(frontier.within(10**9)) == [4] * 8
    assert frontier.picks(frontier.within(int(frontier.sizes[0]))) == [0] * 8


# --- sensitivity ---


def test_a_sensitivity_is_the_divergence_from_the_float_network_when_one_weight_alone_is_quantized():
    quantized, choices = place()
    x = images(70)  # more than one batch
    (found,) = (known for known, choice in zip(
        sensitivities(quantized, choices, x, CPU), choices, strict=True) if "inner" in choice.weights)
    with torch.no_grad():
        before = torch.log_softmax(quantized.teacher(x).double(), 1)
    for bits in (2, 3, 8):
        other = copy.deepcopy(quantized.teacher)
        spec = next(spec for choice in choices if "inner" in choice.weights for spec in choice.specs[bits].values())
        weight = other.get_parameter("inner.weight")
        params = weight_params(weight, spec, "inner")
        scale, zero_point = (along(value, spec.axis, 4) for value in (params.scale, params.zero_point))
        with torch.no_grad():
            weight.copy_(dequantize(quantize(weight, scale, zero_point, spec.grid), scale, zero_point))
            after = torch.log_softmax(other(x).double(), 1)
        expected = F.kl_div(after, before, log_target=True, reduction="batchmean")  # KL(float || quantized)
        backwards = F.kl_div(before, after, log_target=True, reduction="batchmean")
        assert found[bits] == pytest.approx(float(expected), rel=1e-3)
        assert bits > 2 or found[bits] != pytest.approx(float(backwards), rel=1e-2)
    assert found[2] > found[3] > found[4] > found[8] > 0


def test_measuring_leaves_the_network_as_it_was_and_tells_how_far_it_is():
    quantized, choices = place()
    seen = []
    sensitivities(quantized, choices, images(), CPU, lambda done, total: seen.append((done, total)))
    assert {quantizer.phase for quantizer in quantizers(quantized.graph).values()} == {Phase.OFF}
    assert seen[-1] == (len(choices), len(choices)) and seen == sorted(seen)


# --- what can be chosen ---


def test_layers_of_the_policy_and_of_overrides_keep_their_bits():
    assert named(place()[1]) == {"stem": 8, "inner": None, "outer": None, "head": 8}
    own = recipe("{average: 3}", "policy=none", "overrides=[{where: inner, weights: {bits: 5}}]")
    assert named(place(own)[1]) == {"stem": None, "inner": 5, "outer": None, "head": None}


def test_an_option_means_what_the_recipe_would_make_of_it_on_the_target():
    _, choices = place()
    (inner,) = (choice for choice in choices if "inner" in choice.weights)
    ((narrow,), (wide,)) = (inner.specs[bits].values() for bits in (2, 8))
    assert not narrow.symmetric and narrow.grid.limit is None and narrow.grid.bits == 2
    # As the policies' 8 bits: integer kernels want zero point 0, and this profile keeps them to +-64.
    assert wide.symmetric and wide.grid.limit == 64


def test_an_option_that_the_target_cannot_hold_is_refused_while_planning():
    with pytest.raises(TargetError, match="7-bit asymmetric"):
        place(recipe("{average: 3, options: [3, 7]}"))
    with pytest.raises(TargetError, match="8-bit asymmetric"):
        place(recipe("{average: 3}", "overrides=[{where: inner, weights: {symmetric: false}}]"))


def test_layers_that_share_a_weight_or_a_module_get_the_same_bits():
    class Tied(nn.Module):
        """`conv` used twice with a batch norm of its own each time; `one` and `two` with one weight."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 5)
            self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.bn2(self.conv(F.relu(self.bn1(self.conv(F.relu(self.stem(x))))))))
            return self.fc(F.relu(self.two(F.relu(self.one(x.mean((2, 3)))))))

    captured, x = nets.captured_of(Tied())
    quantized, choices = place(recipe("{average: 3}", "policy=none"), captured)
    assert [set(choice.weights) for choice in choices] == [{"stem"}, {"conv"}, {"one", "two"}, {"fc"}]
    assert choices[1].weights["conv"] == 2 * 6 * 6 * 3 * 3  # two batch norms folded: two weights
    allocation = allocate(quantized, choices, x)
    assert allocation.bits["one"] == allocation.bits["two"]
    _same_specs(quantized, choices, allocation.bits)


def test_a_shared_module_whose_first_use_is_fixed_is_fixed():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(F.relu(self.conv(x)))).mean((2, 3)))

    quantized, choices = place(captured=nets.captured_of(Twice())[0])
    assert named(choices) == {"conv": 8, "fc": 8}
    again = passes.quantize(quantized.captured, quantized.recipe.with_bits(named(choices)), ONNX)
    assert {spec.grid.bits for spec in weight_specs(again).values()} == {8}


def test_the_lines_of_an_allocation_reach_their_layers_and_nobody_else():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.weight = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.conv2d(F.relu(self.conv(x)), self.weight))

    class Awkward(nn.Module):
        """Weights of a module around a module and of the network itself; names that patterns understand otherwise."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.weight = Inside(), nn.Parameter(torch.randn(6, 6))
            self.add_module("a[b]*", nn.Conv2d(4, 6, 1))
            self.first = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.get_submodule("a[b]*")(self.last(x))).mean((2, 3))
            return self.first(F.relu(F.linear(x, self.weight)))

    quantized, choices = place(recipe("{average: 3}", "policy=none"), nets.captured_of(Awkward())[0])
    assert list(named(choices)) == ["last.conv", "last", "a[b]*", "weight", "first"]
    bits = dict(zip(named(choices), (2, 3, 4, 5, 8), strict=True))
    _same_specs(quantized, choices, bits)


def _same_specs(quantized: Quantized, choices: tuple[Choice, ...], bits: dict[str, int]) -> None:
    """The network placed with the lines of `bits` has on every weight what its choice promised."""
    again = passes.quantize(quantized.captured, quantized.recipe.with_bits(bits), quantized.target)
    promised = {name: spec for choice in choices for name, spec in choice.specs[bits[min(choice.weights)]].items()}
    assert weight_specs(again) == promised
    assert None not in named(choices_of(again)).values()  # everything is stated now


# --- the budget ---


@pytest.mark.parametrize("average", [2, 2.5, 3, 4.1])
def test_an_average_counts_open_layers_and_is_no_larger_than_these_bits_everywhere(average):
    quantized, choices = place(recipe(f"{{average: {average}}}"))
    allocation = allocate(quantized, choices, images())
    assert allocation.bits["stem"] == allocation.bits["head"] == 8
    assert list(allocation.sensitivities) == ["inner", "outer"] and allocation.average <= average
    assert allocation.weights == WEIGHTS
    fixed = 8 * (WEIGHTS["stem"] + WEIGHTS["head"])
    assert allocation.chosen.bytes <= math.ceil((fixed + average * 2 * WEIGHTS["inner"]) / 8)
    if average in allocation.uniform:
        assert allocation.chosen.omega <= allocation.uniform[average].omega
        assert allocation.chosen.bytes <= allocation.uniform[average].bytes
    assert allocation.chosen in allocation.frontier
    assert sum(math.ceil(allocation.weights[path] * bits / 8) for path, bits in allocation.bits.items()) == (
        allocation.chosen.bytes)


def test_megabytes_count_all_quantized_weights():
    exact = (8 * (WEIGHTS["stem"] + WEIGHTS["head"]) + 4 * WEIGHTS["inner"] + 3 * WEIGHTS["outer"]) / 8 / 2**20
    for budget, average in ((exact, 3.5), (exact * 0.9999, 3.0), (1, 8.0)):
        quantized, choices = place(recipe(f"{{budget_mb: {budget!r}, options: [2, 3, 4, 8]}}"))
        allocation = allocate(quantized, choices, images())
        assert allocation.chosen.bytes <= budget * 2**20 + 1e-3 and allocation.average == average
    assert allocation.bits == dict.fromkeys(WEIGHTS, 8)


def test_a_budget_that_buys_nothing_says_the_smallest_size_and_what_to_do():
    with pytest.raises(RecipeError) as caught:
        place(recipe("{budget_mb: 0.0001}"))
    assert "cannot fit into 0.0001 MB" in caught.value.what and "0.0005 MB" in caught.value.what
    assert caught.value.allowed == "0.0006 or more" and "fix fewer bits" in caught.value.hint
    place(recipe("{budget_mb: 0.0006}"))


def test_without_images_there_is_nothing_to_decide_from():
    quantized, choices = place()
    with pytest.raises(CalibrationError, match="there are none"):
        allocate(quantized, choices, images()[:0])


def test_the_same_images_give_the_same_allocation_and_many_are_not_needed(monkeypatch):
    monkeypatch.setattr("isobit.calib.mixed_precision.allocation.IMAGES", 8)
    quantized, choices = place()
    x = images(32)
    one = allocate(quantized, choices, x)
    assert one.images == 8 and one == allocate(quantized, choices, x)
    assert one.sensitivities == allocate(quantized, choices, x[::4]).sensitivities


def test_layers_of_one_module_are_chosen_one_by_one():
    captured, _ = nets.captured_of(nets.Functional())
    given = recipe(base="minmax_w8a8")
    quantized, choices = place(given, captured)
    assert named(choices) == dict.fromkeys(["w0", "inner.0", "inner.1", "inner.2", "inner.3", "c", "fw"])
    bits = {"w0": 8, "inner.0": 2, "inner.1": 3, "inner.2": 4, "inner.3": 5, "c": 6, "fw": 8}
    chosen = passes.quantize(quantized.captured, given.with_bits(bits), ONNX)
    assert [spec.grid.bits for spec in weight_specs(chosen).values()] == list(bits.values())

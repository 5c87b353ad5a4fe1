"""Ranges of a whole graph: every quantizer gets numbers, from the float network, and is switched on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isobit.calib.context import Calibration
from isobit.calib.ranges import ranges
from isobit.calib.ranges.observers import RangeObserver, weight_params
from isobit.calib.ranges.ranges import search_ranges, search_ranges_in_order, search_unit_ranges, search_weight_ranges
from isobit.calib.reconstruction.boundary import batches
from isobit.pipeline.errors import CalibrationError, TargetError
from isobit.pipeline.graph.nodes import bound_args, get_attribute, op_name, quantizer_of
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Phase, stand_in_for
from isobit.pipeline.target import SumLimits
from tests.calib.reconstruction.test_trainer import task_of
from tests.examples.tiny import keeping
from tests.examples.units import TARGET, Notes, calibrated, calibration, recipe


@pytest.mark.parametrize("name", ["mse_w8a8", "minmax_w8a8"])
def test_every_quantizer_is_on_with_numbers(name: str) -> None:
    made = calibration(recipe(name))
    found = [quantizer_of(made.graph, node) for node in made.graph.graph.nodes]
    for quantizer in (q for q in found if q is not None):
        quantizer.params.check(quantizer.spec)
        assert quantizer.phase is Phase.ON and quantizer.stand_in is None


def test_activations_see_the_float_network_and_the_asked_images() -> None:
    made = calibration(recipe("minmax_w8a8"), ranges=False)
    with torch.no_grad():
        made.graph(made.images)  # OFF: float
    name = "relu_q"
    node = next(n for n in made.graph.graph.nodes if n.name == name)
    seen: list[torch.Tensor] = []
    made.activations()[name].phase = Phase.OBSERVE
    with stand_in_for([(made.activations()[name], keeping(seen))]):
        made.graph(made.images[:10])
    search_ranges(made, images=10)
    assert float(quantizer_of(made.graph, node).scale) == pytest.approx(float(seen[0].max()) / 255)


SEARCHES = {
    "minmax": (), "average": (), "percentile": ("percentile=0.9",), "mse": ("exponent=2.0",), "mse_shrink": (),
}


@pytest.fixture
def batches_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "batches", lambda count, size: batches(count, 8))


def scales_of(search: str, *parameters: str) -> tuple[Calibration, dict[str, torch.Tensor]]:
    """A calibration with one search for everything, and the scales that it gave."""
    keys = [f"{rule}.{key}" for rule in ("weights", "activations") for key in (f"range={search}", *parameters)]
    made = calibration(recipe("minmax_w8a8", "weights.symmetric=false", *keys))
    return made, {n: q.scale.clone() for n, q in (made.weights() | made.activations()).items() if not q.fixed}


@pytest.mark.usefixtures("batches_of_eight")
@pytest.mark.parametrize(("search", "parameters"), SEARCHES.items())
def test_what_a_recipe_says_is_what_searches(search: str, parameters: tuple[str, ...]) -> None:
    made, scales = scales_of(search, *parameters)
    nodes = {node.name: node for node in made.graph.graph.nodes}
    for name, quantizer in made.weights().items():
        assert quantizer.spec.range.kind == search
        weight = get_attribute(made.graph, nodes[name].args[0])
        assert torch.equal(scales[name], weight_params(weight, quantizer.spec, name).scale)
    name, quantizer = next((n, q) for n, q in made.activations().items() if n in scales and n != "x_q")
    fresh = calibration(recipe("minmax_w8a8"), ranges=False)
    seen: list[torch.Tensor] = []
    fresh.activations()[name].phase = Phase.OBSERVE
    fresh.activations()[name].attach(keeping(seen))
    with torch.no_grad():
        for part in batches(len(fresh.images), 8):
            fresh.graph(fresh.images[part])
    observer = RangeObserver(quantizer.spec, name)
    for second in (False, True)[: 1 + observer.needs_second_pass]:
        if second:
            observer.start_second_pass()
        for x in seen:
            observer(x)
    assert torch.equal(scales[name], observer.params().scale)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("percentile", "percentile=0.9"), ("percentile", "percentile=0.8")),
        (("mse",), ("mse", "exponent=1.0")),
        (("mse_shrink",), ("mse_shrink", "exponent=1.0")),
        (("minmax",), ("percentile", "percentile=0.9")),
        (("minmax",), ("mse_shrink", "exponent=1.0")),
    ],
)
def test_a_search_and_its_parameter_change_the_scales(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    made, scales = scales_of(*one)
    _, others = scales_of(*other)
    for names in (made.weights(), made.activations()):
        assert any(not torch.equal(scales[name], others[name]) for name in names if name in scales)


@pytest.mark.usefixtures("batches_of_eight")
def test_average_is_over_the_batches_of_the_forward() -> None:
    _, average = scales_of("average")
    made, extremes = scales_of("minmax")
    names = [name for name in made.activations() if name in average]
    assert all(bool(average[name] <= extremes[name]) for name in names)
    assert any(bool(average[name] < extremes[name]) for name in names)


def test_weights_get_their_own_search() -> None:
    made = calibration()
    nodes = {node.name: node for node in made.graph.graph.nodes}
    for name, quantizer in made.weights().items():
        weight = get_attribute(made.graph, nodes[name].args[0])
        assert torch.equal(quantizer.scale, weight_params(weight, quantizer.spec, name).scale)


def test_a_fixed_quantizer_keeps_its_numbers() -> None:
    made = calibration(ranges=False)
    quantizer = next(iter(made.activations().values()))
    quantizer.set_params(QParams(torch.tensor(0.125), torch.tensor(0, dtype=torch.int32)))
    quantizer.fixed = True
    search_ranges(made)
    assert float(quantizer.scale) == 0.125 and quantizer.phase is Phase.ON


def test_a_weight_that_is_not_finite_is_named() -> None:
    made = calibration(ranges=False)
    made.graph.get_parameter("inner.weight").data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match="conv2d_1_w"):
        search_ranges(made)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bias_that_is_not_finite_is_named(value: float) -> None:
    made = calibration(ranges=False)
    made.graph.get_parameter("inner.bias").data[1] = value
    with pytest.raises(CalibrationError, match="conv2d_1_b"):
        search_ranges(made)


def test_a_units_ranges_follow_what_arrives_there() -> None:
    task, _ = task_of(2, "activations.range=minmax")
    (quantizer,) = task.activations
    before = float(quantizer.scale)
    search_unit_ranges(task, 20)
    seen: list[torch.Tensor] = []
    quantizer.phase = Phase.OBSERVE
    quantizer.attach(keeping(seen))
    task.student(*(value.rows(slice(0, 20)) for value in task.inputs))
    assert float(quantizer.scale) == pytest.approx(float(seen[0].max()) / quantizer.spec.grid.qmax)
    assert float(quantizer.scale) != before


@pytest.mark.parametrize("search", SEARCHES)
def test_the_batch_of_a_forward_pass_changes_no_range(search: str) -> None:
    found = []
    for size in (64, 16):
        made = dataclasses.replace(calibration(recipe("minmax_w8a8", f"activations.range={search}"), ranges=False),
                                   batch=size)
        made = dataclasses.replace(made, images=torch.cat([made.images] * 3)[:150] * torch.linspace(1, 2, 150)
                                   .reshape(-1, 1, 1, 1)[: 3 * len(made.images)])
        search_ranges(made)
        found.append([quantizer.scale for quantizer in made.activations().values()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("method", ["qdrop", "lsq", "pdquant", "adaround", "brecq"])
def test_sums_that_the_target_cannot_hold_are_refused_before_anything_is_trained(method: str) -> None:
    """Ranges without zero points tell nothing about asymmetric weights: the first search does."""
    chosen = recipe(f"{method}_w4a4", "policy=none", "method.steps=2")
    target = dataclasses.replace(TARGET, sums=SumLimits(1000))
    watcher = Notes()
    with pytest.raises(TargetError, match="sums of this conv2d can reach"):
        calibrated(chosen, target=target, watcher=watcher)
    assert watcher.trained == 0


@pytest.mark.parametrize("in_order", [False, True])
def test_a_tensor_that_is_always_zero_gets_the_finest_step_of_the_others(in_order: bool) -> None:
    """A step of its own would be out of proportion to every sum and bias around it."""
    made = calibration(recipe("minmax_w8a8"), ranges=False)
    first = next(n for n in made.graph.graph.nodes if op_name(n) == "conv2d")
    with torch.no_grad():
        get_attribute(made.graph, bound_args(first)["bias"].args[0]).fill_(-1e4)
    if in_order:
        search_weight_ranges(made)
        search_ranges_in_order(made, 16)
    else:
        search_ranges(made)
    scales = {name: float(quantizer.scale) for name, quantizer in made.activations().items()}
    dead = scales.pop("relu_q")
    seen = list(scales.values())[:1] if in_order else scales.values()
    assert dead == min(seen)

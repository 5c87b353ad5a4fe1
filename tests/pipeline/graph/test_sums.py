"""Bounds of integer sums are exact, never above the final one while numbers are missing, and refused by the layer."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.c.target import TARGETS as C
from isobit.backends.onnx.target import TARGETS as ONNX
from isobit.backends.reference import TARGET as PAPER
from isobit.backends.tvm import TvmBackend
from isobit.calib.ranges.observers import weight_params
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.dialect import POOLS
from isobit.pipeline.graph.grid_map import GridMap
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.graph.sums import _bound, _weight_codes, check_sums, layer_sums, magnitude, sum_bounds
from isobit.pipeline.quant.grid import Grid, QuantSpec, RangeSearch
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.target import SumLimits, Target
from tests.examples import nets, operators, ports, tiny
from tests.examples.onnx_cases import frozen

VNNI = ONNX["vnni"]


def test_extremes_are_those_of_all_inputs():
    weight = torch.tensor([[[3.0, -2.0]], [[-1.0, -4.0]], [[0.0, 5.0]]])
    bias = torch.tensor([7, -20, 0])
    codes = [torch.tensor(pair) for pair in itertools.product(range(-2, 6), repeat=2)]
    every = torch.stack([(weight.flatten(1) * code).sum(1) + bias for code in codes])
    least, largest = layer_sums(weight, -2, 5, bias)
    assert torch.equal(least, every.amin(0).long()) and torch.equal(largest, every.amax(0).long())
    assert magnitude(least, largest) == int(every.abs().max())
    assert magnitude(*layer_sums(weight, -2, 5, None)) == int((every - bias).abs().max())


def wide(inputs: int, value: float = 1.0, bias: bool = False) -> nn.Module:
    layer = nn.Linear(inputs, 2, bias=bias)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.weight[1] *= -1
    return nn.Sequential(nn.ReLU(), layer).eval()


def placed(target: Target, model: nn.Module, inputs: int, recipe: str = "minmax_w8a8"):
    images = torch.rand(3, inputs, generator=torch.Generator().manual_seed(0))
    return capture(model, images[:1]), load_recipe(recipe), images


@pytest.mark.parametrize("target", [VNNI, C["generic"], TvmBackend.target(TvmBackend(), "x86-64-v3")],
                         ids=["onnx", "c", "tvm"])
def test_weights_alone_refuse_a_layer_before_calibration(target):
    captured, recipe, _ = placed(target, wide(70_000), 70_000)
    with pytest.raises(TargetError, match=f"sums of this linear can reach .* target '{target.name}'") as error:
        passes.quantize(captured, recipe, target)
    assert "node linear (1" in error.value.where and error.value.allowed == "sums up to 2,147,483,647"
    assert "fewer inputs" in error.value.hint
    captured, recipe, _ = placed(target, wide(50_000), 50_000)
    passes.quantize(captured, recipe, target)


def test_what_float64_holds_is_enough_for_the_reference():
    captured, recipe, _ = placed(PAPER, wide(70_000), 70_000)
    passes.quantize(captured, recipe, PAPER)
    assert PAPER.sums.largest == 2**53


def test_codes_that_only_the_frozen_graph_has_are_refused_as_well():
    """Asymmetric weights tell nothing before their range is chosen, and nothing else checked here."""
    target = Target(**{**VNNI.__dict__, "sums": SumLimits(10_000)})
    quantized, images = tiny.quantized_net(target, load_recipe("nearest_w4a4", ["policy=none"]))
    with pytest.raises(TargetError, match="sums of this conv2d can reach"):
        passes.legalize(tiny.calibrate_by_range(quantized, images))


def bounds(graph, target):
    return {call.name: _bound(GridMap(target), call, target) for call in Calls(graph)}


@pytest.mark.parametrize("target", [VNNI, C["generic"]], ids=["onnx", "c"])
@pytest.mark.parametrize("recipe", ["minmax_w8a8", "mse_w8a8", "nearest_w4a4"])
def test_bounds_only_grow_while_numbers_are_chosen(target, recipe):
    quantized, images = tiny.quantized_net(target, recipe)
    before = bounds(quantized.graph, target)
    ranged = tiny.calibrate_by_range(quantized, images)
    between = bounds(ranged.graph, target)
    frozen = passes.legalize(ranged)[0].graph
    after = bounds(frozen, target)
    known = [name for name, bound in after.items() if bound is not None]
    assert len(known) == 5  # three convolutions, the average, the classifier
    assert all((before[name] or 0) <= between[name] <= after[name] for name in known)
    assert any(before[name] for name in known)


@pytest.mark.parametrize("kind", ["minmax", "mse", "mse_shrink", "percentile", "average"])
def test_no_range_search_chooses_smaller_codes_than_the_widest_range(kind):
    """What makes the refusal before calibration sound."""
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    weight[2] = weight[2].abs()
    quantizer = Quantizer(QuantSpec(Grid(8, signed=True), True, 0, RangeSearch(kind, percentile=0.9)))
    early = _weight_codes(quantizer, weight)
    quantizer.set_params(weight_params(weight, quantizer.spec, "w"))
    assert bool((early.abs() <= _weight_codes(quantizer, weight).abs()).all())


def test_nothing_is_said_of_weights_that_are_not_finite():
    """Calibration names them."""
    model = wide(8)
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    captured, recipe, _ = placed(VNNI, model, 8)
    quantized = passes.quantize(captured, recipe, VNNI)
    assert nets.find(quantized.graph, "linear")


def test_bytes_take_their_zero_points_into_the_bias():
    """C adds bias - zero point * weights and raw bytes: that may leave int32 where the finished sum would not."""
    graph = tiny.frozen_reference(C["generic"], "minmax_w8a8")[0].graph
    layer = nets.find_call(graph, "conv2d")
    wide, narrow = (_bound(GridMap(target), layer, target) for target in (C["generic"], VNNI))
    assert wide > narrow > 0


@pytest.mark.parametrize(("pool", "elements"), [
    (nn.AvgPool2d(5), 25), (nn.AvgPool2d((2, 3)), 6), (nn.AdaptiveAvgPool2d(1), 144),
])
def test_pools_add_up_codes_too(pool, elements):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), pool, nn.Conv2d(4, 2, 1)).eval()
    quantized, _ = tiny.quantized_net(VNNI, "minmax_w8a8", model, torch.randn(2, 3, 12, 12))
    pools = [call for call in Calls(quantized.graph) if call.op in POOLS]
    found = [_bound(GridMap(VNNI), pool, VNNI) for pool in pools]
    assert found == [elements * 255]
    limited = Target(**{**VNNI.__dict__, "sums": SumLimits(elements * 255 - 1)})
    for name, quantizer in quantizers(quantized.graph).items():
        if name.endswith("_w"):
            quantizer.spec = QuantSpec(Grid(2, signed=False), False, 0)  # says nothing before its range
    with pytest.raises(TargetError, match="sums of this (mean|avg_pool2d)"):
        check_sums(quantized.graph, limited)


def test_reductions_and_products_of_matrices_have_bounds_too():
    model, x = operators.network("reductions")
    graph = passes.legalize(ports.calibrate(ports.place(model, x, "reductions", "c"), x))[0].graph
    found = [(call, bound) for call, bound in sum_bounds(graph, C["generic"]) if call.op in ("sum", "mean_over_dims")]
    assert {call.op for call, _ in found} == {"sum", "mean_over_dims"}
    assert {bound // 255 for _, bound in found} == {5, 7, 6, 35, 42, 210} and not any(bound % 255 for _, bound in found)
    products = [(call.inputs[0].shape[-1], bound) for call, bound in sum_bounds(frozen("matmul", 8, 8)[0].graph, VNNI)
                if call.op == "matmul"]
    assert products and all(depth * 127 ** 2 <= bound <= depth * 255 ** 2 for depth, bound in products)

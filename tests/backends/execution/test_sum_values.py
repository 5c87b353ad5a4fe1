"""What sums stand for is what the operators give on whole tensors."""

import pytest
import torch

from isobit.backends.execution.kernels import SumKernel
from isobit.backends.execution.sum_values import value_of_sums
from isobit.backends.execution.ties import call
from isobit.pipeline.graph.nodes import op_name, source_of
from tests.backends.execution.test_reachable import Observed, arithmetic_of

POOLS = {"avg_pool2d", "mean", "sum", "mean_over_dims"}


@pytest.mark.parametrize("name", ["avg_pool", "avg_pool_padded", "reductions", "relu"])
def test_a_pools_sums_stand_for_what_the_operator_gives(name):
    judged, images = arithmetic_of("fixed", name, 8, 8)
    observed, checked = Observed(judged.execution), 0
    observed.run(images[:3])
    for region, read, _ in observed.seen:
        if region.kind == "input" or op_name(region.anchor) not in POOLS:
            continue
        inputs = [read[node] for node in region.inputs]
        kernel, grids = observed.kernel_of(region), [value.grid for value in inputs]
        assert isinstance(kernel, SumKernel)
        value = value_of_sums(observed, region, grids)(kernel.add(observed, region, inputs))
        real = {source_of(region.anchor): inputs[0].centered.double() * grids[0].scale.double()}
        torch.testing.assert_close(value, call(region.anchor, real.__getitem__), rtol=1e-12, atol=1e-12)
        checked += 1
    assert checked


def test_an_operator_without_a_unit_is_told(monkeypatch):
    judged, _ = arithmetic_of("onnx", "relu", 4, 4)
    run = judged.execution
    region = next(region for region in run.regions if op_name(region.anchor) == "conv2d")
    monkeypatch.setattr("isobit.backends.execution.sum_values._VALUES", {})
    assert value_of_sums(run, region, []) is None
    told = {one.name: one for one in judged.every_input()}[region.value.name]
    assert told.verdict == "open" and told.why == "no unit of sums of conv2d is known"

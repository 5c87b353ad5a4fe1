"""One function an operator: every operator of the table has its step, and it carries the numbers of its region."""

import numpy as np
import pytest
import torch

from isobit.backends.execution.codes import CodeGrid, container, output_grid
from isobit.backends.fixed_point.program import AveragePool, Concat, Conv, GlobalAverage, Lookup, MaxPool, Product, Sum
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.fixed_point.steps import make_step
from isobit.backends.regions import find_regions
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.grid_map import GridMap
from tests.backends.fixed_point import oracle
from tests.examples.onnx_cases import frozen

TARGET = integer_target("test", "any")
CASES = {
    "conv2d": ("depthwise", Conv), "add": ("add_itself", Sum), "mul": ("squeeze_excite", Product),
    "mean": ("squeeze_excite", GlobalAverage), "avg_pool2d": ("avg_pool", AveragePool),
    "max_pool2d": ("max_pool", MaxPool), "cat": ("cat_signed", Concat), "hardsigmoid": ("hardswish", Lookup),
}


@pytest.mark.parametrize(("kind", "case", "step"), [(kind, *rest) for kind, rest in CASES.items()])
def test_the_step_of_an_operator(kind, case, step):
    reference, _ = frozen(case, target=TARGET)
    region = next(region for region in find_regions(reference.graph, TARGET) if region.kind == kind)
    calls, values = Calls(reference.graph), GridMap(TARGET)
    grids = [container(values.quantizer(calls[node])) for node in region.inputs]
    made = make_step(reference.graph, region, grids, output_grid(reference.graph, region))
    assert isinstance(made, step) and (made.inputs, made.output) == ((), None) and made.name == region.value.name


@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (5, 8), (4, 4), (2, 2)])
def test_weights_are_channels_last_and_keep_their_bits(bits, stored):
    reference, _ = frozen("depthwise", bits, 8, target=TARGET)
    region = next(region for region in find_regions(reference.graph, TARGET) if region.kind == "linear")
    made = make_step(reference.graph, region, [CodeGrid(torch.tensor(0.1), 0, 0, 255)], None)
    assert made.weights.bits == stored and made.weights.codes.shape[1:3] == (1, 1)
    assert made.logit_scale is not None and np.abs(made.weights.codes).max() <= 1 << (bits - 1)


def test_a_layer_that_writes_codes_has_no_scale_of_logits():
    codes = oracle.make_conv((5, 5, 3), 4).steps[0]
    logits = oracle.make_conv((1, 1, 3), 4, (1, 1), padding=(0, 0, 0, 0), logits=True).steps[0]
    assert logits.scale_of_logits is logits.logit_scale
    with pytest.raises(ValueError, match="writes codes, not logits"):
        codes.scale_of_logits  # noqa: B018

"""What has no integer kernel is refused by name; a layer's sum stays wide into one residual addition."""

import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.fixed_point.rules import integer_target, unsupported
from isobit.backends.regions import find_regions
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import quantizer_of
from tests.examples.onnx_cases import FLOAT_MIDDLES, MIDDLES, TABLE_MIDDLES, recipe_of
from tests.examples.onnx_cases import _captured as captured_case
from tests.examples.tiny import multibit_recipe

TARGET = integer_target("test", "any")


def graph_of(name, recipe=None):
    return passes.quantize(captured_case(name)[0], recipe or recipe_of(8, 8), TARGET).graph


@pytest.mark.parametrize("name", MIDDLES)
def test_what_the_table_lists_is_accepted(name):
    assert list(unsupported(graph_of(name), TARGET)) == []


@pytest.mark.parametrize(("name", "reason"), [
    ("scaled", "no integer kernel for add_scaled"), ("softmax", "no integer kernel for softmax"),
    ("layer_norm_gelu", "no integer kernel for layer_norm"),
])
def test_float_operators_are_refused(name, reason):
    assert name in FLOAT_MIDDLES
    assert any(reason in found for _, found in unsupported(graph_of(name), TARGET))


@pytest.mark.parametrize("name", sorted(TABLE_MIDDLES))
def test_operators_of_one_tensor_are_accepted_whatever_other_targets_do(name):
    assert list(unsupported(graph_of(name), TARGET)) == []


def test_nested_levels_are_refused_and_codebooks_are_not():
    with pytest.raises(TargetError, match="no kernels for activations.levels: nested"):
        graph_of("relu", multibit_recipe())
    assert list(unsupported(graph_of("relu", multibit_recipe("activations.levels=uniform")), TARGET)) == []


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(3, 5, 8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.right(x) + self.left(x))).flatten(1)


def test_of_two_layers_the_one_computed_last_stays_wide():
    graph = passes.quantize(capture(TwoBranches().eval(), torch.zeros(1, 3, 8, 8)), recipe_of(4, 4), TARGET).graph
    fused = [region for region in find_regions(graph, TARGET) if len(region.inputs) == 2]
    assert [(region.kind, region.module) for region in fused] == [("conv2d", "left")]
    other = quantizer_of(graph, fused[0].inputs[1])
    assert other is not None and other.spec.bits == 8
    assert sum(region.kind == "add" for region in find_regions(graph, TARGET)) == 0

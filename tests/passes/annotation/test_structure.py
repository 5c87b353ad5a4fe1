"""What is read off a graph: signs of values, the points that enter and leave an operator, where channels lie."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.passes import prepare
from isobit.passes.annotation.structure import Structure
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.annotation import annotation_of
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.grid_map import channel_axis
from tests.examples import nets
from tests.passes.plans import GENERIC, Call, out, plan

VNNI = TARGETS["vnni"]


# --- signs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "positive"),
    [
        (lambda m, x: F.relu(m.a(x)), True),
        (lambda m, x: F.relu6(m.a(x)), True),
        (lambda m, x: F.hardtanh(m.a(x), -1, 1), False),
        (lambda m, x: m.a(x), False),
        (lambda m, x: F.relu(m.a(x)) + F.relu(m.b(x)), True),
        (lambda m, x: F.relu(m.a(x)) + m.b(x), False),
        (lambda m, x: F.avg_pool2d(F.relu(m.a(x)), 2), True),
        (lambda m, x: F.avg_pool2d(m.a(x), 2), False),
        (lambda m, x: F.relu(m.a(x)) * m.b(x).sigmoid(), True),
        (lambda m, x: F.hardswish(m.a(x)), False),
        (lambda m, x: F.silu(m.a(x)), False),
    ],
)
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_signs_follow_from_structure(value, positive, symmetric):
    graph = plan(lambda m, x: m.c(value(m, x)), f"activations.symmetric={symmetric}", overrides=[])
    point = nets.find(graph, "conv2d", nets.operators(graph).count("conv2d") - 1).args[0]
    spec = annotation_of(point).output
    assert spec.symmetric == (positive or symmetric == "true")
    assert spec.grid.signed == (spec.symmetric and not positive)


def test_signs_of_many_joined_paths_are_found_in_linear_time():
    def doubled(m, x):
        y = F.relu(m.a(x))
        for _ in range(60):
            y = y + y
        return m.b(y)

    assert all(symmetric for name, _, _, symmetric in out(doubled, overrides=[]) if name == "add")


# --- points -------------------------------------------------------------------------------------------------------


def structure(function, target=GENERIC):
    captured, _ = nets.captured_of(Call(function), 3, 6, 6)
    graph = prepare(captured.graph)
    return graph, Structure(Calls(graph), target)


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
def test_every_part_of_a_concatenation_enters_the_layer_after_it(target):
    _, found = structure(lambda m, x: m.c(torch.cat([F.relu(m.a(x)), F.relu(m.b(x))], 1)[:, 1:4]), target)
    *_, layer = found.layers
    (joined,) = (call for call in found.operators if call.op == "cat")
    assert found.points_into(layer) == ({joined} if target is GENERIC else {joined, *joined.sources})


def test_channels_lie_on_axis_1_until_a_layout_operator_moves_them():
    graph, _ = structure(lambda m, x: m.fc(m.a(x).permute(0, 2, 3, 1).reshape(-1, 3)))
    assert channel_axis(nets.find_call(graph, "conv2d")) == 1 and channel_axis(nets.find_call(graph, "permute")) == 3


def test_a_network_without_layers_is_refused():
    with pytest.raises(TargetError, match=r"no convolution or linear layer to quantize\n"):
        structure(lambda m, x: F.relu(x))


def test_a_network_whose_only_layer_has_no_kernel_is_told_which():
    with pytest.raises(TargetError, match="no convolution or linear layer to quantize: conv3d stays in float"):
        structure(lambda m, x: F.conv3d(x.unsqueeze(1), torch.ones(2, 1, 1, 3, 3)))

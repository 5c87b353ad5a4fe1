"""Folding a batch norm changes no number beyond float32 rounding, whatever it follows and whoever shares its layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.passes.canonicalize import canonicalize
from isobit.passes.fold_batchnorm import fold_batchnorm
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import bound_args, get_attribute, module_path, tensor_shape
from tests.examples import nets


class Wrapped(nn.Module):
    """`forward` as a function of the module and its input."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def folded(model, *shape):
    captured, x = nets.captured_of(model, *shape)
    graph = captured.graph
    canonicalize(graph)
    before = nets.run(graph, x)
    assert fold_batchnorm(graph)
    assert "batch_norm" not in nets.operators(graph)
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-5, atol=1e-5)
    after = nets.snapshot(graph)
    assert not fold_batchnorm(graph)
    assert nets.snapshot(graph) == after
    return graph


def test_numbers_are_the_formula():
    conv, bn = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=0.1)
    weight, bias = conv.weight.detach().double(), conv.bias.detach().double()
    graph = folded(nn.Sequential(conv, bn), 2, 4, 4)
    factor = bn.weight.double() / torch.sqrt(bn.running_var.double() + 0.1)
    args = bound_args(nets.find(graph, "conv2d"))
    assert torch.equal(get_attribute(graph, args["weight"]), (weight * factor.reshape(-1, 1, 1, 1)).float())
    shift = (bias - bn.running_mean.double()) * factor + bn.bias.double()
    torch.testing.assert_close(get_attribute(graph, args["bias"]).double(), shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_convolution(bias, affine):
    graph = folded(nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine)))
    assert nets.operators(graph) == ["conv2d"]


def test_linear():
    graph = folded(nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)), 6)
    assert nets.operators(graph) == ["linear"]


def test_no_layer_in_front_becomes_a_depthwise_convolution_with_origin():
    graph = folded(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    conv = nets.find(graph, "conv2d")
    assert bound_args(conv)["groups"] == 3
    assert (module_path(conv), tensor_shape(conv)) == ("1", (None, 3, 12, 12))


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 2, 3, 4)])
def test_other_ranks_become_a_convolution_between_reshapes(shape):
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm3d}[len(shape)](6)
    assert nets.operators(folded(nn.Sequential(nn.ReLU(), norm), *shape)) == ["relu", "view", "conv2d", "view"]


def test_linear_over_sequences_is_not_mistaken_for_features():
    """Batch norm counts axis 1 as channels, a linear layer over [N, 4, 4] the last one."""
    graph = folded(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 4, 4)
    assert nets.operators(graph) == ["linear", "view", "conv2d", "view"]


def test_a_layer_read_twice_is_left_alone():
    graph = folded(Wrapped(lambda m, x: m.bn(y := m.conv(x)) + y, conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4)))
    assert nets.operators(graph) == ["conv2d", "conv2d", "add"]


def test_one_convolution_with_two_batch_norms_gets_two_weights():
    graph = folded(nets.Tied())
    weights = [bound_args(nets.find(graph, "conv2d", index))["weight"].target for index in range(3)]
    assert len(set(weights)) == 3


def test_one_batch_norm_used_twice_under_the_name_of_its_node():
    """The nodes are called `batch_norm`, and so is the module: inserted numbers must not land in it."""
    folded(Wrapped(lambda m, x: m.batch_norm(F.relu(m.batch_norm(x))), batch_norm=nn.BatchNorm2d(3)))


def test_bare_parameters_with_names_of_their_own():
    model = Wrapped(
        lambda m, x: m.bn2(F.conv2d(m.bn1(F.conv2d(x, m.w1, m.b1)), m.w2)), w1=nn.Parameter(torch.randn(4, 3, 1, 1)),
        b1=nn.Parameter(torch.randn(4)), bn1=nn.BatchNorm2d(4), w2=nn.Parameter(torch.randn(4, 4, 1, 1)),
        bn2=nn.BatchNorm2d(4), bias=nn.Parameter(torch.zeros(1)),
    )  # fmt: skip
    assert nets.operators(folded(model)) == ["conv2d", "conv2d"]


def test_statistics_of_the_batch_are_refused():
    captured, _ = nets.captured_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)))
    node = nets.find(captured.graph, "batch_norm")
    node.update_arg(5, True)
    with pytest.raises(CaptureError, match="statistics of its batch"):
        fold_batchnorm(captured.graph)


def test_no_running_statistics_are_refused():
    captured = nets.capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), torch.zeros(1, 3, 4, 4))
    norm = nets.find(captured.graph, "batch_norm")
    norm.args = (*norm.args[:3], None, None, True, *norm.args[6:])
    with pytest.raises(CaptureError, match="statistics of its batch") as error:
        fold_batchnorm(captured.graph)
    assert "1" in error.value.where

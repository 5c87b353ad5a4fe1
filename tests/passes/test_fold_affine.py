"""Constant factors and shifts change no number beyond float32 rounding, and leave no operator after a layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.backends.c.target import TARGETS as C
from isobit.passes.canonicalize import canonicalize
from isobit.passes.fold_affine import fold_affine
from isobit.passes.fold_batchnorm import fold_batchnorm
from isobit.pipeline.graph.nodes import bound_args, get_attribute
from tests.examples import nets, tiny
from tests.passes.test_fold_batchnorm import Wrapped

G = torch.tensor([0.5, -1.5, 2.0, 0.75]).reshape(1, 4, 1, 1)
B = torch.tensor([1.0, -0.25, 0.0, 3.0]).reshape(1, 4, 1, 1)


class Affine(Wrapped):
    """A layer, G and B as buffers, and what `forward` makes of them."""

    def __init__(self, forward, layer: nn.Module, rank: int = 4) -> None:
        super().__init__(forward, layer=layer)
        shape = (1, 4, *[1] * (rank - 2))
        self.register_buffer("g", G.reshape(shape))
        self.register_buffer("b", B.reshape(shape))


def folded(model, *shape, found=True):
    captured, x = nets.captured_of(model, *shape)
    graph = captured.graph
    canonicalize(graph)
    before = nets.run(graph, x)
    assert fold_affine(graph) == found
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-5, atol=1e-5)
    after = nets.snapshot(graph)
    assert not fold_affine(graph)
    assert nets.snapshot(graph) == after
    return graph


FORMS = {
    "factor and shift": lambda m, x: m.layer(x) * m.g + m.b,
    "factor before": lambda m, x: m.g * m.layer(x),
    "quotient": lambda m, x: m.layer(x) / m.g,
    "differences": lambda m, x: m.b - (m.layer(x) - m.b),
    "numbers": lambda m, x: 0.5 * m.layer(x) + 1,
    "less a number": lambda m, x: 3 - (m.layer(x) - 2),
    "rsub": lambda m, x: torch.rsub(m.layer(x), m.b, alpha=2),
    "rsub of a number": lambda m, x: torch.rsub(m.layer(x), 1.5, alpha=0.5),
    "alpha on the constant": lambda m, x: torch.add(m.layer(x), m.b, alpha=3),
    "alpha on the layer": lambda m, x: torch.sub(m.b, m.layer(x), alpha=3),
    "negative": lambda m, x: -m.layer(x),
    "in place": lambda m, x: m.layer(x).mul_(m.g).add_(m.b),
    "of expressions": lambda m, x: m.layer(x) * torch.rsqrt(m.g.square() + 1e-3) + torch.full((1, 4, 1, 1), 2.0),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_form_folds_into_a_convolution(form, bias):
    graph = folded(Affine(FORMS[form], nn.Conv2d(3, 4, 3, padding=1, bias=bias)))
    assert nets.operators(graph) == ["conv2d"]


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Conv1d(3, 4, 3), (3, 9)), (nn.Conv3d(3, 4, 1), (3, 4, 4, 4)),
])
def test_other_convolutions(layer, shape):
    graph = folded(Affine(FORMS["factor and shift"], layer, rank=len(shape) + 1), *shape)
    assert len(nets.operators(graph)) == 1


def test_linear_counts_its_channels_from_the_end():
    model = Affine(lambda m, x: m.layer(x) * m.g.flatten() + m.b.flatten(), nn.Linear(6, 4))
    assert nets.operators(folded(model, 6)) == ["linear"]
    assert nets.operators(folded(model, 5, 6)) == ["linear"]


def test_numbers_are_those_of_float64():
    conv = nn.Conv2d(3, 4, 1)
    weight, bias = conv.weight.detach().double(), conv.bias.detach().double()
    graph = folded(Affine(FORMS["factor and shift"], conv))
    args = bound_args(nets.find(graph, "conv2d"))
    factor = G.double().reshape(4, 1, 1, 1)
    assert torch.equal(get_attribute(graph, args["weight"]), (weight * factor).float())
    wanted = ((bias * G.double().flatten()).float().double() + B.double().flatten()).float()
    assert torch.equal(get_attribute(graph, args["bias"]), wanted)


@pytest.mark.parametrize("form", [
    lambda m, x: m.layer(x) * m.wide,                   # varies over space
    lambda m, x: 2.0 / m.layer(x).abs() + m.layer(x).mean((1, 2, 3), keepdim=True),  # depends on the input
    lambda m, x: torch.div(m.layer(x), 2.0, rounding_mode="floor"),
    lambda m, x: m.layer(x)[:, :1] * m.g,               # widens what it multiplies
    lambda m, x: F.gelu(m.layer(x)) * m.g,              # no integer kernel before it
    lambda m, x: x * 2.0,                               # the network's input
    lambda m, x: torch.cat([F.relu(m.layer(x)), x], 1) * 8.0,  # decodes results: no layer follows
])
def test_what_is_no_affine_map_of_a_layer_stays(form):
    model = Affine(form, nn.Conv2d(3, 4, 3, padding=1))
    model.register_buffer("wide", torch.rand(1, 4, 12, 12))
    captured, x = nets.captured_of(model)
    canonicalize(captured.graph)
    before, layers = nets.run(captured.graph, x), nets.operators(captured.graph).count("conv2d")
    fold_affine(captured.graph)
    torch.testing.assert_close(nets.run(captured.graph, x), before, rtol=1e-5, atol=1e-5)
    assert nets.operators(captured.graph).count("conv2d") == layers


def test_after_another_integer_operator_it_becomes_a_depthwise_convolution():
    model = Affine(lambda m, x: m.last(F.relu(F.relu(m.layer(x)) * m.g + m.b)), nn.Conv2d(3, 4, 1))
    model.last = nn.Conv2d(4, 4, 1)
    graph = folded(model)
    assert nets.operators(graph) == ["conv2d", "relu", "conv2d", "relu", "conv2d"]
    assert bound_args(nets.find(graph, "conv2d", 1))["groups"] == 4


@pytest.mark.parametrize(
    ("form", "layer", "expected"),
    [
        (lambda m, x: m.layer(x * m.g), nn.Conv2d(4, 6, 3, padding=1), ["conv2d"]),
        (lambda m, x: m.layer(x / m.g), nn.Conv2d(4, 6, 3, padding=1, bias=False), ["conv2d"]),
        (lambda m, x: m.layer((x - m.b) / m.g), nn.Conv2d(4, 6, 3), ["conv2d"]),
        (lambda m, x: m.layer((x - m.b) / m.g), nn.Conv2d(4, 6, 3, bias=False), ["conv2d"]),
        (lambda m, x: m.layer((x - m.b) / m.g), nn.Conv2d(4, 6, 3, padding=1), ["sub_constant", "conv2d"]),
        (lambda m, x: m.layer(x / 255.0), nn.Conv2d(4, 6, 3, padding=1, groups=2), ["conv2d"]),
        (lambda m, x: m.layer(m.b - x * m.g), nn.Conv2d(4, 8, 3, groups=4), ["conv2d"]),
        (lambda m, x: (y := x * m.g) + m.layer(y), nn.Conv2d(4, 4, 1), ["mul_constant", "conv2d", "add"]),
        (lambda m, x: m.layer(y := x * m.g) + m.layer(y), nn.Conv2d(4, 4, 1), ["conv2d", "conv2d", "add"]),
        (lambda m, x: m.layer((F.relu(x) * m.g + m.b).mean((2, 3))), nn.Linear(4, 5), None),
        (lambda m, x: m.layer(x.mean((2, 3)) * m.g.flatten() + m.b.flatten()), nn.Linear(4, 5),
         ["mean_over_dims", "linear"]),
    ],
)
def test_before_a_layer_it_is_the_layers_own_where_no_border_is_shifted(form, layer, expected):
    captured, x = nets.captured_of(Affine(form, layer), 4, 8, 8)
    graph = captured.graph
    canonicalize(graph)
    before = nets.run(graph, x)
    fold_affine(graph)
    torch.testing.assert_close(nets.run(graph, x), before, rtol=1e-5, atol=1e-5)
    assert expected is None or nets.operators(graph) == expected
    assert not fold_affine(graph)


def test_a_layer_that_something_else_reads_stays_as_it_is():
    model = Affine(lambda m, x: m.last((y := m.layer(x)) + y * m.g), nn.Conv2d(3, 4, 1))
    model.last = nn.Conv2d(4, 4, 1)
    assert nets.operators(folded(model)) == ["conv2d", "conv2d", "add", "conv2d"]


def test_around_a_batch_norm_everything_folds_and_the_norm_is_remembered():
    """y = 2 * norm: the statistics that methods align are those before the norm, through the factor after it."""
    model = Affine(lambda m, x: m.norm(m.layer(x) * m.g) * 2.0 + m.b, nn.Conv2d(3, 4, 1))
    model.norm = nn.BatchNorm2d(4)
    model.norm.running_mean.normal_()
    graph = folded(model.eval())
    assert fold_batchnorm(graph) and fold_affine(graph)
    assert nets.operators(graph) == ["conv2d"]
    norm = nets.find(graph, "conv2d").meta["batch_norm"]
    wanted = 2.0 * model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
    torch.testing.assert_close(norm.factor, wanted.detach())
    torch.testing.assert_close(norm.beta, (2.0 * model.norm.bias).detach() + B.flatten())


@pytest.mark.parametrize("recipe", ["mse_w8a8", "nearest_w4a4"])
def test_a_norm_by_hand_runs_in_integers_where_nothing_runs_in_float(recipe):
    model = Affine(lambda m, x: m.head(F.relu(m.layer(x) * m.g + m.b).mean((2, 3))), nn.Conv2d(3, 4, 3, padding=1))
    model.head = nn.Linear(4, 5)
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    reference, _ = tiny.frozen_reference(C["generic"], recipe, model.eval(), images)
    wanted, got = model(images).double(), reference.evaluate(images)
    noise = float((wanted - got).square().sum() / wanted.square().sum())
    assert noise < (1e-3 if recipe == "mse_w8a8" else 0.1)

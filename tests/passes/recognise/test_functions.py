"""Functions in parts take their names, in every order of the parts; what differs does not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from isobit.pipeline.graph.nodes import bound_args
from tests.examples import nets
from tests.passes.recognise.recognised import names, recognised

ROOT = math.sqrt(2 / math.pi)
FORMS = {
    "hardswish": [
        lambda m, x: x * F.relu6(x + 3) / 6,
        lambda m, x: x * (F.relu6(x + 3) / 6),
        lambda m, x: x * F.relu6(x + m.three) * (1 / 6),
        lambda m, x: (1 / 6) * (torch.clamp(m.three + x, 0, 6) * x),
        lambda m, x: torch.clamp(x + 3, min=0).clamp(max=6).div(m.six) * x,
        lambda m, x: torch.minimum(torch.maximum(x + m.three, m.zero), m.six) * x / m.six,
        lambda m, x: F.hardsigmoid(x) * x,
        lambda m, x: torch.clamp(0.16666667 * x + 0.5, 0, 1) * x,
    ],
    "hardsigmoid": [
        lambda m, x: F.relu6(x + 3) / 6,
        lambda m, x: torch.clamp(x / 6 + 0.5, 0.0, 1.0),
        lambda m, x: F.relu6(x.add(m.three)).mul(1 / 6),
    ],
    "silu": [
        lambda m, x: x * torch.sigmoid(x),
        lambda m, x: x / (1 + torch.exp(-x)),
        lambda m, x: x * (1 / (m.one + torch.exp(x.neg()))),
    ],
    "gelu": [
        lambda m, x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        lambda m, x: x * (torch.erf(x * 0.70710677) + m.one) * m.half_,
        lambda m, x: x * (0.5 * torch.erf(x / 1.4142135) + 0.5),
        lambda m, x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3)))),
        lambda m, x: 0.5 * x * (1 + torch.tanh(0.7978846 * x * (1 + 0.044715 * x * x))),
        lambda m, x: 0.5 * (x * (1 + torch.tanh((0.044715 * (x * x * x) + x) * ROOT))),
    ],
    "mish": [
        lambda m, x: x * torch.tanh(F.softplus(x)),
        lambda m, x: x * torch.tanh(torch.log(torch.exp(x) + 1)),
        lambda m, x: torch.log1p(torch.exp(x)).tanh() * x,
    ],
    "softplus": [lambda m, x: torch.log(1 + torch.exp(x))],
    "sigmoid": [lambda m, x: 1 / (1 + torch.exp(-x)), lambda m, x: 0.5 * torch.tanh(0.5 * x) + 0.5],
    "tanh": [lambda m, x: 2 * torch.sigmoid(2 * x) - 1],
}
CASES = [(name, form) for name, forms in FORMS.items() for form in forms]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_form_is_found(name, form):
    assert names(form) == [name]


@pytest.mark.parametrize(("form", "approximate"), [(FORMS["gelu"][0], "none"), (FORMS["gelu"][3], "tanh")])
def test_both_gelus_are_told_apart(form, approximate):
    assert bound_args(nets.find(recognised(form), "gelu"))["approximate"] == approximate


@pytest.mark.parametrize("form", [
    lambda m, x: x * F.relu6(x + 3) / 6.001,
    lambda m, x: x * torch.clamp(x + 3, 0, 5.99) / 6,
    lambda m, x: x * torch.sigmoid(1.702 * x),
    lambda m, x: x * torch.clamp(0.2 * x + 0.5, 0, 1),
    lambda m, x: x * F.relu6(x + m.g.reshape(1, 4, 1, 1)) / 6,
])
def test_what_differs_stays_in_parts(form):
    found = names(form)
    assert "mul" in found and not set(found) & set(FORMS) - {"sigmoid"}


def test_a_value_that_is_read_elsewhere_stays():
    found = names(lambda m, x: (y := F.relu6(x + 3)) * x / 6 + y.sum(1, keepdim=True))
    assert "hardswish" not in found


def test_a_name_alone_changes_nothing():
    assert names(lambda m, x: F.silu(F.gelu(x)) + F.relu(x)) == ["gelu", "silu", "relu", "add"]


def test_functions_after_each_other_and_of_sums():
    assert names(lambda m, x: (lambda y: y * F.relu6(y + 3) / 6)(x * torch.sigmoid(x) + x.flip(3))) == [
        "silu", "flip", "add", "hardswish"]


def test_a_constant_tensor_is_no_part_of_a_run():
    found = names(lambda m, x: (m.g.reshape(1, 4, 1, 1) - torch.exp(x)) * 8)
    assert found == ["exp", "sub", "mul_constant"]

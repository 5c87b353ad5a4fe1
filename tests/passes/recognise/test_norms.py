"""Norms in parts, in the forms that exporters and people write."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from isobit.pipeline.graph.nodes import bound_args
from tests.examples import nets
from tests.passes.recognise.recognised import names, recognised


def parts(x, axes, eps=1e-5):
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + eps)


def twice(x, axes):
    """The difference is written a second time."""
    mean = x.mean(axes, keepdim=True)
    return (x - mean) * torch.rsqrt(torch.pow(x - mean, 2).mean(axes, keepdim=True) + 1e-6)


def of_squares(x, axes):
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.pow((x * x).mean(axes, keepdim=True) - mean * mean + 1e-3, 0.5)


def of_variance(x, axes):
    return (1 / torch.sqrt(x.var(axes, keepdim=True, unbiased=False) + 1e-5)) * (x - x.mean(axes, keepdim=True))


@pytest.mark.parametrize("form", [parts, twice, of_squares, of_variance])
@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((4, 6, 5), -1, ["layer_norm"]),
        ((7, 5), -1, ["layer_norm"]),
        ((5,), 1, ["layer_norm"]),
        ((4, 6, 5), 1, ["permute", "layer_norm", "permute"]),
        ((4, 6, 5), (2, 3), ["group_norm"]),
        ((4, 6, 5), (1, 2, 3), ["layer_norm"]),
        ((4, 6, 5), (1, 3), None),
    ],
)
def test_over_axes(form, shape, axes, expected):
    found = names(lambda m, x: form(x, axes), *shape)
    assert found == expected if expected is not None else not {"layer_norm", "group_norm"} & set(found)


@pytest.mark.parametrize(
    ("form", "shape", "expected"),
    [
        (lambda m, x: parts(x, -1) * m.g + m.b, (7, 4), ["layer_norm"]),
        (lambda m, x: m.b + m.g * parts(x, -1), (7, 4), ["layer_norm"]),
        (lambda m, x: parts(x, -1) * 2.0 - m.b, (7, 4), ["layer_norm"]),
        (lambda m, x: F.layer_norm(x, (4,), m.g, m.b) * m.g + m.b, (7, 4), ["layer_norm"]),
        (lambda m, x: parts(x, 1) * m.g[:, None, None] + m.b[:, None, None], (4, 6, 5),
         ["permute", "layer_norm", "permute"]),
        (lambda m, x: parts(x, (2, 3)) * m.g[:, None, None] + m.b[:, None, None], (4, 6, 5), ["group_norm"]),
        (lambda m, x: F.instance_norm(x, weight=m.g, bias=m.b), (4, 6, 5), ["group_norm"]),
        (lambda m, x: parts(x, (2, 3)) * m.v, (4, 6, 5), ["group_norm", "mul_parameter"]),
        (lambda m, x: (y := parts(x, -1)) * m.g + y, (7, 4), ["layer_norm", "mul_parameter", "add"]),
    ],
)
def test_factors_and_shifts_are_the_norms_own(form, shape, expected):
    assert names(form, *shape) == expected


@pytest.mark.parametrize(
    "form",
    [
        lambda m, x: F.instance_norm(x.reshape(-1, 2, 60), weight=torch.ones(2), bias=torch.zeros(2)),
        lambda m, x: F.instance_norm(x.reshape(-1, 2, 60)),
        lambda m, x: parts(x.reshape(-1, 2, 60), -1),
        lambda m, x: parts(x.reshape(-1, 2, 2, 6, 5), (2, 3, 4)),
    ],
)
def test_groups_between_two_reshapes(form):
    graph = recognised(lambda m, x: form(m, x).reshape(-1, 4, 6, 5) * m.g[:, None, None] + m.b[:, None, None])
    assert nets.operators(graph) == ["group_norm"]
    args = bound_args(nets.find(graph, "group_norm"))
    assert (args["num_groups"], args["eps"]) == (2, 1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5),  # of a sample
        lambda x: (x - x.mean(-1, keepdim=True)) / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5),
        lambda x: (x - x.mean(2, keepdim=True)) / torch.sqrt(x.var(3, keepdim=True, unbiased=False) + 1e-5),
        lambda x: torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) / (x - x.mean(-1, keepdim=True) + 9),
    ],
)
def test_what_is_no_norm_stays(form):
    assert "layer_norm" not in names(lambda m, x: form(x))

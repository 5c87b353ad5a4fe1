"""Every other name becomes its operator, every operator that others say becomes those; numbers stay to the bit."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from isobit.passes.aliases import SAME, index_of
from isobit.passes.canonicalize import canonicalize
from isobit.pipeline.graph.dialect import CANONICAL
from tests.examples import nets
from tests.passes.test_fold_batchnorm import Wrapped

aten = torch.ops.aten
# name -> (function of x [N, 4, 6, 5], what is left)
FORMS = {
    "clip": (lambda x: torch.clip(x, 0, 6), ["hardtanh"]),
    "clip from below": (lambda x: torch.clip(x, min=-0.5), ["hardtanh"]),
    "clamp from above": (lambda x: x.clamp(max=0.5), ["hardtanh"]),
    "clamp_max": (lambda x: torch.clamp_max(x, 0.5), ["hardtanh"]),
    "clamp_min of 0": (lambda x: torch.clamp_min(x, 0), ["relu"]),
    "clip_": (lambda x: (x + x).clip_(0, 6), ["add", "hardtanh"]),
    "relu6": (F.relu6, ["hardtanh"]),
    "hardtanh_": (lambda x: F.hardtanh(x + x, 0, 2, inplace=True), ["add", "hardtanh"]),
    "threshold": (lambda x: F.threshold(x, 0, 0), ["relu"]),
    "multiply, subtract": (lambda x: torch.multiply(x, torch.subtract(x, x)), ["sub", "mul"]),
    "divide, negative": (lambda x: torch.divide(torch.negative(x), x), ["neg", "div"]),
    "true_divide, absolute": (lambda x: torch.true_divide(torch.absolute(x), x), ["abs", "div"]),
    "square": (lambda x: x.square() + x**2, ["mul", "mul", "add"]),
    "concat": (lambda x: torch.concatenate([torch.concat([x, x], 1), x], 1), ["cat", "cat"]),
    "hstack": (lambda x: torch.hstack([x, x]), ["cat"]),
    "stack": (lambda x: torch.stack([x, x], 1), ["view", "view", "cat"]),
    "swapaxes": (lambda x: x.swapaxes(2, 3), ["permute"]),
    "swapdims": (lambda x: x.swapdims(-1, 1), ["permute"]),
    "movedim": (lambda x: x.movedim(1, 3), ["permute"]),
    "moveaxis": (lambda x: torch.moveaxis(x, (1, 2), (3, 1)), ["permute"]),
    "mT": (lambda x: x.mT, ["permute"]),
    "adjoint": (lambda x: x.adjoint(), ["permute"]),
    "two that undo each other": (lambda x: x.movedim(1, 3).moveaxis(3, 1), ["permute", "permute"]),
    "narrow": (lambda x: x.narrow(1, 1, 2), ["slice"]),
    "narrow from the end": (lambda x: x.narrow(1, -3, 2), ["slice"]),
    "select": (lambda x: x.select(1, -1) + x[:, 0], ["slice", "view", "slice", "view", "add"]),
    "unbind": (lambda x: x.unbind(2)[4], ["slice", "view"]),
    "tensor_split": (lambda x: x.tensor_split(3, 2)[1], ["slice"]),
    "tensor_split at places": (lambda x: x.tensor_split((1, 3), 1)[2], ["slice"]),
    "hsplit": (lambda x: x.hsplit(2)[1], ["slice"]),
    "dsplit": (lambda x: x.dsplit((2,))[1], ["slice"]),
    "ravel and back": (lambda x: x.flatten(2).unflatten(2, (6, 5)).view_as(x), ["view", "view"]),
    "expand to the same": (lambda x: (x + x).expand_as(x), ["add"]),
    "amax": (lambda x: x.amax((2, 3)), ["max_pool2d", "view"]),
    "amax with dimensions kept": (lambda x: x.amax((-1, -2), keepdim=True), ["max_pool2d"]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 1), ["max_pool2d"]),
    "no bounds of a map": (lambda x: x.amax(1), ["amax"]),
    "another power": (lambda x: x**3, ["pow"]),
    "another threshold": (lambda x: F.threshold(x, 0.5, 0), ["threshold"]),
    "a wider expansion": (lambda x: x[:, :1].expand(-1, 4, -1, -1), ["slice", "expand"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, wanted = FORMS[form]
    captured, x = nets.captured_of(Wrapped(lambda _, x: function(x)), 4, 6, 5)
    before = nets.run(captured.graph, x)
    canonicalize(captured.graph)
    assert torch.equal(nets.run(captured.graph, x), before)
    assert nets.operators(captured.graph) == wanted
    assert not canonicalize(captured.graph)


def test_names_stand_for_operators_that_exist_and_take_the_same():
    for alias, name in SAME.items():
        for overload in getattr(aten, alias).overloads():
            other = getattr(getattr(aten, name), overload, None)
            if other is not None:
                left, right = (o._schema.arguments for o in (getattr(getattr(aten, alias), overload), other))
                assert [(a.name, a.type) for a in left] == [(a.name, a.type) for a in right], alias
    assert not CANONICAL & SAME.keys()


def test_a_piece_is_one_entry_of_a_tuple():
    graph = fx.Graph()
    source = graph.placeholder("x")
    assert index_of(graph.call_function(operator.getitem, (source, 2))) == 2
    with pytest.raises(TypeError, match="not one entry"):
        index_of(graph.call_function(operator.getitem, (source, slice(1, 2))))

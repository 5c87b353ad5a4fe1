"""Margins of float values: they hold what another order of adding up gives, and what lies outside them is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from isobit.backends.execution import integer, margins
from isobit.backends.execution.margins import margin_of
from isobit.backends.execution.ties import call
from isobit.backends.onnx.arithmetic import KERNELS, logits
from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare
from isobit.pipeline.capture.sample_layout import META, Samples
from isobit.pipeline.graph.nodes import get_attribute, op_name
from isobit.pipeline.proof.counts import BoundaryCount
from tests.examples.nets import captured_of
from tests.examples.tiny import frozen_reference
from tests.passes.plans import Call

aten = torch.ops.aten
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 6, 6, generator=GENERATOR)
OFF = 1e-3 * torch.rand(2, 3, 6, 6, generator=GENERATOR)


def margin(function, x=X, given=OFF):
    """The margin of what `function` makes of `x`, whose margin is `given` (None: exact), and the value."""
    graph = prepare(captured_of(Call(lambda m, x: function(x)).eval(), 3, 6, 6)[0].graph)
    values, known = {}, {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = x
            known |= {} if given is None else {node: given}
        elif node.op == "get_attr":
            values[node] = get_attribute(graph, node)
        elif node.op == "call_function":
            values[node] = call(node, values.__getitem__)
            found = margin_of(node, values.__getitem__, known, values[node])
            known |= {} if found is None else {node: found}
    [last] = node.all_input_nodes
    return known.get(last), values[last]


@pytest.mark.parametrize("function", [
    lambda x: torch.log(x.square() + 0.01), lambda x: torch.sqrt(x.abs() + 0.1), lambda x: 1 / (x.abs() + 0.5),
    lambda x: x * torch.sigmoid(x), torch.tanh, torch.exp, lambda x: x.pow(3.0), lambda x: x / (x.abs() + 1.0),
    lambda x: x - x.amin((1, 2, 3), keepdim=True), lambda x: x - x.mean((2, 3), keepdim=True), F.gelu,
    lambda x: torch.softmax(3 * x, 1), lambda x: torch.log_softmax(3 * x, 1), lambda x: x.sum(3),
    lambda x: torch.cat([x, x.flip(2)], 1), lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: F.max_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, 2), lambda x: torch.cumsum(x, 1), lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
    lambda x: F.layer_norm(x, (6,)), lambda x: F.layer_norm(x, (6, 6), torch.full((6, 6), 3.0).to(x.dtype)),
])  # fmt: skip
def test_no_value_leaves_its_margin_while_the_operands_keep_to_theirs(function):
    found, value = margin(function)
    assert found.shape == value.shape
    changes = []
    for seed in range(40):
        sign = torch.randn(X.shape, generator=torch.Generator().manual_seed(seed)).sign().double()
        changes.append((function(X.double() + sign * OFF) - function(X.double())).abs())
    largest = torch.stack(changes).amax(0)
    assert bool((largest <= 1.001 * found + 1e-6).all())
    assert float(found.mean()) < 20 * float(largest.mean()) + 1e-5


def test_a_norm_of_equal_numbers_is_what_the_rounding_of_their_mean_leaves():
    exact, value = margin(lambda x: F.layer_norm(x, (6,)), torch.full_like(X, 0.37), None)
    assert 1e-6 < float(exact.min()) == float(exact.max()) < 1e-3 and bool((value.abs() <= exact).all())
    equal = torch.full_like(X, 160920.5)
    one_by_one = equal[0].numpy().ravel().cumsum(dtype="float32")[-1] / np.float32(108)
    exact, value = margin(lambda x: F.layer_norm(x.flatten(1), (108,)), equal, None)
    left = abs(float(one_by_one) - 160920.5)
    assert left > 13 * margins.LAST_PLACE * 160920.5 and left / 1e-5**0.5 <= float(exact.max())
    exact, value = margin(lambda x: F.layer_norm(x, (6,)), X, None)
    assert float(exact.max()) < 1e-4 and float(value.abs().max()) > 1


def test_what_may_be_0_has_any_logarithm():
    """Found by seed 43921: GELU of -6 is 1e-9 in one library and 0 in the other."""
    small, off = torch.full_like(X, 4e-10), torch.full_like(X, 1e-6)
    found, value = margin(lambda x: torch.log2(x.abs().clamp(min=1e-38)), small, off)
    assert bool((found > 90).all()) and bool((value > -32).all())


@pytest.mark.parametrize("function", [torch.ceil, torch.sign, torch.floor, lambda x: x.pow(0.01)])
def test_what_is_exactly_0_is_not_next_to_it(function):
    zeros = torch.zeros_like(X)
    found, _ = margin(lambda x: function(x.relu()), -X.abs() - 1, zeros + 1e-3)
    assert float(found.max()) <= 1e-6
    found, _ = margin(lambda x: function(x.relu()), zeros, zeros + 1e-3)  # and what may be off may be
    assert float(found.max()) > 1e-4 or function is torch.floor


def test_what_float32_does_not_hold_is_no_exact_value():
    found, value = margin(lambda x: 10 * torch.reciprocal(x), torch.full_like(X, 1e-9), torch.full_like(X, 1e-8))
    assert bool((found > 1e11).all()) and bool((value < 1.1e10).all())


@pytest.mark.parametrize("function", [torch.sin, torch.cos])
def test_no_end_of_a_wave_bounds_what_lies_between(function):
    found, value = margin(function, X, torch.full_like(X, 2 * torch.pi))
    assert bool((found >= 2).all()) and bool((found < 2.001).all()) and bool((value.abs() <= 1).all())


def test_a_logarithm_makes_a_relative_error_of_the_margin():
    found, _ = margin(lambda x: torch.log(x.abs() + 1e-30), torch.full_like(X, 1e-3), torch.full_like(X, 1e-5))
    assert found.flatten().tolist() == pytest.approx([0.01] * X.numel(), rel=0.05)


@pytest.mark.parametrize("function", [
    lambda x, w: F.conv2d(x, w.reshape(2, 3, 6, 6)), lambda x, w: F.linear(x.flatten(1), w),
    lambda x, w: F.conv_transpose2d(x, w.reshape(3, 8, 3, 3)),
])
def test_a_layer_s_roundings_are_within_its_margin_and_add_up_as_squares(function):
    weight = torch.randn(2, 108, generator=GENERATOR)
    exact, value = margin(lambda x: function(x, weight), X, None)
    error = (value - function(X.double(), weight.double())).abs()
    assert bool((error <= exact).all()) and float((2 * error <= exact).double().mean()) > 0.99
    assert float(exact.max()) < 100 * float(error.max())
    found, _ = margin(lambda x: function(x, weight), X, OFF)
    expected = torch.sqrt(function(OFF**2, weight**2) + 0 * found)
    assert torch.allclose(found, expected, rtol=0.01)


def test_a_product_of_two_tensors_takes_both_margins():
    found, _ = margin(lambda x: torch.matmul(x, x.transpose(2, 3)))
    both = (OFF**2 @ (X**2).transpose(2, 3) + X**2 @ (OFF**2).transpose(2, 3)).sqrt()
    assert torch.allclose(found, both, rtol=0.01)


def test_a_product_of_one_tensor_with_itself_takes_its_margin_in_both_places():
    found, _ = margin(lambda x: torch.matmul(x, x))
    assert torch.allclose(found, (OFF**2 @ X**2 + X**2 @ OFF**2).sqrt(), rtol=0.01)


@pytest.mark.parametrize(("function", "largest"), [
    (lambda x: torch.add(x, 1.0 - x, alpha=0.9999999), 1e4), (lambda x: torch.sub(x, x + 1.0, alpha=1.0000001), 1e4),
    (lambda x: torch.rsub(x, x + 1.0, alpha=1.0000001), 1e4),
    (lambda x: F.conv2d(x, 1e-6 * torch.ones(1, 3, 1, 1).to(x), torch.tensor([1e4]).to(x)) - x, 1e4),
])  # fmt: skip
def test_what_cancels_out_has_been_rounded_before(function, largest):
    # One unit of what is scaled, and one of what is added to it.
    found, value = margin(function, largest + X, None)
    error = (value - function((largest + X).double())).abs()
    assert float(value.abs().max()) < 8 and float(error.max()) > 1e-4
    assert bool((error <= found).all()) and float(found.max()) < 6 * margins.LAST_PLACE * largest


# --- infinities -----------------------------------------------------------------------------------------------------

POLE = X.clone().index_fill_(3, torch.tensor(2), 0.0)


@pytest.mark.parametrize("function", [
    lambda x: 1 / x, lambda x: F.softplus(1 / x.abs()), lambda x: torch.clamp(1 / x, -4, 4), lambda x: (1 / x).sum(3),
    lambda x: F.gelu((1 / x.abs()).neg().clamp(max=2.0)), lambda x: torch.softmax(-1 / x.abs(), 3),
    lambda x: torch.softmax(torch.tanh(-1 / x.abs()), 3), lambda x: torch.log_softmax(-1 / x.abs(), 3),
    lambda x: torch.cumsum(1 / x.abs(), 1), lambda x: torch.exp(1e4 * x),
    lambda x: F.conv2d((1 / x.abs()), torch.ones(1, 3, 1, 1)),
])  # fmt: skip
def test_an_infinite_value_has_no_margin_and_makes_no_other_infinite(function):
    for given in (None, torch.where(POLE == 0, 0.0, 1e-6)):
        found, value = margin(function, POLE, given)
        assert bool(found.isfinite().all()) and bool((found[value.isinf()] == 0).all())
        sizes = torch.where(value.isfinite(), value.abs(), 0.0)
        assert float(found.max()) <= 2e-2 * float(sizes.max()) + 1e-3


def test_a_masked_softmax_has_the_margins_of_what_is_not_masked():
    mask = torch.triu(torch.full((6, 6), -torch.inf), 1)
    found, _ = margin(lambda x: torch.softmax(x + mask, 3))
    assert float(found[mask.isinf().expand_as(found)].max()) <= margins.APPROXIMATED
    alone, _ = margin(lambda x: torch.softmax(x[..., :3], 3))
    assert torch.allclose(found[:, :, 2, :3], alone[:, :, 2], rtol=1e-3, atol=1e-6)


def test_the_largest_of_a_sample_is_its_largest_finite_magnitude():
    values = torch.tensor([[1.0, -torch.inf, -3.0], [torch.inf, -torch.inf, torch.inf]])
    assert margins.largest_of_samples(values).tolist() == [[3.0] * 3, [0.0] * 3]
    assert margins.largest_of_samples(values[0]).tolist() == [1.0, 0.0, 3.0]
    assert margins.largest_of_samples(torch.tensor(-2.0)).tolist() == 2.0


def test_the_largest_of_a_sample_is_sought_where_the_sample_lies():
    graph = fx.Graph()
    node = graph.call_function(aten.tanh.default, (graph.placeholder("x"),))
    node.meta[META] = Samples(1, 1, 1)  # [rows, N]
    values = torch.tensor([[0.5, 0.01], [0.1, 0.02]])
    found = margin_of(node, lambda n: values, {}, values)
    assert torch.equal(found, margins.APPROXIMATED * torch.tensor([[0.5, 0.02]]).expand(2, 2))


# --- tables ---------------------------------------------------------------------------------------------------------


def named(target, *args, **kwargs):
    """The name of a call in which x and y stand for values and w for a constant, all [N, 4, 6, 6]."""
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) for name in ("x", "y")} | {"w": graph.get_attr("w")}
    for node in nodes.values():
        node.meta["shape"] = (None, 4, 6, 6)
    nodes["v"] = graph.placeholder("v")
    nodes["v"].meta["shape"] = (6,)
    taken = tuple(nodes.get(arg, arg) if isinstance(arg, str) else arg for arg in args)
    node = graph.call_function(target, taken, kwargs)
    node.meta["shape"] = (None, 4, 6, 6)
    return op_name(node)


def test_every_name_of_the_tables_is_one_that_a_call_can_have():
    pairs = [aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.mul.Tensor, aten.div.Tensor]
    weighted = [aten.conv2d.default, aten.linear.default]
    possible = {
        *(named(pair, "x", other) for pair in pairs for other in ("y", "w")),
        *(named(pair, "x", "y", alpha=2) for pair in pairs[:3]),
        *(named(layer, "x", weight) for layer in weighted for weight in ("y", "w")),
        *(named(aten.matmul.default, "x", other) for other in ("y", "w", "v")),
        *(named(aten.mean.dim, "x", [dim, 3], True) for dim in (1, 2)),
        named(aten.where.self, "x", "y", "x"), named(aten.pow.Tensor_Tensor, "x", "y"),
        named(aten.cat.default, ["x"]), named(aten.stack.default, ["x"]),
        *(named(getattr(aten, name).default, "x", "y") for name in (
            "maximum", "minimum", "max_pool2d", "amax", "amin", "bmm", "conv1d", "cumsum", "avg_pool2d",
            "adaptive_avg_pool2d", "sum", "clamp",
        )),
        named(aten.conv_transpose2d.input, "x", "w"), named(aten.softmax.int, "x", 1),
        named(aten.log_softmax.int, "x", 1),
    }
    listed = margins.ELEMENTWISE | margins.ORDERS | margins.LAYERS | margins.PRODUCTS | margins.AVERAGES
    assert (listed | margins.SOFTMAXES) - possible == set()
    assert {"exp", "neg", "reciprocal", "rsqrt", "sqrt", "sub_constant", "rsub_constant"} <= margins.ROUNDED_IN_PLACE
    assert {"sigmoid", "log", "tanh"}.isdisjoint(margins.ROUNDED_IN_PLACE)


def test_what_is_moved_alone_stays_exact_and_what_is_not_known_hands_no_margin_on():
    assert margin(lambda x: x.flip(1).flatten(1), given=None)[0] is None
    found, value = margin(lambda x: torch.div(1000 * x, 1.5, rounding_mode="trunc"))
    assert float(found.max()) < 1e-4 * float(value.abs().max())


# --- a filter bank before a logarithm -------------------------------------------------------------------------------


class Bank(nn.Module):
    """Energies of filters that a loud constant does not pass, in logarithms; then a layer in integers."""

    def __init__(self):
        super().__init__()
        self.bank, self.last = nn.Conv2d(1, 4, (1, 33), bias=False), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.bank.weight -= self.bank.weight.mean(3, keepdim=True)

    def forward(self, x):
        decibels = torch.log(self.bank(x).square() + 1e-6)
        return self.last(decibels - decibels.amin((1, 2, 3), keepdim=True))


def frozen_bank():
    quiet = torch.randn(8, 1, 8, 96, generator=torch.Generator().manual_seed(1))
    images = 10 + quiet * torch.logspace(-4, 0, 96)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return frozen_reference(TARGETS["generic"], "minmax_w8a8", Bank().eval(), images)


def other_order(monkeypatch, reference, images):
    """Codes of the boundary from a library that adds the products of a convolution up backwards."""

    def backwards(node, value):
        if op_name(node) != "conv2d":
            return call(node, value)
        x, weight, *_ = map(value, node.all_input_nodes)
        return F.conv2d(x.flip(3), weight.flip(3)).flip(3) if weight.shape[3] > 1 else call(node, value)

    with monkeypatch.context() as patched:
        patched.setattr(integer, "call", backwards)
        execution = integer.Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
        return {name: execution.run(images)[name] for name in execution.boundaries}


def counted(execution, images, codes):
    """What is counted where a session gives `codes` of its only boundary."""
    [name], count = execution.boundaries, BoundaryCount()
    results, bounds = execution.follow(images, codes)
    count.add_bounded(*(each.numpy() for each in (results[name], codes[name], *bounds[name])))
    return count


def test_margins_explain_another_order_of_sums_before_a_logarithm_and_nothing_else(monkeypatch):
    reference, images = frozen_bank()
    execution = integer.Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    codes = other_order(monkeypatch, reference, images)
    found = counted(execution, images, codes)
    assert found.differing > 0 and found.unexplained == 0
    # Without them these codes are refused.
    with monkeypatch.context() as patched:
        patched.setattr(integer, "margin_of", lambda *given: None)
        assert counted(execution, images, codes).unexplained > 0

    [name] = execution.boundaries
    _, bounds = execution.follow(images, codes)
    low, high = bounds[name]
    settled = (low == high).flatten().nonzero().flatten().tolist()
    assert len(settled) > 0.5 * low.numel()
    for place in settled[::97]:
        planted = codes[name].clone()
        planted.view(-1)[place] ^= 1
        assert counted(execution, images, {name: planted}).unexplained == 1


def test_a_bank_that_computes_something_else_is_refused(monkeypatch):
    reference, images = frozen_bank()
    execution = integer.Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    codes = other_order(monkeypatch, reference, images * (1 + 1e-3))
    assert counted(execution, images, codes).unexplained > 100


# --- attention that does not look ahead -----------------------------------------------------------------------------


class Causal(nn.Module):
    """One attention in which what comes later is masked by -inf."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.last = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        return self.last(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True))


def test_a_mask_of_infinities_explains_the_codes_that_are_right_and_no_others():
    tokens = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        reference, tokens = frozen_reference(TARGETS["generic"], "minmax_w8a8", Causal().eval(), tokens)
    execution = integer.Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    [name] = execution.boundaries
    codes = execution.run(tokens)[name]
    assert counted(execution, tokens, {name: codes}).unexplained == 0
    low, high = execution.follow(tokens, {})[1][name]
    ahead = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1).expand_as(codes)
    assert bool((low == high)[ahead].all()) and float((low == high).double().mean()) > 0.9
    planted = codes.clone()
    planted[ahead] += 1
    assert counted(execution, tokens, {name: planted}).unexplained == int(ahead.sum())

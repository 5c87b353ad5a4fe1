"""Every operator of one tensor: its formula against torch, and from end to end on every target, a new one included."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isobit import passes
from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.program import Conv, Lookup
from isobit.backends.fixed_point.rules import integer_target, unsupported
from isobit.build import Options, compile_model
from isobit.passes.canonicalize import canonicalize
from isobit.passes.decompose import decompose
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import get_attribute, op_name, quantizer_of
from isobit.pipeline.operators.unary import UNARY, UnaryOperator, operand
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from tests.examples import nets
from tests.examples.tiny import frozen_reference

aten = torch.ops.aten
CHANNELS = 4
NO_ENDS = (-math.inf, math.inf)
SLOPES = torch.tensor([0.25, -0.5, 1.0, 0.0])
FACTORS = SLOPES.reshape(CHANNELS, 1, 1)
# Per row one call or several, each of a tensor of four channels.
CALLS = {
    "relu": [F.relu, lambda x: x.clamp(min=0)],
    "hardtanh": [lambda x: F.hardtanh(x, -0.7, 0.6), F.relu6, lambda x: x.clamp(min=-0.2), lambda x: x.clamp(max=0.5)],
    "threshold": [lambda x: F.threshold(x, 0.1, -0.3), lambda x: F.threshold(x, 0.2, 0.2)],
    "leaky_relu": [lambda x: F.leaky_relu(x, 0.2)],
    "prelu": [lambda x: F.prelu(x, SLOPES), lambda x: F.prelu(x, SLOPES[:1])],
    "elu": [lambda x: F.elu(x, 0.7), lambda x: aten.elu(x, 0.7, 1.2, 0.8)],
    "celu": [lambda x: F.celu(x, 0.6)],
    "selu": [F.selu],
    "gelu": [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    "mish": [F.mish],
    "softplus": [F.softplus, lambda x: F.softplus(x, 2.0, 1.0)],
    "silu": [F.silu],
    "sigmoid": [torch.sigmoid],
    "log_sigmoid": [F.logsigmoid],
    "hardsigmoid": [F.hardsigmoid],
    "hardswish": [F.hardswish],
    "hardshrink": [lambda x: F.hardshrink(x, 0.2)],
    "softshrink": [lambda x: F.softshrink(x, 0.2)],
    "tanh": [torch.tanh],
    "abs": [torch.abs],
    "neg": [torch.neg],
    "erf": [torch.erf],
    "sin": [torch.sin],
    "cos": [torch.cos],
    "atan": [torch.atan],
    "sign": [torch.sign],
    "floor": [torch.floor],
    "ceil": [torch.ceil],
    "exp": [torch.exp],
    "exp2": [torch.exp2],
    "expm1": [torch.expm1],
    "log": [torch.log],
    "log2": [torch.log2],
    "log10": [torch.log10],
    "log1p": [torch.log1p],
    "sqrt": [torch.sqrt],
    "rsqrt": [lambda x: torch.rsqrt(x.abs() + 0.5)],
    "reciprocal": [lambda x: torch.reciprocal(x.abs() + 1)],
    "pow": [lambda x: x**3, lambda x: x**0.7, lambda x: (x.abs() + 1) ** -1.5],
    "pow_of_number": [lambda x: 0.5**x],
    "add_constant": [lambda x: x.tanh() + 1.5, lambda x: FACTORS + x.tanh()],
    "sub_constant": [lambda x: x.tanh() - 0.2, lambda x: x.tanh() - FACTORS],
    "rsub_constant": [lambda x: 3 - x.tanh()],
    "mul_constant": [lambda x: 2.5 * x.tanh(), lambda x: FACTORS * x.tanh()],
    "div_constant": [lambda x: x.tanh() / 3, lambda x: x.tanh() / (FACTORS + 2)],
}
# Written by hand with operators of the table, on one tensor: one function each.
COMPOSED = {
    "Mish": lambda x: x * torch.tanh(F.softplus(x)),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "inverse": lambda x: 1 / (x.abs() + 1),
    "SiLU": F.silu,
    "hard-swish": F.hardswish,
    "a residual": lambda x: x + torch.tanh(x) ** 3 / 2,
    "PReLU and more": lambda x: F.prelu(x, SLOPES) * 1.5 + FACTORS,
}
# Their first factor or shift goes into a layer (`passes.fold_affine`).
FOLDED = {
    "hard-swish of other constants": lambda x: x * torch.clamp(x + 2.5, 0, 5) / 5,
    "hard-sigmoid of another slope": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "GELU by sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "GELU by erf": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
}
TOGETHER = 16  # functions of one network: torch.export takes more than twice as long for twice as many
INTEGER = integer_target("test", "any")


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Branches(nn.Module):
    """Functions of one layer, each followed by a layer of its own."""

    def __init__(self, functions) -> None:
        super().__init__()
        self.functions = functions
        self.stem, self.head = nn.Conv2d(3, CHANNELS, 3), nn.Linear(2 * len(functions), 5)
        self.after = nn.ModuleList(nn.Conv2d(CHANNELS, 2, 1) for _ in functions)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = [layer(function(x)) for layer, function in zip(self.after, self.functions, strict=True)]
        return self.head(torch.cat(found, 1).mean((2, 3)))


def branches(*functions) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Branches(functions).eval(), 1.5 * torch.randn(12, 3, 6, 6)


def build(target, folder, *functions, recipe="nearest_w4a4"):
    """The artifact of `branches`, proven; building raises where a code differs."""
    if target == "tvm":
        pytest.importorskip("tvm")
    if target == "c" and shutil.which("gcc") is None:
        pytest.skip("needs gcc (Debian: apt install gcc libc6-dev)")
    model, images = branches(*functions)
    batches = array_batches(images, None, 6, "calib", "test images")
    given = load_recipe(recipe, ["images.batch_size=6", "images.count=12"])
    built = compile_model(model, given, target, batches, batches, folder, Options())
    assert built.passed
    return built


def find(graph, name):
    return next(node for node in graph.graph.nodes if op_name(node) == name)


def test_every_row_has_a_call_here():
    assert CALLS.keys() == UNARY.keys()


@pytest.mark.parametrize("name", CALLS)
def test_formulas_are_those_of_torch(name):
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    for function in CALLS[name]:
        graph = capture(Apply(function), torch.zeros(1, CHANNELS, 1, 1)).graph
        canonicalize(graph)
        row, node = UNARY[name], find(graph, name)
        least = row.least_of(node)
        given = x[x > (0 if name == "reciprocal" else -8 if least is None else least)]
        values = {operand(node): given.repeat(1, CHANNELS, 1, 1)}
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda n, values=values, graph=graph: value_of(graph, n, values))
        wanted = node.target(*args, **kwargs)[0, :, 0].numpy()
        got = np.broadcast_to(row.values(graph, node, given.numpy()), wanted.shape)
        assert np.allclose(got, wanted, rtol=1e-12, atol=1e-12)
        assert not row.has_no_negatives(node) or wanted.min() >= 0
        assert row.refusal(node) == ""


def value_of(graph, node, values):
    return values[node] if node in values else get_attribute(graph, node).double()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["reference", "c", "tvm", "onnx", "onnx-qoperator"])
def test_every_row_runs_on_every_target(target, tmp_path):
    functions = [function for calls in CALLS.values() for function in calls]
    for start in range(0, len(functions), TOGETHER):
        build(target, tmp_path / str(start), *functions[start : start + TOGETHER])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["c", "tvm"])
def test_runs_of_rows_are_proven_as_one_table(target, tmp_path):
    build(target, tmp_path / "out", *COMPOSED.values(), *FOLDED.values())


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_computed_from_one_tensor_is_one_table(name):
    model, images = branches(COMPOSED[name])
    program = lower(frozen_reference(INTEGER, "nearest_w4a4", model, images)[0])
    first, table, last = program.steps[:3]
    assert isinstance(first, Conv) and isinstance(table, Lookup) and isinstance(last, Conv)
    assert (table.inputs, last.inputs) == ((first.output,), (table.output,))
    assert table.table.shape == ((CHANNELS, 256) if "PReLU" in name else (256,))


@pytest.mark.parametrize("function", [
    lambda x: torch.tanh(y := torch.sigmoid(x)) + y.mean((2, 3), keepdim=True),  # the middle is read elsewhere
    lambda x: torch.tanh(x) * F.max_pool2d(x, 3, 1, 1),  # another tensor of the same size
])
def test_what_others_read_or_others_enter_is_no_part_of_a_table(function):
    model, images = branches(function)
    graph = passes.quantize(capture(model, images[:1]), load_recipe("minmax_w8a8"), INTEGER).graph
    assert list(unsupported(graph, INTEGER)) == []
    assert INTEGER.runs_with(nets.find_call(graph, "tanh")) == ()


def test_a_layer_has_eight_bits_in_front_of_a_row_and_the_result_those_of_the_recipe():
    model, images = branches(F.gelu)
    graph = passes.quantize(capture(model, images[:1]), load_recipe("nearest_w4a4"), INTEGER).graph
    bits = {node.name: quantizer.spec.bits for node, quantizer in quantizers_by_operator(graph)}
    assert (bits["conv2d"], bits["gelu"]) == (8, 4)


def quantizers_by_operator(graph):
    return [(node.args[0], quantizer_of(graph, node)) for node in graph.graph.nodes
            if quantizer_of(graph, node) is not None and node.args[0].op == "call_function"]


@pytest.mark.parametrize(("function", "reason"), [
    (lambda x: x.tanh() + torch.ones(4, 4), "no integer kernel for add_parameter"),
    (lambda x: torch.tanh(x[:, :1]) * FACTORS, "parameters that repeat its operand"),
])
def test_what_is_no_function_of_one_number_is_refused_with_its_line(function, reason):
    model, images = branches(function)
    graph = passes.quantize(capture(model, images[:1]), load_recipe("minmax_w8a8"), INTEGER).graph
    found = [why for _, why in unsupported(graph, INTEGER)]
    assert any(reason in why for why in found), found


@pytest.mark.parametrize("function", [torch.log, torch.log10, torch.sqrt, torch.rsqrt, lambda x: x**0.3, torch.log1p])
def test_arguments_below_the_domain_count_as_its_least(function):
    graph = passes.prepare(capture(Apply(function), torch.zeros(1, CHANNELS, 1, 1)).graph)
    x = torch.tensor([-5.0, -1.0, 0.0, 0.5, 2.0], dtype=torch.float64).repeat(1, CHANNELS, 1, 1)
    found = graph(x)[0][0, 0, 0] if isinstance(graph(x), tuple | list) else graph(x)[0, 0, 0]
    assert torch.isfinite(found).all() and found[0] == found[1]
    assert torch.allclose(found[3:], function(x[0, 0, 0, 3:]))
    before = [node.name for node in graph.graph.nodes]
    decompose(graph)
    assert [node.name for node in graph.graph.nodes] == before


# --- a new operator: its row, and nothing else -------------------------------------------------------------------


@torch.library.custom_op("isobit_test::bent", mutates_args=())
def bent(x: Tensor, strength: float) -> Tensor:
    """A cubic."""
    return x + strength * x * x * x


@bent.register_fake
def _(x, strength):
    return torch.empty_like(x)


BENT = UnaryOperator(
    lambda x, strength: x + strength * x**3,
    lambda e, x, strength: e.call(
        "Add", [x, e.inner("Mul", [e.inner("Pow", [x, e.scalar(3.0)]), e.scalar(strength)])]),
    ("strength",),
)


def test_an_operator_without_a_row_is_refused(tmp_path):
    with pytest.raises(TargetError, match="bent"):
        build("c", tmp_path / "out", lambda x: bent(x, 0.5))


@pytest.mark.parametrize("target", ["reference", "c", "tvm", "onnx", "onnx-qoperator"])
def test_a_new_operator_is_one_row(target, tmp_path, monkeypatch):
    monkeypatch.setitem(UNARY, "bent", BENT)
    build(target, tmp_path / "out", lambda x: bent(x, 0.5), lambda x: x * torch.sigmoid(bent(x, -0.1)))


@pytest.mark.parametrize(("operator", "never"), [
    (lambda x: F.softplus(x, 2.0), True), (lambda x: F.softplus(x, -1.0), False),
    (lambda x: F.softplus(x, 1.0, -5.0), False), (lambda x: F.hardtanh(x, 0.0, 2.0), True),
    (lambda x: F.hardtanh(x, -1.0, 2.0), False),
])
def test_signs_depend_on_parameters(operator, never):
    class Called(nn.Module):
        def forward(self, x):
            return operator(x)

    graph = passes.prepare(capture(Called(), torch.zeros(1, 4, 2, 2)).graph)
    [node] = [node for node in graph.graph.nodes if op_name(node) in UNARY]
    assert UNARY[op_name(node)].has_no_negatives(node) is never
    assert not never or operator(torch.linspace(-9, 9, 999)).min() >= 0


@pytest.mark.parametrize("name", [name for name, row in UNARY.items() if row.code_ends or row.ends != NO_ENDS])
def test_beyond_its_ends_an_operator_tells_nothing_apart(name):
    row, step = UNARY[name], 1 / 255 if UNARY[name].code_ends else 0.0
    parameters = {"min_val": -0.5, "max_val": 2.0} if callable(row.ends) else {}
    low, high = row.code_ends or (row.ends(**parameters) if callable(row.ends) else row.ends)
    for end, far in ((low, low - 50.0), (high, high + 50.0)):
        if math.isfinite(end):
            at, beyond = row.formula(np.float64([end, far]), **parameters)
            assert abs(at - beyond) <= step / 2 + 1e-12


@pytest.mark.parametrize("name", [name for name, row in UNARY.items() if row.homogeneous])
def test_homogeneous_operators_hand_a_positive_factor_on(name):
    row, x = UNARY[name], np.linspace(-3, 3, 25)
    given = dict.fromkeys(row.parameters, 0.1)
    np.testing.assert_allclose(row.formula(5 * x, **given), 5 * row.formula(x, **given), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name, row in UNARY.items() if row.logarithm])
def test_a_logarithm_turns_a_factor_into_a_difference(name):
    row, x = UNARY[name], np.linspace(0.1, 3, 25)
    difference = row.formula(2 * x) - row.formula(x)
    np.testing.assert_allclose(difference, difference[0], rtol=1e-9)

"""Annotate: recipe meets target; which grid every tensor gets and why, and what is refused before any image is read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backends.onnx_qdq.target import TARGETS
from backends.reference import TARGET as PAPER
from passes import prepare
from passes.annotate import annotate
from pipeline.errors import RecipeError, TargetError
from pipeline.graph import op_name
from pipeline.grid import RangeSearch
from pipeline.policy import POLICIES
from pipeline.recipe import Override, RuleChange, load_recipe
from pipeline.target import OpRule
from tests import nets, tiny

GENERIC, VNNI = TARGETS["generic"], TARGETS["vnni"]


class Call(nn.Module):
    """A function of three convolutions (3 channels) and a classifier."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.function(self, x)


def plan(model, *settings, target=GENERIC, recipe="qdrop_w4a4", overrides=None):
    """The annotated float graph of a net's name, a module or a function."""
    if isinstance(model, str):
        captured, _ = nets.captured_net(model)
    else:
        captured, _ = nets.captured_of(model if isinstance(model, nn.Module) else Call(model), 3, 6, 6)
    chosen = load_recipe(recipe, settings)
    if overrides is not None:
        chosen = chosen.model_copy(update={"overrides": tuple(overrides), "policy": "none"})
    graph = prepare(captured.graph)
    annotate(graph, chosen, target)
    return graph


def annotations(graph):
    return {node: node.meta["quant"] for node in graph.graph.nodes if "quant" in node.meta}


def weights(graph):
    """(bits, signed, limit) of the weights, in execution order."""
    specs = [annotation.weight for annotation in annotations(graph).values() if annotation.weight is not None]
    return [(spec.grid.bits, spec.grid.signed, spec.grid.limit) for spec in specs]


def outputs(graph):
    """(operator or `placeholder`, bits, signed, symmetric) of the activation grids, in execution order."""
    found = [(node, a.output) for node, a in annotations(graph).items() if a.output is not None]
    return [(op_name(node) or node.op, s.grid.bits, s.grid.signed, s.symmetric) for node, s in found]


def out(function, *settings, **options):
    return outputs(plan(function, *settings, **options))


# --- where grids stand, and their bits ----------------------------------------------------------------------------


def test_residual_net_in_full():
    assert outputs(plan("residual")) == [
        ("placeholder", 8, False, False), ("relu", 4, False, True),
        ("relu", 4, False, True), ("conv2d", 8, False, False), ("relu", 4, False, True),
        ("relu", 4, False, True), ("conv2d", 8, False, False), ("relu", 8, False, True),
        ("mean", 8, False, True),
    ]  # fmt: skip


def test_first_and_last_layer_have_8_bits():
    assert weights(plan("residual")) == [(8, True, 64), *[(4, False, None)] * 4, (8, True, 64)]


def test_last_input_is_8_bits_through_pools_and_layout_and_nothing_else_is():
    bits = [b for name, b, _, _ in outputs(plan("residual")) if name == "relu"]
    assert bits == [4, 4, 4, 4, 8]
    graph = plan(lambda m, x: m.fc(F.relu(m.a(F.relu(m.b(x)))).mean((2, 3))))
    assert [b for _, b, _, _ in outputs(graph)] == [8, 4, 8, 8]


def test_a_linear_branch_before_a_sum_has_8_bits_an_activated_one_the_recipe_s():
    assert out(lambda m, x: m.c(F.relu(m.a(x) + F.relu(m.b(x)))), overrides=[])[1:4] == [
        ("conv2d", 8, False, False), ("relu", 4, False, True), ("relu", 4, False, True),
    ]  # fmt: skip


def test_a_linear_bottleneck_has_the_recipe_s_bits_where_a_layer_reads_it():
    assert out(lambda m, x: m.c(m.b(F.relu6(m.a(x)))), overrides=[])[1:3] == [
        ("hardtanh", 4, False, True), ("conv2d", 4, False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda m, x: m.fc(x.mean((2, 3))), None),
        (lambda m, x: F.relu(m.fc(x.mean((2, 3)))), ("relu", 8, False, True)),
        (lambda m, x: m.c(x), ("conv2d", 8, False, False)),
        (lambda m, x: F.relu(m.c(x)), ("relu", 8, False, True)),
        (lambda m, x: F.adaptive_avg_pool2d(m.c(x), 1).flatten(1), ("mean", 8, False, False)),
    ],
)
def test_network_outputs_are_8_bits_and_plain_logits_float(end, expected):
    graph = plan(lambda m, x: end(m, F.relu(m.a(x))), overrides=[])
    output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    while op_name(output) == "view":
        output = output.args[0]
    if expected is None:
        assert output.meta["quant"].output is None
    else:
        assert outputs(graph)[-1] == expected
        assert output.meta["quant"].note == "network output"


def test_an_output_that_is_also_read_inside_has_8_bits():
    target = dataclasses.replace(GENERIC, ops={k: v for k, v in GENERIC.ops.items() if k != "mul"})
    captured, _ = nets.captured_of(Call(lambda m, x: F.relu(m.b(F.relu(m.a(x))))), 3, 6, 6)
    graph = prepare(captured.graph)
    first = nets.find(graph, "relu")
    next(n for n in graph.graph.nodes if n.op == "output").args = ((first, nets.find(graph, "relu", 1)),)
    annotate(graph, load_recipe("qdrop_w4a4"), target)
    assert first.meta["quant"].output.grid.bits == 8


def test_float_operators_in_the_middle_stand_between_8_bit_grids():
    graph = plan("floats", overrides=[])
    by_name = {op_name(n) or n.op: a for n, a in annotations(graph).items()}
    assert by_name["gelu"].note == by_name["softmax"].note == "from a float operator"
    assert by_name["softmax"].output.grid.bits == by_name["layer_norm"].output.grid.bits == 8
    first = nets.find(graph, "conv2d").meta["quant"]
    assert (first.output.grid.bits, first.note) == (8, "enters a float operator")


def test_prescribed_grids_are_the_operator_s():
    graph = plan("squeeze")
    assert nets.find(graph, "hardsigmoid").meta["quant"].fixed == (1 / 255, 0)


def test_an_unread_network_input_stays_in_float():
    assert out(lambda m, x: m.a(F.gelu(x)), overrides=[])[0][0] == "gelu"


def test_papers_placement_leaves_input_branch_and_output_in_float():
    # first activation on a grid is the stem's; the branch before the sum has none
    assert [name for name, *_ in outputs(plan("residual", target=PAPER))] == ["relu"] * 5


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("name", nets.NETS)
def test_every_net_at_8_bits_on_every_target(name, target):
    graph = plan(name, recipe="minmax_w8a8", target=target)
    assert len(weights(graph)) == sum(op in ("conv2d", "linear") for op in nets.operators(graph))


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
    spec = point.meta["quant"].output
    assert spec.symmetric == (positive or symmetric == "true")
    assert spec.grid.signed == (spec.symmetric and not positive)


def test_signs_of_many_joined_paths_are_found_in_linear_time():
    def doubled(m, x):
        y = F.relu(m.a(x))
        for _ in range(60):
            y = y + y
        return m.b(y)

    assert all(symmetric for name, _, _, symmetric in out(doubled, overrides=[]) if name == "add")


# --- overrides ----------------------------------------------------------------------------------------------------


def override(where, weights=None, activations=None, output=None):
    def change(fields):
        return None if fields is None else RuleChange(**fields)

    return Override(where=where, weights=change(weights), activations=change(activations), output=change(output))


SIX = {"bits": 6}


@pytest.mark.parametrize(
    ("where", "bits"),
    [
        ("first", [6, 4, 4, 4, 4, 4]), ("last", [4, 4, 4, 4, 4, 6]), ("op:linear", [4, 4, 4, 4, 4, 6]),
        ("op:conv2d", [6, 6, 6, 6, 6, 4]), ("blocks.0", [4, 6, 6, 4, 4, 4]), ("blocks.*.conv2", [4, 4, 6, 4, 6, 4]),
        ("*", [6, 6, 6, 6, 6, 6]), ("blocks.1.conv1", [4, 4, 4, 6, 4, 4]), ("penultimate", [4, 4, 4, 4, 6, 4]),
    ],
)  # fmt: skip
def test_weights_that_overrides_select(where, bits):
    assert [b for b, _, _ in weights(plan("residual", overrides=[override(where, SIX)]))] == bits


def test_later_overrides_win_field_by_field():
    graph = plan("residual", overrides=[override("*", {"bits": 6, "symmetric": True}), override("first", {"bits": 5})])
    assert weights(graph)[:2] == [(5, True, None), (6, True, None)]


def test_activations_are_what_enters_the_layer():
    graph = plan("residual", overrides=[override("blocks.0.conv2", activations={"bits": 6, "range": "minmax"})])
    conv = nets.find(graph, "conv2d", 2)
    entering = conv.args[0].meta["quant"]
    assert (entering.output.grid.bits, entering.output.range.kind, entering.note) == (
        6, "minmax", "input of blocks.0.conv2")
    assert sorted(b for _, b, _, _ in outputs(graph)).count(6) == 1
    assert {a.output.range.kind for n, a in annotations(graph).items() if a.output and n is not conv.args[0]} == {"mse"}


def test_range_searches_reach_the_specs_with_their_parameters():
    graph = plan(
        "residual", "weights.range=mse_shrink", "weights.exponent=2.0", "activations.range=percentile",
        "activations.percentile=0.99",
        overrides=[override("first", {"range": "percentile"}, {"range": "mse", "exponent": 3.0})],
    )
    found = annotations(graph).values()
    searches = [annotation.weight.range for annotation in found if annotation.weight is not None]
    assert searches[0] == RangeSearch("percentile") and set(searches[1:]) == {RangeSearch("mse_shrink", exponent=2.0)}
    # What enters the first layer is the network's input, whose grid is the target's business.
    assert {a.output.range for a in found if a.output} == {RangeSearch("percentile", percentile=0.99)}
    graph = plan("residual", overrides=[override("blocks.0.conv2", activations={"range": "mse", "exponent": 3.0})])
    entering = nets.find(graph, "conv2d", 2).args[0]
    assert entering.meta["quant"].output.range == RangeSearch("mse", exponent=3.0)


@pytest.mark.parametrize(
    ("where", "bits"),
    [
        ("first", [6, 4, 4, 4, 4, 4]), ("blocks.0.conv1", [4, 6, 4, 4, 4, 4]), ("blocks.1.relu", [4, 4, 4, 6, 6, 6]),
        ("blocks.1", [4, 4, 4, 6, 6, 6]), ("op:add", [4, 4, 6, 4, 6, 6]), ("op:mean", [4, 4, 4, 4, 4, 6]),
    ],
)  # fmt: skip
def test_output_is_what_leaves_an_operator_behind_its_activation_and_through_pools(where, bits):
    graph = plan("residual", overrides=[override(where, output=SIX)])
    own = {n: a for n, a in annotations(graph).items() if a.output is not None and op_name(n) in ("relu", "mean")}
    assert [a.output.grid.bits for a in own.values()] == bits
    assert {a.note for a in own.values() if a.output.grid.bits == 6} == {f"output of {where}"}


def test_output_of_a_hard_swish_layer_is_behind_the_hard_swish():
    graph = plan(lambda m, x: m.b(F.hardswish(m.a(x))), overrides=[override("first", output=SIX)])
    product = nets.find(graph, "conv2d", 1).args[0]
    assert product.meta["quant"].note == "output of first" and product.meta["quant"].output.grid.bits == 6


def test_of_input_and_output_of_one_tensor_the_later_override_wins():
    into, out_of = override("blocks.0.conv2", activations=SIX), override("blocks.0.conv1", output={"bits": 5})
    for overrides, bits in (((into, out_of), 5), ((out_of, into), 6)):
        graph = plan("residual", overrides=overrides)
        assert nets.find(graph, "conv2d", 2).args[0].meta["quant"].output.grid.bits == bits


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("where", ["penultimate", "blocks.0.conv2", "last", "op:max_pool2d"])
def test_an_output_whose_bits_are_not_the_recipe_s_to_choose(target, where):
    with pytest.raises(RecipeError, match="output, but no tensor whose bits"):
        plan("residual", overrides=[override(where, output=SIX)], target=target)


def test_an_output_whose_bits_are_the_target_s_still_takes_another_range():
    graph = plan("residual", overrides=[override("penultimate", output={"range": "minmax"})])
    spec = nets.find(graph, "conv2d", 4).meta["quant"].output
    assert (spec.grid.bits, spec.range.kind) == (8, "minmax")


@pytest.mark.parametrize("where", ["layer9.*", "op:conv3d", "blocks.0.conv"])
def test_an_override_that_selects_nothing(where):
    with pytest.raises(RecipeError, match="selects nothing") as error:
        plan("residual", overrides=[override(where, SIX)])
    assert "stem.0" in error.value.allowed and "qdrop_w4a4" in error.value.where


@pytest.mark.parametrize(
    ("change", "words"),
    [(override("op:relu", SIX), "weights, but"), (override("op:relu", None, SIX), "activations, but")],
)
def test_an_override_that_could_change_nothing(change, words):
    with pytest.raises(RecipeError, match=words):
        plan("residual", overrides=[change])


# --- bit policies -------------------------------------------------------------------------------------------------


class Separable(nn.Module):
    """A DS-CNN: the layer in front of the pooling has an activation and feeds nothing but the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*nets.conv_bn(3, 6), nn.ReLU())
        self.block = nn.Sequential(*nets.conv_bn(6, 6, 3, 6), nn.ReLU(), *nets.conv_bn(6, 8, 1), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


class Bottlenecks(nn.Module):
    """A MobileNetV2: an inverted residual with a skip, then a layer of its own in front of the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*nets.conv_bn(3, 6), nn.ReLU6())
        self.block = nets.Inverted(6, 6)
        self.last = nn.Sequential(*nets.conv_bn(6, 8, 1), nn.ReLU6())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(nets.average()[0](self.last(self.block(self.stem(x)))).flatten(1))


def held_at_8_bits(graph):
    """(stem weight, stem output, last weight, everything up to the pooling that enters the classifier, all others)."""
    layers = [n for n in graph.graph.nodes if op_name(n) in ("conv2d", "linear")]
    bits = {n: a.output.grid.bits for n, a in annotations(graph).items() if a.output and n.op == "call_function"}
    activated = [n for n in bits if op_name(n) in ("relu", "hardtanh")]
    entering = {n for n in bits if op_name(n) == "mean"} | {activated[-1]}
    others = {bits[n] for n in activated[1:-1]}
    ends = [n.meta["quant"].weight.grid.bits for n in layers]
    assert set(ends[1:-1]) == {4} and len({bits[n] for n in entering}) == 1
    return ends[0] == 8, bits[activated[0]] == 8, ends[-1] == 8, bits[activated[-1]] == 8, others == {8}


POLICY_TABLE = {
    # policy: stem weight, stem output, last weight, classifier input in a residual network, in one without
    "none": (False, False, False, False, False),
    "qdrop": (True, False, True, True, True),
    "brecq": (True, True, True, False, True),
    "brecq-intended": (True, True, True, True, True),
    "captq": (True, True, True, True, True),
}


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", ["residual", Separable, Bottlenecks])
def test_T21_who_has_8_bits_under_which_policy(model, policy, target):
    graph = plan(model if isinstance(model, str) else model(), f"policy={policy}", target=target)
    *ends, in_residual, in_plain = POLICY_TABLE[policy]
    assert held_at_8_bits(graph) == (*ends, in_residual if model == "residual" else in_plain, False)


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("bits", ["w4a4", "w4a8"])
@pytest.mark.parametrize("name", nets.NETS)
def test_policy_qdrop_is_8_bits_for_weights_and_input_of_the_first_and_last_layer(name, bits, target):
    eight = {"weights": {"bits": 8, "symmetric": True}, "activations": {"bits": 8}}
    written = plan(name, recipe=f"qdrop_{bits}", overrides=[override(w, **eight) for w in ("first", "last")],
                   target=target)
    graph = plan(name, recipe=f"qdrop_{bits}", target=target)
    assert load_recipe(f"qdrop_{bits}").policy == "qdrop"
    assert by_name(graph) == by_name(written)


def by_name(graph):
    return {node.name: annotation for node, annotation in annotations(graph).items()}


def test_T26_captq_is_compared_with_qdrop_at_equal_bits():
    ours, alike, main_table = (by_name(plan("residual", *settings, recipe=recipe)) for recipe, *settings in (
        ("captq_w2a2",), ("qdrop_w2a2", "policy=captq"), ("qdrop_w2a2",)))
    assert ours == alike
    differing = [name for name in ours if ours[name] != main_table[name]]
    assert [ours[name].note for name in differing] == ["output of first"]


def test_a_recipe_s_own_override_wins_over_its_policy():
    settings = ("overrides=[{where: first, weights: {bits: 5}, output: {bits: 6}}]", "policy=captq")
    graph = plan("residual", *settings)
    assert weights(graph)[0] == (5, True, None)
    assert outputs(graph)[1] == ("relu", 6, False, True)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_may_find_nothing_where_an_own_override_may_not(policy):
    def one_layer(m, x):
        return m.fc(x.mean((2, 3)))

    assert weights(plan(one_layer, f"policy={policy}")) == [(4, False, None) if policy == "none" else (8, True, 64)]
    with pytest.raises(RecipeError, match="penultimate selects nothing"):
        plan(one_layer, overrides=[override("penultimate", output=SIX)])


# --- what the target cannot honour --------------------------------------------------------------------------------


def test_8_bit_asymmetric_weights():
    with pytest.raises(TargetError, match="zero point 0") as error:
        plan("residual", "weights.bits=8", "weights.symmetric=false", overrides=[])
    assert "layer stem.0" in error.value.where and "nets.py:" in error.value.where
    assert "7 bits or fewer" in error.value.allowed and "--target reference" in error.value.hint


def test_7_bit_asymmetric_weights_behind_8_bit_activations_on_the_generic_profile():
    with pytest.raises(TargetError, match="64") as error:
        plan("residual", "weights.bits=7", overrides=[])
    assert "--device-profile" in error.value.allowed
    assert weights(plan("residual", "weights.bits=7", overrides=[], target=VNNI))[0] == (7, False, None)
    assert weights(plan("residual", "weights.bits=6", overrides=[]))[0] == (6, False, None)


def test_wide_weights_keep_to_64_only_where_the_input_has_8_bits():
    settings = ("weights.bits=8", "weights.symmetric=true")
    assert [limit for *_, limit in weights(plan("residual", *settings))] == [64, None, None, None, None, 64]
    assert [limit for *_, limit in weights(plan("residual", *settings, "activations.bits=8"))] == [64] * 6
    assert {limit for *_, limit in weights(plan("residual", *settings, target=VNNI))} == {None}
    seven = plan("residual", "weights.bits=7", "weights.symmetric=true", "activations.bits=8", overrides=[])
    assert {limit for *_, limit in weights(seven)} == {None}


def test_the_limit_looks_through_layout():
    graph = plan("shuffle", "weights.bits=8", "weights.symmetric=true", overrides=[])
    assert [limit for *_, limit in weights(graph)][:2] == [64, None]


def test_placement_paper():
    with pytest.raises(TargetError, match="placement: paper") as error:
        plan("residual", "placement=paper")
    assert error.value.allowed == "target"
    assert annotations(plan("residual", "placement=paper", target=PAPER))


def test_nothing_to_quantize():
    with pytest.raises(TargetError, match="no convolution or linear layer"):
        plan(nn.ReLU())


def test_a_layer_that_the_target_computes_in_float_has_no_grid():
    target = dataclasses.replace(GENERIC, ops={**GENERIC.ops, "linear": OpRule("float", "none", reason="none")})
    graph = plan("residual", target=target)
    assert "quant" not in nets.find(graph, "linear").meta


def test_biases_only_where_the_target_has_integer_ones():
    for target in (GENERIC, PAPER):
        biases = {a.bias for a in annotations(plan("residual", target=target)).values() if a.weight is not None}
        assert biases == {target.quantized_bias}


def test_second_run_decides_the_same():
    graph = plan("squeeze")
    before = annotations(graph)
    annotate(graph, load_recipe("qdrop_w4a4"), GENERIC)
    assert annotations(graph) == before


# --- levels that are not uniform


def levels(model, *edits, target=GENERIC, policy="none"):
    """Name -> spec of every quantizer under codebooks and nested activations."""
    captured, _ = nets.captured_net(model) if isinstance(model, str) else nets.captured_of(model, 3, 6, 6)
    graph = prepare(captured.graph)
    annotate(graph, tiny.multibit_recipe(*edits, policy=policy), target)
    found = {}
    for node, annotation in annotations(graph).items():
        found |= {f"{node.name}_w": annotation.weight, f"{node.name}_q": annotation.output}
    return {name: spec for name, spec in found.items() if spec is not None}, annotations(graph)


def test_codebooks_lie_in_narrow_8_bit_grids_that_keep_to_the_limit_behind_8_bit_inputs():
    specs, _ = levels("residual")
    weight = [spec for name, spec in specs.items() if name.endswith("_w")]
    assert {(spec.levels, spec.bits, spec.axis, spec.symmetric) for spec in weight} == {("multibit", 2, 0, True)}
    assert [(spec.grid.qmin, spec.grid.qmax) for spec in weight[:2]] == [(-64, 64), (-127, 127)]
    specs, _ = levels("residual", target=VNNI)
    assert {spec.grid.qmax for name, spec in specs.items() if name.endswith("_w")} == {127}


def test_nested_grids_are_where_the_recipe_decides_and_uniform_ones_where_the_target_does():
    specs, _ = levels("residual")
    nested = {name for name, spec in specs.items() if spec.levels == "nested"}
    assert nested == {name for name in specs if name.startswith(("relu", "mean"))}
    assert {(specs[name].grid.qmin, specs[name].grid.qmax, specs[name].bits) for name in nested} == {(0, 105, 2)}
    assert {spec.grid.bits for name, spec in specs.items() if name.endswith("_q") and name not in nested} == {8}


def test_the_8_bit_layers_of_a_policy_are_uniform_again():
    specs, found = levels("residual", policy="brecq-intended")
    weight = [spec for name, spec in specs.items() if name.endswith("_w")]
    for spec in (weight[0], weight[-1]):
        assert (spec.levels, spec.grid.bits, spec.symmetric, spec.grid.narrow) == ("uniform", 8, True, False)
    assert all(spec.levels == "multibit" for spec in weight[1:-1])
    outputs = [annotation.output.levels for annotation in found.values() if annotation.output is not None]
    assert outputs[:2] == ["uniform", "uniform"] and outputs[-1] == "uniform" and "nested" in outputs
    # Behind an 8-bit output the codebook keeps to the limit.
    assert weight[1].grid.qmax == 64 and weight[2].grid.qmax == 127


def test_a_tensor_that_can_be_negative_stays_uniform_and_says_so():
    _, found = levels(Call(lambda net, x: net.fc(net.b(net.a(x)).relu().mean((2, 3)))))
    first = next(annotation for node, annotation in found.items() if op_name(node) == "conv2d")
    assert (first.output.levels, first.output.grid.bits) == ("uniform", 2)
    assert "can be negative" in first.note


def test_what_enters_or_leaves_a_float_operator_stays_uniform():
    _, found = levels(Call(lambda net, x: net.fc(net.b(F.gelu(net.a(x).relu())).relu().mean((2, 3)))))
    specs = [annotation.output for annotation in found.values() if annotation.output is not None]
    assert [(spec.levels, spec.grid.bits) for spec in specs] == [
        ("uniform", 8), ("uniform", 8), ("uniform", 8), ("nested", 7), ("nested", 7)]


def test_channels_that_are_not_on_axis_1_are_refused():
    def last(net, x):
        y = net.a(x).relu().permute(0, 2, 3, 1) + net.b(x).relu().permute(0, 2, 3, 1)
        return net.fc(net.c(y.permute(0, 3, 1, 2)).relu().mean((2, 3)))

    with pytest.raises(TargetError, match="on axis 3"):
        levels(Call(last))


def test_channels_are_followed_through_layout_operators():
    def shuffled(net, x):
        y = net.a(x).relu()
        y = torch.cat([y, y], 1).view(-1, 2, 3, 6, 6).transpose(1, 2).reshape(-1, 6, 6, 6)
        return net.fc((y[:, :3] + y[:, 3:]).mean((2, 3)))

    specs, _ = levels(Call(shuffled))
    assert specs["add_q"].levels == "nested"


def test_an_override_to_8_bits_is_uniform_too():
    specs, _ = levels("residual", "overrides=[{where: blocks.0.conv2, weights: {bits: 8}}]")
    assert [spec.levels for name, spec in specs.items() if name.endswith("_w")].count("uniform") == 1


# --- what only lays results out -----------------------------------------------------------------------------------


def test_each_part_of_a_concatenated_output_has_a_grid_of_its_own():
    graph = plan(lambda m, x: torch.cat([m.b(y := F.relu(m.a(x))).flatten(2), m.c(y).sigmoid().flatten(2)], 1))
    assert [(name, bits) for name, bits, _, _ in outputs(graph)[2:]] == [("conv2d", 8), ("conv2d", 8), ("sigmoid", 8)]
    assert "quant" not in nets.find(graph, "cat").meta
    assert nets.find(graph, "conv2d", 1).meta["quant"].note == "network output"


@pytest.mark.parametrize(
    ("end", "joined"),
    [
        (lambda m, x: m.c(x[:, :3]), True),
        (lambda m, x: F.max_pool2d(x, 2), True),
        (lambda m, x: torch.cat([m.c(F.avg_pool2d(x, 3)[:, 3:]), F.avg_pool2d(x, 3)], 1), True),
        (lambda m, x: torch.cat([x, F.pad(x, (0, 0, 1, 1))], 2).permute(0, 2, 3, 1)[:, 1:].flatten(1), False),
        (lambda m, x: F.gelu(x), False),
    ],
)
def test_a_concatenation_has_a_grid_only_where_integer_operators_read_it(end, joined):
    graph = plan(lambda m, x: end(m, torch.cat([m.a(x), m.b(x)], 1)), overrides=[])
    assert ("quant" in nets.find(graph, "cat").meta) is joined


def test_float_results_that_are_only_laid_out_stay_float():
    graph = plan(lambda m, x: torch.cat([m.a(x), m.b(x).softmax(1)], 1))
    assert "quant" not in nets.find(graph, "softmax").meta
    assert [name for name, *_ in outputs(graph)] == ["placeholder", "conv2d", "conv2d"]


def test_linear_heads_side_by_side_have_a_grid_each_and_one_alone_none():
    graph = plan(lambda m, x: torch.cat([m.fc(y := m.a(x).mean((2, 3))), m.fc(-y)], 1), overrides=[])
    assert [name for name, *_ in outputs(graph)].count("linear") == 2
    graph = plan(lambda m, x: m.fc(m.a(x).mean((2, 3))).view(-1, 2, 2).permute(0, 2, 1), overrides=[])
    assert "linear" not in [name for name, *_ in outputs(graph)]


# --- which layer is which -----------------------------------------------------------------------------------------


class Normed(nn.Module):
    """An image that `read` brings into the form which a small network wants."""

    def __init__(self, read, **parts) -> None:
        super().__init__()
        self.read = read
        self.one, self.two, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)
        for name, part in parts.items():
            self.register_buffer(name, part) if isinstance(part, torch.Tensor) else self.add_module(name, part)

    def forward(self, x):
        x = self.two(F.relu(self.one(self.read(self, x))))
        return self.fc(F.relu(x).mean((2, 3)))


READERS = {
    "norm": Normed(lambda m, x: m.n(x), n=nn.BatchNorm2d(3)),
    "norm_and_pad": Normed(lambda m, x: F.pad(m.n(x), (1, 1, 1, 1)), n=nn.BatchNorm2d(3)),
    "two_norms": Normed(lambda m, x: m.k(F.pad(m.n(x), (1, 1, 1, 1))), n=nn.BatchNorm2d(3), k=nn.BatchNorm2d(3)),
    "colours": Normed(lambda m, x: m.n(F.conv2d(x, m.yuv, m.shift)), n=nn.Identity(), yuv=torch.eye(3)[..., None, None],
                      shift=torch.ones(3)),
}


@pytest.mark.parametrize("policy", ["qdrop", "captq", "none"])
@pytest.mark.parametrize("name", READERS)
def test_what_normalises_the_image_is_not_the_first_layer(name, policy):
    graph = plan(READERS[name], f"policy={policy}", recipe="qdrop_w2a2")
    prepared = len(weights(graph)) - 3
    edge = 2 if policy == "none" else 8
    assert [bits for bits, _, _ in weights(graph)] == [8] * prepared + [edge, 2, edge]
    points = [(op, bits) for op, bits, _, _ in outputs(graph)]
    assert points[:1 + prepared] == [("placeholder", 8), *[("conv2d", 8)] * prepared]
    assert points[1 + prepared] == ("relu", 8 if policy == "captq" else 2)


def test_where_the_image_stays_in_float_the_normalised_one_does_too():
    assert [name for name, *_ in outputs(plan(READERS["norm"], target=PAPER))] == ["relu", "relu"]


def test_a_learned_mix_of_channels_is_the_first_layer():
    graph = plan(Normed(lambda m, x: m.n(x), n=nn.Conv2d(3, 3, 1)), recipe="qdrop_w2a2")
    assert [bits for bits, _, _ in weights(graph)] == [8, 2, 2, 8]


def test_the_bits_of_what_normalises_can_be_stated():
    graph = plan(READERS["norm"], overrides=[Override(where="n", weights=RuleChange(bits=4))])
    assert [bits for bits, _, _ in weights(graph)] == [4, 4, 4, 4]


def test_every_head_of_several_is_a_last_layer():
    graph = plan(lambda m, x: torch.cat([m.b(y := F.relu(m.a(x))), m.c(y)], 1), "policy=captq", recipe="qdrop_w2a2")
    assert [bits for bits, _, _ in weights(graph)] == [8, 8, 8]
    assert [bits for _, bits, _, _ in outputs(graph)] == [8, 8, 8, 8]


@pytest.mark.parametrize(("where", "chosen"), [("inner.2", [3]), ("inner.*", [1, 2, 3, 4]), ("c", [5]), ("fw", [6])])
def test_layers_of_one_module_are_chosen_by_name(where, chosen):
    graph = plan(nets.Functional(), overrides=[Override(where=where, weights=RuleChange(bits=3))])
    assert [index for index, (bits, _, _) in enumerate(weights(graph)) if bits == 3] == chosen


def test_a_name_that_is_nearly_right_is_corrected():
    with pytest.raises(RecipeError) as error:
        plan(nets.Functional(), overrides=[Override(where="iner.2", weights=RuleChange(bits=3))])
    assert "'inner.2'" in error.value.hint and "w0" in error.value.allowed


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu])
def test_no_grid_stands_between_a_float_operator_and_its_activation(activation):
    graph = plan(lambda m, x: m.c(activation(F.gelu(m.a(x)))), overrides=[])
    assert [name for name, *_ in outputs(graph)][1:-1] == ["conv2d", op_name(nets.find(graph, "gelu").next)]

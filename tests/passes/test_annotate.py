"""Annotate: recipe meets target; which grid every tensor gets and why, and what is refused before any image is read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.passes import prepare
from isobit.passes.annotate import annotate
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.annotation import annotation_of, kept_float
from isobit.pipeline.graph.ends.cut import find_cut
from isobit.pipeline.graph.ends.decoding import decodes
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Override
from isobit.pipeline.target import OpRule
from tests.examples import nets, tiny
from tests.passes.plans import GENERIC, Call, annotations, out, outputs, plan, weights

VNNI = TARGETS["vnni"]


# --- where grids stand, and their bits ----------------------------------------------------------------------------


def test_residual_net_in_full():
    assert outputs(plan("residual")) == [
        ("placeholder", 8, False, False), ("relu", 4, False, True),
        ("relu", 4, False, True), ("conv2d", 8, False, False), ("relu", 4, False, True),
        ("relu", 4, False, True), ("conv2d", 8, False, False), ("relu", 8, False, True),
        ("mean", 8, False, True),
    ]  # fmt: skip


def test_a_recipe_takes_what_decodes_back_into_integers():
    ends = lambda m, x: (m.a(x).sigmoid(), m.b(x))  # noqa: E731
    alone = next(node for node in plan(ends).graph.nodes if op_name(node) == "sigmoid")
    assert decodes(alone) and kept_float(alone) == "after the cut: makes scores of logits"
    forced = plan(ends, overrides=[Override(where="op:sigmoid", float=False)])
    sigmoid = next(node for node in forced.graph.nodes if op_name(node) == "sigmoid")
    assert not kept_float(sigmoid) and not decodes(sigmoid) and annotation_of(sigmoid) is not None
    assert find_cut(forced) is None


def kinds(function, **options):
    graph = plan(function, overrides=[], **options)
    return [(op_name(node) or node.op, a.kind) for node, a in annotations(graph).items() if a.output is not None]


def test_every_grid_says_its_kind():
    assert kinds(lambda m, x: m.c(F.relu(m.a(x) + F.relu(m.b(x))))) == [
        ("placeholder", "input"), ("conv2d", "inner"), ("relu", "own"), ("relu", "own"), ("conv2d", "own"),
    ]
    assert ("gelu", "float") in kinds(lambda m, x: m.b(F.gelu(m.a(x))))
    # What enters a gate has 8 bits as well, and papers quantize it.
    assert kinds(lambda m, x: m.b(F.hardswish(m.a(x))))[1:3] == [("conv2d", "own"), ("hardsigmoid", "fixed")]


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
        assert annotation_of(output).output is None
    else:
        assert outputs(graph)[-1] == expected
        assert annotation_of(output).note == "network output"


def test_an_output_that_is_also_read_inside_has_8_bits():
    target = dataclasses.replace(GENERIC, ops={k: v for k, v in GENERIC.ops.items() if k != "mul"})
    captured, _ = nets.captured_of(Call(lambda m, x: F.relu(m.b(F.relu(m.a(x))))), 3, 6, 6)
    graph = prepare(captured.graph)
    first = nets.find(graph, "relu")
    next(n for n in graph.graph.nodes if n.op == "output").args = ((first, nets.find(graph, "relu", 1)),)
    annotate(graph, load_recipe("qdrop_w4a4"), target)
    assert annotation_of(first).output.grid.bits == 8


def test_float_operators_in_the_middle_stand_between_8_bit_grids():
    graph = plan("floats", overrides=[])
    by_name = {op_name(n) or n.op: a for n, a in annotations(graph).items()}
    assert by_name["gelu"].note == by_name["softmax"].note == "from a float operator"
    assert by_name["softmax"].output.grid.bits == by_name["layer_norm"].output.grid.bits == 8
    first = annotation_of(nets.find(graph, "conv2d"))
    assert (first.output.grid.bits, first.note) == (8, "enters a float operator")


def test_prescribed_grids_are_the_operator_s():
    graph = plan("squeeze")
    assert annotation_of(nets.find(graph, "hardsigmoid")).fixed == (1 / 255, 0)


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


# --- what the target cannot honour --------------------------------------------------------------------------------


def test_8_bit_asymmetric_weights():
    with pytest.raises(TargetError, match="zero point 0") as error:
        plan("residual", "weights.bits=8", "weights.symmetric=false", overrides=[])
    assert "layer stem.0" in error.value.where and "nets.py:" in error.value.where
    assert "7 bits or fewer" in error.value.allowed and "`target=reference`" in error.value.hint


def test_7_bit_asymmetric_weights_after_8_bit_activations_on_the_generic_profile():
    with pytest.raises(TargetError, match="64") as error:
        plan("residual", "weights.bits=7", overrides=[])
    assert "`options.profile`" in error.value.allowed
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


def test_a_network_all_of_which_stays_in_float_is_refused_with_the_reason():
    with pytest.raises(TargetError, match="nothing of this network runs in integers.* 1 layer") as error:
        plan(nn.Conv2d(3, 4, 1), overrides=[Override(where="op:conv2d", float=True)])
    assert error.value.what.endswith("reason: recipe: op:conv2d") and "float: true" in error.value.hint


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


def test_codebooks_lie_in_narrow_8_bit_grids_that_keep_to_the_limit_after_8_bit_inputs():
    specs, _ = levels("residual")
    weight = [spec for name, spec in specs.items() if name.endswith("_w")]
    assert {(spec.grid.kind, spec.bits, spec.axis, spec.symmetric) for spec in weight} == {("multibit", 2, 0, True)}
    assert [(spec.grid.qmin, spec.grid.qmax) for spec in weight[:2]] == [(-64, 64), (-127, 127)]
    specs, _ = levels("residual", target=VNNI)
    assert {spec.grid.qmax for name, spec in specs.items() if name.endswith("_w")} == {127}


def test_nested_grids_are_where_the_recipe_decides_and_uniform_ones_where_the_target_does():
    specs, _ = levels("residual")
    nested = {name for name, spec in specs.items() if spec.grid.kind == "nested"}
    assert nested == {name for name in specs if name.startswith(("relu", "mean"))}
    assert {(specs[name].grid.qmin, specs[name].grid.qmax, specs[name].bits) for name in nested} == {(0, 105, 2)}
    assert {spec.grid.bits for name, spec in specs.items() if name.endswith("_q") and name not in nested} == {8}


def test_the_8_bit_layers_of_a_policy_are_uniform_again():
    specs, found = levels("residual", policy="brecq-intended")
    weight = [spec for name, spec in specs.items() if name.endswith("_w")]
    for spec in (weight[0], weight[-1]):
        assert (spec.grid.kind, spec.grid.bits, spec.symmetric, spec.grid.narrow) == ("uniform", 8, True, False)
    assert all(spec.grid.kind == "multibit" for spec in weight[1:-1])
    outputs = [annotation.output.grid.kind for annotation in found.values() if annotation.output is not None]
    assert outputs[:2] == ["uniform", "uniform"] and outputs[-1] == "uniform" and "nested" in outputs
    # After an 8-bit output the codebook keeps to the limit.
    assert weight[1].grid.qmax == 64 and weight[2].grid.qmax == 127


def test_a_tensor_that_can_be_negative_stays_uniform_and_says_so():
    _, found = levels(Call(lambda net, x: net.fc(net.b(net.a(x)).relu().mean((2, 3)))))
    first = next(annotation for node, annotation in found.items() if op_name(node) == "conv2d")
    assert (first.output.grid.kind, first.output.grid.bits) == ("uniform", 2)
    assert "can be negative" in first.note


def test_what_enters_or_leaves_a_float_operator_stays_uniform():
    _, found = levels(Call(lambda net, x: net.fc(net.b(F.gelu(net.a(x).relu())).relu().mean((2, 3)))))
    specs = [annotation.output for annotation in found.values() if annotation.output is not None]
    assert [(spec.grid.kind, spec.grid.bits) for spec in specs] == [
        ("uniform", 8), ("uniform", 8), ("uniform", 8), ("nested", 7), ("nested", 7)]


def test_channels_that_are_not_on_axis_1_are_refused():
    def last(net, x):
        y = net.a(x).relu().permute(0, 2, 3, 1) + net.b(x).relu().permute(0, 2, 3, 1)
        return net.fc(net.c(y.flip(1).permute(0, 3, 1, 2)).relu().mean((2, 3)))

    with pytest.raises(TargetError, match="on axis 3"):
        levels(Call(last))


def test_channels_are_followed_through_layout_operators():
    def shuffled(net, x):
        y = net.a(x).relu()
        y = torch.cat([y, y], 1).view(-1, 2, 3, 6, 6).transpose(1, 2).reshape(-1, 6, 6, 6)
        return net.fc((y[:, :3] + y[:, 3:]).mean((2, 3)))

    specs, _ = levels(Call(shuffled))
    assert specs["add_q"].grid.kind == "nested"


def test_an_override_to_8_bits_is_uniform_too():
    specs, _ = levels("residual", "overrides=[{where: blocks.0.conv2, weights: {bits: 8}}]")
    assert [spec.grid.kind for name, spec in specs.items() if name.endswith("_w")].count("uniform") == 1


# --- what only lays results out -----------------------------------------------------------------------------------


def test_each_part_of_a_concatenated_output_has_a_grid_of_its_own():
    graph = plan(lambda m, x: torch.cat([m.b(y := F.relu(m.a(x))).flatten(2), m.c(y).sigmoid().flatten(2)], 1))
    assert [(name, bits) for name, bits, _, _ in outputs(graph)[2:]] == [("conv2d", 8), ("conv2d", 8), ("sigmoid", 8)]
    assert annotation_of(nets.find(graph, "cat")) is None
    assert annotation_of(nets.find(graph, "conv2d", 1)).note == "network output"


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
    assert (annotation_of(nets.find(graph, "cat")) is not None) is joined


def test_float_results_that_are_only_laid_out_stay_float():
    graph = plan(lambda m, x: torch.cat([m.a(x), m.b(x).softmax(1)], 1))
    assert annotation_of(nets.find(graph, "softmax")) is None
    assert [name for name, *_ in outputs(graph)] == ["placeholder", "conv2d", "conv2d"]


def test_linear_heads_side_by_side_have_a_grid_each_and_one_alone_none():
    graph = plan(lambda m, x: torch.cat([m.fc(y := m.a(x).mean((2, 3))), m.fc(-y)], 1), overrides=[])
    assert [name for name, *_ in outputs(graph)].count("linear") == 2
    graph = plan(lambda m, x: m.fc(m.a(x).mean((2, 3))).view(-1, 2, 2).permute(0, 2, 1), overrides=[])
    assert "linear" not in [name for name, *_ in outputs(graph)]


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu])
def test_no_grid_stands_between_a_float_operator_and_its_activation(activation):
    graph = plan(lambda m, x: m.c(activation(F.gelu(m.a(x)))), overrides=[])
    assert [name for name, *_ in outputs(graph)][1:-1] == ["conv2d", op_name(nets.find(graph, "gelu").next)]

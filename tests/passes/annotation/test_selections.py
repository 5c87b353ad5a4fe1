"""Overrides and bit policies: what each selects, which of them wins, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.annotation import annotation_of, kept_float
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers, is_depthwise
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.quant.grid import RangeSearch
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.policy import POLICIES
from isobit.pipeline.recipe.schema import Override, RuleChange
from tests.examples import nets
from tests.passes.plans import GENERIC, annotations, outputs, plan, weights

VNNI = TARGETS["vnni"]


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


def test_depthwise_convolutions_are_selected_by_a_name_of_their_own():
    graph = plan("mobile", overrides=[override("op:depthwise_conv2d", SIX)])
    layers = zip(Layers(Calls(graph)), weights(graph), strict=True)
    assert {is_depthwise(layer): bits for layer, (bits, _, _) in layers} == {True: 6, False: 4}
    with pytest.raises(RecipeError, match="op:depthwise_conv2d selects nothing"):
        plan("residual", overrides=[override("op:depthwise_conv2d", SIX)])


def test_the_policy_for_depthwise_layers_holds_them_at_8_bits_and_nothing_where_there_are_none():
    graph = plan("mobile", "policy=depthwise")
    inner = list(zip(Layers(Calls(graph)), weights(graph), strict=True))[1:-1]
    assert {is_depthwise(layer): bits for layer, (bits, _, _) in inner} == {True: 8, False: 4}
    assert weights(plan("residual", "policy=depthwise")) == weights(plan("residual", "policy=captq"))


def test_later_overrides_win_field_by_field():
    graph = plan("residual", overrides=[override("*", {"bits": 6, "symmetric": True}), override("first", {"bits": 5})])
    assert weights(graph)[:2] == [(5, True, None), (6, True, None)]


def test_activations_are_what_enters_the_layer():
    graph = plan("residual", overrides=[override("blocks.0.conv2", activations={"bits": 6, "range": "minmax"})])
    conv = nets.find(graph, "conv2d", 2)
    entering = annotation_of(conv.args[0])
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
    assert annotation_of(entering).output.range == RangeSearch("mse", exponent=3.0)


@pytest.mark.parametrize(
    ("where", "bits"),
    [
        ("first", [6, 4, 4, 4, 4, 4]), ("blocks.0.conv1", [4, 6, 4, 4, 4, 4]), ("blocks.1.relu", [4, 4, 4, 6, 6, 6]),
        ("blocks.1", [4, 4, 4, 6, 6, 6]), ("op:add", [4, 4, 6, 4, 6, 6]), ("op:mean", [4, 4, 4, 4, 4, 6]),
    ],
)  # fmt: skip
def test_output_is_what_leaves_an_operator_after_its_activation_and_through_pools(where, bits):
    graph = plan("residual", overrides=[override(where, output=SIX)])
    own = {n: a for n, a in annotations(graph).items() if a.output is not None and op_name(n) in ("relu", "mean")}
    assert [a.output.grid.bits for a in own.values()] == bits
    assert {a.note for a in own.values() if a.output.grid.bits == 6} == {f"output of {where}"}


def test_output_of_a_hard_swish_layer_is_after_the_hard_swish():
    graph = plan(lambda m, x: m.b(F.hardswish(m.a(x))), overrides=[override("first", output=SIX)])
    product = nets.find(graph, "conv2d", 1).args[0]
    assert annotation_of(product).note == "output of first" and annotation_of(product).output.grid.bits == 6


def test_of_input_and_output_of_one_tensor_the_later_override_wins():
    into, out_of = override("blocks.0.conv2", activations=SIX), override("blocks.0.conv1", output={"bits": 5})
    for overrides, bits in (((into, out_of), 5), ((out_of, into), 6)):
        graph = plan("residual", overrides=overrides)
        assert annotation_of(nets.find(graph, "conv2d", 2).args[0]).output.grid.bits == bits


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("where", ["penultimate", "blocks.0.conv2", "last", "op:max_pool2d"])
def test_an_output_whose_bits_are_not_the_recipe_s_to_choose(target, where):
    with pytest.raises(RecipeError, match="output, but no tensor whose bits"):
        plan("residual", overrides=[override(where, output=SIX)], target=target)


def test_an_output_whose_bits_are_the_target_s_still_takes_another_range():
    graph = plan("residual", overrides=[override("penultimate", output={"range": "minmax"})])
    spec = annotation_of(nets.find(graph, "conv2d", 4)).output
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
    """A DS-CNN: the layer before the pooling has an activation and feeds nothing but the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*nets.conv_bn(3, 6), nn.ReLU())
        self.block = nn.Sequential(*nets.conv_bn(6, 6, 3, 6), nn.ReLU(), *nets.conv_bn(6, 8, 1), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


class Bottlenecks(nn.Module):
    """A MobileNetV2: an inverted residual with a skip, then a layer of its own before the pooling."""

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
    ends = [annotation_of(n).weight.grid.bits for n in layers]
    plain = [not is_depthwise(layer) for layer in Layers(Calls(graph))]
    assert set(itertools.compress(ends[1:-1], plain[1:-1])) == {4} and len({bits[n] for n in entering}) == 1
    return ends[0] == 8, bits[activated[0]] == 8, ends[-1] == 8, bits[activated[-1]] == 8, others == {8}


POLICY_TABLE = {
    # policy: stem weight, stem output, last weight, classifier input in a residual network, in one without
    "none": (False, False, False, False, False),
    "qdrop": (True, False, True, True, True),
    "brecq": (True, True, True, False, True),
    "brecq-intended": (True, True, True, True, True),
    "captq": (True, True, True, True, True),
    "depthwise": (True, True, True, True, True),
}


@pytest.mark.parametrize("target", [GENERIC, PAPER], ids=lambda t: t.name)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", ["residual", Separable, Bottlenecks])
def test_who_has_8_bits_under_which_policy(model, policy, target):
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


def test_captq_is_compared_with_qdrop_at_equal_bits():
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


# --- operators that the recipe keeps in float ----------------------------------------------------------------------


def kept(overrides, target=None):
    graph = plan("residual", overrides=overrides, **({} if target is None else {"target": target}))
    return {node.name: kept_float(node) for node in graph.graph.nodes if kept_float(node)}, graph


def test_a_layer_in_float_has_no_grids_of_its_own_and_its_neighbours_have():
    names, graph = kept([Override(where="blocks.0.conv1", float=True)])
    assert list(names.values()) and set(names.values()) == {"recipe: blocks.0.conv1"}
    layer = next(node for node in graph.graph.nodes if node.name in names and op_name(node) == "conv2d")
    others = weights(graph)
    assert annotation_of(layer) is None or annotation_of(layer).weight is None
    assert len(others) == len(weights(plan("residual", overrides=[]))) - 1
    after = next(iter(layer.users))
    assert annotation_of(after).kind == "float"


def test_several_names_are_one_override_and_a_later_line_takes_one_back():
    both, _ = kept([Override(where=("first", "last"), float=True)])
    one, _ = kept([Override(where=("first", "last"), float=True), Override(where="last", float=False)])
    assert len(one) == 1 < len(both) == 2 and set(both.values()) == {"recipe: first, last"}


def test_each_of_several_names_selects_something():
    with pytest.raises(RecipeError, match="nowhere selects nothing"):
        kept([Override(where=("first", "nowhere"), float=True)])

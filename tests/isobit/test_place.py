"""What a target refuses in integers goes to float where it may, and the refusal names the option where it may not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from isobit import passes
from isobit.backends.base import BACKENDS
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.placement import placement_table
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.file import load_recipe
from isobit.place import place
from tests.examples import nets


class Cube(nn.Module):
    """x * x * x between two convolutions, a sum after the last."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.first(x)
        y = self.last(y * y)
        return y + y


class Picky:
    """A target that has a kernel for products and sums, but not for those of a network."""

    name, profiles = "picky", ("any",)

    def __init__(self, float_operators, refuses=("mul",)):
        self.float_operators, self.refuses = float_operators, refuses

    def target(self, profile):
        return integer_target(self.name, profile, float_operators=self.float_operators)

    def unsupported(self, graph, target):
        return [(call.node, "not this one") for call in Calls(graph)
                if call.op in self.refuses and target.rule_of(call).inputs != "float"]


def placed(backend, allow_float=False, profile=None):
    captured = nets.captured_of(Cube().eval(), 3, 6, 6)[0]
    return place(captured, load_recipe("minmax_w8a8"), backend, profile, allow_float)


def rows(quantized):
    return {row.op: (row.runs, row.note) for row in placement_table(quantized.graph, quantized.target)}


@pytest.mark.parametrize(("where", "allowed"), [("anywhere", False), ("after_layers", True)])
def test_what_a_kernel_cannot_do_is_left_in_float_with_the_reason(where, allowed):
    found = rows(placed(Picky(where), allowed))
    assert found["mul"] == ("float", "not this one; from a float operator")
    assert found["conv2d"][0] == found["add"][0] == "integer"


def test_after_the_last_layer_no_permission_is_needed():
    assert rows(placed(Picky("after_layers", ("add",))))["add"] == ("float", "not this one")


def test_a_refusal_names_the_option_that_allows_it():
    with pytest.raises(TargetError, match=r"cannot compute .*mul.* in integers: not this one") as caught:
        placed(Picky("after_layers"))
    assert "`options.allow_float=True`" in caught.value.hint
    with pytest.raises(TargetError, match="neither in integers nor in float") as caught:
        placed(Picky("nowhere"))
    assert "allow_float" not in caught.value.hint


def test_the_option_is_not_named_where_it_does_not_help():
    class Never(Picky):
        def unsupported(self, graph, target):
            return [(node, "never") for node in graph.graph.nodes if op_name(node) == "mul"]

    for allowed in (False, True):
        with pytest.raises(TargetError, match="never") as caught:
            placed(Never("after_layers"), allow_float=allowed)
        assert "allow_float" not in caught.value.hint and "replace the operator" in caught.value.hint


def test_what_is_not_placed_in_float_after_all_is_refused_and_not_tried_for_ever(monkeypatch):
    quantize = passes.quantize
    monkeypatch.setattr(passes, "quantize", lambda captured, recipe, target:
                        quantize(captured, recipe, replace(target, left_float={})))
    with pytest.raises(TargetError, match="not this one"):
        placed(Picky("anywhere"))


class Recurrent(nn.Module):
    """An LSTM whose first state is made of the size of the batch."""

    def __init__(self):
        super().__init__()
        self.rnn, self.last = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(("target", "allowed"), [("tvm", False), ("c", False), ("c", True)])
def test_not_the_size_is_named_but_the_operator_that_needs_it(target, allowed):
    captured = nets.captured_of(Recurrent().eval(), 6, 4)[0]
    with pytest.raises(TargetError, match=r"aten\.lstm\.input .*lstm") as caught:
        place(captured, load_recipe("minmax_w8a8"), BACKENDS.get(target), None, allowed)
    assert "rnn" in caught.value.where


def test_some_others_are_named_too():
    with pytest.raises(TargetError, match=r"aten\.mul\.Tensor .*not this one; nor aten\.add\.Tensor\n") as caught:
        placed(Picky("nowhere", ("add", "mul")))
    assert caught.value.field == "target"


def test_a_target_without_float_operators_says_so():
    with pytest.raises(TargetError, match="target 'picky' computes no operator in float") as caught:
        placed(Picky("nowhere"), allow_float=True)
    assert caught.value.field == "options.allow_float"


def test_a_layer_stays_refused_after_the_layers():
    with pytest.raises(TargetError, match="cannot compute"):
        placed(Picky("after_layers", ("conv2d",)))


@pytest.mark.parametrize(("target", "allowed", "helps"), [
    ("c", False, False), ("c", True, False), ("tvm", False, True)])
def test_an_override_that_keeps_a_layer_in_float_is_what_is_at_fault(target, allowed, helps):
    recipe = load_recipe("minmax_w8a8", ["overrides=[{where: first, float: true}]"])
    captured = nets.captured_of(Cube().eval(), 3, 6, 6)[0]
    with pytest.raises(TargetError, match=r"does not compute aten\.conv2d\.default in float here") as caught:
        place(captured, recipe, BACKENDS.get(target), None, allowed)
    assert caught.value.field == "recipe.overrides"
    assert caught.value.where.startswith("override where: first with float: true; ")
    assert ("allow_float" in caught.value.hint) == helps and "leave the override out" in caught.value.hint


def test_profiles_are_the_backends():
    assert placed(Picky("anywhere", ()), profile="any").target.profile == "any"
    with pytest.raises(TargetError, match="no device profile 'other'"):
        placed(Picky("anywhere"), profile="other")


def test_where_float_is_anywhere_the_permission_changes_nothing():
    backend = BACKENDS.get("onnx")
    assert backend.target(backend.profiles[0]).with_float() == backend.target(backend.profiles[0])

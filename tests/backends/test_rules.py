"""One table of integer operators, and what targets change of it."""

import pytest

from isobit.backends.fixed_point.rules import OPS, integer_target
from isobit.backends.onnx.arithmetic import UNARY_KERNELS
from isobit.backends.onnx.target import TARGETS
from isobit.backends.reference import TARGET as PAPER
from isobit.backends.rules import IN_FLOAT, INTEGER, with_changes
from isobit.pipeline.graph.dialect import CANONICAL
from isobit.pipeline.operators.unary import UNARY


def test_every_canonical_operator_has_a_rule():
    assert set(INTEGER) | UNARY.keys() >= CANONICAL and set(INTEGER) <= CANONICAL


def test_a_change_touches_its_field_alone():
    changed = with_changes(INTEGER, {"add": {"inputs": "residual"}})
    assert changed["add"].inputs == "residual" and changed["add"].absorbs == INTEGER["add"].absorbs
    assert {name for name in changed if changed[name] != INTEGER[name]} == {"add"}
    with pytest.raises(KeyError):
        with_changes(INTEGER, {"gelu": {"inputs": "residual"}})


def test_targets_differ_where_they_say_so():
    changed = {name for name, rule in TARGETS["generic"].ops.items() if rule != INTEGER.get(name)}
    assert changed == {*UNARY_KERNELS, "matmul"}
    assert {name for name in INTEGER if OPS[name] != INTEGER[name]} == {"add", "mul", "mean", "avg_pool2d"}
    assert OPS.keys() - INTEGER.keys() == {
        "adaptive_avg_pool2d", "amax", "amin", "argmax", "argmin", "embedding", "maximum", "mean_over_dims", "minimum",
        "sub", "sum", "upsample_bilinear2d",
    }
    assert all(PAPER.ops[name] == INTEGER[name] for name in ("conv2d", "linear"))


@pytest.mark.parametrize("target", [TARGETS["generic"], PAPER, integer_target("test", "any")], ids=lambda t: t.name)
def test_activations_after_a_float_operator_are_computed_with_it(target):
    assert target.rule("softmax").absorbs == IN_FLOAT

"""The profiles are complete and say what a user needs."""

from dataclasses import replace

from isobit.backends.onnx.profiles import DEFAULT_PROFILE
from isobit.backends.onnx.target import TARGETS, targets
from isobit.pipeline.graph.dialect import CANONICAL
from isobit.pipeline.operators.moves import MOVES


def test_every_canonical_operator_has_a_rule():
    for target in TARGETS.values():
        assert set(target.ops) == CANONICAL | {"matmul"}


def test_only_the_default_profile_limits_wide_weights():
    limits = {name: target.weights.wide_limit for name, target in TARGETS.items()}
    assert limits == {"generic": 64, "vnni": None, "arm64": None}
    assert DEFAULT_PROFILE == "generic"
    assert "AVX2" in TARGETS["generic"].weights.wide_limit_reason


def test_both_forms_are_one_runtime_and_differ_in_name_only():
    for profile, target in targets("qoperator").items():
        assert target.name == "onnx-qoperator" and replace(target, name="onnx") == TARGETS[profile]


def test_layout_operators_pass_codes_unchanged():
    target = TARGETS[DEFAULT_PROFILE]
    assert target.rule("max_pool2d").output == "as_input"
    assert all(target.rule(name).output == "as_input" for name, row in MOVES.items() if not row.own_grid)
    assert target.rule("pad_with_value").inputs == "float"


def test_an_unknown_operator_runs_in_float_and_says_why():
    rule = TARGETS[DEFAULT_PROFILE].rule("hardswish")
    assert rule.inputs == "float"
    assert "hardswish" in rule.reason


def test_users_of_low_activations_are_told_that_they_bring_no_speed():
    target = TARGETS[DEFAULT_PROFILE]
    assert any("W4A8 is as small and as fast as W4A4" in note for note in target.notes_for(4, 4))
    assert not target.notes_for(4, 8)

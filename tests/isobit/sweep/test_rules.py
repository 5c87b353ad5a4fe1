"""Bounds and what they allow."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from isobit.sweep.rules import Bound, Rule, parse_bound

VALUES = {"accuracy": 90.0, "size": 1000.0, "latency": None}


@pytest.mark.parametrize(("text", "bound"), [
    (">= float - 0.5", Bound(1, True, -0.5)), (">=float", Bound(1, True, 0.0)), ("<= float + 2", Bound(-1, True, 2.0)),
    (">= 90", Bound(1, False, 90.0)), ("<= 1e5", Bound(-1, False, 1e5)), (">= -3.5", Bound(1, False, -3.5)),
])
def test_a_bound_is_read(text, bound):
    assert parse_bound(text) == bound


@pytest.mark.parametrize("text", ["", "90", "> 90", ">= floats", ">= float -", ">= float - x", ">= nan", "__import__"])
def test_anything_else_is_no_bound(text):
    with pytest.raises(ValueError, match="no bound"):
        parse_bound(text)


def test_bounds_hold_at_their_ends_and_never_of_what_is_not_known():
    assert parse_bound(">= float - 0.5").holds(90.5, 91.0) and not parse_bound(">= float - 0.5").holds(90.4, 91.0)
    assert parse_bound("<= 1000").holds(1000, None) and not parse_bound("<= 1000").holds(1001, None)
    assert not parse_bound(">= 0").holds(None, 91.0) and not parse_bound(">= float").holds(90.0, None)


def test_all_bounds_of_a_rule_must_hold():
    rule = Rule(accuracy=">= float - 2", size="<= 1000", minimize="size")
    assert rule.allows(VALUES, 91.0) and not rule.allows(VALUES, 93.0)
    assert not rule.allows({**VALUES, "size": 1001.0}, 91.0)
    assert not Rule(latency="<= 5", minimize="size").allows(VALUES, 91.0)


def test_what_is_minimised_and_maximised():
    assert Rule(minimize="size").cost(VALUES) == 1000 and Rule(minimize="latency").cost(VALUES) is None
    assert Rule(maximize="accuracy").cost(VALUES) == -90.0


@pytest.mark.parametrize(("said", "why"), [
    ({"accuracy": ">= 90"}, "one of minimize and maximize"),
    ({"minimize": "size", "maximize": "accuracy"}, "one of minimize and maximize"),
    ({"minimize": "size", "size": "<= float"}, "only accuracy"), ({"minimize": "speed"}, "size"),
    ({"minimize": "size", "accuracy": "good"}, "no bound"),
])
def test_a_rule_that_wants_nothing_or_too_much_is_refused(said, why):
    with pytest.raises(ValidationError, match=why):
        Rule.model_validate(said)

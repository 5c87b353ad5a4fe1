"""Parameters: typed strictly, and every wrong key or value names its place in the recipe."""

from __future__ import annotations

import pytest
from pydantic import Field, model_validator

from isobit.calib.parameters import Parameters, checked_parameters
from isobit.pipeline.errors import RecipeError


class Own(Parameters):
    """Parameters of a test."""

    steps: int = Field(default=3, ge=1)
    name: str = "x"


def check(**values: object) -> Own:
    return checked_parameters(Own, values, "source 'own'", "images", ("count",))


def test_values_are_taken_and_defaults_fill_the_rest() -> None:
    assert check(steps=5) == Own(steps=5, name="x")


@pytest.mark.parametrize(("key", "hint"), [("stepps", "Did you mean 'steps'?"), ("cuont", "Did you mean 'count'?")])
def test_an_unknown_key_is_answered_with_the_nearest_before_any_wrong_value(key: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(**{"steps": 0, key: 1})
    assert caught.value.what == f"source 'own' has no parameter '{key}'" and caught.value.where == f"images.{key}"
    assert caught.value.hint == hint and caught.value.allowed == "count, steps, name"


@pytest.mark.parametrize(("value", "allowed"), [(0, "greater than or equal to 1"), ("3", "valid integer")])
def test_a_value_that_is_not_allowed_is_named(value: object, allowed: str) -> None:
    with pytest.raises(RecipeError, match=f"'steps' is {value!r}") as caught:
        check(steps=value)
    assert caught.value.where == "images.steps" and allowed in caught.value.allowed


class Inner(Parameters):
    """Parameters inside others."""

    first: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_something(self) -> Inner:
        if not self.first:
            raise ValueError("nothing is said")
        return self


class Outer(Parameters):
    """Parameters that hold others."""

    steps: int = 3
    inner: Inner | None = None


def outer(inner: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        checked_parameters(Outer, {"inner": inner}, "method 'own'", "method", ("name",))
    return caught.value


def test_an_unknown_key_inside_is_answered_with_the_keys_there() -> None:
    error = outer({"frist": ["x"]})
    assert (error.what, error.allowed) == ("method 'own' has no parameter 'inner.frist'", "first")
    assert (error.hint, error.field) == ("Did you mean 'first'?", "recipe.method.inner.frist")


@pytest.mark.parametrize(("inner", "what"), [
    ({}, "nothing is said"), ({"first": []}, "nothing is said"), (3, "'inner' is 3")])
def test_what_is_said_inside_names_its_place_and_the_keys_there(inner: object, what: str) -> None:
    error = outer(inner)
    assert (error.what, error.allowed, error.field) == (what, "the keys first", "recipe.method.inner")

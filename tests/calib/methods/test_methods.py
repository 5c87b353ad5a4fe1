"""The registry of methods: names, parameters and needs, loud where they are wrong."""

from __future__ import annotations

import pytest

from calib.methods import METHODS, find_method
from pipeline.errors import RecipeError
from pipeline.recipe import MethodChoice, available_recipes, load_recipe


def choice(name: str, **parameters: object) -> MethodChoice:
    return MethodChoice(name=name, parameters=parameters)


def test_every_shipped_recipe_finds_its_method() -> None:
    for name in available_recipes():
        method, parameters = find_method(load_recipe(name).method)
        assert isinstance(parameters, method.parameters) and "images" in method.needs
    assert set(METHODS.names()) >= {"nearest", "qdrop"}


def test_an_unknown_method_is_answered_with_the_nearest_spelling() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'qdrop'"):
        find_method(choice("qdorp"))


def test_an_unknown_parameter_is_answered_with_the_nearest_spelling() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'steps'"):
        find_method(choice("qdrop", step=5))


@pytest.mark.parametrize(
    ("key", "value"), [("steps", 0), ("steps", "many"), ("keep_prob", 1.5), ("warmup", 1.0), ("branch", "trunk")]
)
def test_a_value_that_is_not_allowed_is_named(key: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"'{key}' is {value!r}"):
        find_method(choice("qdrop", **{key: value}))

"""A recipe as a short file: what it extends, and what differs; in full where that would not say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.edits import apply_edit
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe


def short_text(recipe: Recipe, extends: str, edits: Sequence[str] = ()) -> str:
    """YAML that `load_recipe` reads as `recipe`.

    Args:
        recipe: of which bits, policy and overrides differ from what it extends.
        extends: name of a shipped recipe; where it is none, or another file, the text is the whole recipe.
        edits: `key=value` texts that were applied to what it extends.
    """
    try:
        text = yaml.safe_dump(_differences(recipe, extends, edits), sort_keys=False, width=120)
        if _loaded(text) == recipe:
            return text
    except (RecipeError, OSError):
        pass  # there is nothing of that name to extend, or not in this way
    return recipe.to_yaml()


def changed(recipe: Recipe) -> list[str]:
    """`key=value` for each field that is stated otherwise than in the shipped recipe of this name, for people to read;
    empty where none has the name.
    """
    try:
        shipped = dict(_leaves(load_recipe(recipe.name).model_dump(mode="json")))
    except RecipeError:
        return []
    own = dict(_leaves(recipe.model_dump(mode="json")))
    return [f"{key}={value}" for key, value in own.items() if shipped.get(key) != value and value is not None]


def _leaves(content: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            # An edit says `method.steps`.
            yield from _leaves(value, path if key == "parameters" else f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def set_text(recipe: Recipe) -> str:
    """The bits of `recipe` as options of a command line, for a shell that takes single quotes."""
    lines = yaml.safe_dump(_plain_overrides(recipe), default_flow_style=True, width=10**6).strip()
    return (f"--set 'weights.bits={recipe.weights.bits}' --set 'activations.bits={recipe.activations.bits}' "
            f"--set policy={recipe.policy} --set 'overrides={lines}'")


def _differences(recipe: Recipe, extends: str, edits: Sequence[str]) -> dict[str, Any]:
    content: dict[Any, Any] = {"name": recipe.name, "extends": extends}
    for edit in edits:
        apply_edit(content, edit)
    for rule, bits in (("weights", recipe.weights.bits), ("activations", recipe.activations.bits)):
        content[rule] = {**content.get(rule, {}), "bits": bits}
    return content | {"name": recipe.name, "policy": recipe.policy, "overrides": _plain_overrides(recipe)}


def _plain_overrides(recipe: Recipe) -> list[dict[str, Any]]:
    lines = recipe.model_dump(exclude_none=True)["overrides"]
    return [{key: list(value) if isinstance(value, tuple) else value for key, value in line.items()} for line in lines]


def _loaded(text: str) -> Recipe:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(text, encoding="utf-8")
        return load_recipe(file)

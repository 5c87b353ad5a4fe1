"""A recipe from its name or file: found, extended, edited, validated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.recipe.edits import apply_edit, let_name_follow_bits
from isobit.pipeline.recipe.family import (
    bits_of_family,
    family_files,
    family_names,
    family_without_bits,
    find_family,
    read_content,
    recipes_folder,
)
from isobit.pipeline.recipe.findings import explained, refuse_endless_numbers
from isobit.pipeline.recipe.merge import Content, bits_stated, resolved
from isobit.pipeline.recipe.names import bits_in_name, usual_spelling
from isobit.pipeline.recipe.schema import Recipe

# `--set overrides.0.weights.bits=8` has to meet a list, also where the file leaves it out.
_LISTS = tuple(key for key, field in Recipe.model_fields.items() if field.default == ())


def load_recipe(name_or_path: str | Path, edits: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in the YAML file of that path, with edits applied.

    Args:
        name_or_path: `qdrop_w4a4`, in any case and with the bits in either order, or a path. The file holds a whole
            recipe, or `extends: qdrop_w4a4`, a name of its own and what differs.
        edits: `key=value` strings, for example `method.steps=500` or `overrides.0.weights.bits=8`. Changed bits are
            followed by the recipe's name (`qdrop_w4a4` becomes `qdrop_w3a4`) unless `name` is set too.

    Raises:
        RecipeError: no such recipe, no valid YAML, an unknown key, a value that is not allowed.
    """
    is_path = _is_path(name_or_path)
    if is_path:
        where, content = str(name_or_path), _content_of_file(Path(name_or_path))
    else:
        where, content = _content_of_name(str(name_or_path))
    content = {**{key: [] for key in _LISTS}, **content}
    keys = [apply_edit(content, text) for text in edits]
    let_name_follow_bits(content, keys)
    refuse_endless_numbers(content, where, keys)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        finding = explained(error, where, keys)
        raise finding if is_path or keys else _no_recipe_at_these_bits(str(name_or_path), finding) from None


def _is_path(name_or_path: str | Path) -> bool:
    path = Path(name_or_path)
    return isinstance(name_or_path, Path) or path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1


def _content_of_name(name: str) -> tuple[str, Content]:
    """(place for messages, content) of a shipped recipe."""
    family, bits = find_family(name)
    if not bits:
        raise family_without_bits(family)
    files = family_files(family)
    content = {"name": usual_spelling(name), **resolved(files, bits)}
    return f"{content['name']} ({files[-1][0]})", content


def _no_recipe_at_these_bits(name: str, finding: RecipeError) -> RecipeError:
    """The error for a shipped family whose method or levels do not take the bits of `name`."""
    family, _ = find_family(name)
    return RecipeError(f"there is no recipe '{name}': {finding.what}", allowed=bits_of_family(family), field="recipe")


def _content_of_file(path: Path) -> Content:
    """The whole content of a user's file, what it extends included."""
    if not path.is_file():
        what = "is a folder, not a recipe file" if path.is_dir() else "does not exist"
        raise RecipeError(f"the recipe file '{path}' {what}", hint=_names_without_a_path(path), field="recipe")
    if path.resolve().parent == Path(str(recipes_folder())) and path.stem in family_names():
        raise family_without_bits(path.stem, str(path))
    own = read_content(path)
    if "extends" not in own:
        return resolved([(str(path), own)], {})
    if not isinstance(own["extends"], str):
        raise RecipeError(
            "'extends' is no name of a recipe", where=str(path), allowed="for example qdrop_w4a4",
            field="recipe.extends",
        )
    try:
        family, bits = find_family(own["extends"])
    except RecipeError as error:
        raise RecipeError(
            error.what, where=f"extends in {path}", allowed=error.allowed, hint=error.hint, field="recipe.extends",
        ) from None
    bits |= bits_stated(own)
    if bits.keys() != {"weights", "activations"}:
        raise family_without_bits(family, f"extends in {path}")
    return resolved([*family_files(family), (str(path), own)], bits)


def _names_without_a_path(path: Path) -> str:
    """What to give where a file is not there: the recipe that it is called like, or what names look like."""
    named = bits_in_name(path.stem)
    families = family_names()
    if named and named.family in families:
        return f"A shipped recipe is given by its name: {path.stem}"
    return nearest_spelling(path.stem, families) or f"Shipped recipes have names without a path: {', '.join(families)}"

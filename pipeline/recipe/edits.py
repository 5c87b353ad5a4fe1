"""`key=value` edits of a recipe's content, made before it is validated, so that file and edits obey the same rules."""

from __future__ import annotations

from typing import Any

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.budget import bits_as_named
from isobit.pipeline.recipe.findings import shown
from isobit.pipeline.recipe.names import NamedBits, bits_in_name
from isobit.pipeline.recipe.plain_yaml import parse_yaml


def apply_edit(content: dict[Any, Any], text: str) -> tuple[str, ...]:
    """Writes one `key=value` into the raw content; returns the key path. Whether the key exists is judged later."""
    key, separator, value_text = text.partition("=")
    keys = tuple(key.strip().split("."))
    where = f"`overrides={text}`"
    if not separator or not all(keys):
        raise RecipeError(
            "not of the form key=value", where=where, field="overrides", hint="For example `recipe.method.steps=500`"
        )
    try:
        value = parse_yaml(value_text)
    except ValueError as error:
        raise RecipeError(f"the value cannot be read as YAML: {error}", where=where, field="overrides") from error
    place: Any = content
    for depth, step in enumerate(keys[:-1], start=1):
        place = _enter(place, step, ".".join(keys[:depth]), where)
    if isinstance(place, list):
        place[_index(place, keys[-1], key, where)] = value
    else:
        place[keys[-1]] = value
    return keys


def _enter(place: Any, step: str, path: str, where: str) -> Any:
    """The container at one step of a key path; an absent or empty one is made."""
    if isinstance(place, list):
        inner = place[_index(place, step, path, where)]
    else:
        if place.get(step) is None:
            place[step] = {}
        inner = place[step]
    if not isinstance(inner, (dict, list)):
        raise RecipeError(
            f"'{path}' is a single value ({shown(inner)}) and has no keys inside", where=where, field="overrides",
        )
    return inner


def _index(place: list[Any], step: str, path: str, where: str) -> int:
    if not (step.isdecimal() and int(step) < len(place)):
        allowed = f"0 to {len(place) - 1}" if place else "none: the list is empty"
        raise RecipeError(f"'{path}' names no entry of the list", where=where, allowed=allowed, field="overrides")
    return int(step)


def let_name_follow_bits(content: dict[Any, Any], edits: list[tuple[str, ...]]) -> None:
    """Writes edited bits into a name that says its bits, unless an edit sets the name itself."""
    named = bits_in_name(str(content.get("name")))
    if not named or ("name",) in edits:
        return
    bits = named._asdict()
    for tensors in ("weights", "activations"):
        if any(keys == (tensors,) or keys[:2] == (tensors, "bits") for keys in edits):
            rule = content[tensors]
            bits[tensors] = bits_as_named(rule.get("bits") if isinstance(rule, dict) else None) or bits[tensors]
    content["name"] = str(NamedBits(**bits))

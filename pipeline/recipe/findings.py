"""What is wrong in a recipe's content, as one RecipeError: the key path, the file or edit, and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.recipe.budget import MAX_BITS, MIN_BITS
from isobit.pipeline.recipe.merge import FILE_KEYS
from isobit.pipeline.recipe.schema import BITS_TAG, BUDGET_TAG, OPERATOR, POSITIONS, Recipe

PATTERNS = (f"{', '.join(POSITIONS)}, {OPERATOR}<operator> or a pattern of layer names, or a list of one or more of "
            "these")
WHERE = "where"  # of an override: one pattern or several
SHOWN = 80  # characters of a wrong value in a message


def shown(value: Any) -> str:
    """The value as YAML's reader gives it, cut to what a message can hold."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of so many digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def refuse_endless_numbers(content: dict[Any, Any], where: str, edits: list[tuple[str, ...]]) -> None:
    """Raises RecipeError for a number that is not finite, or an integer of more than 64 bits."""
    for keys, number in _numbers(content):
        if not (-(2**63) <= number < 2**64 if isinstance(number, int) else math.isfinite(number)):
            allowed = "a whole number of 64 bits" if isinstance(number, int) else "a finite number"
            raise RecipeError(
                f"'{keys}' is {shown(number)}", where=_blamed(keys, where, edits), allowed=allowed,
                field=f"recipe.{keys}",
            )


def explained(error: ValidationError, where: str, edits: list[tuple[str, ...]]) -> RecipeError:
    """One RecipeError for a pydantic report: the first finding in full, the keys of the others after it."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    for finding in findings:
        finding["loc"] = _without_kinds(finding["loc"])
    first, key = findings[0], _key_text(findings[0]["loc"])
    others = [other for other in dict.fromkeys(_key_text(finding["loc"]) for finding in findings[1:]) if other != key]
    what, allowed, hint = _finding(first)
    if others:
        hint = f"{hint} Also wrong: {', '.join(others)}".strip()
    return RecipeError(
        what, where=_blamed(key, where, edits), allowed=allowed, hint=hint, field=f"recipe.{key}",
    )


def _without_kinds(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A pydantic location without what it says of the kinds that a value may be of."""
    loc = tuple(step for step in loc if step not in (BITS_TAG, BUDGET_TAG))
    return loc[:loc.index(WHERE) + 1] if WHERE in loc else loc


def _blamed(key: str, where: str, edits: list[tuple[str, ...]]) -> str:
    """The file, and the edit that made the value at `key` what it is."""
    # One path leads to the other: `--set weights={}` is to blame for a missing `weights.bits`, and the reverse.
    keys = key.split(".")
    blamed = [".".join(edit) for edit in edits if all(a == b for a, b in zip(edit, keys, strict=False))]
    return f"{where}, changed by `overrides={blamed[-1]}`" if blamed else where


def _numbers(content: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """(key path, value) of every number in the raw content."""
    if isinstance(content, (int, float)):
        yield key, content
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in inside:
        yield from _numbers(value, f"{key}.{step}" if key else str(step))


def _finding(finding: Any) -> tuple[str, str, str]:
    """(what, allowed, hint) of one entry of a pydantic report."""
    kind, loc, value = finding["type"], finding["loc"], finding["input"]
    key = _key_text(loc)
    if kind == "extra_forbidden":
        model = _model_at(loc[:-1])
        known = [*model.model_fields, *(FILE_KEYS if model is Recipe and key not in FILE_KEYS else ())]
        return f"unknown key '{key}'", keys_text(model), nearest_spelling(str(loc[-1]), known)
    if kind == "missing":
        return f"the key '{key}' is missing", keys_text(_model_at(loc[:-1])), ""
    if kind == "value_error":  # raised by the validators above: a sentence of ours
        return str(finding["ctx"]["error"]), "", f"See '{key}'." if key else ""
    if loc[-1:] == ("bits",):
        budget = ", or a budget as {average: 3} or {budget_mb: 0.12}" if loc == ("weights", "bits") else ""
        return f"'{key}' is {shown(value)}", f"an integer from {MIN_BITS} to {MAX_BITS}{budget}", ""
    if loc[-1:] == (WHERE,):
        return f"'{key}' is {shown(value)}", PATTERNS, ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", finding["ctx"]["expected"])
        return f"'{key}' is {shown(value)}", " or ".join(choices), nearest_spelling(str(value), choices)
    return f"'{key}' is {shown(value)}", finding["msg"], ""


def _key_text(loc: tuple[int | str, ...]) -> str:
    """A pydantic location as the YAML key path: the level `parameters` does not exist in the file."""
    if loc[:2] in (("method", "parameters"), ("images", "parameters")):
        loc = (loc[0], *(step for step in loc[2:] if step != "[key]"))
    return ".".join(str(step) for step in loc)


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model class whose keys stand at `loc`."""
    model: type[BaseModel] = Recipe
    for step in loc:
        if isinstance(step, str):
            inside = model_inside(model.model_fields[step].annotation)
            if inside is None:
                raise ValueError(f"no keys stand at {loc}")
            model = inside
    return model


def model_inside(annotation: Any) -> type[BaseModel] | None:
    """`X` of `X`, `X | None`, `tuple[X, ...]` and `int | X`; None where there is no model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := model_inside(part)) is not None), None)


def keys_text(model: type[BaseModel]) -> str:
    """The keys that the part of a recipe which `model` describes may have, for a message."""
    return "the keys " + ", ".join(key for key in model.model_fields if key != "parameters")

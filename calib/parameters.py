"""Parameters that a recipe carries for a method or a source: checked by the one whose they are, in one wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.recipe.findings import keys_text, model_inside


class Parameters(BaseModel):
    """Base of all parameters: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


P = TypeVar("P", bound=Parameters)


def checked_parameters(
    model: type[P], values: Mapping[str, Any], owner: str, section: str, neighbours: Sequence[str] = ()
) -> P:
    """`values` as `model`.

    Args:
        owner: of the parameters, as messages say it: `source 'files'`.
        section: of the recipe in which they stand: `images`.
        neighbours: other keys of that section, which a misspelt key may mean as well.

    Raises:
        RecipeError: the first finding, an unknown key before anything else; with the nearest spelling.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        finding = min(error.errors(include_url=False), key=lambda entry: entry["type"] != "extra_forbidden")
    key, inside = ".".join(str(step) for step in finding["loc"]), _model_at(model, finding["loc"][:-1])
    where = f"{section}.{key}" if key else section
    if finding["type"] == "extra_forbidden":
        known = [*(neighbours if inside is model else ()), *inside.model_fields]
        raise RecipeError(
            f"{owner} has no parameter '{key}'", where=where, allowed=", ".join(known) or "no parameters",
            hint=nearest_spelling(str(finding["loc"][-1]), known), field=f"recipe.{where}",
        )
    what, keys = f"'{key}' is {finding['input']!r}", keys_text(_model_at(model, finding["loc"]))
    if finding["type"] == "value_error":  # raised by a validator: a sentence of ours
        what = str(finding.get("ctx", {}).get("error", finding["msg"]))
    allowed = keys if finding["type"] in ("value_error", "model_type") else finding["msg"]
    raise RecipeError(what, where=where, allowed=allowed, field=f"recipe.{where}")


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The parameters that stand at `loc`; the last that hold others on the way."""
    for step in loc:
        field = model.model_fields.get(str(step))
        model = (None if field is None else model_inside(field.annotation)) or model
    return model

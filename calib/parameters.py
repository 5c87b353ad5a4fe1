"""Parameters that a recipe carries for a method or a source: checked by the one whose they are, in one wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from isobit.pipeline.errors import RecipeError, nearest_spelling


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
    key, known = ".".join(str(step) for step in finding["loc"]), [*neighbours, *model.model_fields]
    where = f"{section}.{key}" if key else section
    if finding["type"] == "extra_forbidden":
        raise RecipeError(
            f"{owner} has no parameter '{key}'", where=where, allowed=", ".join(known) or "no parameters",
            hint=nearest_spelling(key, known), field=f"recipe.{where}",
        )
    raise RecipeError(f"'{key}' is {finding['input']!r}", where=where, allowed=finding["msg"], field=f"recipe.{where}")

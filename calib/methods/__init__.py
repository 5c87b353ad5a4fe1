"""One paper, one file. A method states its parameters, with the paper's values as defaults, and what it needs.

`@method("name", Parameters, needs={"images"})` registers a function `(calibration, parameters) -> unit logs`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from calib.context import Calibration
from pipeline.errors import RecipeError, nearest_spelling
from pipeline.recipe import MethodChoice
from pipeline.registry import Registry, discover
from pipeline.stages import UnitLog

P = TypeVar("P", bound="Parameters")


class Parameters(BaseModel):
    """Base of a method's parameters: immutable, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class Method(Generic[P]):
    """A registered method.

    Args:
        needs: what must be at hand: `images`, `labels`, `bn_statistics`, `tail`.
    """

    name: str
    parameters: type[P]
    needs: frozenset[str]
    run: Callable[[Calibration, P], tuple[UnitLog, ...]]


METHODS: Registry[Method[Any]] = Registry("method", RecipeError)


def method(
    name: str, parameters: type[P], needs: set[str]
) -> Callable[[Callable[[Calibration, P], tuple[UnitLog, ...]]], Callable[[Calibration, P], tuple[UnitLog, ...]]]:
    """Register the decorated function as method `name`."""

    def register(
        run: Callable[[Calibration, P], tuple[UnitLog, ...]]
    ) -> Callable[[Calibration, P], tuple[UnitLog, ...]]:
        METHODS.register(name)(Method(name, parameters, frozenset(needs), run))
        return run

    return register


def find_method(choice: MethodChoice) -> tuple[Method[Any], Parameters]:
    """The method that a recipe names, and its checked parameters; needs no data, so it can be asked before any is read.

    Raises:
        RecipeError: no such method, an unknown parameter or a value that is not allowed; with the nearest spelling.
    """
    discover(sys.modules[__name__])
    found = METHODS.get(choice.name)
    try:
        return found, found.parameters.model_validate(dict(choice.parameters))
    except ValidationError as error:
        raise _explained(choice, found.parameters.model_fields, error) from None


def _explained(choice: MethodChoice, fields: Mapping[str, Any], error: ValidationError) -> RecipeError:
    """A RecipeError for the first finding, an unknown key before anything else."""
    finding = min(error.errors(include_url=False), key=lambda entry: entry["type"] != "extra_forbidden")
    key = ".".join(str(step) for step in finding["loc"])
    where = f"method.{key}" if key else "method"
    if finding["type"] == "extra_forbidden":
        return RecipeError(
            f"method '{choice.name}' has no parameter '{key}'", where=where,
            allowed=", ".join(fields) or "no parameters", hint=nearest_spelling(key, fields),
        )
    return RecipeError(f"'{key}' is {finding['input']!r}", where=where, allowed=finding["msg"])

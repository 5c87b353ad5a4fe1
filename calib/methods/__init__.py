"""One paper, one file. A method states its parameters, with the paper's values as defaults, and what it needs.

`@method("name", Parameters, needs={"images"})` registers a function `(calibration, parameters) -> unit logs`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from calib.context import Calibration
from calib.parameters import Parameters, checked_parameters
from pipeline.errors import RecipeError
from pipeline.recipe import MethodChoice
from pipeline.registry import Registry, discover
from pipeline.stages import UnitLog

P = TypeVar("P", bound=Parameters)


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
    return found, checked_parameters(found.parameters, choice.parameters, f"method '{choice.name}'", "method")

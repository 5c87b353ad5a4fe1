"""What is best, as a study states it: bounds that means over seeds must keep, and what to make small or large."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from isobit.pipeline.recipe.budget import Frozen

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_BOUND = re.compile(rf"(<=|>=)\s*(?:(float)\s*(?:([+-])\s*({_NUMBER}))?|(-?{_NUMBER}))")
ALLOWED = "'>= float - 0.5', '>= 90' or the same with <="


@dataclass(frozen=True)
class Bound:
    """`>= float - 0.5`: `sign` is +1 for at least and -1 for at most, `offset` is added to float's value or to 0."""

    sign: int
    of_float: bool
    offset: float

    def holds(self, value: float | None, of_float: float | None) -> bool:
        """Whether a value keeps it; one that is not known does not."""
        base = of_float if self.of_float else 0.0
        return value is not None and base is not None and self.sign * (value - base - self.offset) >= -1e-9


def parse_bound(text: str) -> Bound:
    """The bound that a text states; raises ValueError for any other text."""
    found = _BOUND.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text[:80]}' is no bound: {ALLOWED}")
    sign, of_float, direction, offset, number = found.groups()
    value = float(number) if number is not None else float(offset or 0) * (-1 if direction == "-" else 1)
    return Bound(1 if sign == ">=" else -1, of_float is not None, value)


def _is_bound(text: str) -> str:
    parse_bound(text)
    return text


def _is_plain_bound(text: str) -> str:
    if parse_bound(text).of_float:
        raise ValueError("only accuracy has a value of the float network")
    return text


class Rule(Frozen):
    """What is wanted: bounds that means over the seeds must keep, and the one thing that is made small or large.

    `accuracy` is of the artifact, in the unit of what judges the build; `size` in bytes of the model file, `latency` in
    milliseconds.
    """

    accuracy: Annotated[str, AfterValidator(_is_bound)] | None = None
    size: Annotated[str, AfterValidator(_is_plain_bound)] | None = None
    latency: Annotated[str, AfterValidator(_is_plain_bound)] | None = None
    minimize: Literal["size", "latency"] | None = None
    maximize: Literal["accuracy"] | None = None

    @model_validator(mode="after")
    def _wants_one_thing(self) -> Rule:
        if (self.minimize is None) == (self.maximize is None):
            raise ValueError("a rule states one of minimize and maximize")
        return self

    @property
    def text(self) -> str:
        """`accuracy >= float - 0.5, minimize size`."""
        said = self.model_dump(exclude_none=True)
        return ", ".join(f"{key} {value}" for key, value in said.items())

    def allows(self, values: Mapping[str, float | None], of_float: float | None) -> bool:
        """Whether the values keep all bounds.

        Args:
            values: of `accuracy`, `size` and `latency`.
            of_float: the float network's accuracy.
        """
        bounds = {"accuracy": self.accuracy, "size": self.size, "latency": self.latency}
        return all(parse_bound(text).holds(values[key], of_float) for key, text in bounds.items() if text is not None)

    def cost(self, values: Mapping[str, float | None], higher_is_better: bool = True) -> float | None:
        """What is to be small; None where it is not known.

        Args:
            higher_is_better: of what accuracy is measured by; False for an error, whose least value is the best.
        """
        if self.minimize is not None:
            return values[self.minimize]
        accuracy = values["accuracy"]
        return None if accuracy is None else -accuracy if higher_is_better else accuracy

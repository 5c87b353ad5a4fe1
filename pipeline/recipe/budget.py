"""Bits of a recipe: the range that is allowed, and a budget of weight bits in the place of one number."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MIN_BITS, MAX_BITS = 2, 8
Bits = Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]


class Frozen(BaseModel):
    """Immutable, no unknown keys, no silent conversion (a YAML `"4"` is not 4)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BitBudget(Frozen):
    """Mixed precision: each layer's weight bits are chosen from the images, under a size (docs/methods.md).

    Layers whose bits the policy or an override fixes keep them; the others are *open*.

    Args:
        average: mean bits of the open layers, weighted by their numbers of weights: `average: 3` has exactly the size
            of `bits: 3`.
        budget_mb: size of the codes of all quantized weights, those of fixed bits included, in units of 2^20 bytes as
            in the papers' tables; biases and scales are not counted.
        options: the bits that a layer may get.
    """

    average: Annotated[float, Field(ge=MIN_BITS, le=MAX_BITS)] | None = None
    budget_mb: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    options: Annotated[tuple[Bits, ...], Field(strict=False, min_length=2)] = (2, 3, 4, 5, 6, 8)

    @field_validator("options")
    @classmethod
    def _sorted_and_distinct(cls, options: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(options)) < len(options):
            raise ValueError(f"the options {list(options)} hold a number twice")
        return tuple(sorted(options))

    @model_validator(mode="after")
    def _one_budget(self) -> BitBudget:
        if (self.average is None) == (self.budget_mb is None):
            raise ValueError("a budget of bits states exactly one of average and budget_mb")
        if self.average is not None and not self.options[0] <= self.average <= self.options[-1]:
            raise ValueError(f"an average of {self.average:g} bits lies outside the options {list(self.options)}")
        return self

    @property
    def megabytes(self) -> float:
        """`budget_mb` of a budget that states it; raises ValueError where it states an average."""
        if self.budget_mb is None:
            raise ValueError(f"a budget of {self} states no size")
        return self.budget_mb

    def __str__(self) -> str:
        """As a recipe's name says it: `mp3`, `mp2.5`, `mp0.12mb`."""
        number = Decimal(str(self.budget_mb if self.average is None else self.average)).normalize()
        return f"mp{number:f}" + ("mb" if self.average is None else "")


def bits_as_named(bits: Any) -> str:
    """A number or a budget of bits as a name says it; the empty string for what is neither."""
    if isinstance(bits, dict):
        with contextlib.suppress(ValidationError):
            return str(BitBudget.model_validate(bits))
    return str(bits) if isinstance(bits, int) else ""


def named_budget(text: str) -> dict[str, float]:
    """The budget that a name says, as a file states it: `mp0.12mb` is `{budget_mb: 0.12}`."""
    number = float(text.removeprefix("mp").removesuffix("mb"))
    return {"budget_mb" if text.endswith("mb") else "average": number}

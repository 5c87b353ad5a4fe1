"""How the weights of a unit are rounded while it is trained: one rounding, one file, chosen by `method.rounding`.

`@rounding("name")` registers a class, or any other function of (weights, settings), that gives a `Rounding`. The step
loop (`calib.reconstruction.trainer`) drives it and knows nothing else about it: a rounding owns its variables and how
they descend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.registry import Registry, discover

Weights = Sequence[tuple[Quantizer, Tensor]]
Descent = Literal["linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class RoundingSettings:
    """What a method decides about rounding; rates are those of this number of steps, already scaled.

    Args:
        steps: of the unit.
        rounding: the name of the rounding.
        rounding_weight: lambda of soft rounding's regulariser, which is a sum over all weights of the unit.
        learning_rate: Adam's, of soft rounding's variables, constant.
        warmup: share of steps without regulariser; then its exponent goes from `beta_start` to `beta_end`.
        descent: how it goes there.
    """

    steps: int
    rounding: str = "soft"
    rounding_weight: float = 0.01
    learning_rate: float = 1e-3
    warmup: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    descent: Descent = "linear"


class Rounding(Protocol):
    """The rounding of all open weights of one unit.

    A run goes: `attach`, then `refresh` and `collect` once a step, `settle`, at last `harden`. What `refresh` and
    `collect` do must not wait for the device, nor replace a tensor: a step is recorded once and replayed.
    """

    def attach(self) -> None:
        """Make the quantizers of the weights answer for this rounding; all of them, or none where one is taken."""
        ...

    def detach(self) -> None:
        """Give the quantizers back as they were before `attach`; nothing is decided."""
        ...

    def regularised(self, step: int) -> bool:
        """Whether step `step`, from 0, has a pull of its own towards decided codes. Steps of a kind do the same."""
        ...

    def refresh(self) -> None:
        """Compute the weights that the unit sees from the variables as they stand, and clear their gradients."""
        ...

    def collect(self, cursor: Tensor, regularised: bool, loss: Callable[[], Tensor]) -> None:
        """Move the variables one step, by the gradients that have arrived at the weights.

        Args:
            cursor: int64 [1] on the device, the step from 0.
            regularised: what `regularised` says of this step.
            loss: computes this step's loss, rank 0 on the device; costs nothing where it is not called.
        """
        ...

    def settle(self) -> None:
        """All steps are done: let the unit answer with what is to be decided."""
        ...

    def harden(self) -> tuple[Tensor, ...]:
        """Decide and store the int32 codes of every weight, return them in order, and detach."""
        ...

    def undecided(self) -> float:
        """Share of weights that training left between two codes."""
        ...

    def flipped(self) -> float:
        """Share of weights that `harden` sends to another code than the nearest."""
        ...


Make = Callable[[Weights, RoundingSettings], Rounding]
M = TypeVar("M", bound=Make)


@dataclass(frozen=True)
class RoundingKind:
    """A registered rounding.

    Args:
        learns: whether it has variables, so that a unit without learned scales is worth training.
    """

    name: str
    make: Make
    learns: bool


ROUNDINGS: Registry[RoundingKind] = Registry("rounding", RecipeError, "isobit.roundings", "recipe.method.rounding")


def rounding(name: str, learns: bool = True) -> Callable[[M], M]:
    """Register the decorated class or function as rounding `name`."""

    def register(make: M) -> M:
        ROUNDINGS.register(name)(RoundingKind(name, make, learns))
        return make

    return register


def find_rounding(name: str) -> RoundingKind:
    """The rounding of that name; raises RecipeError where there is none, with the nearest spelling."""
    discover(sys.modules[__name__])
    return ROUNDINGS.get(name)

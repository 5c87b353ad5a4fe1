"""How the weights of a unit are rounded while it is trained: one rounding, one file, chosen by `method.rounding`.

`@rounding("name", Parameters)` registers a class, or any other function of (weights, parameters, steps), that gives a
`Rounding`. The step loop (`calib.reconstruction.trainer`) drives it and knows nothing else about it: a rounding owns
its parameters, its variables and how they descend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor

from isobit.calib.parameters import Parameters, checked_parameters
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.registry import Registry, discover

Weights = Sequence[tuple[Quantizer, Tensor]]


class RoundingParameters(Parameters):
    """Base of the parameters that a rounding has of its own, as `method.rounding` of a recipe states them."""

    def scaled(self, factor: float) -> Self:
        """The same with learning rates times `factor`, for another number of steps than the paper's."""
        return self


P = TypeVar("P", bound=RoundingParameters)


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

    def arrived(self) -> tuple[Tensor, ...]:
        """The gradients at the weights that the unit sees, for as many images as this process has of a step.

        Several processes average them in place before `collect`; none where nothing is learned.
        """
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


Make = Callable[[Weights, P, int], Rounding]
M = TypeVar("M", bound=Callable[..., Rounding])


@dataclass(frozen=True)
class RoundingKind(Generic[P]):
    """A registered rounding.

    Args:
        make: of the weights of a unit, its parameters and the number of steps.
        learns: whether it has variables, so that a unit without learned scales is worth training.
    """

    name: str
    parameters: type[P]
    make: Make[P]
    learns: bool


@dataclass(frozen=True)
class ChosenRounding:
    """A rounding with its parameters, rates scaled to the number of steps."""

    kind: RoundingKind[Any]
    parameters: RoundingParameters

    def make(self, weights: Weights, steps: int) -> Rounding:
        """The rounding of these weights."""
        return self.kind.make(weights, self.parameters, steps)


ROUNDINGS: Registry[RoundingKind[Any]] = Registry(
    "rounding", RecipeError, "isobit.roundings", "recipe.method.rounding"
)


def rounding(name: str, parameters: type[P], learns: bool = True) -> Callable[[M], M]:
    """Register the decorated class or function as rounding `name`."""

    def register(make: M) -> M:
        ROUNDINGS.register(name)(RoundingKind(name, parameters, make, learns))
        return make

    return register


def find_rounding(name: str) -> RoundingKind[Any]:
    """The rounding of that name; raises RecipeError where there is none, with the nearest spelling."""
    discover(sys.modules[__name__])
    return ROUNDINGS.get(name)


def choose_rounding(name: str, values: Mapping[str, Any]) -> ChosenRounding:
    """The rounding of that name with checked parameters.

    Raises:
        RecipeError: no such rounding, an unknown parameter or a value that is not allowed.
    """
    kind = find_rounding(name)
    return ChosenRounding(
        kind, checked_parameters(kind.parameters, values, f"rounding '{name}'", "method.rounding", ["name"])
    )

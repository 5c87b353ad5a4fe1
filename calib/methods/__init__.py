"""One paper, one file. A method states its parameters, with the paper's values as defaults, what it needs and costs.

`@method("name", Parameters, needs={"images"}, cost=_cost)` registers a function `(calibration, parameters) -> unit
logs`. `_cost` says in advance what a run costs, for `calib.estimate`. What a method needs may hang on its parameters;
all of it is checked before an image is read, as is that it fills the levels which the recipe asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters, checked_parameters
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.nodes import tensor_shape
from isobit.pipeline.graph.norms import folded_norm
from isobit.pipeline.quant.grid import Grid
from isobit.pipeline.quant.grids import grid_kind
from isobit.pipeline.recipe.schema import MethodChoice, Recipe
from isobit.pipeline.registry import Registry, discover
from isobit.pipeline.stages import Quantized, UnitLog

P = TypeVar("P", bound=Parameters)


Run = Callable[[Calibration, P], tuple[UnitLog, ...]]
Need = Literal["images", "labels", "bn_statistics", "tail"]
Needs = Set[Need] | Callable[[P], Set[Need]]
StateCost = Callable[[P, CostFacts], Cost]


@dataclass(frozen=True)
class Method(Generic[P]):
    """A registered method.

    Args:
        needs: what must be at hand: `images`, and `labels` of theirs; `bn_statistics`, a batch norm folded into some
            layer; `tail`, a prediction [N, classes] at the end of the network. A set, or a function of the parameters.
        cost: what a run with these parameters costs, making the images apart.
        fills: the kinds of grids, as `levels` names them, whose bits for each channel it chooses.
    """

    name: str
    parameters: type[P]
    needs: Needs[P]
    run: Run[P]
    cost: StateCost[P]
    fills: Set[str] = frozenset()

    def needed(self, parameters: P) -> Set[Need]:
        """What a run with these parameters needs."""
        return self.needs(parameters) if callable(self.needs) else self.needs


METHODS: Registry[Method[Any]] = Registry("method", RecipeError, "isobit.methods")


def method(
    name: str, parameters: type[P], needs: Needs[P], cost: StateCost[P], fills: Set[str] = frozenset()
) -> Callable[[Run[P]], Run[P]]:
    """Register the decorated function as method `name`."""

    def register(run: Run[P]) -> Run[P]:
        METHODS.register(name)(Method(name, parameters, needs, run, cost, fills))
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


def check_needs(choice: MethodChoice, quantized: Quantized) -> None:
    """Refuse a method on a network that lacks what it works with, and for levels that it does not fill.

    Raises:
        RecipeError: what is missing, and which parameter does without it.
    """
    found, parameters = find_method(choice)
    _check_fills(found, quantized.recipe)
    needed = found.needed(parameters)
    nodes = quantized.graph.graph.nodes
    if "bn_statistics" in needed and not any(folded_norm(node) is not None for node in nodes):
        raise RecipeError(
            f"the method '{found.name}' needs the statistics of batch norms, and the model has none", where="method",
            hint="Take a method that does without, for example qdrop (pdquant does with method.correction_steps=0).",
        )
    (answer,) = next(node for node in nodes if node.op == "output").all_input_nodes
    shape = tensor_shape(answer)
    if "tail" in needed and len(shape) != 2:
        raise RecipeError(
            f"the method '{found.name}' compares predictions, and the model's output has the shape {list(shape)}",
            where="method", allowed="[images, classes]", hint="Take qdrop, or brecq with method.fisher=off.",
        )


def _check_fills(found: Method[Any], recipe: Recipe) -> None:
    for part, rule in (("weights", recipe.weights), ("activations", recipe.activations)):
        if grid_kind(rule.levels).own_bits and rule.levels not in found.fills:
            able = [name for name in METHODS.names() if rule.levels in METHODS.get(name).fills]
            raise RecipeError(
                f"the method '{found.name}' cannot choose {part}.levels: {rule.levels}",
                where=f"recipe '{recipe.name}'", allowed=", ".join([f"{part}.levels: {Grid.kind}", *able]),
                field=f"recipe.{part}.levels", hint=f"`recipe.{part}.levels={Grid.kind}`",
            )
